//! What is needed, what there is, and what to say when it does not fit.

use super::device::Gpu;
use super::stage::{attention, cached};
use super::{DEFAULT_CONTEXT, DeviceChoice, Options};
use crate::kernels::Kv;
use crate::kernels::attention::{Attention, CACHE_TILE};
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
    fixed: u64,
    /// Bytes of a position of the context beside keys and values.
    per_token: u64,
    /// Bytes of a position in a layer's cache.
    per_row: u64,
    /// Layers that keep the whole context.
    whole: u64,
    /// Layers that keep a ring of so many positions at most.
    rings: Vec<u64>,
}

/// Says whether the system would give so many bytes for a context. That may be one of billions, and an
/// allocation that fails ends the program.
///
/// # Errors
/// [`Error::Device`] with the bytes and what to do.
pub(super) fn can_be_had(bytes: u64, context: usize) -> Result<()> {
    let size = usize::try_from(bytes).unwrap_or(usize::MAX);
    // Nothing is written to it, so nothing is used up.
    Vec::<u8>::new().try_reserve_exact(size).map_err(|_| {
        let bytes = shown(bytes);
        Error::Device(format!(
            "a context of {context} tokens needs {bytes} of memory, more than the system gives: lower --ctx"
        ))
    })
}

/// A lowered context must still be of use.
const LEAST_CONTEXT: usize = 256;

impl Need {
    /// `fixed` bytes, and what grows with the context: `per_row` bytes for each position in a layer's
    /// cache, and RoPE's tables.
    pub(super) fn of(spec: &Spec, fixed: u64, per_row: u64) -> Need {
        let rings: Vec<u64> = (0..spec.layers.len())
            .filter(|layer| spec.layers[*layer].window.is_some())
            .map(|layer| cached(spec, layer, usize::MAX) as u64)
            .collect();
        Need {
            fixed,
            per_token: spec.ropes.iter().map(|rope| 4 * rope.dims as u64).sum::<u64>() + 4,
            per_row,
            whole: (spec.layers.len() - rings.len()) as u64,
            rings,
        }
    }

    /// Bytes at a context.
    pub(super) fn bytes(&self, context: usize) -> u64 {
        let context = context as u64;
        let rings: u64 = self.rings.iter().map(|ring| context.min(*ring)).sum();
        self.fixed + self.per_token * context + self.per_row * (self.whole * context + rings)
    }

    /// The largest context up to `most` that fits.
    fn largest(&self, most: usize, have: u64) -> usize {
        let (mut fits, mut beyond) = (0, most + 1);
        while beyond - fits > 1 {
            let middle = fits.midpoint(beyond);
            if self.bytes(middle) <= have { fits = middle } else { beyond = middle }
        }
        fits
    }

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
        let fit = self.largest(wanted, have);
        if fit >= wanted {
            return Ok((wanted, None));
        }
        if options.context.is_some() || fit < LEAST_CONTEXT.min(wanted) {
            let advice = match fit {
                0 => {
                    let room = have as f64 / self.bytes(LEAST_CONTEXT.min(wanted)) as f64;
                    format!(
                        "a quantisation of at most {:.0} % of its size would fit; or raise --memory",
                        100.0 * room
                    )
                }
                fit => {
                    let kv = match (&options.device, options.kv) {
                        (DeviceChoice::Cpu, _) | (_, Some(Kv::Q8_0)) => "",
                        _ => "--kv q8_0, ",
                    };
                    format!("--ctx {fit} would fit; or try {kv}a smaller quantisation, or raise --memory")
                }
            };
            return Err(Error::Device(format!(
                "the model needs {} at a context of {wanted} tokens, {} may be used: {advice}",
                shown(self.bytes(wanted)),
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
    let shape = Attention { context: CACHE_TILE, ..attention(spec, 0, 1, CACHE_TILE, true, 1) };
    let per_row = shape.cache_bytes(gpu.form.kv) as u64 / CACHE_TILE as u64;
    let need = Need::of(spec, weights + super::program::scratch_bytes(spec), per_row);
    let (context, note) = need.context(spec, options, options.memory.or(gpu.memory))?;
    // RoPE's tables are made by the host.
    can_be_had(need.per_token * context as u64, context)?;
    let mut notes: Vec<String> = note.into_iter().collect();
    // The numbers of a layer's keys and values are one binding.
    let bound = shape.unit_bytes(gpu.form.kv) as u64 / CACHE_TILE as u64;
    let fit = (gpu.binding / bound.max(1)) as usize / CACHE_TILE * CACHE_TILE;
    let most = (0..spec.layers.len()).map(|layer| cached(spec, layer, context)).max().unwrap_or(0);
    if fit >= most {
        return Ok((context, notes));
    }
    if options.context.is_some() || fit < LEAST_CONTEXT.min(context) {
        return Err(Error::Device(format!(
            "a context of {context} tokens needs {} for a layer's keys and values, the device binds {} at most: \
             try --ctx {fit}",
            shown(bound * context as u64),
            shown(gpu.binding)
        )));
    }
    notes.push(format!(
        "context lowered from {context} to {fit} tokens: the device binds {} at most",
        shown(gpu.binding)
    ));
    Ok((fit, notes))
}

#[cfg(test)]
mod tests {
    use super::can_be_had;

    #[test]
    fn memory_that_nobody_has_is_an_error() {
        can_be_had(1 << 20, 4096).unwrap();
        for bytes in [1 << 60, u64::MAX] {
            let line = can_be_had(bytes, 1 << 31).unwrap_err().to_string();
            assert!(
                line.starts_with("a context of 2147483648 tokens needs ") && line.contains("--ctx"),
                "{line}"
            );
        }
    }
}
