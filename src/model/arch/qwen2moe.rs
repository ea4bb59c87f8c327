//! Qwen1.5-MoE and Qwen2-MoE: experts whose weights are shares of all experts, and one that every
//! token takes behind a gate of its own.

use super::common;
use crate::Result;
use crate::model::keys::Keys;
use crate::model::spec::{Experts, Pairing, Spec};

pub(super) fn spec(keys: &Keys<'_>) -> Result<Spec> {
    let spec = common::decoder("qwen2moe", keys, Pairing::Halves)?;
    let Some(experts) = spec.experts else { return Err(keys.bad("expert_count", "there must be experts")) };
    // How many are one says nothing beside its size.
    keys.say_nothing(&["expert_shared_count"]);
    let experts = Experts {
        // Without the key common reading normalises; a softmax over the chosen does in any case.
        normalised: experts.normalised
            && (keys.get("expert_weights_norm").is_some() || keys.count_or("expert_gating_func", 0)? == 3),
        shared: Some(keys.size("expert_shared_feed_forward_length")?),
        ..experts
    };
    Ok(Spec { experts: Some(experts), always: &["ffn_gate_inp_shexp.weight"], ..spec })
}
