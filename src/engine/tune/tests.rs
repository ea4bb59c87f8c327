//! The knobs that were measured are those of the kernels, and none but the products' they are of.

use std::ops::ControlFlow;
use std::path::Path;

use super::*;
use crate::engine::DeviceChoice;
use crate::engine::case::read;
use crate::engine::device::choose;
use crate::engine::dispatch::{Kind, Step};
use crate::engine::program::{Program, Programs};
use crate::engine::upload::Store;
use crate::gguf::File;
use crate::kernels::Math;
use crate::kernels::route::{Route, Routing};
use crate::kernels::sample::Sampling;

fn gpu() -> (Gpu, Options) {
    let options = Options { device: DeviceChoice::Gpu, math: Some(Math::F32), ..Options::default() };
    (Gpu::open(&choose(&DeviceChoice::Gpu).unwrap().unwrap(), &options).unwrap(), options)
}

/// The form of the demo's steps.
fn of_step(gpu: &Gpu) -> Form {
    Form { overlapped: gpu.overlaps().unwrap(), ..gpu.form }
}

fn demo() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo.gguf");
    Model::from_file(File::open(&path).unwrap()).unwrap()
}

/// The knobs of a step's products, and the logits after some steps.
fn steps(gpu: &Gpu, model: &Model) -> (Vec<(String, Knobs)>, Vec<f32>) {
    let mut store = Store::default();
    let program = Program::plan(&model.plan, &mut store, gpu).unwrap();
    let form = program.step_form(&store, gpu, &model.plan.spec).unwrap();
    store.upload(gpu, &model.weights, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let programs = Programs::build(program, model, store, gpu, 32).unwrap();
    let knobs = programs.decode_dispatches().filter_map(|d| match &d.kind {
        Kind::Gemv(k) | Kind::LastLogits(k) => Some((key(form, &k.epilogue, &k.parts), k.knobs)),
        _ => None,
    });
    gpu.queue.write_buffer(&programs.buffers.ids, 0, bytemuck::bytes_of(&7u32));
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let greedy = Sampling::greedy();
    (0..8).for_each(|i| _ = programs.record_step(&mut encoder, &Step::decode(i, 0), &greedy, None));
    gpu.queue.submit([encoder.finish()]);
    (knobs.collect(), read(gpu, &programs.buffers.logits).unwrap())
}

#[test]
fn kernels_have_the_knobs_that_were_measured() {
    let (mut gpu, options) = gpu();
    let model = demo();
    let products = products(&gpu, of_step(&gpu), &model, &options).unwrap();
    assert!(products.len() >= 4);
    let (before, want) = steps(&gpu, &model);
    for product in &products {
        let own: Vec<Knobs> = before.iter().filter(|k| k.0 == product.key).map(|k| k.1).collect();
        assert!(!own.is_empty() && own.iter().all(|k| *k == product.own), "{}: {own:?}", product.key);
    }
    let mut differs = 0.0f64;
    for (threads, unroll) in [(64, 3), (128, 1), (256, 4)] {
        for product in &products {
            let other = |tiles| Knobs { threads, tiles, unroll, teams: 1 };
            let of = |knobs: &Knobs| {
                allows(&gpu, of_step(&gpu), &kernel(&product.shape.epilogue, &product.parts, *knobs))
            };
            let knobs = [4, 2, 1].map(other).into_iter().find(of).unwrap();
            gpu.table.0.insert(product.key.clone(), knobs);
        }
        let (after, got) = steps(&gpu, &model);
        assert_eq!(after.len(), before.len());
        for (key, knobs) in &after {
            assert_eq!(Some(knobs), gpu.table.0.get(key), "{key}");
        }
        let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
            got.iter().zip(&want).map(|(g, w)| f(f64::from(*g), f64::from(*w))).sum()
        };
        let error = (sum(&|g, w| (g - w) * (g - w)) / sum(&|_, w| w * w)).sqrt();
        assert!(error < 5e-5, "{threads} lanes, {unroll} steps: {error:.1e}");
        differs = differs.max(error);
    }
    // Sums of another order were made.
    assert!(differs > 0.0);
}

#[test]
fn other_products_keep_their_rules() {
    let (gpu, options) = gpu();
    let model = demo();
    let product = products(&gpu, of_step(&gpu), &model, &options).unwrap().into_iter().next().unwrap();
    let plain = kernel(&product.shape.epilogue, &product.parts, product.own);
    let knobs = Knobs { threads: 64, tiles: 1, unroll: 7, teams: 1 };
    let table = Table([(product.key, knobs)].into());
    assert_eq!(table.put(of_step(&gpu), plain.clone()).knobs, knobs);
    let routing = Routing { count: 8, used: 2, normalised: true, scale: 1.0 };
    let others = [
        Gemv { tokens: 4, ..plain.clone() },
        Gemv { splits: 2, ..plain.clone() },
        Gemv { take: Take::Chosen { count: 1, used: 1 }, ..plain.clone() },
        Gemv { tail: Tail::Route(Route { routing, stride: 16, gate: None }), ..plain.clone() },
        Gemv { parts: plain.parts[..1].to_vec(), ..plain.clone() },
        Gemv { epilogue: Epilogue::Residual { scale: 1.0 }, ..plain },
    ];
    for other in others {
        assert_eq!(table.put(of_step(&gpu), other.clone()).knobs, product.own, "{}", other.label());
    }
}

