//! What is not finite on a token's way reaches the logits as not finite: NaN, infinities and numbers whose
//! products overflow, in every tensor of every fixture in turn. What is expected is what a plain F32
//! computation makes of the same file (`reference.rs`), row by row.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::reference::{Reference, holds};
use super::{common, download, gpu_with};
use crate::engine::device::Gpu;
use crate::engine::dispatch::Step;
use crate::engine::program::{Program, Programs};
use crate::engine::upload::Store;
use crate::engine::{DeviceChoice, Forms, Options, open};
use crate::gguf::File;
use crate::kernels::sample::Sampling;
use crate::kernels::{Kv, Math};
use crate::model::{Model, Random};
use crate::quant::Type;

/// Tokens of the text: a batch of them, and a step for each but the first.
const TOKENS: usize = 3;

/// A number that is put into a tensor.
#[derive(Clone, Copy, Debug)]
struct Poison {
    tensor: usize,
    value: f32,
    /// Into one element or block alone, which this chooses.
    one: Option<u64>,
}

/// An engine and its arithmetic.
#[derive(Clone, Copy, Debug)]
enum Way {
    Cpu,
    Gpu(Math, Kv, Forms),
}

/// All of them that differ in how numbers travel.
fn paths() -> Vec<Way> {
    let plain = Forms::default();
    vec![
        Way::Cpu,
        Way::Gpu(Math::F32, Kv::F32, plain),
        Way::Gpu(Math::F16, Kv::F16, plain),
        Way::Gpu(Math::F16, Kv::F16, Forms { no_f16: true, no_coherent: true, ..plain }),
        Way::Gpu(Math::Int16, Kv::F16, plain),
        Way::Gpu(Math::Int16, Kv::Q8_0, plain),
        Way::Gpu(Math::Int16, Kv::F16, Forms { no_overlap: true, ..plain }),
        Way::Gpu(Math::Int8, Kv::F16, plain),
    ]
}

/// Puts a number where a block has one: its elements if they are numbers, its scales otherwise.
fn put(ty: Type, value: f32, block: &mut [u8]) {
    let half = half::f16::from_f32(value).to_le_bytes();
    match ty {
        Type::F32 => block.copy_from_slice(&value.to_le_bytes()),
        Type::F16 => block.copy_from_slice(&half),
        Type::BF16 => block.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
        Type::MXFP4 => block[0] = 0xff,
        Type::NVFP4 => block[..4].fill(0x7f),
        Type::IQ1_M => {
            // Four bits in each of the four words that end the block.
            let at = block.len() - 8;
            for (i, word) in block[at..].as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let four = u16::from_le_bytes(half) >> (4 * i) & 0xf;
                *word = (u16::from_le_bytes(*word) & 0x0fff | four << 12).to_le_bytes();
            }
        }
        _ => {
            let mut at = 0;
            for (name, bytes) in ty.fields() {
                let field = &mut block[at..at + bytes];
                match (*name, bytes) {
                    ("d" | "dmin" | "m", 2) => field.copy_from_slice(&half),
                    ("d", 4) => field.copy_from_slice(&value.to_le_bytes()),
                    _ => {}
                }
                at += bytes;
            }
        }
    }
}

/// The file with a number put into it.
fn poisoned(file: &File, bytes: &[u8], poison: Poison) -> File {
    let tensor = &file.tensors()[poison.tensor];
    let (at, len) = (tensor.offset as usize, tensor.bytes as usize);
    let mut bytes = bytes.to_vec();
    let blocks = bytes[at..at + len].chunks_exact_mut(tensor.ty.block_bytes());
    let count = blocks.len();
    for (i, block) in blocks.enumerate() {
        if poison.one.is_none_or(|one| one as usize % count == i) {
            put(tensor.ty, poison.value, block);
        }
    }
    File::parse(bytes).unwrap()
}

/// Everything that a file's tensors are put to.
fn all_of(file: &File) -> Vec<Poison> {
    let mut all = Vec::new();
    for (tensor, t) in file.tensors().iter().enumerate() {
        let mut values = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        values.extend((t.ty == Type::F32).then_some(1e30));
        for value in values {
            for one in [None, Some(7 * tensor as u64)] {
                all.push(Poison { tensor, value, one });
            }
        }
    }
    all
}

fn is_finite(row: &[f32]) -> bool {
    row.iter().all(|v| v.is_finite())
}

