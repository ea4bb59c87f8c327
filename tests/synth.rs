//! Files of random weights: the same for a seed, whole or in parts, sound to two readers, and models
//! that compute ordinary numbers.

mod common;
#[path = "common/program.rs"]
mod program;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use infer::engine::{DeviceChoice, Options, open};
use infer::gguf::writer::Writer;
use infer::gguf::{File, Tensor};
use infer::kernels::Math;
use infer::model::{Ftype, Key, Model, Spec, Synthetic, arch};
use infer::quant::Type;
use infer::tokenizer::made_up;
use program::{Infer, run};

const VOCAB: usize = 512;

/// The keys of small layers; the heads together are not as wide as the stream.
fn keys() -> Vec<(String, Key)> {
    let counts = [
        ("block_count", 2),
        ("context_length", 64),
        ("embedding_length", 256),
        ("feed_forward_length", 512),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 32),
        ("attention.value_length", 32),
    ];
    let counts = counts.map(|(key, n)| (key.to_owned(), Key::Count(n)));
    let epsilon = |kind| (format!("attention.layer_norm_{kind}epsilon"), Key::Number(1e-5));
    counts.into_iter().chain(["rms_", ""].map(epsilon)).collect()
}

/// Some of the keys have other values, others are there besides.
fn with(mut keys: Vec<(String, Key)>, other: &[(&str, Key)]) -> Vec<(String, Key)> {
    for (key, value) in other {
        keys.retain(|(k, _)| k != key);
        keys.push(((*key).to_owned(), value.clone()));
    }
    keys
}

/// Small models: of every architecture one, or one of each kind that its files are, with keys as
/// they have them. Their windows are shorter than [`IDS`].
fn kinds() -> Vec<(&'static str, Vec<(String, Key)>)> {
    use Key::{Count, Number, Text};
    let yarn = || {
        [
            ("rope.scaling.type", Text("yarn".to_owned())),
            ("rope.scaling.factor", Number(4.0)),
            ("rope.scaling.original_context_length", Count(16)),
        ]
    };
    let experts = |count, used| [("expert_count", Count(count)), ("expert_used_count", Count(used))];
    let window = ("attention.sliding_window", Count(24));
    let of = |others: &[&[(&str, Key)]]| with(keys(), &others.concat());
    let small = ("expert_feed_forward_length", Count(160));
    vec![
        ("cohere2", of(&[&[("block_count", Count(4)), window.clone(), ("logit_scale", Number(0.25))]])),
        (
            "gemma2",
            of(&[&[
                window.clone(),
                ("attn_logit_softcapping", Number(50.0)),
                ("final_logit_softcapping", Number(30.0)),
            ]]),
        ),
        ("gemma3", of(&[&[("block_count", Count(6)), window.clone(), ("rope.freq_base", Number(1e6))]])),
        ("glm4", of(&[&[("rope.dimension_count", Count(16))]])),
        ("gpt-oss", of(&[&yarn(), &experts(5, 4), &[window.clone(), small.clone()]])),
        (
            "granite",
            of(&[&[
                ("embedding_scale", Number(12.0)),
                ("residual_scale", Number(0.22)),
                ("attention.scale", Number(0.03125)),
                ("logit_scale", Number(8.0)),
            ]]),
        ),
        ("llama", keys()),
        ("llama", of(&[&experts(3, 2)])),
        ("mistral3", of(&[&yarn(), &[("attention.temperature_scale", Number(0.1))]])),
        ("olmo2", keys()),
        ("olmo2", of(&[&yarn(), &[("block_count", Count(4)), window.clone()]])),
        (
            "phi3",
            of(&[&[
                window.clone(),
                ("rope.scaling.original_context_length", Count(16)),
                ("rope.scaling.attn_factor", Number(1.19)),
            ]]),
        ),
        ("qwen2", keys()),
        (
            "qwen2moe",
            of(&[&experts(6, 3), &[small.clone(), ("expert_shared_feed_forward_length", Count(224))]]),
        ),
        ("qwen3", keys()),
        ("qwen3moe", of(&[&experts(9, 5), &[small]])),
        ("smollm3", of(&[&[("block_count", Count(4))]])),
        ("starcoder2", of(&[&[window]])),
    ]
}

