//! Files that mean harm: whatever they claim, they are read or refused soon, in one line, and what is
//! held meanwhile is a small multiple of what they have.

mod common;
#[path = "common/counting.rs"]
mod counting;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use counting::held;
use infer::gguf::writer::Writer;
use infer::gguf::{Bytes, File, Json};
use infer::model::Model;
use infer::quant::Type;
use infer::tokenizer::{ChatTemplate, Message, Special, Tokenizer};

/// One test at a time: the counts are of the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The result, the bytes held at most on the way to it, and the time.
fn measured<T>(f: impl FnOnce() -> T) -> (T, usize, Duration) {
    let start = Instant::now();
    let (result, most) = held(f);
    (result, most, start.elapsed())
}

/// All that `inspect` and `run` do with a file before a device is opened: what they would refuse it for.
fn faults(bytes: &Bytes) -> Vec<String> {
    let mut faults = Vec::new();
    let file = match File::parse(bytes.clone()) {
        Ok(file) => file,
        Err(e) => return vec![e.to_string()],
    };
    serde_json::to_writer(std::io::sink(), &Json(&file)).expect("JSON");
    let text = "Hello, wörld! <|im_end|>\n  12345";
    match Tokenizer::from_file(&file) {
        Ok(tokenizer) => {
            for special in [Special::Recognise, Special::AsText] {
                match tokenizer.encode_with_bos(text, special) {
                    Ok(ids) => drop(tokenizer.decode(&ids)),
                    Err(e) => faults.push(e.to_string()),
                }
            }
        }
        Err(e) => faults.push(e.to_string()),
    }
    let hello = Message { role: "user".to_owned(), content: "Hello".to_owned() };
    if let Some(Err(e)) = ChatTemplate::from_file(&file).map(|t| t.render(&[hello], true)) {
        faults.push(e.to_string());
    }
    faults.extend(Model::from_file(file).err().map(|e| e.to_string()));
    faults
}

/// Refuses to take long or to hold much. The faults, one a line.
fn cheap(what: &str, bytes: Vec<u8>) -> String {
    // Classes of characters, thread pools and the like are made once.
    const ONCE: usize = 3 << 20;
    let size = bytes.len();
    let bytes = Bytes::from(bytes);
    let (faults, held, took) = measured(|| faults(&bytes));
    eprintln!("{what}: {size} bytes, held {held}, {took:?}: {faults:?}");
    assert!(held <= 16 * size + ONCE, "{what}: {held} bytes held for a file of {size}");
    assert!(held < 200 << 20, "{what}: {held} bytes held");
    assert!(took < Duration::from_secs(1), "{what}: {took:?}");
    for fault in &faults {
        assert!(!fault.contains(char::is_control) && fault.len() < 1000, "{what}: {fault:?}");
    }
    faults.join("\n")
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

/// A header of any claims: counts, then whatever follows them.
fn header(tensors: u64, keys: u64, rest: &[u8]) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend(tensors.to_le_bytes());
    out.extend(keys.to_le_bytes());
    out.extend(rest);
    out
}

