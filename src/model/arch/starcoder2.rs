//! StarCoder2: norms that take the mean off, biases everywhere, a feed-forward layer without gate.

use super::common::{self, windows};
use crate::Result;
use crate::model::keys::Keys;
use crate::model::spec::{Activation, Pairing, Spec};

const BIASES: &[&str] = &[
    "attn_norm.bias",
    "ffn_norm.bias",
    "attn_output.bias",
    "ffn_up.bias",
    "ffn_down.bias",
    "output_norm.bias",
];

pub(super) fn spec(keys: &Keys<'_>) -> Result<Spec> {
    let mut spec = common::layer_normed("starcoder2", keys, Pairing::Halves)?;
    windows(keys, &mut spec, 0, 0)?;
    Ok(Spec { activation: Activation::Gelu, gated: false, always: BIASES, ..spec })
}
