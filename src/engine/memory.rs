//! What is needed, what there is, and what to say when it does not fit.

use super::device::Gpu;
use super::stage::attention;
use super::{DEFAULT_CONTEXT, Options};
use crate::model::Spec;
use crate::{Error, Result};

/// Bytes as GiB, with one decimal.
pub(super) fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// The refusal of a model that does not fit.
pub(super) fn too_little(needed: u64, have: u64, context: usize) -> Error {
    Error::Device(format!(
        "the model needs {} at a context of {context} tokens, {} may be used: try a smaller --ctx, a smaller \
         quantisation, or raise --memory",
        gib(needed),
        gib(have)
    ))
}

/// The context to use, and what to say about it. `weights` is what they take on the device.
pub(super) fn context(
    spec: &Spec,
    options: &Options,
    gpu: &Gpu,
    weights: u64,
) -> Result<(usize, Vec<String>)> {
    let wanted = options.context.unwrap_or(spec.context.min(DEFAULT_CONTEXT));
    let shape = attention(spec, false, 1, true);
    let per_layer = shape.cache_bytes(gpu.form.kv) as u64;
    let binding = gpu.limits.max_storage_buffer_binding_size.min(gpu.limits.max_buffer_size);
    let fit_binding = (binding / per_layer.max(1)) as usize;
    let scratch = super::program::scratch_bytes(spec);
    let have = options.memory.or(gpu.memory);
    let fit_memory = match have {
        Some(have) => {
            let per_token = per_layer * spec.layers as u64 + 4 * spec.rope.dims as u64 + 4;
            (have.saturating_sub(weights + scratch) / per_token.max(1)) as usize
        }
        None => usize::MAX,
    };
    let fit = fit_binding.min(fit_memory);
    if fit >= wanted {
        return Ok((wanted, vec![]));
    }
    // A lowered context must still be of use; one that was asked for is never lowered.
    if options.context.is_some() || fit < 256.min(wanted) {
        let needed = weights + scratch + per_layer * (spec.layers * wanted) as u64;
        return Err(match have {
            Some(have) if fit_memory < wanted => too_little(needed, have, wanted),
            _ => Error::Device(format!(
                "a context of {wanted} tokens needs {} for a layer's keys and values, the device binds {} at \
                 most: try --ctx {fit_binding}",
                gib(per_layer * wanted as u64),
                gib(binding)
            )),
        });
    }
    Ok((fit, vec![format!("context lowered from {wanted} to {fit} tokens to fit the device's memory")]))
}
