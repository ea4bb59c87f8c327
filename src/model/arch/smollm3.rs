//! SmolLM3: a Llama whose every fourth layer knows no positions.

use super::common;
use crate::Result;
use crate::model::keys::Keys;
use crate::model::spec::{Pairing, Spec};

pub(super) fn spec(keys: &Keys<'_>) -> Result<Spec> {
    let mut spec = common::decoder("smollm3", keys, Pairing::Neighbours)?;
    for layer in spec.layers.iter_mut().skip(3).step_by(4) {
        layer.rope = None;
    }
    Ok(spec)
}