/// A row of the table of tensors.
fn info(name: &[u8], dims: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    let mut out = Vec::new();
    string(&mut out, name);
    out.extend(u32::try_from(dims.len()).unwrap().to_le_bytes());
    out.extend(dims.iter().flat_map(|d| d.to_le_bytes()));
    out.extend(ty.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

/// The keys of a small model, before something is done to them.
fn model() -> Writer {
    let mut writer = Writer::new();
    writer
        .str("general.architecture", "llama")
        .u32("llama.embedding_length", 32)
        .u32("llama.attention.head_count", 2)
        .u32("llama.feed_forward_length", 64)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
    writer
}

#[test]
fn claims_without_bytes_cost_nothing() {
    let _alone = alone();
    let padding = [0x61; 4096];
    for n in [1 << 32, 1 << 40, 1 << 60, 1 << 63, u64::MAX] {
        cheap("tensors", header(n, 0, &padding));
        cheap("keys", header(0, n, &padding));
        // An array of n elements, of each type there is, arrays too.
        for ty in 0..13u32 {
            let mut rest = Vec::new();
            string(&mut rest, b"tokenizer.ggml.tokens");
            rest.extend([9u32, ty].iter().flat_map(|v| v.to_le_bytes()));
            rest.extend(n.to_le_bytes());
            rest.extend(padding);
            cheap("array", header(0, 1, &rest));
        }
        let mut rest = n.to_le_bytes().to_vec();
        rest.extend(padding);
        cheap("key", header(0, 1, &rest));
        cheap("name", header(1, 0, &rest));
        for dims in [&[n][..], &[32, n], &[n, n], &[1 << 32, 1 << 32, n, 2], &[n, n, n, n]] {
            let fault = cheap("dims", header(1, 0, &[info(b"t", dims, 0, 0), padding.to_vec()].concat()));
            assert!(fault.contains("tensor t"), "{fault}");
        }
        let fault = cheap("offset", header(1, 0, &[info(b"t", &[4], 0, n & !31), padding.to_vec()].concat()));
        assert!(fault.contains("tensor t"), "{fault}");
    }
}

/// A name of megabytes that is no text is not made longer yet to say so.
#[test]
fn long_names_are_cut_before_they_are_shown() {
    let _alone = alone();
    let long = vec![0xff; 4 << 20];
    for rest in [
        {
            let mut rest = Vec::new();
            string(&mut rest, &long);
            rest.extend([0; 16]);
            header(0, 1, &rest)
        },
        header(1, 0, &info(&long, &[1], 0, 0)),
    ] {
        let bytes = Bytes::from(rest);
        let (fault, held, _) = measured(|| File::parse(bytes).map(drop).unwrap_err().to_string());
        assert!(held < 64 << 10, "{held} bytes for {fault}");
    }
    let mut writer = Writer::new();
    writer.str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", &"\u{1b}é".repeat(1 << 20));
    writer.strings("tokenizer.ggml.tokens", &["a"]).strings("tokenizer.ggml.merges", &[""; 0]);
    cheap("pre-tokenizer", writer.finish());
}

#[test]
fn many_small_things_are_walked() {
    let _alone = alone();
    // 20,000 tensors with names of 64 bytes, and as many of one name at last.
    let mut rest = Vec::new();
    for i in 0..20_000 {
        rest.extend(info(format!("blk.{i:060}").as_bytes(), &[1], 24, i * 32));
    }
    let mut sound = header(20_000, 0, &rest);
    sound.resize(sound.len().next_multiple_of(32) + 20_000 * 32, 0);
    cheap("tensors", sound);
    rest.truncate(rest.len() - 2 * 96);
    rest.extend([info(&[b'x'; 64], &[1], 24, 0), info(&[b'x'; 64], &[1], 24, 0)].concat());
    assert!(cheap("a name twice", header(20_000, 0, &rest)).contains("twice"));
    // Keys as small as they can be, and what is looked up among them.
    let mut rest = Vec::new();
    for i in 0..50_000 {
        string(&mut rest, format!("{i:x}").as_bytes());
        rest.extend([0, 0, 0, 0, 1]);
    }
    string(&mut rest, b"tokenizer.ggml.model");
    rest.extend(8u32.to_le_bytes());
    string(&mut rest, b"gpt2");
    cheap("keys", header(0, 50_001, &rest));
}

#[test]
fn vocabularies_of_any_kind() {
    let _alone = alone();
    let empty: [&str; 0] = [];
    let bpe = |tokens: &[String]| {
        let mut writer = Writer::new();
        writer.str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", "llama-bpe");
        writer.strings("tokenizer.ggml.tokens", tokens);
        writer
    };
    let tokens: Vec<String> = (0..300).map(|i| format!("t{i}")).collect();
    let bytes: Vec<String> = (33..127u8).map(|b| char::from(b).to_string()).collect();

    let fault = cheap("no merges", bpe(&tokens).finish());
    assert!(fault.contains("merges is missing"), "{fault}");
    let fault = cheap("strange merges", bpe(&tokens).strings("tokenizer.ggml.merges", &["t1 t2"]).finish());
    assert!(fault.contains("merge 0"), "{fault}");
    for merge in ["", " ", "  ", "t1", "t1 ", "\u{1b}[31m x"] {
        let fault = cheap("no pair", bpe(&tokens).strings("tokenizer.ggml.merges", &[merge]).finish());
        assert!(fault.contains("merge 0"), "{merge:?}: {fault}");
    }
    for types in [vec![1; 299], vec![1; 301], vec![]] {
        let mut writer = bpe(&tokens);
        writer.strings("tokenizer.ggml.merges", &empty).i32s("tokenizer.ggml.token_type", &types);
        assert!(cheap("types", writer.finish()).contains("for 300 tokens"));
    }
    let mut odd = bpe(&bytes);
    let types: Vec<i32> = (0..94).map(|i| [0, -1, 7, i32::MAX, i32::MIN, 6][i % 6]).collect();
    odd.strings("tokenizer.ggml.merges", &empty).i32s("tokenizer.ggml.token_type", &types);
    cheap("kinds", odd.finish());
    for id in [-1, 300, i32::MAX, i32::MIN] {
        for key in ["bos", "eos", "unknown", "eot", "eom", "fim_pad"] {
            let mut writer = bpe(&tokens);
            writer
                .strings("tokenizer.ggml.merges", &empty)
                .i32(&format!("tokenizer.ggml.{key}_token_id"), id);
            // They mean that there is no such token.
            cheap("ids", writer.finish());
            let tokenizer = Tokenizer::from_file(&File::parse(writer.finish()).expect("a sound file"));
            let notes = tokenizer.expect("a tokenizer").notes().join("\n");
            assert!(notes.contains(&format!("{key}_token_id is {id}, ")), "{notes}");
        }
    }
    // Hundreds of thousands of empty tokens, all alike: eight bytes each.
    cheap("nothing", bpe(&vec![String::new(); 200_000]).strings("tokenizer.ggml.merges", &empty).finish());
    // Tokens of megabytes, special and not.
    let mut long = bytes.clone();
    long.extend([b'x', b'y'].map(|b| char::from(b).to_string().repeat(2 << 20)));
    let mut writer = bpe(&long);
    let types: Vec<i32> = (0..96).map(|i| if i == 94 { 3 } else { 1 }).collect();
    writer.strings("tokenizer.ggml.merges", &empty).i32s("tokenizer.ggml.token_type", &types);
    cheap("long tokens", writer.finish());

    let spm = |scores: &[f32]| {
        let mut writer = Writer::new();
        writer.str("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", &tokens);
        writer.f32s("tokenizer.ggml.scores", scores);
        writer
    };
    let odd = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MIN_POSITIVE];
    cheap("scores", spm(&(0..300).map(|i| odd[i % 6]).collect::<Vec<f32>>()).finish());
    assert!(cheap("few scores", spm(&[0.0; 299]).finish()).contains("299 entries"));
    let fault = cheap("scores as text", {
        let mut writer = Writer::new();
        writer.str("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", &tokens);
        writer.strings("tokenizer.ggml.scores", &tokens).finish()
    });
    assert!(fault.contains("no list of floats"), "{fault}");
}

/// Thousands of special tokens, and a text of nothing but them: once through it, not once for each.
#[test]
fn a_text_of_special_tokens() {
    let _alone = alone();
    let mut tokens: Vec<String> = (33..127u8).map(|b| char::from(b).to_string()).collect();
    tokens.extend((0..100_000).map(|i| format!("<{i}>")));
    let types: Vec<i32> = (0..tokens.len()).map(|i| if i < 94 { 1 } else { 3 }).collect();
    let text: String = tokens[94..].concat();
    let mut writer = Writer::new();
    writer.str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", "gpt-2");
    writer.strings("tokenizer.ggml.tokens", &tokens).strings("tokenizer.ggml.merges", &[""; 0]);
    writer.i32s("tokenizer.ggml.token_type", &types);
    let file = File::parse(writer.finish()).expect("a sound file");
    let tokenizer = Tokenizer::from_file(&file).expect("a tokenizer");
    let (ids, held, took) = measured(|| tokenizer.encode(&text, Special::Recognise).expect("ids"));
    assert!(ids.iter().copied().eq(94..100_094));
    assert!(held < 64 * text.len() && took < Duration::from_secs(2), "{held} bytes, {took:?}");
}

#[test]
fn numbers_of_a_model_that_make_no_sense() {
    let _alone = alone();
    let refused = |key: &str, set: &dyn Fn(&mut Writer, &str)| {
        let mut writer = model();
        let key = format!("llama.{key}");
        set(&mut writer, &key);
        for (rest, value) in [("llama.block_count", 1), ("llama.context_length", 64)] {
            if rest != key {
                writer.u32(rest, value);
            }
        }
        let name = key.strip_prefix("llama.").unwrap_or(&key).to_owned();
        let fault = cheap(&key, writer.finish());
        assert!(fault.contains(&name), "{key}: {fault}");
    };
    for key in [
        "context_length",
        "block_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "rope.dimension_count",
    ] {
        for value in [0, 1 << 31, u32::MAX] {
            refused(key, &|w, key| {
                w.u32(key, value);
            });
        }
        refused(key, &|w, key| {
            w.i32(key, -1);
        });
        refused(key, &|w, key| {
            w.f32(key, 1.0);
        });
        refused(key, &|w, key| {
            w.str(key, "1");
        });
    }
    // Arrays in the place of numbers, where layers differ and where there are none.
    for list in [&[][..], &[1, 2], &[-1, -1], &[i32::MAX; 64]] {
        refused("attention.head_count_kv", &|w, key| {
            w.i32s(key, list);
        });
        refused("rope.dimension_count", &|w, key| {
            w.i32s(key, list);
        });
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0] {
        refused("rope.freq_base", &|w, key| {
            w.f32(key, value);
        });
        refused("rope.scaling.factor", &|w, key| {
            w.f32(key, value);
        });
        for key in ["attn_factor", "yarn_beta_fast", "yarn_beta_slow"] {
            refused(&format!("rope.scaling.{key}"), &|w, key| {
                w.str("llama.rope.scaling.type", "yarn")
                    .f32("llama.rope.scaling.factor", 4.0)
                    .f32(key, value);
            });
        }
    }
    // Layers that a file of this size cannot have: the first that is missing ends it, or their number.
    for (count, fault) in
        [(9999, "blk.0.attn_norm.weight is missing"), (1 << 24, "block_count: 16777216 layers")]
    {
        let mut layers = model();
        layers.u32("llama.block_count", count).u32("llama.context_length", 64);
        layers.tensor("token_embd.weight", Type::F32, &[32, 4], &[0; 512]);
        let found = cheap("layers", layers.finish());
        assert!(found.contains(fault), "{count}: {found}");
    }
}

#[test]
fn parts_that_are_none() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a folder");
    for (count, no, ok) in
        [(9999u64, 0u64, true), (10_000, 0, false), (u64::MAX, 1, false), (3, u64::MAX, false)]
    {
        let mut rest = Vec::new();
        for (key, value) in [("split.count", count), ("split.no", no), ("split.tensors.count", u64::MAX)] {
            string(&mut rest, key.as_bytes());
            rest.extend(10u32.to_le_bytes());
            rest.extend(value.to_le_bytes());
        }
        let path = directory.path().join("m-00001-of-09999.gguf");
        std::fs::write(&path, header(0, 3, &rest)).expect("a file");
        let (fault, held, took) = measured(|| File::open(&path).map(drop).unwrap_err().to_string());
        eprintln!("{fault}: {held} bytes, {took:?}");
        assert!(held < 4 << 20 && took < Duration::from_secs(1), "{held} bytes, {took:?}: {fault}");
        assert_eq!(fault.contains("no such file"), ok, "{fault}");
    }
}