fn made(architecture: &str, keys: Vec<(String, Key)>, ftype: Ftype, seed: u64) -> Synthetic {
    let tied = architecture != "llama";
    let made = Synthetic::new(architecture, keys, (VOCAB, tied), ftype);
    let mut made = made.unwrap_or_else(|e| panic!("{architecture}: {e}"));
    made.seed = seed;
    made
}

fn tiny(architecture: &str, ftype: Ftype, seed: u64) -> Synthetic {
    made(architecture, keys(), ftype, seed)
}

/// The file of a small model, in memory.
fn file(model: &Synthetic) -> Vec<u8> {
    file_without(model, "")
}

/// The same, but for a tensor.
fn file_without(model: &Synthetic, missing: &str) -> Vec<u8> {
    let mut writer = Writer::new();
    model.describe("tiny", &mut writer);
    made_up(model.vocab, &mut writer).unwrap();
    for tensor in model.tensors().into_iter().filter(|t| t.name != missing) {
        let mut data = vec![0; usize::try_from(tensor.bytes()).unwrap()];
        model.fill(&tensor, 0, &mut data);
        writer.tensor(&tensor.name, tensor.ty, &tensor.dims(), &data);
    }
    writer.finish()
}

/// What may be absent in some architectures or files is in all layers or in none.
#[test]
fn no_tensor_of_a_layer_may_be_missing() {
    for (architecture, keys) in kinds() {
        let made = made(architecture, keys, Ftype::All(Type::F16), 0);
        for tensor in
            made.tensors().iter().filter(|t| ["blk.0.", "blk.1."].iter().any(|l| t.name.starts_with(l)))
        {
            let file = File::parse(file_without(&made, &tensor.name)).unwrap();
            let refused = Model::from_file(file).err();
            let refused = refused.unwrap_or_else(|| panic!("{architecture} without {}", tensor.name));
            assert!(refused.exit_code() == 4 && refused.to_string().contains("tensor blk."), "{refused}");
        }
    }
}

/// More than a window.
const IDS: usize = 40;

/// The logits after some ids, row after row, on the CPU.
fn logits(model: Model) -> Vec<f32> {
    logits_on(DeviceChoice::Cpu, model, 5)
}

fn logits_on(device: DeviceChoice, model: Model, count: usize) -> Vec<f32> {
    let what = model.plan.matrices()[1].ty;
    let options = Options { device, threads: Some(1), math: Some(Math::F32), ..Options::default() };
    let mut go_on = |_, _| ControlFlow::Continue(());
    let mut engine = open(Arc::new(model), &options, &mut go_on).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut all = Vec::new();
    let ids: Vec<u32> =
        [0, 7, 500, 300, 44].into_iter().chain((5..).map(|i| i * 61 % 512)).take(count).collect();
    engine
        .logits(&ids, true, &mut go_on, &mut |row| {
            all.extend_from_slice(row);
            Ok(())
        })
        .unwrap();
    assert_eq!(all.len(), count * VOCAB);
    all
}

/// Logits are neither flat nor wild.
fn ordinary(architecture: &str, what: &str, all: &[f32]) {
    let mean = all.iter().sum::<f32>() / all.len() as f32;
    let deviation = (all.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / all.len() as f32).sqrt();
    // Granite's stream is hardly more than the embedding, whose rows are single blocks here: where they
    // have a minimum for many elements, products of two such rows deviate by more.
    let most = if architecture == "granite" { 10.0 } else { 5.0 };
    assert!(mean.abs() < 0.5 && (1.0..most).contains(&deviation), "{what}: {mean} ± {deviation}");
}

/// The root mean square of the difference over that of what is wanted.
fn relative(got: &[f32], want: &[f32]) -> f32 {
    let sum = |f: &dyn Fn(usize) -> f32| (0..want.len()).map(f).sum::<f32>();
    (sum(&|i| (got[i] - want[i]).powi(2)) / sum(&|i| want[i].powi(2))).sqrt()
}

