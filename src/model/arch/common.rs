//! The keys that architectures share, read and checked; each architecture changes what it does
//! differently.

use crate::Result;
use crate::kernels::attention::Temperature;
use crate::model::keys::Keys;
use crate::model::spec::{Activation, Block, Experts, HeadNorms, Layer, Norm, Pairing, Rope, Scaling, Spec};

/// Which epsilon key an architecture's norms have.
const RMS_EPSILON: &str = "attention.layer_norm_rms_epsilon";
const LAYER_EPSILON: &str = "attention.layer_norm_epsilon";

/// A plain decoder as most architectures are: RMS norms before attention and a gated feed-forward,
/// RoPE in every layer, no window.
pub(super) fn decoder(architecture: &'static str, keys: &Keys<'_>, pairing: Pairing) -> Result<Spec> {
    spec(architecture, keys, pairing, Norm::Rms)
}

/// The same with norms that take the mean off.
pub(super) fn layer_normed(architecture: &'static str, keys: &Keys<'_>, pairing: Pairing) -> Result<Spec> {
    spec(architecture, keys, pairing, Norm::Layer)
}

fn spec(architecture: &'static str, keys: &Keys<'_>, pairing: Pairing, norm: Norm) -> Result<Spec> {
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
    let epsilon = match norm {
        Norm::Rms => RMS_EPSILON,
        Norm::Layer => LAYER_EPSILON,
    };
    let norm_eps = keys.f32(epsilon)?;
    if !(0.0..=1.0).contains(&norm_eps) {
        return Err(keys.bad(epsilon, format!("{norm_eps} is no sensible epsilon")));
    }
    let attention_scale = match keys.scale("attention.scale", 0.0)? {
        0.0 => 1.0 / (head_dim as f32).sqrt(),
        scale => scale,
    };
    let experts = experts(keys)?;
    let ffn = match experts {
        // A file of experts alone may leave out the size of a layer without them.
        Some(experts) => keys.size_or("feed_forward_length", experts.ffn)?,
        None => keys.size("feed_forward_length")?,
    };
    let layers = keys.size("block_count")?;
    if layers > MOST_LAYERS {
        return Err(keys.bad("block_count", format!("{layers} layers are more than any model has")));
    }
    Ok(Spec {
        architecture,
        vocab: 0, // set by the embedding's rows when the plan is made
        width,
        layers: vec![Layer { window: None, rope: Some(0) }; layers],
        heads,
        kv_heads,
        head_dim,
        ffn,
        context: keys.size("context_length")?,
        original_context: original_context(keys)?,
        norm_eps,
        block: Block { norm, before: Some("ffn_norm"), after: false, parallel: false },
        ropes: vec![rope(keys, pairing, head_dim)?],
        head_norms: HeadNorms::None,
        attention_scale,
        attention_cap: None,
        temperature: None,
        sinks: false,
        embedding_scale: 1.0,
        residual_scale: 1.0,
        logit_scale: 1.0,
        logit_cap: None,
        activation: Activation::Silu,
        gated: true,
        experts,
        always: &[],
    })
}

/// A layer takes memory here before its tensors are looked for.
const MOST_LAYERS: usize = 9999;

fn rope(keys: &Keys<'_>, pairing: Pairing, head_dim: usize) -> Result<Rope> {
    let dims = keys.size_or("rope.dimension_count", head_dim)?;
    if dims > head_dim || dims % 2 != 0 {
        return Err(keys.bad(
            "rope.dimension_count",
            format!("{dims} must be even and at most the head's {head_dim} elements"),
        ));
    }
    let base = base(keys, "rope.freq_base", 10_000.0)?;
    let magnitude = keys.positive_or("rope.scaling.attn_factor", 1.0)?;
    Ok(Rope { pairing, dims, base, scaling: scaling(keys)?, magnitude })
}

fn base(keys: &Keys<'_>, key: &str, default: f32) -> Result<f32> {
    match keys.f32_or(key, default)? {
        base if base.is_finite() && base > 0.0 => Ok(base),
        base => Err(keys.bad(key, format!("{base} is no sensible base"))),
    }
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
        // What longrope changes are factors, which are tensors.
        "none" | "longrope" => Ok(Scaling::None),
        "linear" => Ok(Scaling::Linear { factor }),
        "yarn" => Ok(Scaling::Yarn {
            factor,
            original_context: original_context(keys)?,
            log_multiplier: keys.scale("rope.scaling.yarn_log_multiplier", 0.0)?,
            beta_fast: keys.positive_or("rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: keys.positive_or("rope.scaling.yarn_beta_slow", 1.0)?,
        }),
        other => {
            Err(keys
                .unsupported(format!("RoPE scaling of type \"{}\"", crate::gguf::shown(other.as_bytes()))))
        }
    }
}

