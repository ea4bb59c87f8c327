//! The container: what must be refused is refused, what must load loads, and a second reader
//! sees the same.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use infer::gguf::writer::Writer;
use infer::gguf::{File, Value};
use infer::quant::Type;
use proptest::prelude::*;

/// Counts what a thread allocates: a count in a header must never be reserved for.
struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counter any more; its allocations are nobody's concern.
        let _ = ALLOCATED.try_with(|a| a.set(a.get().saturating_add(layout.size())));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The result, and the bytes that were allocated on the way to it, freed ones included.
fn counted<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATED.get();
    let result = f();
    (result, ALLOCATED.get() - before)
}

#[derive(serde::Deserialize)]
struct Case {
    file: String,
    expect: String,
    #[serde(default, rename = "or")]
    alternative: String,
    why: String,
}

impl Case {
    fn allows(&self, outcome: &str) -> bool {
        self.expect == outcome || self.alternative == outcome
    }
}

fn malformed(file: &str) -> PathBuf {
    common::fixtures().join("malformed").join(file)
}

fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(malformed("cases.json")).expect("cases.json");
    serde_json::from_str(&text).expect("cases.json")
}

/// Reads everything that a sound file offers: none of it may panic, whatever the file says.
fn read_all(file: &File) {
    let mut ranges = Vec::new();
    for (key, value) in file.metadata() {
        assert!(!key.is_empty());
        // The types: NaN is not equal to itself.
        assert_eq!(file.get(key).map(|v| v.ty()), Some(value.ty()));
        if let Some(array) = value.as_array() {
            if let Some(strings) = array.strings() {
                assert_eq!(strings.count(), array.len());
            }
            if let Some(scalars) = array.scalars() {
                assert_eq!(scalars.count(), array.len());
            }
            array.integers();
            array.floats();
        }
        value.as_u64();
        value.as_f32();
        value.as_bool();
        value.as_str();
    }
    for tensor in file.tensors() {
        assert_eq!(file.tensor(&tensor.name), Some(tensor));
        let blocks = tensor.elements() / tensor.ty.block_elements() as u64;
        assert_eq!(tensor.bytes, blocks * tensor.ty.block_bytes() as u64);
        assert!(tensor.offset.is_multiple_of(file.alignment().into()));
        assert!(tensor.offset >= file.data_start());
        assert_eq!(file.data(tensor).len() as u64, tensor.bytes, "{}", tensor.name);
        ranges.push(tensor.offset..tensor.offset + tensor.bytes);
    }
    ranges.sort_by_key(|r| r.start);
    assert!(ranges.windows(2).all(|w| w[0].end <= w[1].start), "tensors overlap");
}

#[test]
fn malformed_files_end_as_their_cases_say() {
    let cases = cases();
    assert!(cases.len() >= 25);
    let mut wrong = Vec::new();
    for case in &cases {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            counted(|| File::open(&malformed(&case.file)).map(|file| read_all(&file)))
        }));
        let problem = match outcome {
            Err(_) => Some("panicked".to_owned()),
            Ok((_, allocated)) if allocated > 1 << 20 => Some(format!("allocated {allocated} bytes")),
            // A model that is to be refused has a sound container.
            Ok((Ok(()), _)) if case.allows("load") || case.allows("refuse_model") => None,
            Ok((Ok(()), _)) => Some("was opened".to_owned()),
            Ok((Err(e), _)) if !case.allows("refuse_container") => Some(format!("was refused: {e}")),
            Ok((Err(e), _)) => {
                let text = e.to_string();
                let plain = text.contains(&case.file) && !text.contains(char::is_control);
                (!plain || e.exit_code() != 3).then(|| format!("error {}: {text:?}", e.exit_code()))
            }
        };
        if let Some(problem) = problem {
            wrong.push(format!("{}: {} ({})", case.file, problem, case.why));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn errors_name_what_is_wrong() {
    let valid = std::fs::read(malformed("valid.gguf")).unwrap();
    let message = |bytes: Vec<u8>| File::parse(bytes).expect_err("a damaged file").to_string();
    assert!(message(vec![]).contains("empty"));
    assert!(message(b"GGML".to_vec()).contains("\"GGML\""));
    let mut old = valid.clone();
    old[4] = 1;
    assert!(message(old).contains("version 1"));
    let mut big = valid.clone();
    big[4..8].copy_from_slice(&3u32.to_be_bytes());
    assert!(message(big).contains("big-endian"));
    // The type of Q4_2, which the format has retired, is named.
    let mut retired = Writer::new();
    retired.tensor("blk.0.x", Type::F32, &[32], &[0; 128]);
    let mut bytes = retired.finish();
    let at = bytes.windows(7).position(|w| w == b"blk.0.x").unwrap() + 7 + 4 + 8;
    bytes[at] = 4;
    assert!(message(bytes).contains("Q4_2"));

    let directory = tempfile::tempdir().unwrap();
    let missing = File::open(&directory.path().join("none.gguf")).unwrap_err();
    assert_eq!((missing.exit_code(), missing.to_string().contains("no such file")), (3, true));
    assert_eq!(File::open(directory.path()).unwrap_err().exit_code(), 3);
}

#[test]
fn the_alignment_is_a_power_of_two_of_at_least_8() {
    for (alignment, sound) in [(0, false), (4, false), (8, true), (24, false), (48, false), (4096, true)] {
        let mut writer = Writer::new();
        writer.u32("general.alignment", alignment);
        match File::parse(writer.finish()) {
            Ok(file) => assert_eq!((file.alignment(), true), (alignment, sound)),
            Err(e) => assert!(!sound && e.to_string().contains(&format!("alignment of {alignment} ")), "{e}"),
        }
    }
    let mut writer = Writer::new();
    writer.str("general.alignment", "32");
    assert!(File::parse(writer.finish()).unwrap_err().to_string().contains("must be a u32"));
}

/// To open a pipe would wait for a writer for ever.
#[cfg(unix)]
#[test]
fn a_named_pipe_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe.gguf");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if !made.is_ok_and(|s| s.success()) {
        common::note("SKIPPED: a_named_pipe_is_refused_at_once: there is no mkfifo");
        return;
    }
    let error = File::open(&pipe).unwrap_err();
    assert!(error.to_string().contains("no regular file"), "{error}");
}

