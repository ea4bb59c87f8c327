//! What a model is: its hyper-parameters as data.

use super::keys::Keys;
use crate::Result;

pub use crate::kernels::attention::Pairing;

/// How RoPE's frequencies are changed to reach beyond the context of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All positions divided by a factor.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// YaRN: fast pairs stay, slow ones are divided, a ramp lies between
    /// (Peng et al., arXiv 2309.00071).
    Yarn {
        /// The divisor of slow pairs.
        factor: f32,
        /// The context of training.
        original_context: usize,
        /// Multiplies the magnitude that the paper prescribes.
        attention_factor: f32,
        /// Turns within the original context from which on a pair is fast.
        beta_fast: f32,
        /// Turns up to which a pair is slow.
        beta_slow: f32,
    },
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Which elements turn together.
    pub pairing: Pairing,
    /// Leading elements of a head that turn; the others stay.
    pub dims: usize,
    /// The base of the frequencies.
    pub base: f32,
    /// The change for long contexts.
    pub scaling: Scaling,
}

/// The function between the gate and its product with `up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
}

/// A decoder's hyper-parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The architecture's name, as in the file.
    pub architecture: &'static str,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Elements of the residual stream.
    pub width: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Elements between gate and down projection.
    pub ffn: usize,
    /// The context that the model was made for.
    pub context: usize,
    /// Added to the mean square in RMS norms.
    pub norm_eps: f32,
    /// Position embedding of queries and keys.
    pub rope: Rope,
    /// Query and key heads have an RMS norm each, before RoPE.
    pub head_norms: bool,
    /// The feed-forward activation.
    pub activation: Activation,
}

impl Spec {
    /// Query heads per key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The keys that all architectures have, checked; RoPE as the architecture pairs it.
    pub(super) fn common(architecture: &'static str, keys: &Keys<'_>, pairing: Pairing) -> Result<Spec> {
        let width = keys.size("embedding_length")?;
        let heads = keys.size("attention.head_count")?;
        let kv_heads = keys.size_or("attention.head_count_kv", heads)?;
        if kv_heads > heads || !heads.is_multiple_of(kv_heads) {
            return Err(keys.bad(
                "attention.head_count_kv",
                format!("{kv_heads} key/value heads do not divide {heads} heads"),
            ));
        }
        if keys.get("attention.key_length").is_none() && !width.is_multiple_of(heads) {
            return Err(
                keys.bad("attention.head_count", format!("{heads} heads do not divide a width of {width}"))
            );
        }
        let head_dim = keys.size_or("attention.key_length", width / heads)?;
        let value_dim = keys.size_or("attention.value_length", head_dim)?;
        if value_dim != head_dim {
            return Err(keys.unsupported(format!("keys of {head_dim} and values of {value_dim} elements")));
        }
        if head_dim > 256 || head_dim % 2 != 0 {
            return Err(keys.unsupported(format!("heads of {head_dim} elements (even sizes up to 256 are)")));
        }
        let norm_eps = keys.f32("attention.layer_norm_rms_epsilon")?;
        if !(0.0..=1.0).contains(&norm_eps) {
            return Err(
                keys.bad("attention.layer_norm_rms_epsilon", format!("{norm_eps} is no sensible epsilon"))
            );
        }
        Ok(Spec {
            architecture,
            vocab: 0, // set by the embedding's rows when the plan is made
            width,
            layers: keys.size("block_count")?,
            heads,
            kv_heads,
            head_dim,
            ffn: keys.size("feed_forward_length")?,
            context: keys.size("context_length")?,
            norm_eps,
            rope: rope(keys, pairing, head_dim)?,
            head_norms: false,
            activation: Activation::Silu,
        })
    }
}

fn rope(keys: &Keys<'_>, pairing: Pairing, head_dim: usize) -> Result<Rope> {
    let dims = keys.size_or("rope.dimension_count", head_dim)?;
    if dims > head_dim || dims % 2 != 0 {
        return Err(keys.bad(
            "rope.dimension_count",
            format!("{dims} must be even and at most the head's {head_dim} elements"),
        ));
    }
    let base = keys.f32_or("rope.freq_base", 10_000.0)?;
    if !base.is_finite() || base <= 0.0 {
        return Err(keys.bad("rope.freq_base", format!("{base} is no sensible base")));
    }
    Ok(Rope { pairing, dims, base, scaling: scaling(keys)? })
}

fn scaling(keys: &Keys<'_>) -> Result<Scaling> {
    let factor = match keys.f32_or("rope.scaling.factor", 0.0)? {
        0.0 => keys.f32_or("rope.scale_linear", 1.0)?, // the key's name in old files
        factor => factor,
    };
    if !factor.is_finite() || factor <= 0.0 {
        return Err(keys.bad("rope.scaling.factor", format!("{factor} is no sensible factor")));
    }
    let default = if factor == 1.0 { "none" } else { "linear" };
    match keys.str_or("rope.scaling.type", default)? {
        "none" => Ok(Scaling::None),
        "linear" => Ok(Scaling::Linear { factor }),
        "yarn" => {
            let original_context = match keys.get("rope.scaling.original_context_length") {
                Some(_) => keys.size("rope.scaling.original_context_length")?,
                None => keys.size("context_length")?,
            };
            let positive = |key: &str, default| match keys.f32_or(key, default)? {
                value if value.is_finite() && value > 0.0 => Ok(value),
                value => Err(keys.bad(key, format!("{value} is no sensible number"))),
            };
            Ok(Scaling::Yarn {
                factor,
                original_context,
                attention_factor: positive("rope.scaling.attn_factor", 1.0)?,
                beta_fast: positive("rope.scaling.yarn_beta_fast", 32.0)?,
                beta_slow: positive("rope.scaling.yarn_beta_slow", 1.0)?,
            })
        }
        other => {
            Err(keys
                .unsupported(format!("RoPE scaling of type \"{}\"", crate::gguf::shown(other.as_bytes()))))
        }
    }
}