/// Of whatever types: each with three of the kinds, in turn.
#[test]
fn models_of_every_type_compute_ordinary_logits() {
    let kinds = kinds();
    let mut tried = 0;
    for ftype in Ftype::names().filter_map(Ftype::parse) {
        for _ in 0..3 {
            let (architecture, keys) = &kinds[tried % kinds.len()];
            let model = Model::synthetic(made(architecture, keys.clone(), ftype, 0)).unwrap();
            ordinary(architecture, &format!("{architecture} {}", ftype.name()), &logits(model));
            tried += 1;
        }
    }
    assert!(tried >= 3 * 29, "{tried}");
}

/// What benchmarks run without a file is what stands in the file; both engines compute the same
/// with it, a prompt of more than a window, and that is ordinary.
#[test]
fn models_of_every_architecture() {
    let kinds = kinds();
    let mut names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
    names.dedup();
    assert_eq!(names, arch::names().collect::<Vec<_>>(), "an architecture has no keys here");
    // One device stays open: some drivers cannot be loaded again and again.
    let first = Model::synthetic(tiny("llama", Ftype::Q4KM, 0)).unwrap();
    let gpu = Options { device: DeviceChoice::Gpu, ..Options::default() };
    let _open = open(Arc::new(first), &gpu, &mut |_, _| ControlFlow::Continue(())).unwrap();
    for (name, keys) in kinds {
        let what = format!("{name} {keys:?}");
        let model = made(name, keys, Ftype::Q4KM, 3);
        let bytes = file(&model);
        let read = || {
            Model::from_file(File::parse(bytes.clone()).unwrap()).unwrap_or_else(|e| panic!("{what}: {e}"))
        };
        assert_eq!(read().plan.spec, Spec { vocab: VOCAB, ..model.spec.clone() }, "{what}");
        let model = Model::synthetic(model).unwrap();
        assert_eq!(read().plan, model.plan, "{what}");
        let want = logits_on(DeviceChoice::Cpu, read(), IDS);
        ordinary(name, &what, &want);
        assert!(logits_on(DeviceChoice::Cpu, model, IDS) == want, "{what}: another model");
        let error = relative(&logits_on(DeviceChoice::Gpu, read(), IDS), &want);
        assert!(error < 2e-5, "{what}: {error:.1e}");
    }
}

/// Rows of several blocks, matrices that end within a tile, other types for the output.
#[test]
fn engines_agree_on_every_type() {
    let few = [Type::IQ2_S, Type::IQ3_XXS, Type::Q3_K, Type::MXFP4].map(Ftype::All);
    // Some drivers cannot be unloaded and loaded again thirty times: one device stays open.
    let first = Model::synthetic(tiny("llama", few[0], 0)).unwrap();
    let gpu = Options { device: DeviceChoice::Gpu, ..Options::default() };
    let _open = open(Arc::new(first), &gpu, &mut |_, _| ControlFlow::Continue(())).unwrap();
    for ftype in Ftype::names().filter_map(Ftype::parse).filter(|f| common::full() || few.contains(f)) {
        let keys = with(
            keys(),
            &[
                ("embedding_length", Key::Count(768)),
                ("feed_forward_length", Key::Count(1288)),
                ("attention.head_count", Key::Count(6)),
                ("attention.head_count_kv", Key::Count(3)),
            ],
        );
        let file = file(&made("llama", keys, ftype, 5));
        let model = || Model::from_file(File::parse(file.clone()).unwrap()).unwrap();
        let [want, got] = [DeviceChoice::Cpu, DeviceChoice::Gpu].map(|device| logits_on(device, model(), 5));
        let error = relative(&got, &want);
        assert!(error < 1e-5, "{}: {error:.1e}", ftype.name());
    }
}

#[test]
fn every_mixture_is_written() {
    for ftype in Ftype::names().filter_map(Ftype::parse) {
        let model = tiny("llama", ftype, 0);
        let file = File::parse(file(&model)).unwrap_or_else(|e| panic!("{}: {e}", ftype.name()));
        let wanted: Vec<_> = model.tensors().iter().map(|t| (t.name.clone(), t.ty, t.bytes())).collect();
        let found: Vec<_> = file.tensors().iter().map(|t| (t.name.clone(), t.ty, t.bytes)).collect();
        assert_eq!(found, wanted, "{}", ftype.name());
    }
}

