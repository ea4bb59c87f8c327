//! Qwen2 and Qwen2.5: biases on Q, K and V; RoPE turns halves.

use super::common;
use crate::Result;
use crate::model::keys::Keys;
use crate::model::spec::{Pairing, Spec};

pub(super) fn spec(keys: &Keys<'_>) -> Result<Spec> {
    common::decoder("qwen2", keys, Pairing::Halves)
}
