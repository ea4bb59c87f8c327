//! Both engines, in every form, against float64 logits of tiny models: architectures, RoPE's
//! variants, tied and untied outputs, all block types.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use infer::engine::{DeviceChoice, Engine, Forms, Options, open};
use infer::gguf::File;
use infer::kernels::sample::Sampling;
use infer::kernels::{Kv, Math};
use infer::model::Model;

mod common;
#[path = "common/golden.rs"]
mod golden;

#[path = "common/longrope.rs"]
mod longrope;

use golden::{Golden, all_logits, relative};

/// A fixture's file, so that its exact logits are right: those of `phi3-long` have RoPE's factors for long
/// texts in short ones too (`tests/longrope.rs` is about which are taken).
fn exact(path: &Path) -> File {
    match path.to_string_lossy().contains("phi3-long") {
        true => longrope::with_factors(path, [longrope::LONG; 2]),
        false => File::open(path).unwrap(),
    }
}

/// The models of the fixtures that this program runs: those of its architectures and types.
fn models() -> Vec<(std::path::PathBuf, Arc<Model>)> {
    let files = common::files(&common::fixtures().join("models"), "gguf");
    let runs = |path: std::path::PathBuf| {
        let model = Model::from_file(exact(&path));
        match model {
            Ok(model) => Some((path, Arc::new(model))),
            Err(error) => {
                assert_eq!(error.exit_code(), 4, "{}: {error}", path.display());
                None
            }
        }
    };
    // Those that a name is given of, for a closer look.
    if let Ok(only) = std::env::var("INFER_TEST_ONLY") {
        let named = |p: &std::path::PathBuf| p.to_string_lossy().contains(&only);
        return files.into_iter().filter(named).filter_map(runs).collect();
    }
    let models: Vec<_> = files.into_iter().filter_map(runs).collect();
    let least = if common::shared().is_some() { 58 } else { 11 };
    assert!(models.len() >= least, "only {} models can be run", models.len());
    models
}

/// Bounds of the relative error of a row of logits: median and worst.
struct Bounds(f64, f64, f32);

const CPU: Bounds = Bounds(1e-5, 1e-4, 0.002);
const F32: Bounds = Bounds(5e-5, 5e-4, 0.002);
const INT16: Bounds = Bounds(2e-3, 1e-2, 0.05);
const INT8: Bounds = Bounds(6e-2, 2e-1, 0.7);
const F16: Bounds = Bounds(4e-3, 2e-2, 0.05);

fn check(path: &Path, engine: &mut dyn Engine, bounds: &Bounds, vocab: usize) -> (f64, f64) {
    let golden = Golden::of(path);
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let mut errors = Vec::new();
    for prompt in ["A", "B", "C", "D"] {
        let ids = golden.ids(&format!("prompt_{prompt}"));
        let want = golden.floats(&format!("logits_{prompt}"));
        let mut got = Vec::new();
        engine
            .logits(&ids, true, &mut |_, _| ControlFlow::Continue(()), &mut |row| {
                got.extend_from_slice(row);
                Ok(())
            })
            .unwrap();
        assert_eq!(got.len(), ids.len() * vocab, "{name}");
        let got = &got[got.len() - want.len()..];
        errors.extend(got.chunks(vocab).zip(want.chunks(vocab)).map(|(g, w)| relative(g, w)));
        // The last row alone is the same row.
        let mut last = Vec::new();
        engine
            .logits(&ids, false, &mut |_, _| ControlFlow::Continue(()), &mut |row| {
                last = row.to_vec();
                Ok(())
            })
            .unwrap();
        assert!(relative(&last, &want[want.len() - vocab..]) < bounds.1, "{name} {prompt}: last row");
    }
    errors.sort_by(f64::total_cmp);
    let (median, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
    assert!(median < bounds.0 && worst < bounds.1, "{name}: median {median:.2e}, worst {worst:.2e}");
    for prompt in ["A", "B", "C"] {
        let ids = golden.ids(&format!("prompt_{prompt}"));
        let want = golden.ids(&format!("greedy_{prompt}"));
        let margins = golden.floats(&format!("margin_{prompt}"));
        let mut go_on = |_, _| ControlFlow::Continue(());
        engine.begin(0, &ids, &Sampling::greedy(), want.len(), &mut go_on).unwrap();
        for (i, (want, margin)) in want.iter().zip(margins).enumerate() {
            let got = engine.next().unwrap();
            if margin < bounds.2 {
                break;
            }
            assert_eq!(got, *want, "{name}: greedy {prompt}, step {i}, margin {margin}");
        }
        engine.end();
    }
    (median, worst)
}

/// Which models a form is tested on: what differs between forms shows on few.
enum On {
    All,
    Few,
    /// Those and one of each kind of block: experts with sinks and windows, experts with one for all,
    /// streams that are settled.
    Kinds,
    /// Those whose names begin so.
    These(&'static [&'static str]),
}