/// The context of training where a scaling reaches beyond it.
fn original_context(keys: &Keys<'_>) -> Result<usize> {
    match keys.get("rope.scaling.original_context_length") {
        Some(_) => keys.size("rope.scaling.original_context_length"),
        None => keys.size("context_length"),
    }
}

/// Windows for the layers that the pattern names: of `every` layers all but the last, unless the
/// file says otherwise. No window, or one of 0, leaves every layer without.
pub(super) fn windows(keys: &Keys<'_>, spec: &mut Spec, default: usize, every: usize) -> Result<()> {
    let window = match keys.count_or("attention.sliding_window", default)? {
        0 => return Ok(()),
        window => window,
    };
    let key = "attention.sliding_window_pattern";
    let named = keys.flags(key, spec.layers.len())?;
    let every = match named {
        Some(_) => every,
        None => keys.count_or(key, every)?,
    };
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        let local = match &named {
            Some(named) => named[i],
            // 0 stands for a window in every layer.
            None => every == 0 || i % every < every - 1,
        };
        layer.window = local.then_some(window);
    }
    Ok(())
}

/// Another RoPE for the layers with a window: its own base, no scaling.
pub(super) fn local_rope(keys: &Keys<'_>, spec: &mut Spec, default: f32) -> Result<()> {
    let global = &spec.ropes[0];
    let base = base(keys, "rope.freq_base_swa", default)?;
    let local = Rope { base, scaling: Scaling::None, magnitude: 1.0, ..global.clone() };
    if local != *global {
        spec.ropes.push(local);
        for layer in spec.layers.iter_mut().filter(|l| l.window.is_some()) {
            layer.rope = Some(1);
        }
    }
    Ok(())
}

fn experts(keys: &Keys<'_>) -> Result<Option<Experts>> {
    let count = keys.count_or("expert_count", 0)?;
    if count == 0 {
        return Ok(None);
    }
    let used = keys.size("expert_used_count")?;
    if used > count {
        return Err(keys.bad("expert_used_count", format!("{used} of {count} experts")));
    }
    if count > MOST_EXPERTS || used > MOST_USED {
        return Err(
            keys.unsupported(format!("{used} of {count} experts (up to {MOST_USED} of {MOST_EXPERTS} are)"))
        );
    }
    let after = match keys.count_or("expert_gating_func", 0)? {
        0 | 1 => false, // a softmax over all
        3 => true,      // over the chosen: normalised by itself
        other => return Err(keys.unsupported(format!("the router's function number {other}"))),
    };
    if keys.count_or("expert_group_count", 1)? > 1 {
        return Err(keys.unsupported("experts in groups"));
    }
    let scale = match keys.scale("expert_weights_scale", 1.0)? {
        0.0 => 1.0, // as good as not there
        scale => scale,
    };
    let ffn = keys.size_or("expert_feed_forward_length", keys.size_or("feed_forward_length", 1)?)?;
    let normalised = after || keys.bool_or("expert_weights_norm", true)?;
    Ok(Some(Experts { count, used, ffn, normalised, scale, shared: None }))
}

/// What the kernels' workgroup memory is made for.
const MOST_EXPERTS: usize = 512;
const MOST_USED: usize = 32;

/// Queries grow with the number of original contexts that lie behind them
/// (`attention.temperature_scale`).
pub(super) fn temperature(keys: &Keys<'_>) -> Result<Option<Temperature>> {
    match keys.scale("attention.temperature_scale", 0.0)? {
        0.0 => Ok(None),
        scale => Ok(Some(Temperature { scale, span: original_context(keys)? })),
    }
}

/// A soft cap: 0 is none.
pub(super) fn cap(keys: &Keys<'_>, key: &str, default: f32) -> Result<Option<f32>> {
    match keys.f32_or(key, default)? {
        0.0 => Ok(None),
        cap if cap.is_finite() && cap > 0.0 => Ok(Some(cap)),
        cap => Err(keys.bad(key, format!("{cap} is no sensible cap"))),
    }
}
