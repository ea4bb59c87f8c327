//! Granite 3: a Llama with four factors: of embeddings, scores, branches and logits.

use super::common;
use crate::Result;
use crate::model::keys::Keys;
use crate::model::spec::{Pairing, Spec};

pub(super) fn spec(keys: &Keys<'_>) -> Result<Spec> {
    let spec = common::decoder("granite", keys, Pairing::Neighbours)?;
    let factor = |key| keys.positive_or(key, 1.0);
    Ok(Spec {
        embedding_scale: factor("embedding_scale")?,
        residual_scale: factor("residual_scale")?,
        logit_scale: 1.0 / factor("logit_scale")?, // a divisor
        ..spec
    })
}