impl On {
    fn takes(&self, name: &str) -> bool {
        let few: &[&str] = &["llama-yarn", "llama-mqa", "qwen2-wide"];
        let one_of = |names: &[&str]| names.iter().any(|n| name.starts_with(n));
        match self {
            On::All => true,
            On::Few => common::full() || one_of(few),
            On::Kinds => On::Few.takes(name) || one_of(&["gpt-oss.", "qwen2moe", "cohere2"]),
            On::These(names) => one_of(names),
        }
    }
}

fn run(options: &Options, bounds: &Bounds, what: &str, on: On) {
    let mut worst = (0.0f64, 0.0f64, 0);
    let only = std::env::var("INFER_TEST_ONLY").is_ok();
    // Some drivers cannot be unloaded and loaded again thirty times: one device is always open.
    let mut open_now = None;
    for (path, model) in models() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !only && !on.takes(&name) {
            continue;
        }
        let vocab = model.plan.spec.vocab;
        let mut go_on = |_, _| ControlFlow::Continue(());
        let before = open_now.take();
        let engine = open(model, options, &mut go_on).unwrap_or_else(|e| panic!("{name}: {e}"));
        drop(before);
        let (median, largest) = check(&path, open_now.insert(engine).as_mut(), bounds, vocab);
        if only {
            common::note(&format!("{what}: {name}: median {median:.2e}, worst row {largest:.2e}"));
        }
        worst = (worst.0.max(median), worst.1.max(largest), worst.2 + 1);
    }
    assert!(only || worst.2 >= 3);
    common::note(&format!(
        "{what}, {} models: largest median {:.2e}, worst row {:.2e}",
        worst.2, worst.0, worst.1
    ));
}

fn gpu(math: Math, forms: Forms) -> Options {
    Options { device: DeviceChoice::Gpu, math: Some(math), forms, ..Options::default() }
}

#[test]
fn cpu() {
    run(&Options { device: DeviceChoice::Cpu, ..Options::default() }, &CPU, "cpu", On::All);
}

#[test]
fn gpu_f32() {
    run(&gpu(Math::F32, Forms::from_env()), &F32, "gpu f32", On::All);
}

#[test]
fn gpu_f16() {
    run(&gpu(Math::F16, Forms::from_env()), &F16, "gpu f16", On::Few);
}

#[test]
fn gpu_int16() {
    run(&gpu(Math::Int16, Forms::from_env()), &INT16, "gpu int16", On::All);
}

#[test]
fn gpu_int16_checked() {
    run(
        &gpu(Math::Int16, Forms { checked: true, ..Forms::default() }),
        &INT16,
        "gpu int16, checked",
        On::Few,
    );
}

#[test]
fn gpu_int8() {
    run(&gpu(Math::Int8, Forms::from_env()), &INT8, "gpu int8", On::Few);
}

#[test]
fn gpu_f32_checked() {
    run(&gpu(Math::F32, Forms { checked: true, ..Forms::default() }), &F32, "gpu f32, checked", On::Few);
}

#[test]
fn gpu_f16_checked() {
    run(&gpu(Math::F16, Forms { checked: true, ..Forms::default() }), &F16, "gpu f16, checked", On::Few);
}

#[test]
fn gpu_f32_without_subgroups() {
    run(
        &gpu(Math::F32, Forms { no_subgroups: true, whole_vectors: true, ..Forms::default() }),
        &F32,
        "gpu f32, no subgroups",
        On::Few,
    );
}

#[test]
fn gpu_f16_without_f16() {
    run(&gpu(Math::F16, Forms { no_f16: true, ..Forms::default() }), &F16, "gpu f16, no f16", On::Few);
}

#[test]
fn gpu_f32_without_coherent_memory() {
    run(
        &gpu(Math::F32, Forms { no_coherent: true, ..Forms::default() }),
        &F32,
        "gpu f32, no coherent memory",
        On::Kinds,
    );
}

#[test]
fn gpu_int16_with_barriers_between_stages() {
    let models = On::These(&["llama-mqa", "llama-yarn", "qwen2-wide", "qwen3-wide", "phi3", "granite"]);
    let options = gpu(Math::Int16, Forms { no_overlap: true, ..Forms::default() });
    run(&options, &INT16, "gpu int16, barriers", models);
}

