//! Llama 2 and 3, Mistral, Mixtral, SmolLM2, TinyLlama: Q and K rows are permuted by the
//! converter, so RoPE turns neighbours. Mixtral has experts in the feed-forward's place.

use super::common::{self, LLAMA_BIASES, llama_divisors};
use crate::Result;
use crate::model::keys::Keys;
use crate::model::spec::{Pairing, Spec};

pub(super) fn spec(keys: &Keys<'_>) -> Result<Spec> {
    let spec = common::decoder("llama", keys, Pairing::Neighbours)?;
    Ok(Spec { divisors: llama_divisors(keys), optional: LLAMA_BIASES, ..spec })
}
