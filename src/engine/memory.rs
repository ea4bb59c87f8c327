//! What is needed, what there is, and what to say when it does not fit.

use super::device::Gpu;
use super::stage::attention;
use super::{DEFAULT_CONTEXT, Options};
use crate::kernels::attention::CACHE_TILE;
use crate::model::Spec;
use crate::{Error, Result};

/// Bytes for people, with enough digits to tell two counts apart.
pub(super) fn shown(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1000.0 { format!("{mib:.1} MiB") } else { format!("{:.2} GiB", mib / 1024.0) }
}

/// What a model needs.
pub(super) struct Need {
    /// Bytes whatever the context.
    pub(super) fixed: u64,
    /// Bytes of each token of the context.
    pub(super) per_token: u64,
}

/// A lowered context must still be of use.
const LEAST_CONTEXT: usize = 256;

impl Need {
    /// The context to use within `have` bytes, and what to say about it. One that was asked for is
    /// never lowered.
    ///
    /// # Errors
    /// [`Error::Device`], with both counts, when the model does not fit.
    pub(super) fn context(
        &self,
        spec: &Spec,
        options: &Options,
        have: Option<u64>,
    ) -> Result<(usize, Option<String>)> {
        let wanted = options.context.unwrap_or(spec.context.min(DEFAULT_CONTEXT));
        let Some(have) = have else { return Ok((wanted, None)) };
        let fit = (have.saturating_sub(self.fixed) / self.per_token.max(1)) as usize;
        if fit >= wanted {
            return Ok((wanted, None));
        }
        if options.context.is_some() || fit < LEAST_CONTEXT.min(wanted) {
            return Err(Error::Device(format!(
                "the model needs {} at a context of {wanted} tokens, {} may be used: try a smaller --ctx, a \
                 smaller quantisation, or raise --memory",
                shown(self.fixed + self.per_token * wanted as u64),
                shown(have)
            )));
        }
        Ok((
            fit,
            Some(format!("context lowered from {wanted} to {fit} tokens to fit {} of memory", shown(have))),
        ))
    }
}

/// The context on a device, and what to say about it. `weights` is what they take there.
pub(super) fn context(
    spec: &Spec,
    options: &Options,
    gpu: &Gpu,
    weights: u64,
) -> Result<(usize, Vec<String>)> {
    let shape = attention(spec, 1, CACHE_TILE, true, 1);
    let per_layer = shape.cache_bytes(gpu.form.kv) as u64 / CACHE_TILE as u64;
    let need = Need {
        fixed: weights + super::program::scratch_bytes(spec),
        per_token: per_layer * spec.layers as u64 + 4 * spec.rope.dims as u64 + 4,
    };
    let (context, note) = need.context(spec, options, options.memory.or(gpu.memory))?;
    let mut notes: Vec<String> = note.into_iter().collect();
    // A layer's keys and values are one binding.
    let fit = (gpu.binding / per_layer.max(1)) as usize / CACHE_TILE * CACHE_TILE;
    if fit >= context {
        return Ok((context, notes));
    }
    if options.context.is_some() || fit < LEAST_CONTEXT.min(context) {
        return Err(Error::Device(format!(
            "a context of {context} tokens needs {} for a layer's keys and values, the device binds {} at most: \
             try --ctx {fit}",
            shown(per_layer * context as u64),
            shown(gpu.binding)
        )));
    }
    notes.push(format!(
        "context lowered from {context} to {fit} tokens: the device binds {} at most",
        shown(gpu.binding)
    ));
    Ok((fit, notes))
}
