//! An engine that is asked to stop does so wherever it is, and goes on afterwards as if nothing had been.

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use infer::engine::generate::{History, Request, Stop, generate};
use infer::engine::{DeviceChoice, Engine, Options, open};
use infer::gguf::File;
use infer::kernels::sample::Sampling;
use infer::model::Model;
use infer::{Error, Result};

/// An engine with what stops it; none without a device.
fn engine(name: &str, device: &DeviceChoice) -> Option<(Box<dyn Engine>, Arc<AtomicBool>)> {
    let path = common::fixtures().join("models").join(format!("{name}.gguf"));
    let model = Arc::new(Model::from_file(File::open(&path).unwrap()).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let options = Options { device: device.clone(), stop: Some(Arc::clone(&stop)), ..Options::default() };
    match open(model, &options, &mut |_, _| ControlFlow::Continue(())) {
        Ok(engine) => Some((engine, stop)),
        Err(Error::Device(_)) if *device == DeviceChoice::Gpu => {
            common::note(&format!("SKIPPED: stop: {name} on a GPU: there is no adapter"));
            None
        }
        Err(e) => panic!("{e}"),
    }
}

fn ids(count: u32) -> Vec<u32> {
    (0..count).map(|i| i * 7 % 50).collect()
}

/// Sets what stops the engine once it says how far it is, and tells it to go on.
fn stopping(stop: &AtomicBool) -> impl FnMut(usize, usize) -> ControlFlow<()> {
    |_, _| {
        stop.store(true, SeqCst);
        ControlFlow::Continue(())
    }
}

fn request(ids: &[u32], tokens: usize) -> Request<'_> {
    Request { ids, sampling: Sampling::greedy(), tokens: Some(tokens), end_ids: &[] }
}

fn go_on(_: u32) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn answer(engine: &mut dyn Engine, history: &mut History, prompt: &[u32], tokens: usize) -> Vec<u32> {
    let mut progress = |_, _| ControlFlow::Continue(());
    generate(engine, history, &request(prompt, tokens), &mut progress, &mut go_on).unwrap().ids
}

/// A model with full attention, and one whose windows are rings that are written over.
#[test]
fn a_stopped_engine_goes_on_as_if_nothing_had_been() {
    for device in [DeviceChoice::Cpu, DeviceChoice::Gpu] {
        for name in ["llama-yarn.q4_k_m", "gemma3.q8_0"] {
            let what = format!("{name} on {device:?}");
            let Some((mut engine, stop)) = engine(name, &device) else { continue };
            let engine = &mut *engine;
            let prompt = ids(40);
            let expected = answer(engine, &mut History::default(), &prompt, 12);

            // While a prompt is read, from its start and from where it is another than the one before.
            let mut history = History::default();
            let other = [&prompt[..20], &ids(60)[33..]].concat();
            for read in [&prompt, &other] {
                let mut stopping = stopping(&stop);
                let refused = generate(engine, &mut history, &request(read, 4), &mut stopping, &mut go_on);
                assert!(matches!(refused, Err(Error::Interrupted)), "{what}");
                stop.store(false, SeqCst);
                assert_eq!(answer(engine, &mut history, &prompt, 12), expected, "{what}");
            }
            let mut rows = 0;
            let mut count = |_: &[f32]| -> Result<()> {
                rows += 1;
                Ok(())
            };
            let refused = engine.logits(&prompt, true, &mut stopping(&stop), &mut count);
            assert!(matches!(refused, Err(Error::Interrupted)) && rows == 0, "{what}: {rows} rows");
            stop.store(false, SeqCst);

            // While an answer is made: what there is stays, and what was known is right.
            let mut history = History::default();
            let mut seen = 0;
            let mut on_token = |_| {
                seen += 1;
                stop.store(seen >= 5, SeqCst);
                ControlFlow::Continue(())
            };
            let mut progress = |_, _| ControlFlow::Continue(());
            let request = request(&prompt, 12);
            let outcome = generate(engine, &mut history, &request, &mut progress, &mut on_token).unwrap();
            assert_eq!(outcome.stop, Stop::Caller, "{what}");
            // A device may have given more by then.
            assert!(outcome.ids.len() >= 5 && expected.starts_with(&outcome.ids), "{what}: {outcome:?}");
            stop.store(false, SeqCst);
            let more = [&prompt[..], &expected[..4]].concat();
            assert_eq!(answer(engine, &mut history, &more, 8), expected[4..], "{what}");
        }
    }
}