/// For each row of a batch's logits and for each step's, whether it is finite.
fn seen(path: Way, gpu: Option<&Gpu>, model: &Arc<Model>, ids: &[u32]) -> Vec<bool> {
    let mut go_on = |_, _| ControlFlow::Continue(());
    let Some(gpu) = gpu else {
        let Way::Cpu = path else { return vec![] };
        let options = Options { device: DeviceChoice::Cpu, threads: Some(1), ..Options::default() };
        let mut engine = open(Arc::clone(model), &options, &mut go_on).unwrap();
        let mut rows = Vec::new();
        let mut row = |row: &[f32]| {
            rows.push(is_finite(row));
            Ok(())
        };
        engine.logits(ids, true, &mut go_on, &mut row).unwrap();
        return rows;
    };
    let mut store = Store::default();
    let program = Program::plan(&model.plan, &mut store, gpu).unwrap();
    store.upload(gpu, &model.weights, &mut go_on).unwrap();
    let mut programs = Programs::build(program, model, store, gpu, 64).unwrap();
    programs.prepare_all_logits(gpu, ids.len()).unwrap();
    gpu.queue.write_buffer(&programs.buffers.ids, 0, bytemuck::cast_slice(ids));
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let logits = {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        let step = Step::batch(0, ids.len(), 0);
        programs.batch_pieces(usize::MAX).for_each(|all| Programs::record_batch(&mut pass, all, &step));
        programs.record_logits(&mut pass, &step, true).clone()
    };
    gpu.queue.submit([encoder.finish()]);
    let vocab = model.plan.spec.vocab;
    let mut rows: Vec<bool> =
        download::<f32>(gpu, &logits).chunks(vocab).take(ids.len()).map(is_finite).collect();
    // The first position is always a batch's.
    for (i, id) in ids.iter().enumerate().skip(1) {
        // Each step chooses the next id, which the text has already.
        gpu.queue.write_buffer(&programs.buffers.ids, 4 * i as u64, bytemuck::bytes_of(id));
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        programs.record_step(&mut encoder, &Step::decode(i, 0), &Sampling::greedy(), None);
        gpu.queue.submit([encoder.finish()]);
        let row: Vec<f32> = download(gpu, &programs.buffers.logits);
        rows.push(is_finite(&row[..vocab]));
        // The choice says the same as the logits.
        let next: Vec<u32> = download(gpu, &programs.buffers.ids);
        assert_eq!(next[i + 1] == u32::MAX, !is_finite(&row[..vocab]), "{path:?}: the choice");
    }
    rows
}

/// What came of a path's cases.
#[derive(Default)]
struct Counts {
    cases: usize,
    rows: usize,
    not_finite: usize,
    /// Rows that are finite in F32, while keys or values are beyond what the cache can hold.
    beyond: usize,
    refused: usize,
    wrong: Vec<String>,
}

/// A fixture, and the numbers that are put into it.
struct Fixture {
    name: String,
    bytes: Vec<u8>,
    file: File,
    all: Vec<Poison>,
}

impl Fixture {
    fn of(path: &Path) -> Option<Fixture> {
        let bytes = std::fs::read(path).unwrap();
        let file = File::parse(bytes.clone()).unwrap();
        Model::from_file(file.clone()).ok()?;
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        Some(Fixture { name, bytes, all: all_of(&file), file })
    }

    fn check(&self, path: Way, gpu: Option<&Gpu>, poison: Poison, counts: &mut Counts) {
        let tensor = &self.file.tensors()[poison.tensor].name;
        let what = format!("{}: {tensor}, {poison:?}, {path:?}", self.name);
        counts.cases += 1;
        let model = match Model::from_file(poisoned(&self.file, &self.bytes, poison)) {
            Ok(model) => Arc::new(model),
            // Factors that are no numbers are refused before anything is computed.
            Err(_) => {
                counts.refused += 1;
                return;
            }
        };
        let ids: Vec<u32> = [1, 5, 9].map(|id| id % model.plan.spec.vocab as u32).to_vec();
        let mut reference = Reference::new(&model, TOKENS);
        let kv = if let Way::Gpu(_, kv, _) = path { kv } else { Kv::F32 };
        let want: Vec<(bool, bool)> =
            ids.iter().map(|id| (is_finite(&reference.step(*id)), holds(kv, reference.largest))).collect();
        let got = seen(path, gpu, &model, &ids);
        for (row, got) in got.iter().enumerate() {
            let (finite, held) = want[if row < TOKENS { row } else { row - TOKENS + 1 }];
            counts.rows += 1;
            counts.not_finite += usize::from(!finite);
            match (finite, *got) {
                (true, false) if !held => counts.beyond += 1,
                (want, got) if want == got => {}
                _ => counts.wrong.push(format!("{what}: row {row} is finite: {got}, wanted {finite}")),
            }
        }
    }
}

