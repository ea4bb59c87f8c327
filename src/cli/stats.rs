//! What generating took, by the names that `--json` uses.

use std::time::Duration;

use serde::Serialize;

use crate::engine::Info;
use crate::engine::generate::Outcome;

/// Times in ms. The first token belongs to the prefill, not to the decoding.
#[derive(Serialize)]
pub(super) struct Stats {
    load_ms: f64,
    prompt_tokens: usize,
    prefill_ms: f64,
    prefill_tokens_per_s: f64,
    decode_tokens: usize,
    decode_ms: f64,
    decode_tokens_per_s: f64,
    /// From the beginning of the command: what somebody waits.
    time_to_first_token_ms: f64,
    submits_per_token: f64,
    dispatches_per_token: f64,
    readback_bytes_per_token: f64,
    weight_bytes: u64,
    kv_bytes: u64,
    scratch_bytes: u64,
    peak_rss_bytes: Option<u64>,
}

impl Stats {
    /// Of one request, with the times from the command's beginning until the model was loaded
    /// and until the request began.
    pub(super) fn new(info: &Info, outcome: &Outcome, load: Duration, waited: Duration) -> Stats {
        let c = &outcome.counters;
        Stats {
            load_ms: ms(load),
            prompt_tokens: outcome.prompt_tokens,
            prefill_ms: ms(outcome.prefill),
            prefill_tokens_per_s: rate(outcome.prompt_tokens, outcome.prefill),
            decode_tokens: outcome.decode_tokens,
            decode_ms: ms(outcome.decode),
            decode_tokens_per_s: rate(outcome.decode_tokens, outcome.decode),
            time_to_first_token_ms: ms(waited + outcome.prefill),
            submits_per_token: per(c.submits, c.steps),
            dispatches_per_token: per(c.dispatches, c.steps),
            readback_bytes_per_token: per(c.readback_bytes, c.steps),
            weight_bytes: info.weight_bytes,
            kv_bytes: info.kv_bytes,
            scratch_bytes: info.scratch_bytes,
            peak_rss_bytes: peak_rss(),
        }
    }

    /// One line for people.
    pub(super) fn line(&self) -> String {
        format!(
            "prompt: {} tokens in {:.0} ms, {:.1} tokens/s; decode: {} tokens in {:.0} ms, {:.1} tokens/s",
            self.prompt_tokens,
            self.prefill_ms,
            self.prefill_tokens_per_s,
            self.decode_tokens,
            self.decode_ms,
            self.decode_tokens_per_s
        )
    }
}

/// Milliseconds, to the microsecond.
pub(super) fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Tokens per second; 0 without tokens.
#[allow(clippy::cast_precision_loss, reason = "counts of tokens are small")]
pub(super) fn rate(tokens: usize, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if tokens == 0 || seconds == 0.0 { 0.0 } else { tokens as f64 / seconds }
}

/// A share; 0 of nothing.
#[allow(clippy::cast_precision_loss, reason = "a ratio")]
pub(super) fn per(n: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { n as f64 / of as f64 }
}

/// The most memory that this process has held, where the system says so.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.split_whitespace().next()?;
    kib.parse::<u64>().ok().map(|kib| kib * 1024)
}