/// Heads of 16 to 64 elements, one key/value head, norms of heads, windows in rings. What eight bits cost is held to
/// what eight bits may cost elsewhere.
#[test]
fn keys_and_values_in_bytes() {
    let models = On::These(&["llama-mqa", "llama-yarn", "qwen2-wide", "qwen3-wide", "gemma3"]);
    let options = Options { kv: Some(Kv::Q8_0), ..gpu(Math::Int16, Forms::from_env()) };
    run(&options, &INT8, "gpu int16, kv q8_0", models);
}

/// Where a router is near a tie, eight bits make a token take another expert, and its row and those of
/// tokens that see it are another model's. So mixtures are held to the exact logits by their median,
/// and row by row to the engine that rounds alike and so takes the same experts.
#[test]
fn keys_and_values_in_bytes_of_mixtures() {
    let mut go_on = |_, _| ControlFlow::Continue(());
    let mut seen = 0;
    for (path, model) in models() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let vocab = model.plan.spec.vocab;
        if !name.starts_with("gpt-oss") && !name.starts_with("qwen3moe") {
            continue;
        }
        seen += 1;
        let golden = Golden::of(&path);
        let mut open = |device| {
            let options = Options { device, math: Some(Math::F32), kv: Some(Kv::Q8_0), ..Options::default() };
            open(model.clone(), &options, &mut go_on).unwrap()
        };
        let (mut cpu, mut gpu) = (open(DeviceChoice::Cpu), open(DeviceChoice::Gpu));
        let (mut errors, mut apart) = (Vec::new(), Vec::new());
        for prompt in ["A", "B", "C", "D"] {
            let ids = golden.ids(&format!("prompt_{prompt}"));
            let want = golden.floats(&format!("logits_{prompt}"));
            let [cpu, gpu] = [&mut cpu, &mut gpu].map(|engine| all_logits(engine.as_mut(), &ids));
            let rows =
                |all: &[f32]| all[all.len() - want.len()..].chunks(vocab).map(<[f32]>::to_vec).collect();
            let [cpu, gpu, want]: [Vec<Vec<f32>>; 3] = [&cpu, &gpu, &want].map(|all| rows(all));
            errors.extend(gpu.iter().zip(&want).map(|(g, w)| relative(g, w)));
            apart.extend(gpu.iter().zip(&cpu).map(|(g, c)| relative(g, c)));
        }
        let [(median, worst), (_, apart)] = [errors, apart].map(|mut rows| {
            rows.sort_by(f64::total_cmp);
            (rows[rows.len() / 2], rows[rows.len() - 1])
        });
        common::note(&format!(
            "kv q8_0: {name}: median {median:.2e}, worst row {worst:.2e}; engines differ by {apart:.2e}"
        ));
        assert!(median < INT8.0, "{name}: median {median:.2e}");
        // Single numbers may be rounded to the other side.
        assert!(apart < INT16.1, "{name}: engines differ by {apart:.2e}");
    }
    assert!(seen > 0 || std::env::var("INFER_TEST_ONLY").is_ok());
}

/// With the same rounding, both engines are as close as without it.
#[test]
fn both_engines_round_keys_and_values_alike() {
    let ids: Vec<u32> = (0..40).map(|i| i * 7 % 50).collect();
    let mut go_on = |_, _| ControlFlow::Continue(());
    for kv in [Kv::F32, Kv::F16, Kv::Q8_0] {
        let mut logits = |device| {
            let options = Options { device, math: Some(Math::F32), kv: Some(kv), ..Options::default() };
            let mut engine = open(biased(0.5), &options, &mut go_on).unwrap();
            let all = all_logits(engine.as_mut(), &ids);
            // And where one token is computed at a time.
            engine.begin(0, &ids[..20], &Sampling::greedy(), 20, &mut go_on).unwrap();
            let chosen: Vec<u32> = (0..20).map(|_| engine.next().unwrap()).collect();
            (all, chosen)
        };
        let (want, chosen) = logits(DeviceChoice::Cpu);
        let got = logits(DeviceChoice::Gpu);
        let error = relative(&got.0, &want);
        common::note(&format!("kv {kv}: engines differ by {error:.1e}"));
        assert!(error < 1e-4, "kv {kv}: {error:.1e}");
        assert_eq!(got.1, chosen, "kv {kv}");
    }
}

/// Every matrix is larger than a binding: all are split by rows, the embedding and the logits too.
#[test]
fn gpu_f32_split_by_rows() {
    let forms = Forms { max_binding: Some(20_000), ..Forms::default() };
    run(&gpu(Math::F32, forms), &F32, "gpu f32, split by rows", On::Kinds);
}

