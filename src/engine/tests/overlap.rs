//! Products whose stages overlap, against their twin: activations come as words that are their own sign,
//! and a workgroup has several teams.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::{STORAGE, common, gpu};
use crate::Result;
use crate::engine::case::{Case, Shape, allows, kernel, read};
use crate::engine::device::{Gpu, Range};
use crate::engine::dispatch::Step;
use crate::engine::overlap::works;
use crate::engine::program::{Program, Programs};
use crate::engine::upload::Store;
use crate::engine::{DeviceChoice, Forms, Options, open};
use crate::gguf::File;
use crate::kernels::activation::Activation;
use crate::kernels::gemv::{Epilogue, Knobs};
use crate::kernels::sample::Sampling;
use crate::kernels::{Form, Math};
use crate::model::{Matrix, Model};
use crate::quant::Type;

/// A shape of matrices of so many rows.
fn shape(epilogue: Epilogue, types: &[Type], rows: usize, cols: usize) -> Shape {
    let matrix = |(i, ty): (usize, &Type)| Matrix::whole(&format!("matrix {i}"), *ty, rows, cols);
    Shape { epilogue, matrices: types.iter().enumerate().map(matrix).collect() }
}

#[test]
fn products_take_what_comes() {
    for math in [Math::Int16, Math::Int8] {
        let gpu = gpu(math, Forms::default());
        assert!(works(&gpu).unwrap());
        let form = Form { overlapped: true, ..gpu.form };
        let gated = Epilogue::Gated(Activation::Silu);
        let residual = Epilogue::Residual { scale: 1.0 };
        let logits = Epilogue::Logits { vocab: 208, scale: 1.0, cap: None };
        let shapes = [
            shape(gated.clone(), &[Type::Q4_K, Type::Q4_K], 208, 4096),
            shape(gated, &[Type::Q4_K, Type::Q6_K], 80, 512),
            shape(residual.clone(), &[Type::Q6_K], 208, 2048),
            shape(residual, &[Type::Q8_0], 48, 96),
            shape(logits, &[Type::Q6_K], 208, 1024),
            shape(Epilogue::Raw, &[Type::Q4_K, Type::Q4_K, Type::Q6_K], 80, 1024),
            shape(Epilogue::Raw, &[Type::Q4_K], 16, 256),
        ];
        for shape in shapes {
            let case = Case::new(&gpu, form, &shape, 1).unwrap();
            let of = |threads, teams, tiles, unroll| Knobs { threads, teams, tiles, unroll };
            let mut tried = 0;
            for knobs in [case.own(), of(64, 1, 1, 1), of(256, 2, 1, 1), of(1024, 8, 1, 1), of(256, 2, 2, 2)]
            {
                if !allows(&gpu, form, &kernel(&shape.epilogue, &case.parts, knobs)) {
                    continue;
                }
                let variant = &case.compile(&[knobs], &mut Default::default()).unwrap()[0];
                let error = case.error(variant).unwrap();
                assert!(!case.is_wrong(error), "{} {knobs} {math}: {error:.1e}", shape.label().unwrap());
                tried += 1;
            }
            assert!(tried >= 3, "{}", shape.label().unwrap());
        }
    }
}

#[test]
fn what_never_comes_is_no_number() {
    let gpu = gpu(Math::Int16, Forms::default());
    let form = Form { overlapped: true, ..gpu.form };
    let shape = shape(Epilogue::Raw, &[Type::Q4_K], 16, 256);
    let (parts, bytes) = shape.parts().unwrap();
    let kernel = kernel(&shape.epilogue, &parts, Knobs { threads: 64, teams: 1, tiles: 1, unroll: 1 });
    let pipeline = gpu.pipeline(&kernel.shader(form)).unwrap();
    let zeros = |bytes: u64| gpu.buffer("zeros", bytes, STORAGE).unwrap();
    let (w, numbers, records, squares) = (zeros(bytes), zeros(2 * 256), zeros(8 * 16), zeros(4 * 16));
    let out = zeros(4 * 16);
    let all = [&w, &w, &numbers, &records, &out, &squares].map(Range::from);
    let group = gpu.bind(&pipeline, &all);
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    }
    gpu.queue.submit([encoder.finish()]);
    let words: Vec<u32> = read(&gpu, &out).unwrap();
    assert!(words.iter().all(|word| *word != 0 && f32::from_bits(!word).is_nan()), "{words:x?}");
}