#[test]
fn candidates_begin_with_the_rules_and_can_be_run() {
    let (gpu, options) = gpu();
    for product in products(&gpu, of_step(&gpu), &demo(), &options).unwrap() {
        let case = Case::new(&gpu, of_step(&gpu), &product.shape, 1).unwrap();
        let all = candidates(&case);
        assert_eq!(all[0], product.own);
        let distinct: HashSet<Knobs> = all.iter().copied().collect();
        assert!((3..=8).contains(&distinct.len()), "{all:?}");
        for variant in case.compile(&all, &mut HashSet::new()).unwrap() {
            let error = case.error(&variant).unwrap();
            assert!(!case.is_wrong(error), "{} {}: {error:.1e}", product.key, variant.knobs);
        }
    }
}

#[test]
fn no_time_measures_nothing_and_an_interruption_ends_it() {
    let (gpu, options) = gpu();
    let model = demo();
    let all = products(&gpu, of_step(&gpu), &model, &options).unwrap();
    let all: Vec<&Product> = all.iter().collect();
    let mut notes = Vec::new();
    let none = Tune { budget: Duration::ZERO, ..Tune::default() };
    let found =
        measure((&gpu, of_step(&gpu)), &all, &none, &mut notes, &mut |_, _| panic!("nothing is begun"));
    assert!(found.unwrap().is_empty() && notes.is_empty());
    // A product that is begun is finished, and no other is begun.
    let least = Tune { budget: Duration::from_micros(1), ..Tune::default() };
    let found =
        measure((&gpu, of_step(&gpu)), &all, &least, &mut notes, &mut |_, _| ControlFlow::Continue(()));
    assert_eq!(found.unwrap().len(), 1, "{notes:?}");
    let stopped =
        measure(
            (&gpu, of_step(&gpu)),
            &all,
            &Tune::default(),
            &mut notes,
            &mut |_, _| ControlFlow::Break(()),
        );
    assert!(matches!(stopped, Err(Error::Interrupted)));
}

#[test]
fn the_clearly_fastest_is_taken() {
    use std::cell::RefCell;
    let soon = Instant::now();
    let late = soon + Duration::from_secs(3600);
    // How often each variant has run, which takes so long then.
    let race = |end, time: &dyn Fn(usize, usize) -> f64| {
        let runs = RefCell::new([0; 4]);
        let once = |i: usize| {
            runs.borrow_mut()[i] += 1;
            Ok(time(i, runs.borrow()[i]))
        };
        let (taken, medians) = turns(vec![0, 1, 2, 3], end, once).unwrap();
        (taken, medians[&taken], runs.into_inner())
    };
    // 4 % are too little, 8 % are enough; what is far behind leaves at once.
    let (taken, us, runs) = race(late, &|i, _| [100.0, 96.0, 99.0, 130.0][i]);
    assert_eq!((taken, us, runs), (0, 100.0, [TURNS, TURNS, TURNS, 1]));
    let (taken, us, runs) = race(late, &|i, _| [100.0, 96.0, 92.0, 130.0][i]);
    assert_eq!((taken, us, runs), (2, 92.0, [TURNS, TURNS, TURNS, 1]));
    // The built-in one never leaves, and runs that something else has slowed down do not count.
    let slow = |i: usize, run: usize| if run % 3 == 2 { 500.0 } else { [100.0, 101.0, 50.0, 101.0][i] };
    assert_eq!(race(late, &slow), (2, 50.0, [TURNS, 1, TURNS, 1]));
    // Alone there is nothing to find out, and the end comes after some turns.
    assert_eq!(race(late, &|i, _| if i == 0 { 1.0 } else { 2.0 }), (0, 1.0, [1; 4]));
    assert_eq!(race(soon, &|i, _| [100.0, 90.0, 99.0, 99.0][i]).2, [LEAST; 4]);
    // A clock that says nothing takes nothing.
    assert_eq!(race(late, &|_, _| 0.0).0, 0);
    assert_eq!(race(late, &|_, _| f64::NAN).0, 0);
}

/// As a GPU that nobody has measured: a product each time, as long as there are some left.
#[test]
fn an_unknown_gpu_is_measured_bit_by_bit() {
    let (mut gpu, mut options) = gpu();
    let adapter = choose(&DeviceChoice::Gpu).unwrap().unwrap().get_info();
    let folder = tempfile::tempdir().unwrap();
    let model = demo();
    let budget = Duration::from_micros(1);
    options.tune = Tune { when: When::Auto, folder: Some(folder.path().to_owned()), budget, say: None };
    let measured = |gpu: &Gpu, options: &Options| {
        let made = tune(gpu, &adapter, of_step(gpu), &model, options, &mut |_, _| ControlFlow::Continue(()))
            .unwrap();
        assert!(made.notes.is_empty(), "{:?}", made.notes);
        assert_eq!(made.table.0.len(), made.tuned.measured);
        made.tuned.measured
    };
    gpu.software = true;
    assert_eq!(measured(&gpu, &options), 0);
    gpu.software = false;
    for known in ["NVIDIA H100 80GB HBM3", "NVIDIA GH200 480GB"] {
        gpu.name = known.to_owned();
        assert_eq!(measured(&gpu, &options), 0, "{known}");
    }
    gpu.name = "NVIDIA A100-SXM4-80GB".to_owned();
    assert_eq!(measured(&gpu, &options), 1);
    assert_eq!(measured(&gpu, &options), 2);
    // What is kept is used when there is no more time, and what was found on another GPU is not.
    options.tune.budget = Duration::ZERO;
    assert_eq!(measured(&gpu, &options), 2);
    gpu.driver += " and one more";
    assert_eq!(measured(&gpu, &options), 0);
}
