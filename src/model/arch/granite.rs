//! Granite 3: a Llama with four factors: of embeddings, scores, branches and logits. A key that
//! says elsewhere how a scaling came about turns positions off here.

use super::common::{self, LLAMA_BIASES, llama_divisors};
use crate::Result;
use crate::model::keys::Keys;
use crate::model::spec::{Pairing, Spec};

pub(super) fn spec(keys: &Keys<'_>) -> Result<Spec> {
    let mut spec = common::decoder("granite", keys, Pairing::Neighbours)?;
    if !keys.bool_or("rope.scaling.finetuned", true)? {
        spec.layers.iter_mut().for_each(|layer| layer.rope = None);
    }
    let factor = |key| keys.positive_or(key, 1.0);
    Ok(Spec {
        embedding_scale: factor("embedding_scale")?,
        residual_scale: factor("residual_scale")?,
        logit_scale: 1.0 / factor("logit_scale")?, // a divisor
        divisors: llama_divisors(keys),
        optional: LLAMA_BIASES,
        ..spec
    })
}