const SMALL: [&str; 4] = ["synth", "smollm2-135m:Q4_0", "--layers", "2"];

fn synth(infer: &Infer, arguments: &[&str]) {
    infer.run(&[&SMALL[..], arguments].concat()).works();
}

#[test]
fn a_seed_makes_a_file() {
    let infer = Infer::new();
    synth(&infer, &["a.gguf"]);
    synth(&infer, &["b.gguf", "--seed", "0"]);
    synth(&infer, &["c.gguf", "--seed", "1"]);
    let [a, b, c] = ["a.gguf", "b.gguf", "c.gguf"].map(|name| std::fs::read(infer.path(name)).unwrap());
    assert!(a == b && a != c && a.len() == c.len());
    assert_eq!(std::fs::read_dir(infer.folder.path()).unwrap().count(), 3, "something was left");

    let report = infer.run(&["inspect", "a.gguf", "--check", "--json"]).json();
    assert_eq!(report["problems"], serde_json::json!([]));
    assert_eq!(report["tensors"].as_array().unwrap().len(), 1 + 2 * 9 + 1);
    assert_eq!(report["metadata"]["llama.block_count"], 2);
    assert_eq!(report["metadata"]["general.file_type"], 2);
    // It has a voice, though nothing to say.
    let text = ["run", "a.gguf", "--device", "cpu", "--prompt", "the bread", "-n", "3", "--json"];
    let said = infer.run(&text).json();
    assert!(!said["text"].as_str().unwrap().trim().is_empty(), "{said}");
    let ids = infer.run(&["tokenize", "a.gguf", "--text", "the", "--json"]).json();
    assert_eq!(ids["pieces"], serde_json::json!(["<|begin_of_text|>", "t", "he"]));
}

/// Another reader sees in a file those tensors that ours sees; gives the metadata that it sees.
fn read_by_another<'a>(
    path: &Path,
    ours: impl Iterator<Item = &'a Tensor>,
) -> BTreeMap<String, serde_json::Value> {
    let theirs = gguf_rs::get_gguf_container(path.to_str().unwrap()).unwrap().decode().unwrap();
    let ours: Vec<&Tensor> = ours.collect();
    assert_eq!(theirs.tensors().len(), ours.len());
    for (a, b) in ours.iter().zip(theirs.tensors()) {
        assert_eq!((&a.name, a.ty as u32, a.bytes), (&b.name, b.kind, b.size));
        assert_eq!(a.offset, b.offset + theirs.data_offset());
    }
    theirs.metadata().clone()
}

#[test]
fn parts_are_the_file_in_pieces() {
    let infer = Infer::new();
    synth(&infer, &["whole.gguf"]);
    let report = infer.run(&[&SMALL[..], &["parts.gguf", "--split", "3", "--json"]].concat()).json();
    let whole = File::open(&infer.path("whole.gguf")).unwrap();
    read_by_another(&infer.path("whole.gguf"), whole.tensors().iter());
    let split = File::open(&infer.path("parts-00002-of-00003.gguf")).unwrap();
    assert_eq!((split.parts().len(), split.tensors().len()), (3, whole.tensors().len()));
    assert_eq!(split.metadata().count(), whole.metadata().count() + 3);
    for (tensor, other) in split.tensors().iter().zip(whole.tensors()) {
        assert_eq!((&tensor.name, tensor.ty, tensor.shape), (&other.name, other.ty, other.shape));
        assert!(split.data(tensor) == whole.data(other), "{}", tensor.name);
    }
    for (no, row) in report["files"].as_array().unwrap().iter().enumerate() {
        assert_eq!(row["path"], format!("parts-0000{}-of-00003.gguf", no + 1));
        let path = infer.path(row["path"].as_str().unwrap());
        assert_eq!(row["bytes"], std::fs::metadata(&path).unwrap().len());
        let metadata = read_by_another(&path, split.tensors().iter().filter(|t| t.part == no));
        assert_eq!((&metadata["split.no"], &metadata["split.count"]), (&no.into(), &3.into()));
        assert_eq!(metadata["split.tensors.count"], whole.tensors().len());
        assert_eq!(metadata.len(), if no == 0 { whole.metadata().count() + 3 } else { 3 });
    }
    let ids = |name: &str| {
        let run =
            ["run", name, "--device", "cpu", "--prompt", "the", "-n", "4", "--temperature", "0", "--json"];
        infer.run(&run).json()["ids"].clone()
    };
    assert_eq!(ids("parts-00003-of-00003.gguf"), ids("whole.gguf"));
    // Every tensor a part, and a name without an ending.
    synth(&infer, &["each", "--split", "20"]);
    let each = File::open(&infer.path("each-00020-of-00020.gguf")).unwrap();
    assert_eq!((each.parts().len(), each.tensors().len()), (20, 20));
}

