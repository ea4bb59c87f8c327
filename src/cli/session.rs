//! A model that answers: ids in, text out piece by piece.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::time::Duration;

use super::interrupt;
use super::progress::{Bar, Unit};
use super::stop::Stops;
use crate::engine::generate::{self, History, Outcome, Request, Stop};
use crate::engine::{Counters, Engine};
use crate::kernels::sample::Sampling;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// How answers are made.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// How tokens are chosen.
    pub(super) sampling: Sampling,
    /// The most tokens.
    pub(super) tokens: Option<usize>,
    /// Texts that end an answer.
    pub(super) stops: Vec<String>,
    /// No progress.
    pub(super) quiet: bool,
}

/// An answer, and how it came about.
pub(super) struct Answer {
    /// The text, without a stop text.
    pub(super) text: String,
    /// The tokens, without the one that ended them.
    pub(super) ids: Vec<u32>,
    /// Why it ended, by the name that `--json` uses.
    pub(super) stop_reason: &'static str,
    /// What it took.
    pub(super) outcome: Outcome,
}

impl Answer {
    /// True where Ctrl-C ended it.
    pub(super) fn interrupted(&self) -> bool {
        self.stop_reason == INTERRUPTED
    }
}

const INTERRUPTED: &str = "interrupted";

/// An engine with a tokenizer, and what it has computed so far.
pub(super) struct Session {
    /// What computes.
    pub(super) engine: Box<dyn Engine>,
    /// What has been computed.
    pub(super) history: History,
    /// How answers are made.
    pub(super) settings: Settings,
}

impl Session {
    /// Continues ids. `show` gets the text as it comes. Ctrl-C ends the answer, not the session.
    ///
    /// # Errors
    /// The engine's, and those of `show`.
    pub(super) fn answer(
        &mut self,
        tokenizer: &Tokenizer,
        ids: &[u32],
        show: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Answer> {
        let settings = &self.settings;
        let request = Request {
            ids,
            sampling: settings.sampling,
            tokens: settings.tokens,
            end_ids: tokenizer.end_ids(),
        };
        let bar = RefCell::new(Bar::new(Unit::Tokens, settings.quiet));
        let mut progress = |done, all| {
            bar.borrow_mut().set(done, all);
            if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let mut stream = tokenizer.stream();
        let mut stops = Stops::new(settings.stops.clone());
        let mut text = String::new();
        let mut shown = Ok(());
        let mut stopped = false;
        let mut take = |(piece, stop): (String, bool)| {
            if !piece.is_empty() && shown.is_ok() {
                shown = show(&piece);
                text.push_str(&piece);
            }
            stopped |= stop;
            if stop || shown.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let result =
            generate::generate(&mut *self.engine, &mut self.history, &request, &mut progress, &mut |id| {
                bar.borrow_mut().clear();
                take(stops.push(&stream.push(id)))?;
                if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        // What was held back is shown even if the engine failed.
        if take(stops.push(&stream.finish())).is_continue() {
            let _ = take((stops.finish(), false));
        }
        let mut outcome = match result {
            Err(Error::Interrupted) => nothing(),
            other => other?,
        };
        shown?;
        let stop_reason = match outcome.stop {
            _ if stopped => "stop",
            Stop::Caller => INTERRUPTED,
            Stop::Eos => "eos",
            Stop::Length => "length",
            Stop::Context => "context",
        };
        let mut ids = std::mem::take(&mut outcome.ids);
        if outcome.stop == Stop::Caller && stopped {
            ids.pop();
        }
        Ok(Answer { text, ids, stop_reason, outcome })
    }
}

/// What has come of a request that was interrupted before its first token.
fn nothing() -> Outcome {
    Outcome {
        ids: vec![],
        stop: Stop::Caller,
        prompt_tokens: 0,
        prefill: Duration::ZERO,
        decode_tokens: 0,
        decode: Duration::ZERO,
        counters: Counters::default(),
    }
}
