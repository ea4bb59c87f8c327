//! Command R7B and its kin: attention and feed-forward read the same norm, which takes the mean
//! off; three layers of four have a window and RoPE, the fourth has neither.

use super::common::{self, windows};
use crate::Result;
use crate::model::keys::Keys;
use crate::model::spec::{Block, Pairing, Spec};

pub(super) fn spec(keys: &Keys<'_>) -> Result<Spec> {
    let mut spec = common::layer_normed("cohere2", keys, Pairing::Neighbours)?;
    windows(keys, &mut spec, 4096, 4)?;
    for layer in spec.layers.iter_mut().filter(|l| l.window.is_none()) {
        layer.rope = None;
    }
    let block = Block { parallel: true, before: None, ..spec.block };
    Ok(Spec { block, logit_scale: keys.positive_or("logit_scale", 1.0)?, ..spec })
}