#[test]
fn huge_counts_cost_nothing() {
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    for (tensors, keys) in [(1u64 << 60, 0u64), (0, 1 << 60), (u64::MAX, u64::MAX), (1 << 32, 1 << 32)] {
        let mut bytes = header.clone();
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(keys.to_le_bytes());
        bytes.extend([0; 64]);
        let bytes: infer::gguf::Bytes = bytes.into();
        let (result, allocated) = counted(|| File::parse(bytes).map(drop));
        assert!(result.is_err());
        assert!(allocated < 4096, "{allocated} bytes for {tensors} tensors and {keys} keys");
    }
    // Arrays: 2^61 strings, 2^61 numbers, 2^61 arrays.
    for element in [8u32, 10, 9] {
        let mut bytes = header.clone();
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(b"k");
        bytes.extend(9u32.to_le_bytes());
        bytes.extend(element.to_le_bytes());
        bytes.extend((1u64 << 61).to_le_bytes());
        bytes.extend([0; 64]);
        let bytes: infer::gguf::Bytes = bytes.into();
        let (result, allocated) = counted(|| File::parse(bytes).map(drop));
        assert!(result.is_err());
        assert!(allocated < 4096, "{allocated} bytes for an array of {element}");
    }
    // Arrays in arrays must not become calls in calls.
    let mut nested = header;
    nested.extend(0u64.to_le_bytes());
    nested.extend(1u64.to_le_bytes());
    nested.extend(1u64.to_le_bytes());
    nested.extend(b"k");
    nested.extend(9u32.to_le_bytes());
    for _ in 0..200_000 {
        nested.extend(9u32.to_le_bytes());
        nested.extend(1u64.to_le_bytes());
    }
    assert!(File::parse(nested).unwrap_err().to_string().contains("nested"));
}