#[test]
fn parts_are_about_equal() {
    let infer = Infer::new();
    let split = ["synth", "smollm2-135m:TQ1_0", "x.gguf", "--layers", "60", "--split", "4", "--json"];
    let report = infer.run(&split).json();
    let bytes: Vec<u64> =
        report["files"].as_array().unwrap().iter().map(|f| f["bytes"].as_u64().unwrap()).collect();
    let (least, most) = (bytes.iter().min().unwrap(), bytes.iter().max().unwrap());
    assert!(most * 10 < least * 12, "{bytes:?}");
}

#[test]
fn what_cannot_be_written_is_refused() {
    let infer = Infer::new();
    infer.write("there.gguf", b"mine");
    std::fs::create_dir(infer.path("folder")).unwrap();
    for (arguments, code, why) in [
        (&["gpt-9", "x"][..], 2, "llama-3.2-1b"),
        (&["smollm2-135m:Q9", "x"], 2, "Q4_K_M"),
        (&["smollm2-135m:I8", "x"], 2, "I8"),
        (&["smollm2-135m", "there.gguf"], 2, "--force"),
        (&["smollm2-135m", "folder", "--force"], 2, "folder"),
        (&["smollm2-135m", "-"], 2, "no file's name"),
        (&["smollm2-135m", "..", "--split", "2"], 2, "no file's name"),
        (&["smollm2-135m", "no/such/x"], 1, "no/such/x"),
        (&["smollm2-135m", "x", "--split", "0"], 2, "--split"),
        (&["smollm2-135m", "x", "--split", "5000"], 2, "272"),
        (&["smollm2-135m", "x", "--layers", "0"], 2, "--layers"),
        (&["smollm2-135m", "x", "--seed", "-1"], 2, "--seed"),
        (&["smollm2-135m"], 2, "<OUT>"),
    ] {
        let run = infer.run(&[&["synth"], arguments].concat());
        assert!(run.fails(code).contains(why), "{run:?}");
    }
    #[cfg(unix)]
    assert!(infer.run(&["synth", "smollm2-135m", "/dev/null", "--force"]).fails(2).contains("regular"));
    assert_eq!(std::fs::read(infer.path("there.gguf")).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(infer.folder.path()).unwrap().count(), 2, "something was left");
    synth(&infer, &["there.gguf", "--force"]);
    File::open(&infer.path("there.gguf")).unwrap();
    // A type without kernels is refused where it is to be run.
    if Ftype::parse("Q2_0").is_some_and(|f| Model::synthetic(tiny("llama", f, 0)).is_err()) {
        run(&["bench", "--synthetic", "smollm2-135m:Q2_0", "--device", "99"]).fails(4);
    }
}

/// Ctrl-C leaves nothing behind.
#[cfg(unix)]
#[test]
fn an_interruption_removes_the_half_file() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};
    let infer = Infer::new();
    let mut command = infer.command(&["synth", "llama-3.1-70b:F32", "x.gguf"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let files = || std::fs::read_dir(infer.folder.path()).unwrap().count();
    let start = Instant::now();
    while files() == 0 && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(files(), 1);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(files(), 0);
}
