//! GLM-4: norms before and behind every branch; gate and up are one tensor; RoPE turns
//! neighbours of a part of each head.

use super::common;
use crate::Result;
use crate::model::keys::Keys;
use crate::model::spec::{Block, Pairing, Spec};

pub(super) fn spec(keys: &Keys<'_>) -> Result<Spec> {
    let spec = common::decoder("glm4", keys, Pairing::Neighbours)?;
    let block = Block { after: true, ..spec.block };
    Ok(Spec { block, ..spec })
}