#[test]
fn a_second_reader_sees_the_same() {
    let mut files = common::files(&common::fixtures().join("models"), "gguf");
    let sound = cases().into_iter().filter(|case| case.expect == "load").map(|case| malformed(&case.file));
    files.extend(sound.chain([malformed("valid.gguf"), common::repo("assets/demo.gguf")]));
    let (mut compared, mut skipped) = (0, Vec::new());
    for path in &files {
        let shown = path.display();
        let ours = File::open(path).unwrap_or_else(|e| panic!("{e}"));
        read_all(&ours);
        // It ends with a panic on types that are younger than itself.
        if let Some(young) = ours.tensors().iter().find(|t| t.ty as u32 >= Type::NVFP4 as u32) {
            skipped.push(format!("{} ({})", path.file_name().unwrap().display(), young.ty));
            continue;
        }
        let theirs = gguf_rs::get_gguf_container(path.to_str().unwrap()).unwrap().decode().unwrap();
        assert_eq!(theirs.get_version(), format!("v{}", ours.version()), "{shown}");
        assert_eq!(theirs.alignment(), u64::from(ours.alignment()), "{shown}");
        assert_eq!(theirs.data_offset(), ours.data_start(), "{shown}");
        assert_eq!(theirs.tensors().len(), ours.tensors().len(), "{shown}");
        assert_eq!(theirs.metadata().len(), ours.metadata().count(), "{shown}");
        for (key, value) in ours.metadata() {
            let other = &theirs.metadata()[key];
            let same = match value {
                // It is lax: what is no UTF-8 is replaced.
                Value::String(s) => other.as_str() == Some(&*String::from_utf8_lossy(s)),
                Value::Bool(b) => other.as_bool() == Some(b),
                #[allow(clippy::cast_possible_truncation, reason = "it was an f32 before it became JSON")]
                Value::F32(f) => other.as_f64().map_or(!f.is_finite(), |x| x as f32 == f),
                // The second reader keeps the beginnings of arrays alone.
                Value::Array(_) => true,
                number => other.as_u64() == number.as_u64(),
            };
            assert!(same, "{shown}: {key}: {value:?} and {other}");
        }
        for (a, b) in ours.tensors().iter().zip(theirs.tensors()) {
            assert_eq!(a.name, b.name, "{shown}");
            assert_eq!(a.ty as u32, b.kind, "{shown}: {}", a.name);
            assert_eq!(a.shape[..a.n_dims], b.shape[..], "{shown}: {}", a.name);
            // Its offsets are relative to the data section, ours are absolute.
            assert_eq!(a.offset, b.offset + theirs.data_offset(), "{shown}: {}", a.name);
            // It takes every type behind Q8_1 for one of 256 elements, and MXFP4's block for 49
            // bytes: of those types only the K family and its like come out right.
            let odd = [Type::MXFP4, Type::IQ4_NL, Type::BF16, Type::I32].contains(&a.ty);
            if !odd {
                assert_eq!(a.bytes, b.size, "{shown}: {} is {}", a.name, a.ty);
            }
        }
        compared += 1;
    }
    common::note(&format!(
        "{compared} files were compared; the second reader does not know: {}",
        skipped.join(", ")
    ));
    // Three models of the large set have types that it does not know.
    assert!(compared >= 9 && skipped.len() <= 3, "{compared} of {}, without {skipped:?}", files.len());
}

