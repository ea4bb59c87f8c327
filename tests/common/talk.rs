//! A model with its tokenizer and template, asked as `infer run` asks it.
#![allow(dead_code, reason = "every test binary takes what it needs")]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use infer::engine::generate::{History, Outcome, Request, generate};
use infer::engine::{Engine, Options, open};
use infer::gguf::File;
use infer::kernels::sample::Sampling;
use infer::model::{Model, Weights};
use infer::tokenizer::{ChatTemplate, Message, Special, Tokenizer};

/// See the module's documentation. Answers are greedy.
pub(crate) struct Talk {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) history: History,
    /// A base model has none.
    template: Option<ChatTemplate>,
}

impl Talk {
    pub(crate) fn open(path: &Path, options: &Options) -> Talk {
        let model = Arc::new(Model::from_file(File::open(path).unwrap()).unwrap());
        let Weights::File(file) = &model.weights else { unreachable!("it comes from a file") };
        let tokenizer = Tokenizer::from_file(file).unwrap();
        let template = ChatTemplate::from_file(file);
        let mut go_on = |_, _| ControlFlow::Continue(());
        let engine = open(model.clone(), options, &mut go_on).unwrap_or_else(|e| panic!("{e}"));
        Talk { engine, tokenizer, history: History::default(), template }
    }

    /// The text that the model is to continue.
    pub(crate) fn text(&self, messages: &[Message]) -> String {
        self.template.as_ref().expect("a chat template").render(messages, true).unwrap()
    }

    pub(crate) fn prompt(&self, messages: &[Message]) -> Vec<u32> {
        self.plain(&self.text(messages))
    }

    /// A text that is continued as it is.
    pub(crate) fn plain(&self, text: &str) -> Vec<u32> {
        assert!(!self.tokenizer.add_eos());
        self.tokenizer.encode_with_bos(text, Special::Recognise).unwrap()
    }

    /// Continues ids up to a token that ends a text, or for so many tokens.
    pub(crate) fn go_on(&mut self, ids: &[u32], tokens: Option<usize>) -> Outcome {
        let end_ids = self.tokenizer.end_ids().to_vec();
        self.go_on_until(ids, tokens, &end_ids)
    }

    pub(crate) fn go_on_until(&mut self, ids: &[u32], tokens: Option<usize>, end_ids: &[u32]) -> Outcome {
        let request = Request { ids, sampling: Sampling::greedy(), tokens, end_ids };
        let mut progress = |_, _| ControlFlow::Continue(());
        let mut on_token = |_| ControlFlow::Continue(());
        generate(&mut *self.engine, &mut self.history, &request, &mut progress, &mut on_token).unwrap()
    }

    /// What a user would see of these ids.
    pub(crate) fn shown(&self, ids: &[u32]) -> String {
        let mut stream = self.tokenizer.stream();
        let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// Gives the logits after each of `ids` with the position's number; the history is lost.
    pub(crate) fn rows(&mut self, ids: &[u32], mut row: impl FnMut(usize, &[f32])) {
        self.history.clear();
        let mut position = 0;
        self.engine
            .logits(ids, true, &mut |_, _| ControlFlow::Continue(()), &mut |logits| {
                row(position, logits);
                position += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(position, ids.len());
    }

    /// The logits after the last of `ids`; the history is lost.
    pub(crate) fn last_row(&mut self, ids: &[u32]) -> Vec<f32> {
        self.history.clear();
        let mut rows = Vec::new();
        self.engine
            .logits(ids, false, &mut |_, _| ControlFlow::Continue(()), &mut |logits| {
                rows.push(logits.to_vec());
                Ok(())
            })
            .unwrap();
        assert_eq!(rows.len(), 1);
        rows.remove(0)
    }
}

/// The place of the highest number, the first of equals.
pub(crate) fn argmax(row: &[f32]) -> u32 {
    let best = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
    u32::try_from((0..row.len()).fold(0, best)).unwrap()
}