/// Weights that are not finite give an error, never a token.
#[test]
fn logits_that_are_not_finite_are_an_error() {
    let path = common::fixtures().join("models/llama-yarn.q4_k_m.gguf");
    let mut bytes = std::fs::read(&path).unwrap();
    let file = File::open(&path).unwrap();
    let norm = file.tensor("output_norm.weight").unwrap().offset as usize;
    bytes[norm..norm + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let model = Arc::new(Model::from_file(File::parse(bytes).unwrap()).unwrap());
    for device in [DeviceChoice::Cpu, DeviceChoice::Gpu] {
        let options = Options { device, ..Options::default() };
        let mut go_on = |_, _| ControlFlow::Continue(());
        let mut engine = open(model.clone(), &options, &mut go_on).unwrap();
        for sampling in [Sampling::greedy(), Sampling::default()] {
            engine.begin(0, &[1, 2, 3], &sampling, 4, &mut go_on).unwrap();
            let error = engine.next().unwrap_err();
            assert!(error.to_string().contains("not finite"), "{error}");
            engine.end();
        }
    }
}

/// A tensor that would change the result is not left out in silence.
#[test]
fn a_tensor_that_nobody_reads_is_refused() {
    let path = common::fixtures().join("models/llama-yarn.q4_k_m.gguf");
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(Model::from_file(File::parse(bytes.clone()).unwrap()).is_ok());
    // The tied output would serve, but for its name it is a layer's.
    let name = b"output.weight";
    let at = bytes.windows(name.len() + 1).position(|w| &w[1..] == name && w[0] == 0).unwrap() + 1;
    bytes[at..at + name.len()].copy_from_slice(b"output.4.bias");
    let error = Model::from_file(File::parse(bytes).unwrap()).err().unwrap();
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("tensor output.4.bias"), "{error}");
}

/// A llama of one layer with a bias on everything that can have one; without them at scale 0.
fn biased(scale: f32) -> Arc<Model> {
    small(scale, None)
}

/// Where the factors of a small model's products are.
#[derive(Clone, Copy, PartialEq)]
enum Factors {
    Weights,
    Tensors,
}

/// A llama of one layer, with biases up to `scale`, and with powers of two as factors of its
/// products.
fn small(scale: f32, factors: Option<Factors>) -> Arc<Model> {
    let (width, ffn, kv, vocab) = (64u64, 96u64, 32u64, 50u64);
    let mut state = 1u32;
    let mut random = |n: u64, scale: f32| -> Vec<u8> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / 8_388_608.0 - 1.0) * scale
        };
        (0..n).flat_map(|_| next().to_le_bytes()).collect()
    };
    let mut file = infer::gguf::writer::Writer::new();
    file.str("general.architecture", "llama")
        .u32("llama.block_count", 1)
        .u32("llama.context_length", 64)
        .u32("llama.embedding_length", 64)
        .u32("llama.feed_forward_length", 96)
        .u32("llama.attention.head_count", 4)
        .u32("llama.attention.head_count_kv", 2)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
    let matrices = [
        ("token_embd", width, vocab),
        ("blk.0.attn_q", width, width),
        ("blk.0.attn_k", width, kv),
        ("blk.0.attn_v", width, kv),
        ("blk.0.attn_output", width, width),
        ("blk.0.ffn_gate", width, ffn),
        ("blk.0.ffn_up", width, ffn),
        ("blk.0.ffn_down", ffn, width),
    ];
    for (i, (name, cols, rows)) in matrices.into_iter().enumerate() {
        let factor = if name == "token_embd" { 1.0 } else { [2.0, 0.5, 4.0, 0.25][i % 4] };
        let within = if factors == Some(Factors::Weights) { factor } else { 1.0 };
        file.tensor(
            &format!("{name}.weight"),
            infer::quant::Type::F32,
            &[cols, rows],
            &random(cols * rows, 0.3 * within),
        );
        if factors == Some(Factors::Tensors) && name != "token_embd" {
            for (tensor, value) in [("scale", factor), ("input_scale", 3.0)] {
                let name = format!("{name}.{tensor}");
                file.tensor(&name, infer::quant::Type::F32, &[1], &f32::to_le_bytes(value));
            }
        }
        if name != "token_embd" {
            file.tensor(&format!("{name}.bias"), infer::quant::Type::F32, &[rows], &random(rows, scale));
        }
    }
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"] {
        file.tensor(&format!("{name}.weight"), infer::quant::Type::F32, &[width], &random(width, 1.0));
    }
    Arc::new(Model::from_file(File::parse(file.finish()).unwrap()).unwrap())
}