/// The tokenizer of a large vocabulary: found whole, in order, and nothing of it copied.
#[test]
fn a_large_vocabulary_is_walked_without_copying() {
    let tokens: Vec<String> = (0..150_000).map(|i| format!("token{i}")).collect();
    let merges: Vec<String> = (0..150_000).map(|i| format!("to{i} ken{i}")).collect();
    let types = vec![1i32; tokens.len()];
    let mut writer = Writer::new();
    writer
        .str("general.architecture", "llama")
        .strings("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &types)
        .strings("tokenizer.ggml.merges", &merges)
        .u32("last", 7);
    let bytes: infer::gguf::Bytes = writer.finish().into();
    assert!(bytes.len() > 6 << 20);
    let (file, allocated) = counted(|| File::parse(bytes).unwrap());
    assert!(allocated < 16 << 10, "{allocated} bytes allocated");
    let strings = |key: &str| file.get(key).unwrap().as_array().unwrap().strings().unwrap();
    assert_eq!(strings("tokenizer.ggml.tokens").len(), 150_000);
    assert!(strings("tokenizer.ggml.tokens").eq(tokens.iter().map(|t| t.as_bytes())));
    assert!(strings("tokenizer.ggml.merges").eq(merges.iter().map(|t| t.as_bytes())));
    assert_eq!(file.get("last").unwrap().as_u64(), Some(7));
}

/// Wherever a sound file is cut, it is refused, until nothing of its last tensor is missing.
#[test]
fn every_truncation_is_refused() {
    let valid = std::fs::read(malformed("valid.gguf")).unwrap();
    let file = File::parse(valid.clone()).unwrap();
    let end = file.tensors().iter().map(|t| t.offset + t.bytes).max().unwrap();
    for len in 0..valid.len() {
        let refused = File::parse(valid[..len].to_vec()).is_err();
        assert_eq!(refused, (len as u64) < end, "cut at {len} of {end}");
    }
}

/// Bytes of which the fuzzing starts: together they have every kind of value.
fn seeds() -> Vec<Vec<u8>> {
    ["valid.gguf", "must_load-arrays.gguf"].map(|f| std::fs::read(malformed(f)).unwrap()).into()
}

fn settings(cases: u32) -> ProptestConfig {
    let cases = if common::full() { cases * 20 } else { cases };
    // A failure prints its input, which becomes a test of its own; no file of seeds is kept.
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

#[test]
fn damaged_bytes_never_panic() {
    let seeds = seeds();
    let headers: Vec<usize> =
        seeds.iter().map(|s| File::parse(s.clone()).unwrap().data_start().try_into().unwrap()).collect();
    let flips = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8);
    proptest!(settings(2000), |(which in 0..seeds.len(), flips in flips, cut in any::<prop::sample::Index>(),
                                cuts in any::<bool>())| {
        let mut bytes = seeds[which].clone();
        for (at, value) in flips {
            // Weights hold nothing that could be wrong.
            bytes[at.index(headers[which])] = value;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        let (result, allocated) = counted(|| File::parse(bytes.clone()));
        // The copy of the file itself, and a small multiple of it for the table of tensors.
        prop_assert!(allocated < 8 * seeds[which].len() + (64 << 10), "{} bytes allocated", allocated);
        if let Ok(file) = result {
            read_all(&file);
        }
    });
}

#[test]
fn random_bytes_behind_a_header_never_panic() {
    proptest!(settings(1000), |(keys in 0u64..4, tensors in 0u64..4,
                                rest in proptest::collection::vec(prop_oneof![Just(0u8), 0u8..16, any::<u8>()], 0..600))| {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(keys.to_le_bytes());
        bytes.extend(rest);
        if let Ok(file) = File::parse(bytes) {
            read_all(&file);
        }
    });
}

/// A metadata value as the writer takes it.
#[derive(Clone, Debug)]
enum Written {
    Str(String),
    U32(u32),
    F32(f32),
    Bool(bool),
    Strings(Vec<Vec<u8>>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

fn written() -> impl Strategy<Value = Written> {
    let vec = 0..20usize;
    prop_oneof![
        any::<String>().prop_map(Written::Str),
        any::<u32>().prop_map(Written::U32),
        any::<f32>().prop_map(Written::F32),
        any::<bool>().prop_map(Written::Bool),
        proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), vec.clone())
            .prop_map(Written::Strings),
        proptest::collection::vec(any::<i32>(), vec.clone()).prop_map(Written::I32s),
        proptest::collection::vec(any::<f32>(), vec).prop_map(Written::F32s),
    ]
}

#[test]
fn what_is_written_is_read() {
    let keys = proptest::collection::btree_map("[a-z.]{1,12}", written(), 0..8);
    let tensors = proptest::collection::btree_map(
        "[a-z.0-9]{1,64}",
        (0..Type::ALL.len(), 1u64..4, 1u64..5, 1usize..5),
        0..6,
    );
    proptest!(settings(300), |(keys in keys, tensors in tensors, fill in any::<u8>())| {
        let mut writer = Writer::new();
        for (key, value) in &keys {
            // The reader takes this key for itself.
            prop_assume!(key != "general.alignment");
            match value {
                Written::Str(v) => writer.str(key, v),
                Written::U32(v) => writer.u32(key, *v),
                Written::F32(v) => writer.f32(key, *v),
                Written::Bool(v) => writer.bool(key, *v),
                Written::Strings(v) => writer.strings(key, v),
                Written::I32s(v) => writer.i32s(key, v),
                Written::F32s(v) => writer.f32s(key, v),
            };
        }
        let mut expected = Vec::new();
        for (n, (name, (ty, blocks, rows, dims))) in tensors.iter().enumerate() {
            let ty = Type::ALL[*ty];
            let shape = &[blocks * ty.block_elements() as u64, *rows, 2, 1][..*dims];
            let rows: u64 = shape[1..].iter().product();
            let len = usize::try_from(blocks * rows).unwrap() * ty.block_bytes();
            let data = vec![fill.wrapping_add(u8::try_from(n).unwrap()); len];
            writer.tensor(name, ty, shape, &data);
            expected.push((name, ty, shape.to_vec(), data));
        }
        let file = File::parse(writer.finish()).unwrap();
        read_all(&file);
        prop_assert_eq!((file.version(), file.alignment()), (3, 32));
        prop_assert_eq!(file.metadata().count(), keys.len());
        for ((key, value), (read_key, read)) in keys.iter().zip(file.metadata()) {
            prop_assert_eq!(key, read_key);
            let array = read.as_array();
            let same = match value {
                Written::Str(v) => read.as_str() == Some(v),
                Written::U32(v) => read == Value::U32(*v),
                Written::F32(v) => read.as_f32().map(f32::to_bits) == Some(v.to_bits()),
                Written::Bool(v) => read == Value::Bool(*v),
                Written::Strings(v) => array.unwrap().strings().unwrap().eq(v),
                Written::I32s(v) => array.unwrap().integers().unwrap().iter().copied().eq(v.iter().map(|x| i64::from(*x))),
                Written::F32s(v) => array.unwrap().floats().unwrap().iter().map(|x| x.to_bits()).eq(v.iter().map(|x| x.to_bits())),
            };
            prop_assert!(same, "{}: {:?} was read as {:?}", key, value, read);
        }
        prop_assert_eq!(file.tensors().len(), expected.len());
        for ((name, ty, shape, data), tensor) in expected.iter().zip(file.tensors()) {
            prop_assert_eq!(*name, &tensor.name);
            prop_assert_eq!(*ty, tensor.ty);
            prop_assert_eq!(&shape[..], &tensor.shape[..tensor.n_dims]);
            prop_assert_eq!(&data[..], file.data(tensor));
        }
    });
}
