//! Qwen3, dense or a mixture of experts: query and key heads are normed; RoPE turns halves.

use super::common;
use crate::Result;
use crate::model::keys::Keys;
use crate::model::spec::{HeadNorms, Pairing, Spec};

pub(super) fn spec(keys: &Keys<'_>) -> Result<Spec> {
    qwen3("qwen3", keys)
}

pub(super) fn moe(keys: &Keys<'_>) -> Result<Spec> {
    let spec = qwen3("qwen3moe", keys)?;
    match spec.experts {
        Some(_) => Ok(spec),
        None => Err(keys.bad("expert_count", "there must be experts")),
    }
}

fn qwen3(name: &'static str, keys: &Keys<'_>) -> Result<Spec> {
    let spec = common::decoder(name, keys, Pairing::Halves)?;
    Ok(Spec { head_norms: HeadNorms::Each, ..spec })
}
