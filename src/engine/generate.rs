//! Making tokens with an engine: what of the past can be kept, where to stop.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::{Counters, Engine, Progress};
use crate::kernels::sample::Sampling;
use crate::{Error, Result};

/// A request for tokens.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The prompt.
    pub ids: &'a [u32],
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most tokens; by default what the context holds.
    pub tokens: Option<usize>,
    /// Tokens that end the text.
    pub end_ids: &'a [u32],
}

/// Why generating ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// An end token.
    Eos,
    /// The caller saw enough (a stop text), or set [`super::Options::stop`].
    Caller,
    /// The number of tokens asked for.
    Length,
    /// The context is full.
    Context,
}

/// What came of a request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The tokens, without the one that ended them.
    pub ids: Vec<u32>,
    /// Why they ended.
    pub stop: Stop,
    /// The end token, if one ended them.
    pub end: Option<u32>,
    /// Prompt tokens that had to be computed.
    pub prompt_tokens: usize,
    /// From the beginning to the first token.
    pub prefill: Duration,
    /// Steps after the first token.
    pub decode_tokens: usize,
    /// From the first token to the end.
    pub decode: Duration,
    /// What the steps cost.
    pub counters: Counters,
}

/// The tokens that an engine has computed, so that a next request can keep what it shares.
#[derive(Clone, Debug, Default)]
pub struct History {
    ids: Vec<u32>,
}

impl History {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.ids.clear();
    }
}

/// Generates. `on_token` sees every token but an end token, in order, and may stop.
///
/// # Errors
/// [`Error::Request`] for an empty prompt or one that the context cannot hold, the engine's
/// otherwise. What `on_token` has seen stays seen.
pub fn generate(
    engine: &mut dyn Engine,
    history: &mut History,
    request: &Request<'_>,
    progress: Progress<'_>,
    on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
) -> Result<Outcome> {
    let context = engine.info().context;
    let ids = request.ids;
    if ids.is_empty() {
        return Err(Error::Request("the prompt is empty: there is nothing to continue".to_owned()));
    }
    if ids.len() > context {
        return Err(Error::Request(format!(
            "the prompt has {} tokens, the context holds {context}: shorten it, or raise --ctx",
            ids.len()
        )));
    }
    // The last token is computed again even when it is known: its logits are needed.
    let shared = ids.iter().zip(&history.ids).take_while(|(a, b)| a == b).count().min(ids.len() - 1);
    let shared = engine.resume(shared, ids.len());
    // The last token that fits is given out, though never computed.
    let room = context - ids.len() + 1;
    let limit = request.tokens.unwrap_or(room).min(room);
    let start = Instant::now();
    let before = engine.counters();
    let mut outcome = Outcome {
        ids: vec![],
        stop: Stop::Length,
        end: None,
        prompt_tokens: ids.len() - shared,
        prefill: Duration::ZERO,
        decode_tokens: 0,
        decode: Duration::ZERO,
        counters: Counters::default(),
    };
    history.ids.truncate(shared);
    if limit == 0 {
        return Ok(outcome);
    }
    let before_restart = engine.room(ids.len());
    engine.begin(shared, &ids[shared..], &request.sampling, limit.min(before_restart), progress)?;
    history.ids = ids.to_vec();
    let mut run = || -> Result<Stop> {
        for n in 0..limit {
            if n == before_restart {
                // What is computed meanwhile is no history until all of it is.
                history.ids.clear();
                let all = [ids, &outcome.ids].concat();
                match engine.restart(&all, limit - n, progress) {
                    Err(Error::Interrupted) => return Ok(Stop::Caller),
                    other => other?,
                }
                history.ids = all;
            }
            let id = match engine.next() {
                Err(Error::Interrupted) => return Ok(Stop::Caller),
                id => id?,
            };
            if n == 0 {
                outcome.prefill = start.elapsed();
            } else {
                outcome.decode_tokens += 1;
            }
            if request.end_ids.contains(&id) {
                outcome.end = Some(id);
                return Ok(Stop::Eos);
            }
            outcome.ids.push(id);
            // The newest token is known but not yet certainly computed: it is not history.
            if let [.., before, _] = outcome.ids[..]
                && history.ids.len() + 1 < ids.len() + outcome.ids.len()
            {
                history.ids.push(before);
            }
            if on_token(id).is_break() {
                return Ok(Stop::Caller);
            }
        }
        Ok(if limit == room && request.tokens.is_none_or(|t| t > room) {
            Stop::Context
        } else {
            Stop::Length
        })
    };
    let result = run();
    engine.end();
    outcome.decode = start.elapsed().saturating_sub(outcome.prefill);
    outcome.counters = engine.counters().since(before);
    outcome.stop = result?;
    Ok(outcome)
}

impl Counters {
    /// What has been added since an earlier reading.
    fn since(self, before: Counters) -> Counters {
        Counters {
            steps: self.steps - before.steps,
            submits: self.submits - before.submits,
            dispatches: self.dispatches - before.dispatches,
            readback_bytes: self.readback_bytes - before.readback_bytes,
            encode: self.encode.saturating_sub(before.encode),
        }
    }
}