/// minijinja compiles `1+1+1+…` by a call for each: the stack has to hold what fits into a template,
/// and a template is only so long.
#[test]
fn templates_that_are_nothing_but_depth() {
    let _alone = alone();
    let parts = [
        ("{{ ", "-", "1 }}"),
        ("{{ ", "not ", "1 }}"),
        ("{{ 1", "+1", " }}"),
        ("{{ 1", "~1", " }}"),
        ("{{ 1", "**1", " }}"),
        ("{{ 1", "%1", " }}"),
        ("{{ a", "<a", " }}"),
        ("{{ 1", "|e", " }}"),
        ("{{ a", ".a", " }}"),
        ("{{ a", "[0]", " }}"),
        ("{{ a", "()", " }}"),
        ("{{ 1", " and 1", " }}"),
        ("{{ 1", " if 1 else 1", " }}"),
        ("{{ 1", " is odd", " }}"),
        ("{% if 0 %}", "{% elif 0 %}", "{% endif %}"),
        ("{% set ", "(", " = 1 %}"),
        ("{% set a", ".a", " = 1 %}"),
        ("{% filter e", "|e", " %}{% endfilter %}"),
        ("", "{% raw %}", ""),
        ("", "{{", ""),
        ("", "{#", ""),
    ];
    let hello = [Message { role: "user".to_owned(), content: "Hello".to_owned() }];
    for (before, part, after) in parts {
        for bytes in [255 << 10, 4 << 20] {
            let source = format!("{before}{}{after}", part.repeat(bytes / part.len()));
            let template = ChatTemplate::new(&source, "", "");
            let (result, held, took) = measured(|| template.render(&hello, true));
            eprintln!("{before}{part}: {held} bytes, {took:?}: {:?}", result.as_ref().map(String::len));
            assert!(took < Duration::from_secs(3), "{part}: {took:?}");
            assert!(held < 200 << 20, "{part}: {held} bytes");
            if let Err(e) = result {
                assert!(!e.to_string().contains(char::is_control), "{e}");
            } else {
                assert!(bytes < 1 << 20, "{part}");
            }
        }
    }
}

/// As many values in each other as there is fuel for, which end by calls in calls.
#[test]
fn values_that_are_nothing_but_depth() {
    let _alone = alone();
    let bodies = [
        format!("{{% set ns.x = {}ns.x{} %}}", "(".repeat(40), ",)".repeat(40)),
        format!("{{% set ns.x = {}ns.x{} %}}", "{'a': ".repeat(8), "}".repeat(8)),
        "{% set ns.x = ns.x, %}".to_owned(),
        "{% set n = namespace() %}{% set n.p = ns.x %}{% set ns.x = n %}".to_owned(),
    ];
    for text in [1, 1 << 20] {
        let message = Message { role: "user".to_owned(), content: "a".repeat(text) };
        for body in &bodies {
            // The fuel ends it at the latest.
            let loops = "{% for i in range(90000) %}".repeat(2);
            let source = format!("{{% set ns = namespace(x=1) %}}{loops}{body}{}", "{% endfor %}".repeat(2));
            let error = ChatTemplate::new(&source, "", "").render(std::slice::from_ref(&message), true);
            let error = error.expect_err("no end").to_string();
            assert!(error.contains("more work or memory") || error.contains("more time"), "{body}: {error}");
        }
    }
}
