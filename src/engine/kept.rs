//! What of the past the caches still hold.

use super::stage::cached;
use crate::model::Spec;

/// Layers with a window keep a ring of positions. Going back is possible as long as no ring has been
/// written over what is seen from there.
pub(super) struct Kept {
    /// What is seen from a position, itself among it, in layers with a ring.
    window: usize,
    /// Positions of a ring.
    ring: usize,
    /// Every position from here on is still there.
    oldest: usize,
}

impl Kept {
    pub(super) fn new(spec: &Spec, context: usize) -> Kept {
        // All windows of a model are alike.
        let windows = spec.layers.iter().enumerate().filter_map(|(i, layer)| Some((i, layer.window?)));
        let rings = windows.map(|(i, window)| (window, cached(spec, i, context)));
        let (window, ring) = rings.min_by_key(|(_, ring)| *ring).unwrap_or((context, context));
        Kept { window, ring, oldest: 0 }
    }

    /// Where to begin when the first `position` tokens stay: there, or at the start.
    pub(super) fn resume(&self, position: usize) -> usize {
        if (position + 1).saturating_sub(self.window) >= self.oldest { position } else { 0 }
    }

    /// Tokens are computed from here on.
    pub(super) fn begin(&mut self, position: usize) {
        if position == 0 {
            self.oldest = 0;
        }
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
        let mut kept = Kept { window: 10, ring: 16, oldest: 0 };
        kept.wrote(16);
        assert_eq!(kept.resume(3), 3, "nothing is lost yet");
        kept.wrote(30); // 14 to 29 are there
        assert_eq!(kept.resume(30), 30);
        assert_eq!(kept.resume(23), 23, "sees 14 to 23");
        assert_eq!(kept.resume(22), 0, "13 is gone");
        kept.begin(23);
        kept.wrote(25);
        assert_eq!(kept.resume(22), 0, "what was lost stays lost");
        kept.begin(0);
        assert_eq!(kept.resume(5), 5);
    }
}