fn device(path: Way) -> Option<Gpu> {
    match path {
        Way::Cpu => None,
        Way::Gpu(math, kv, forms) => Some(gpu_with(math, kv, forms)),
    }
}

/// The reference is one: it makes the exact logits of every fixture.
#[test]
fn the_reference_computes_what_the_fixtures_say() {
    let mut compared = 0;
    for path in fixtures() {
        let Some(fixture) = Fixture::of(&path) else { continue };
        let model = Model::from_file(fixture.file).unwrap();
        let golden = common::golden(&path, "prompt_B", "logits_B");
        let (ids, want) = golden;
        // The fixture of LongRoPE has the factors of long texts in its short ones, too.
        if fixture.name.starts_with("phi3-long") {
            continue;
        }
        let mut reference = Reference::new(&model, ids.len());
        let got: Vec<f32> = ids.iter().flat_map(|id| reference.step(*id)).collect();
        let square = |v: f32| f64::from(v).powi(2);
        let off: f64 = got.iter().zip(&want).map(|(g, w)| square(g - w)).sum();
        let error = (off / want.iter().map(|w| square(*w)).sum::<f64>()).sqrt();
        assert!(error < 1e-4, "{}: {error:.1e}", fixture.name);
        compared += 1;
    }
    assert!(compared >= 10, "{compared}");
}

fn fixtures() -> Vec<PathBuf> {
    common::files(&common::fixtures().join("models"), "gguf")
}

/// Cases of a path and a fixture in the sample; fixtures of a path.
const SAMPLED: usize = 9;
const FIXTURES: usize = 3;

#[test]
fn what_is_not_finite_reaches_the_logits() {
    // Those that a name is given of, whole.
    let only = std::env::var("INFER_TEST_ONLY").ok();
    let full = common::full() || only.is_some();
    let named = |f: &Fixture| only.as_ref().is_none_or(|only| f.name.contains(only));
    let all: Vec<Fixture> = fixtures().iter().filter_map(|path| Fixture::of(path)).filter(named).collect();
    let mut counts: BTreeMap<String, Counts> = BTreeMap::new();
    let mut random = Random::new("what is not finite", 0);
    for path in paths() {
        let device = device(path);
        let counts = counts.entry(format!("{path:?}")).or_default();
        // Opening a model compiles its kernels, so cases of a sample come from few models.
        let count = if full { all.len() } else { FIXTURES };
        for i in 0..count {
            let pick =
                |random: &mut Random, n: usize| ((random.number() + 1.0) / 2.0 * n as f32) as usize % n;
            let fixture = if full { &all[i] } else { &all[pick(&mut random, all.len())] };
            let cases = if full { fixture.all.len() } else { SAMPLED };
            for case in 0..cases {
                let case = if full { case } else { pick(&mut random, fixture.all.len()) };
                fixture.check(path, device.as_ref(), fixture.all[case], counts);
            }
            if let Some(gpu) = &device {
                gpu.clear().unwrap();
            }
        }
    }
    let mut wrong = Vec::new();
    for (path, counts) in &counts {
        common::note(&format!(
            "not finite: {path}: {} cases, {} refused, {} rows, {} of them not finite, {} beyond the cache's numbers",
            counts.cases, counts.refused, counts.rows, counts.not_finite, counts.beyond
        ));
        wrong.extend(&counts.wrong);
    }
    let all: usize = counts.values().map(|c| c.cases).sum();
    let (rows, not_finite) = counts.values().fold((0, 0), |n, c| (n.0 + c.rows, n.1 + c.not_finite));
    assert!(all >= 200 && 0 < not_finite && not_finite < rows, "{all} cases, {not_finite} of {rows} rows");
    for line in wrong.iter().take(60) {
        common::note(line);
    }
    assert!(wrong.is_empty(), "{} rows are wrong", wrong.len());
}
