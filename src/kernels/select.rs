//! The greedy choice: the best of the tiles' best.

use super::source::Source;
use super::{Form, Shader};
use crate::quant::TILE;

/// The mark of a selection that failed: the logits were not finite.
pub const FAILED: u32 = u32::MAX;

/// The selection over so many logits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Select {
    /// Logits.
    pub vocab: usize,
    /// Lanes: a power of two.
    pub threads: usize,
}

impl Select {
    /// The shader.
    pub fn shader(&self, form: Form) -> Shader {
        let mut source = Source::new(form);
        source.set("TILES", self.vocab.div_ceil(TILE)).set("THREADS", self.threads);
        Shader {
            name: "select",
            source: source.build("select.wgsl"),
            bindings: vec![(0, false), (1, true)],
            immediates: 4,
        }
    }
}

/// The twin: the id of the largest logit, the lowest among equals, or [`FAILED`].
pub fn twin(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, FAILED);
    for (id, logit) in logits.iter().enumerate() {
        if !logit.is_finite() {
            return FAILED;
        }
        if *logit > best.0 {
            best = (*logit, super::u32(id));
        }
    }
    best.1
}
