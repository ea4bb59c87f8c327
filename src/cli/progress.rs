//! A bar on a terminal, for work that takes long enough to be wondered about.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that is shorter shows no bar.
const PATIENCE: Duration = Duration::from_millis(300);

/// What is counted.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    /// Bytes of weights that are loaded.
    Bytes,
    /// Bytes of a file that is written.
    Written,
    /// Tokens of a prompt.
    Tokens,
    /// Tokens of a text that is predicted; what comes of it stands beside the bar.
    Predicted,
}

/// A bar that appears after a moment, on stderr and only when that is a terminal, and that is
/// gone when the work is done.
pub(super) struct Bar {
    unit: Unit,
    quiet: bool,
    start: Instant,
    bar: Option<ProgressBar>,
}

impl Bar {
    pub(super) fn new(unit: Unit, quiet: bool) -> Bar {
        Bar { unit, quiet, start: Instant::now(), bar: None }
    }

    /// So much of the work is done.
    pub(super) fn set(&mut self, done: usize, all: usize) {
        if done >= all {
            return self.clear();
        }
        if self.quiet || self.start.elapsed() < PATIENCE {
            return;
        }
        let unit = self.unit;
        let bar = self.bar.get_or_insert_with(|| {
            let form = match unit {
                Unit::Bytes => "loading {wide_bar} {bytes}/{total_bytes} ({bytes_per_sec})",
                Unit::Written => "writing {wide_bar} {bytes}/{total_bytes} ({bytes_per_sec})",
                Unit::Tokens => "reading {wide_bar} {pos}/{len} tokens",
                Unit::Predicted => "predicting {wide_bar} {pos}/{len} tokens {msg}",
            };
            let style = ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::with_draw_target(Some(all as u64), ProgressDrawTarget::stderr()).with_style(style)
        });
        bar.set_position(done as u64);
    }

    /// Says something beside the bar.
    pub(super) fn say(&mut self, words: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(words);
        }
    }

    /// Takes the bar away.
    pub(super) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}
