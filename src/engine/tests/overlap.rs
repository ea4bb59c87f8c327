//! Products whose stages overlap, against their twin: activations come as words that are their own sign,
//! and a workgroup has several teams.

use std::ops::ControlFlow;
use std::path::Path;

use super::{STORAGE, gpu};
use crate::engine::Forms;
use crate::engine::case::{Case, Shape, allows, kernel, read};
use crate::engine::device::Range;
use crate::engine::overlap::works;
use crate::engine::program::{Program, Programs, Step};
use crate::engine::upload::Store;
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

/// The logits after some steps of the demo.
fn steps(forms: Forms) -> (bool, Vec<f32>) {
    let gpu = gpu(Math::Int16, forms);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo.gguf");
    let model = Model::from_file(File::open(&path).unwrap()).unwrap();
    let mut store = Store::default();
    let program = Program::plan(&model.plan, &mut store, &gpu).unwrap();
    store.upload(&gpu, &model.weights, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let programs = Programs::build(program, &model, store, &gpu, 64, false).unwrap();
    let ids: Vec<u32> = (0..24).map(|i| 300 + 7 * i).collect();
    for (i, id) in ids.iter().enumerate() {
        // Each step chooses the next id, which the text has already.
        gpu.queue.write_buffer(&programs.ids, 4 * i as u64, bytemuck::bytes_of(id));
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        programs.record_step(&mut encoder, &Step::decode(i, 0), &Sampling::greedy(), None);
        gpu.queue.submit([encoder.finish()]);
    }
    (programs.overlaps(), read(&gpu, &programs.logits).unwrap())
}

#[test]
fn a_step_is_the_same_whether_its_stages_overlap() {
    let (overlaps, got) = steps(Forms::default());
    let (apart, want) = steps(Forms { no_overlap: true, ..Forms::default() });
    assert!(overlaps && !apart);
    let square = |v: f32| f64::from(v).powi(2);
    let off: f64 = got.iter().zip(&want).map(|(a, b)| square(a - b)).sum();
    let error = (off / want.iter().map(|v| square(*v)).sum::<f64>()).sqrt();
    // Sums are in another order, and a rounding to 15 bits may fall on the other side.
    assert!(error < 1e-3, "{error:.1e}");
}
