//! Going back in a conversation: what is made after a part of it is what an engine makes that has
//! seen nothing else, whatever the state that its layers keep.

use std::ops::ControlFlow;
use std::sync::Arc;

use infer::engine::generate::{History, Outcome, Request, generate};
use infer::engine::{DeviceChoice, Engine, Options, open};
use infer::gguf::File;
use infer::kernels::Math;
use infer::kernels::sample::Sampling;
use infer::model::Model;

mod common;
#[path = "common/golden.rs"]
mod golden;

use golden::Golden;

/// Positions that a ring has beyond its window.
const ROOM: usize = 128;

/// A model on an engine, and what it has seen.
struct Talk {
    model: Arc<Model>,
    engine: Box<dyn Engine>,
    history: History,
}

impl Talk {
    fn open(model: &Arc<Model>, device: &DeviceChoice) -> Talk {
        let options = Options { device: device.clone(), math: Some(Math::F32), ..Options::default() };
        let engine = open(model.clone(), &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
        Talk { model: model.clone(), engine, history: History::default() }
    }

    /// Continues `ids`, at most by `tokens`; `stop` tokens are enough for the caller.
    fn go_on(&mut self, ids: &[u32], tokens: usize, stop: usize) -> Outcome {
        let request = Request { ids, sampling: Sampling::greedy(), tokens: Some(tokens), end_ids: &[] };
        let mut go_on = |_, _| ControlFlow::Continue(());
        let mut seen = 0;
        let mut on_token = |_| {
            seen += 1;
            if seen < stop { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        generate(&mut *self.engine, &mut self.history, &request, &mut go_on, &mut on_token).unwrap()
    }

    /// Continues `ids` as an engine does that has seen nothing (the CPU's: the other kind, or another
    /// one); gives the prompt's tokens that were computed.
    fn same_as_fresh(&mut self, what: &str, ids: &[u32]) -> (usize, Vec<u32>) {
        let mut fresh = Talk::open(&self.model, &DeviceChoice::Cpu);
        let want = fresh.go_on(ids, AFTER, usize::MAX);
        assert_eq!(want.prompt_tokens, ids.len());
        let got = self.go_on(ids, AFTER, usize::MAX);
        assert_eq!(got.ids, want.ids, "{what}");
        (got.prompt_tokens, got.ids)
    }
}

/// Tokens made after going back: enough to show what a wrong key or value does.
const AFTER: usize = 24;

/// The first `shared` of `ids`, and then others.
fn branch(ids: &[u32], shared: usize, vocab: u32) -> Vec<u32> {
    let other = |i: usize| (ids[i.min(ids.len() - 1)] + 1 + i as u32 % 5) % vocab;
    ids[..shared].iter().copied().chain((shared..shared + 7).map(other)).collect()
}

fn goes_back(name: &str, device: &DeviceChoice) {
    let path = common::fixtures().join("models").join(name);
    let model = Arc::new(Model::from_file(File::open(&path).unwrap()).unwrap());
    let spec = &model.plan.spec;
    let window = spec.layers.iter().filter_map(|layer| layer.window).min();
    let vocab = u32::try_from(spec.vocab).unwrap();
    let prompt = Golden::of(&path).ids("prompt_C");
    let tokens = 200;
    // The last token is not computed: nobody has asked for what follows it.
    let computed = prompt.len() + tokens - 1;
    let edge = match window {
        // What is seen from there, itself among it, is within the newest of a ring.
        Some(window) => {
            assert!(computed > window + ROOM, "{name}: the ring has not turned");
            computed - ROOM - 1
        }
        None => 0,
    };
    // A text is turned otherwise from some length on.
    let line = model.plan.factors.change_at().unwrap_or(usize::MAX);
    let is_long = |tokens: usize| tokens > line;
    let across = if is_long(computed) { line - 10 } else { 0 };
    let mut talk = Talk::open(&model, device);
    for shared in [computed, computed - 30, edge, edge.max(1) - 1, across, 0] {
        let what = format!("{name} on {device:?}, {shared} of {computed} shared, edge {edge}");
        talk.history.clear();
        let first = talk.go_on(&prompt, tokens, usize::MAX);
        let all = [&prompt[..], &first.ids].concat();
        let ids = branch(&all, shared, vocab);
        let resumes = if shared >= edge && is_long(ids.len()) == is_long(computed) { shared } else { 0 };
        assert_eq!(talk.engine.resume(shared, ids.len()), resumes, "{what}");
        let (computed, answer) = talk.same_as_fresh(&what, &ids);
        assert_eq!(computed, ids.len() - resumes, "{what}");
        // And again from what was made then.
        let all = [&ids[..], &answer].concat();
        talk.same_as_fresh(&format!("{what}, twice"), &branch(&all, all.len() - 5, vocab));
    }
    // Steps that were computed ahead of a caller who had enough have been in vain.
    talk.history.clear();
    let first = talk.go_on(&prompt, 400, tokens);
    assert_eq!(first.ids.len(), tokens);
    let all = [&prompt[..], &first.ids].concat();
    for back in [10, 150] {
        let what = format!("{name} on {device:?}, {back} back after a stop");
        talk.same_as_fresh(&what, &branch(&all, all.len() - back, vocab));
    }
}

/// A full cache, a window in most layers with two RoPEs, a window in every other layer with experts
/// and sinks, a RoPE that depends on the text's length.
const MODELS: [&str; 4] =
    ["llama-mqa.q4_k_m.gguf", "gemma3.q8_0.gguf", "gpt-oss.mxfp4+f16.gguf", "phi3-long.q4_k_m.gguf"];

#[test]
fn cpu() {
    MODELS.iter().for_each(|name| goes_back(name, &DeviceChoice::Cpu));
}

#[test]
fn gpu() {
    MODELS[1..].iter().for_each(|name| goes_back(name, &DeviceChoice::Gpu));
}

/// Everything is there until a ring has turned, then what it holds; a new beginning forgets what was
/// lost.
#[test]
fn resume_says_what_is_still_there() {
    for device in [DeviceChoice::Cpu, DeviceChoice::Gpu] {
        let path = common::fixtures().join("models/gemma3.q8_0.gguf");
        let model = Arc::new(Model::from_file(File::open(&path).unwrap()).unwrap());
        let window = model.plan.spec.layers[0].window.unwrap();
        let mut engine = Talk::open(&model, &device).engine;
        let mut go_on = |_, _| ControlFlow::Continue(());
        let ring = window + ROOM;
        let mut begin = |engine: &mut dyn Engine, position: usize, ids: usize| {
            engine.begin(position, &vec![3; ids], &Sampling::greedy(), 1, &mut go_on).unwrap();
            engine.end();
        };
        assert_eq!(engine.resume(0, ring), 0);
        begin(engine.as_mut(), 0, ring);
        for position in [0, 1, window, ring] {
            assert_eq!(engine.resume(position, ring), position, "{device:?}: nothing is lost yet");
        }
        begin(engine.as_mut(), ring, 1); // overwrites position 0
        assert_eq!(
            [window - 1, window].map(|position| engine.resume(position, ring)),
            [0, window],
            "{device:?}"
        );
        begin(engine.as_mut(), window, 3);
        assert_eq!(engine.resume(window - 1, ring), 0, "{device:?}: what was lost stays lost");
        begin(engine.as_mut(), 0, 1);
        assert_eq!(engine.resume(1, ring), 1, "{device:?}: all of it is new");
    }
}
