//! Gemma 2 and 3: norms before and behind every branch, embeddings times the root of the width,
//! windows; Gemma 2 caps scores and logits, Gemma 3 norms heads and has a RoPE base of its own for
//! layers with a window. Norm weights are stored with their 1 added.

use super::common::{self, base, cap, local_rope, windows};
use crate::Result;
use crate::model::keys::Keys;
use crate::model::spec::{Activation, Block, HeadNorms, Pairing, Spec};

pub(super) fn gemma2(keys: &Keys<'_>) -> Result<Spec> {
    let mut spec = gemma("gemma2", keys, 46)?;
    // Every other layer, the first among them.
    windows(keys, &mut spec, 4096, 2)?;
    Ok(Spec {
        attention_cap: cap(keys, "attn_logit_softcapping", 50.0)?,
        logit_cap: cap(keys, "final_logit_softcapping", 30.0)?,
        ..spec
    })
}

pub(super) fn gemma3(keys: &Keys<'_>) -> Result<Spec> {
    let mut spec = gemma("gemma3", keys, 62)?;
    windows(keys, &mut spec, 0, 6)?;
    // Both bases have names of their own in Ollama's files.
    if keys.get("rope.freq_base").is_none() {
        let known = spec.ropes[0].base;
        spec.ropes[0].base = base(keys, "rope.global.freq_base", known)?;
    }
    let local = base(keys, "rope.local.freq_base", 10_000.0)?;
    local_rope(keys, &mut spec, local)?;
    let logit_cap = cap(keys, "final_logit_softcapping", 0.0)?;
    Ok(Spec { head_norms: HeadNorms::Each, logit_cap, ..spec })
}

/// `largest` is the number of layers of the family's 27B, whose scores are scaled by the width a
/// head would have if heads shared the stream: no key says so.
fn gemma(name: &'static str, keys: &Keys<'_>, largest: usize) -> Result<Spec> {
    let mut spec = common::decoder(name, keys, Pairing::Halves)?;
    if spec.layers.len() == largest && keys.get("attention.scale").is_none() {
        spec.attention_scale = 1.0 / (spec.width as f32 / spec.heads as f32).sqrt();
    }
    let block = Block { after: true, ..spec.block };
    let embedding_scale = (spec.width as f32).sqrt();
    Ok(Spec { block, embedding_scale, activation: Activation::Gelu, ..spec })
}
