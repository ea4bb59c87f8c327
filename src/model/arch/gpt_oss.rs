//! gpt-oss: experts with biases and a clamped activation, sinks, windows in every other layer.
//! The norm before the feed-forward branch is named as if it stood behind attention.

use super::common::{self, windows};
use crate::Result;
use crate::model::keys::Keys;
use crate::model::spec::{Activation, Block, Pairing, Spec};

const BIASES: &[&str] = &[
    "attn_q.bias",
    "attn_k.bias",
    "attn_v.bias",
    "attn_output.bias",
    "ffn_gate_inp.bias",
    "ffn_gate_exps.bias",
    "ffn_up_exps.bias",
    "ffn_down_exps.bias",
];

pub(super) fn spec(keys: &Keys<'_>) -> Result<Spec> {
    let mut spec = common::decoder("gpt-oss", keys, Pairing::Halves)?;
    if spec.experts.is_none() {
        return Err(keys.bad("expert_count", "there must be experts"));
    }
    windows(keys, &mut spec, 0, 2)?;
    let block = Block { before: Some("post_attention_norm"), ..spec.block };
    Ok(Spec { block, sinks: true, always: BIASES, activation: Activation::ClampedSwish, ..spec })
}
