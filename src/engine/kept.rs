//! What of the past the caches still hold.

use super::stage::cached;
use crate::model::Plan;
use crate::{Error, Result};

/// Layers with a window keep a ring of positions. Going back is possible as long as no ring has been
/// written over what is seen from there, and as long as RoPE turns the keys of the new text as it has
/// turned those of the old one.
pub(super) struct Kept {
    /// What is seen from a position, itself among it, in layers with a ring.
    window: usize,
    /// Positions of a ring.
    ring: usize,
    /// Every position from here on is still there.
    oldest: usize,
    /// Texts of more tokens have other factors of RoPE's frequencies.
    change_at: usize,
    /// The keys are those of such a text.
    is_long: bool,
}

impl Kept {
    pub(super) fn new(plan: &Plan, context: usize) -> Kept {
        let spec = &plan.spec;
        // All windows of a model are alike.
        let windows = spec.layers.iter().enumerate().filter_map(|(i, layer)| Some((i, layer.window?)));
        let rings = windows.map(|(i, window)| (window, cached(spec, i, context)));
        let (window, ring) = rings.min_by_key(|(_, ring)| *ring).unwrap_or((context, context));
        let change_at = plan.factors.change_at().unwrap_or(usize::MAX);
        Kept { window, ring, oldest: 0, change_at, is_long: false }
    }

    /// Where to begin when the first `position` of a text's `tokens` stay: there, or at the start.
    pub(super) fn resume(&self, position: usize, tokens: usize) -> usize {
        let is_there = (position + 1).saturating_sub(self.window) >= self.oldest;
        if is_there && !self.turns_change(tokens) { position } else { 0 }
    }

    /// A text of so many tokens is turned otherwise than the one whose keys are there.
    fn turns_change(&self, tokens: usize) -> bool {
        (tokens > self.change_at) != self.is_long
    }

    /// Tokens that can be generated after so many without a new beginning: the first of them follows
    /// from what is there, each other one from a text that is one token longer.
    pub(super) fn room(&self, tokens: usize) -> usize {
        if tokens > self.change_at { usize::MAX } else { (self.change_at - tokens).saturating_add(1) }
    }

    /// A text of so many tokens is computed from a position on. True if RoPE's tables have to be those
    /// of another length from now on.
    ///
    /// # Errors
    /// [`Error::Other`] where what stands before that position is turned for another length.
    pub(super) fn begin(&mut self, position: usize, tokens: usize) -> Result<bool> {
        let change = self.turns_change(tokens);
        if change && position > 0 {
            return Err(Error::Other(format!(
                "a text of {tokens} tokens must begin at 0: RoPE turns it otherwise than what is there"
            )));
        }
        self.is_long ^= change;
        if position == 0 {
            self.oldest = 0;
        }
        Ok(change)
    }

    /// Positions below `end` have been written.
    pub(super) fn wrote(&mut self, end: usize) {
        self.oldest = self.oldest.max(end.saturating_sub(self.ring));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_back_ends_where_a_ring_was_written_over() {
        let mut kept = Kept { window: 10, ring: 16, oldest: 0, change_at: usize::MAX, is_long: false };
        let resume = |kept: &Kept, position| kept.resume(position, 40);
        kept.wrote(16);
        assert_eq!(resume(&kept, 3), 3, "nothing is lost yet");
        kept.wrote(30); // 14 to 29 are there
        assert_eq!(resume(&kept, 30), 30);
        assert_eq!(resume(&kept, 23), 23, "sees 14 to 23");
        assert_eq!(resume(&kept, 22), 0, "13 is gone");
        assert!(!kept.begin(23, 25).unwrap());
        kept.wrote(25);
        assert_eq!(resume(&kept, 22), 0, "what was lost stays lost");
        assert!(!kept.begin(0, 40).unwrap());
        assert_eq!((resume(&kept, 5), kept.room(usize::MAX)), (5, 1));
    }

    #[test]
    fn a_text_that_crosses_the_original_context_begins_anew() {
        let mut kept = Kept { window: 64, ring: 64, oldest: 0, change_at: 16, is_long: false };
        assert_eq!((kept.room(15), kept.room(16), kept.room(17)), (2, 1, usize::MAX));
        assert!(!kept.begin(0, 16).unwrap());
        assert_eq!((kept.resume(10, 16), kept.resume(10, 17)), (10, 0));
        assert!(kept.begin(10, 17).is_err(), "what is there is turned for a short text");
        assert!(kept.begin(0, 17).unwrap());
        assert_eq!((kept.resume(10, 17), kept.resume(10, 16)), (10, 0), "and back across the line");
        assert!(kept.begin(0, 3).unwrap() && !kept.begin(3, 4).unwrap());
    }
}
