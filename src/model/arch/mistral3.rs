//! Ministral 3 and Mistral Large 3's dense kin: a Llama whose queries grow with their position.

use super::common::{self, LLAMA_BIASES, llama_divisors, temperature};
use crate::Result;
use crate::model::keys::Keys;
use crate::model::spec::{Pairing, Spec};

pub(super) fn spec(keys: &Keys<'_>) -> Result<Spec> {
    let spec = common::decoder("mistral3", keys, Pairing::Neighbours)?;
    Ok(Spec {
        temperature: temperature(keys)?,
        divisors: llama_divisors(keys),
        optional: LLAMA_BIASES,
        ..spec
    })
}
