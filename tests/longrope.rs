//! LongRoPE (Phi-3): the factors of RoPE's frequencies follow the length of the text, not the context that
//! was reserved for it, and a text that grows beyond the original context is computed again.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use infer::engine::generate::{History, Request, Stop, generate};
use infer::engine::{DeviceChoice, Engine, Options, open};
use infer::gguf::File;
use infer::kernels::Math;
use infer::kernels::sample::{self, Sampling};
use infer::model::Model;

mod common;
#[path = "common/golden.rs"]
mod golden;
#[path = "common/longrope.rs"]
mod longrope;

use golden::{Golden, all_logits, relative};
use longrope::{LONG, SHORT, with_factors};

/// The original context of the model.
const LINE: usize = 64;

fn path() -> PathBuf {
    common::fixtures().join("models/phi3-long.q4_k_m.gguf")
}

fn engine(file: File, device: &DeviceChoice, math: Math, context: Option<usize>) -> Box<dyn Engine> {
    let model = Arc::new(Model::from_file(file).unwrap());
    assert_eq!(model.plan.factors.change_at(), Some(LINE));
    let options = Options { device: device.clone(), math: Some(math), context, ..Options::default() };
    open(model, &options, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn text(tokens: usize) -> Vec<u32> {
    Golden::of(&path()).ids("prompt_D")[..tokens].to_vec()
}

#[test]
fn factors_follow_the_length_of_the_text() {
    for device in [DeviceChoice::Cpu, DeviceChoice::Gpu] {
        let open = |file, context| engine(file, &device, Math::F32, context);
        let mut short = open(with_factors(&path(), [SHORT; 2]), None);
        let mut long = open(with_factors(&path(), [LONG; 2]), None);
        for context in [None, Some(150), Some(LINE)] {
            let mut engine = open(File::open(&path()).unwrap(), context);
            for tokens in [1, 40, LINE, LINE + 1, 150, LINE] {
                if tokens > context.unwrap_or(usize::MAX) {
                    continue;
                }
                let ids = text(tokens);
                let got = all_logits(engine.as_mut(), &ids);
                let of = if tokens > LINE { &mut long } else { &mut short };
                assert!(
                    got == all_logits(of.as_mut(), &ids),
                    "{tokens} tokens, context {context:?}, {device:?}"
                );
            }
        }
        // The two differ, or nothing was shown.
        let ids = text(40);
        assert!(relative(&all_logits(short.as_mut(), &ids), &all_logits(long.as_mut(), &ids)) > 0.1);
    }
}

/// Continues a text by so many tokens.
fn continued(engine: &mut dyn Engine, ids: &[u32], sampling: Sampling, tokens: usize) -> Vec<u32> {
    let request = Request { ids, sampling, tokens: Some(tokens), end_ids: &[] };
    let mut go_on = |_, _| ControlFlow::Continue(());
    let made =
        generate(engine, &mut History::default(), &request, &mut go_on, &mut |_| ControlFlow::Continue(()));
    made.unwrap().ids
}

#[test]
fn a_text_that_grows_across_the_line_is_computed_again() {
    let greedy = Sampling::greedy();
    let drawn = Sampling { temperature: 1.5, seed: 5, ..Sampling::default() };
    for (device, math) in [(DeviceChoice::Cpu, Math::F32), (DeviceChoice::Gpu, Math::F32)] {
        let mut grows = engine(File::open(&path()).unwrap(), &device, math, None);
        let mut fresh = engine(File::open(&path()).unwrap(), &DeviceChoice::Cpu, Math::F32, None);
        for (begin, sampling) in [(LINE - 5, greedy), (LINE, greedy), (LINE - 1, drawn), (LINE + 1, drawn)] {
            let mut ids = text(begin);
            let got = continued(grows.as_mut(), &ids, sampling, 12);
            for (step, got) in (0..).zip(&got) {
                let logits = all_logits(fresh.as_mut(), &ids);
                let mut last = logits[logits.len() - logits.len() / ids.len()..].to_vec();
                let want = sample::twin(&mut last, &ids, &sampling, step);
                assert_eq!(*got, want, "{device:?}, {begin} tokens, step {step}");
                ids.push(want);
            }
            assert_eq!(got.len(), 12);
        }
    }
}

/// Where stages overlap, a step is another program than a batch: it sees the new tables too.
#[test]
fn steps_in_integers_see_the_same_line() {
    let mut grows = engine(File::open(&path()).unwrap(), &DeviceChoice::Gpu, Math::Int16, None);
    let ids = text(LINE - 3);
    let all = continued(grows.as_mut(), &ids, Sampling::greedy(), 24);
    // Computed at once, as a batch: the tokens that were made follow from each other.
    let whole = [&ids[..], &all].concat();
    let logits = all_logits(grows.as_mut(), &whole);
    let rows: Vec<&[f32]> = logits.chunks(logits.len() / whole.len()).collect();
    let mut compared = 0;
    for (at, made) in all.iter().enumerate().skip(4) {
        let row = rows[ids.len() + at - 1];
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        if row[order[0]] - row[order[1]] > 0.05 {
            assert_eq!(order[0], *made as usize, "token {at}");
            compared += 1;
        }
    }
    assert!(compared > 12, "{compared}");
}

/// Ctrl-C while the text is computed again ends the answer and loses nothing of it.
#[test]
fn an_interruption_at_the_line_keeps_what_there_is() {
    for device in [DeviceChoice::Cpu, DeviceChoice::Gpu] {
        let mut engine = engine(File::open(&path()).unwrap(), &device, Math::F32, None);
        let ids = text(LINE - 3);
        let request = Request { ids: &ids, sampling: Sampling::greedy(), tokens: Some(20), end_ids: &[] };
        let mut history = History::default();
        let mut progress = |_, all| match all > ids.len() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let made = generate(engine.as_mut(), &mut history, &request, &mut progress, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!((made.stop, made.ids.len()), (Stop::Caller, 4), "{device:?}");
        // What is half computed is nothing to go on from.
        let mut go_on = |_, _| ControlFlow::Continue(());
        let again =
            generate(engine.as_mut(), &mut history, &request, &mut go_on, &mut |_| ControlFlow::Continue(()))
                .unwrap();
        assert_eq!((again.prompt_tokens, &again.ids[..4]), (ids.len(), &made.ids[..]), "{device:?}");
    }
}