/// The demo on a device, in integers.
fn demo(forms: Forms) -> (Gpu, Programs) {
    let gpu = gpu(Math::Int16, forms);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo.gguf");
    let model = Model::from_file(File::open(&path).unwrap()).unwrap();
    let mut store = Store::default();
    let program = Program::plan(&model.plan, &mut store, &gpu).unwrap();
    store.upload(&gpu, &model.weights, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let programs = Programs::build(program, &model, store, &gpu, 64).unwrap();
    (gpu, programs)
}

/// The logits after some steps of the demo; `before` each of them something may be done.
fn steps(gpu: &Gpu, programs: &Programs, before: impl Fn(usize)) -> Vec<f32> {
    let ids: Vec<u32> = (0..24).map(|i| 300 + 7 * i).collect();
    for (i, id) in ids.iter().enumerate() {
        before(i);
        // Each step chooses the next id, which the text has already.
        gpu.queue.write_buffer(&programs.buffers.ids, 4 * i as u64, bytemuck::bytes_of(id));
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        programs.record_step(&mut encoder, &Step::decode(i, 0), &Sampling::greedy(), None);
        gpu.queue.submit([encoder.finish()]);
    }
    read(gpu, &programs.buffers.logits).unwrap()
}

#[test]
fn a_step_is_the_same_whether_its_stages_overlap() {
    let (gpu, programs) = demo(Forms::default());
    let (plain, apart) = demo(Forms { no_overlap: true, ..Forms::default() });
    assert!(programs.overlaps() && !apart.overlaps());
    let (got, want) = (steps(&gpu, &programs, |_| ()), steps(&plain, &apart, |_| ()));
    let square = |v: f32| f64::from(v).powi(2);
    let off: f64 = got.iter().zip(&want).map(|(a, b)| square(a - b)).sum();
    let error = (off / want.iter().map(|v| square(*v)).sum::<f64>()).sqrt();
    // Sums are in another order, and a rounding to 15 bits may fall on the other side.
    assert!(error < 1e-3, "{error:.1e}");
}

/// The memory of a step is full of what another step has handed on: words that look as if they were there.
#[test]
fn old_words_are_not_taken_for_new_ones() {
    let (gpu, programs) = demo(Forms::default());
    let want = steps(&gpu, &programs, |_| ());
    let arenas = programs.arenas().unwrap();
    let old = |arena: &wgpu::Buffer| {
        // A number from 0.5 to 1, as it is handed on; as four bytes it is some numbers, too.
        let words = (0..arena.size() as u32 / 4).map(|i| !(0x3f00_0000 + i % 0x7f_ffff));
        gpu.queue.write_buffer(arena, 0, bytemuck::cast_slice(&words.collect::<Vec<u32>>()));
        gpu.queue.submit([]);
    };
    // A step clears the memory of the step after it, whatever stands there: when that begins, all is zero.
    let got = steps(&gpu, &programs, |step| {
        let [own, next] = [step % 2, 1 - step % 2].map(|i| &arenas[i].buffer);
        if step > 0 {
            let words: Vec<u32> = read(&gpu, own).unwrap();
            assert!(words.iter().all(|word| *word == 0), "step {step}");
        }
        old(next);
    });
    assert_eq!(got, want);
}

/// A generation by an engine, and what it has said.
fn generated(model: &Arc<Model>, forms: Forms, sampling: &Sampling) -> (Vec<Result<u32>>, Vec<String>) {
    let math = Some(Math::Int16);
    let options = Options { device: DeviceChoice::Gpu, math, forms, ..Options::default() };
    let mut go_on = |_, _| ControlFlow::Continue(());
    let mut engine = open(Arc::clone(model), &options, &mut go_on).unwrap();
    let ids: Vec<u32> = (0..5).map(|i| 3 + 7 * i).collect();
    engine.begin(0, &ids, sampling, 40, &mut go_on).unwrap();
    let mut made = Vec::new();
    for _ in 0..40 {
        made.push(engine.next());
        if made.last().is_some_and(Result::is_err) {
            break;
        }
    }
    engine.end();
    (made, engine.take_notes())
}

#[test]
fn a_step_that_gave_up_is_repeated_between_barriers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo.gguf");
    let model = Arc::new(Model::from_file(File::open(&path).unwrap()).unwrap());
    let drawn = Sampling { temperature: 1.5, repeat_penalty: 1.1, seed: 3, ..Sampling::default() };
    for sampling in [Sampling::greedy(), drawn] {
        let apart = Forms { no_overlap: true, ..Forms::default() };
        let (want, quiet) = generated(&model, apart, &sampling);
        // Nobody looks even once for what the stage before makes.
        let (got, notes) = generated(&model, Forms { polls: Some(0), ..Forms::default() }, &sampling);
        let ids = |made: Vec<Result<u32>>| made.into_iter().map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(ids(got), ids(want));
        assert!(quiet.is_empty() && notes.len() == 1 && notes[0].contains("INFER_NO_OVERLAP"), "{notes:?}");
    }
}

/// Logits that are not finite whoever computes them are an error, and stages go on overlapping.
#[test]
fn what_is_not_finite_is_no_matter_of_overlapping() {
    let path = common::fixtures().join("models/qwen2-wide.q4_k_m.gguf");
    let whole = Arc::new(Model::from_file(File::open(&path).unwrap()).unwrap());
    let (made, _) = generated(&whole, Forms::default(), &Sampling::greedy());
    let first = *made[0].as_ref().unwrap() as usize;
    assert!(made.len() == 40 && made.iter().all(Result::is_ok));
    // The row of the token that is made first is bad, which counts from the first step on.
    let file = File::open(&path).unwrap();
    let table = file.tensor("token_embd.weight").unwrap();
    assert!(file.tensor("output.weight").is_some(), "the row must not be the logits', too");
    let row = table.bytes as usize / table.shape[1] as usize;
    let at = table.offset as usize + first * row;
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at..at + row].fill(0xff);
    let bad = Arc::new(Model::from_file(File::parse(bytes).unwrap()).unwrap());
    let (made, notes) = generated(&bad, Forms::default(), &Sampling::greedy());
    assert_eq!(made[0].as_ref().ok(), Some(&(first as u32)));
    assert!(made.len() == 2 && made[1].is_err() && notes.is_empty(), "{made:?} {notes:?}");
}
