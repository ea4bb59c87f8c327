//! Llama 2 and 3, Mistral, SmolLM2, TinyLlama: Q and K rows are permuted by the converter, so
//! RoPE turns neighbours.

use crate::Result;
use crate::model::keys::Keys;
use crate::model::spec::{Pairing, Spec};

pub(super) fn spec(keys: &Keys<'_>) -> Result<Spec> {
    if keys.size_or("expert_count", 1).is_ok_and(|n| n > 1) {
        return Err(keys.unsupported("a mixture of experts"));
    }
    Spec::common("llama", keys, Pairing::Neighbours)
}