#[test]
fn biases_are_added() {
    let ids: Vec<u32> = (0..20).map(|i| i * 7 % 50).collect();
    let mut go_on = |_, _| ControlFlow::Continue(());
    let cpu = Options { device: DeviceChoice::Cpu, ..Options::default() };
    let [plain, want] =
        [0.0, 0.5].map(|scale| all_logits(open(biased(scale), &cpu, &mut go_on).unwrap().as_mut(), &ids));
    assert!(relative(&plain, &want) > 0.1, "the biases change nothing");
    let mut engine = open(biased(0.5), &gpu(Math::F32, Forms::from_env()), &mut go_on).unwrap();
    assert!(relative(&all_logits(engine.as_mut(), &ids), &want) < 1e-5);
    // And where one token is computed at a time.
    let greedy = |engine: &mut dyn Engine| -> Vec<u32> {
        engine.begin(0, &ids, &Sampling::greedy(), 12, &mut |_, _| ControlFlow::Continue(())).unwrap();
        (0..12).map(|_| engine.next().unwrap()).collect()
    };
    assert_eq!(greedy(engine.as_mut()), greedy(open(biased(0.5), &cpu, &mut go_on).unwrap().as_mut()));
}

/// NVFP4 files have a factor beside each weight; those of the inputs are for others.
#[test]
fn products_are_scaled() {
    let ids: Vec<u32> = (0..20).map(|i| i * 7 % 50).collect();
    let mut go_on = |_, _| ControlFlow::Continue(());
    let mut logits = |factors, device| {
        let options = Options { device, math: Some(Math::F32), ..Options::default() };
        let mut engine = open(small(0.1, factors), &options, &mut go_on).unwrap();
        let mut all = all_logits(engine.as_mut(), &ids);
        // And where one token is computed at a time.
        engine.begin(0, &ids, &Sampling::greedy(), 12, &mut go_on).unwrap();
        all.extend((0..12).map(|_| engine.next().unwrap() as f32));
        all
    };
    let want = logits(Some(Factors::Weights), DeviceChoice::Cpu);
    assert!(relative(&logits(None, DeviceChoice::Cpu), &want) > 0.1, "the factors change nothing");
    assert_eq!(logits(Some(Factors::Tensors), DeviceChoice::Cpu), want);
    assert!(relative(&logits(Some(Factors::Tensors), DeviceChoice::Gpu), &want) < 1e-6);
}

/// A prompt that is given up half-way leaves what was computed before it as it was.
#[test]
fn an_interrupted_prompt_leaves_the_state_sound() {
    for device in [DeviceChoice::Cpu, DeviceChoice::Gpu] {
        let options = Options { device, math: Some(Math::F32), ..Options::default() };
        let mut go_on = |_, _| ControlFlow::Continue(());
        let mut engine = open(biased(0.5), &options, &mut go_on).unwrap();
        let sampling = Sampling { repeat_penalty: 1.5, temperature: 0.0, ..Sampling::default() };
        let mut answer = |engine: &mut dyn Engine, position: usize, ids: &[u32]| -> Vec<u32> {
            engine.begin(position, ids, &sampling, 8, &mut go_on).unwrap();
            let ids = (0..8).map(|_| engine.next().unwrap()).collect();
            engine.end();
            ids
        };
        answer(engine.as_mut(), 0, &[5, 6, 7, 8]);
        let error = engine.begin(3, &[9; 40], &sampling, 8, &mut |_, _| ControlFlow::Break(())).unwrap_err();
        assert_eq!(error.exit_code(), 130);
        let resumed = answer(engine.as_mut(), 2, &[11, 12, 13]);
        let fresh = answer(engine.as_mut(), 0, &[5, 6, 11, 12, 13]);
        assert_eq!(resumed, fresh);
    }
}

#[test]
fn more_tokens_than_the_context_holds_are_refused() {
    for device in [DeviceChoice::Cpu, DeviceChoice::Gpu] {
        let options = Options { device, context: Some(16), ..Options::default() };
        let mut go_on = |_, _| ControlFlow::Continue(());
        let mut engine = open(biased(0.5), &options, &mut go_on).unwrap();
        let error = engine.logits(&[1; 17], false, &mut go_on, &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.exit_code(), 6, "{error}");
        let error = engine.begin(10, &[1; 7], &Sampling::greedy(), 1, &mut go_on).unwrap_err();
        assert_eq!(error.exit_code(), 6, "{error}");
    }
}
