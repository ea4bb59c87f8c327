//! A model that answers: ids in, text out piece by piece.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::time::Duration;

use super::interrupt;
use super::progress::{Bar, Unit};
use super::prompt::Prompter;
use super::stop::{Piece, Stops};
use crate::engine::generate::{self, History, Outcome, Request, Stop};
use crate::engine::{Counters, Engine};
use crate::kernels::sample::Sampling;
use crate::tokenizer::{Decoder, Tokenizer};
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
    /// The tokens, without the one that ended them, and without those that have a part of a stop text.
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
    /// Continues a prompter's ids. `show` gets the text as it comes. Ctrl-C ends the answer, not the session.
    ///
    /// # Errors
    /// The engine's, and those of `show`.
    pub(super) fn answer(
        &mut self,
        prompter: &Prompter,
        ids: &[u32],
        show: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Answer> {
        let settings = &self.settings;
        let request = Request {
            ids,
            sampling: settings.sampling,
            tokens: settings.tokens,
            end_ids: prompter.tokenizer.end_ids(),
        };
        let bar = RefCell::new(Bar::new(Unit::Tokens, settings.quiet));
        let mut progress = |done, all| {
            bar.borrow_mut().set(done, all);
            if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let mut out = Output::new(prompter, settings.stops.clone(), show);
        let result =
            generate::generate(&mut *self.engine, &mut self.history, &request, &mut progress, &mut |id| {
                bar.borrow_mut().clear();
                out.token(id)?;
                if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        // What was held back is shown even if the engine failed.
        if !out.stopped {
            let _ = out.finish(result.as_ref().ok().and_then(|outcome| outcome.end));
        }
        let mut outcome = match result {
            Err(Error::Interrupted) => nothing(),
            other => other?,
        };
        out.shown?;
        let stop_reason = match outcome.stop {
            Stop::Eos => "eos",
            _ if out.stopped => "stop",
            Stop::Caller => INTERRUPTED,
            Stop::Length => "length",
            Stop::Context => "context",
        };
        let mut ids = std::mem::take(&mut outcome.ids);
        if out.stopped {
            ids.truncate(out.stops.tokens_before());
        }
        Ok(Answer { text: out.text, ids, stop_reason, outcome })
    }
}

/// Tokens on their way to the user.
struct Output<'a> {
    tokenizer: &'a Tokenizer,
    stream: Decoder<'a>,
    stops: Stops,
    show: &'a mut dyn FnMut(&str) -> Result<()>,
    /// What has been shown.
    text: String,
    /// Whether it could be.
    shown: Result<()>,
    /// A stop text has come.
    stopped: bool,
}

impl<'a> Output<'a> {
    fn new(prompter: &'a Prompter, stops: Vec<String>, show: &'a mut dyn FnMut(&str) -> Result<()>) -> Self {
        Output {
            tokenizer: &prompter.tokenizer,
            stream: prompter.stream(),
            stops: Stops::new(stops),
            show,
            text: String::new(),
            shown: Ok(()),
            stopped: false,
        }
    }

    fn token(&mut self, id: u32) -> ControlFlow<()> {
        let text = self.stream.push(id);
        let whole = !self.stream.waits();
        let taken = match self.tokenizer.bytes(id) {
            [] => self.stops.push(Piece { text: &self.tokenizer.piece(id), shown: false, whole }),
            _ => self.stops.push(Piece { text: &text, shown: true, whole }),
        };
        self.take(taken)
    }

    /// Shows what is left when nothing more comes. The end token may be a part of a stop text.
    fn finish(&mut self, end: Option<u32>) -> ControlFlow<()> {
        let rest = self.stops.rest(&self.stream.finish());
        self.take(rest)?;
        if let Some(id) = end {
            let text = &self.tokenizer.piece(id);
            let taken = self.stops.push(Piece { text, shown: false, whole: true });
            self.take(taken)?;
        }
        let rest = self.stops.finish();
        self.take((rest, false))
    }

    fn take(&mut self, (piece, stop): (String, bool)) -> ControlFlow<()> {
        if !piece.is_empty() && self.shown.is_ok() {
            self.shown = (self.show)(&piece);
            self.text.push_str(&piece);
        }
        self.stopped |= stop;
        if stop || self.shown.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// What has come of a request that was interrupted before its first token.
fn nothing() -> Outcome {
    Outcome {
        ids: vec![],
        stop: Stop::Caller,
        end: None,
        prompt_tokens: 0,
        prefill: Duration::ZERO,
        decode_tokens: 0,
        decode: Duration::ZERO,
        counters: Counters::default(),
    }
}
