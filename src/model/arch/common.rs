//! The keys that architectures share, read and checked; each architecture changes what it does
//! differently.

use crate::Result;
use crate::gguf::shown;
use crate::kernels::attention::Temperature;
use crate::model::keys::Keys;
use crate::model::spec::{
    Activation, Block, Divisors, Experts, HeadNorms, Layer, Norm, Pairing, Rope, Scaling, Spec,
};

/// Which epsilon key an architecture's norms have.
const RMS_EPSILON: &str = "attention.layer_norm_rms_epsilon";
const LAYER_EPSILON: &str = "attention.layer_norm_epsilon";

/// Biases of query, key and value rows.
const ROW_BIASES: &[&str] = &["attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_qkv.bias"];

/// Biases that a Llama and its nearest kin may have.
pub(super) const LLAMA_BIASES: &[&str] = &[
    "attn_q.bias",
    "attn_k.bias",
    "attn_v.bias",
    "attn_qkv.bias",
    "attn_output.bias",
    "ffn_gate.bias",
    "ffn_up.bias",
    "ffn_down.bias",
];

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
        context: keys.positions("context_length")?,
        original_context: original_context(keys)?,
        norm_eps,
        block: Block { norm, before: Some("ffn_norm"), after: false, parallel: false },
        ropes: vec![rope(keys, pairing, head_dim)?],
        divisors: Divisors::None,
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
        optional: ROW_BIASES,
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

pub(super) fn base(keys: &Keys<'_>, key: &str, default: f32) -> Result<f32> {
    match keys.f32_or(key, default)? {
        base if base.is_finite() && base > 0.0 => Ok(base),
        base => Err(keys.bad(key, format!("{base} is no sensible base"))),
    }
}

fn scaling(keys: &Keys<'_>) -> Result<Scaling> {
    // 0 stands for none.
    let one = |factor: f32| if factor == 0.0 { 1.0 } else { factor };
    let old = one(keys.f32_or("rope.scale_linear", 0.0)?); // the key's name in old files
    let factor = match keys.f32_or("rope.scaling.factor", 0.0)? {
        0.0 => old,
        factor => factor,
    };
    if !factor.is_finite() || factor <= 0.0 {
        return Err(keys.bad("rope.scaling.factor", format!("{factor} is no sensible factor")));
    }
    let default = if factor == 1.0 { "none" } else { "linear" };
    let ty = keys.str_or(SCALING, default)?;
    if ty == "yarn" {
        return yarn(keys, factor);
    }
    without_yarn(keys)?;
    match ty {
        "none" => Ok(Scaling::None),
        // What it changes are factors, which are tensors.
        LONGROPE if factor == 1.0 => Ok(Scaling::None),
        LONGROPE => Err(keys.unsupported(format!("a factor of {factor} beside the tensors of {LONGROPE}"))),
        "linear" => Ok(Scaling::Linear { factor }),
        other => Err(keys.unsupported(format!("RoPE scaling of type \"{}\"", shown(other.as_bytes())))),
    }
}

const SCALING: &str = "rope.scaling.type";
const LONGROPE: &str = "longrope";

const EXTRAPOLATION: &str = "rope.scaling.yarn_ext_factor";
const MAGNITUDE: &str = "rope.scaling.yarn_attn_factor";
const LOG_MULTIPLIER: &str = "rope.scaling.yarn_log_multiplier";
const BETA_FAST: &str = "rope.scaling.yarn_beta_fast";
const BETA_SLOW: &str = "rope.scaling.yarn_beta_slow";

fn yarn(keys: &Keys<'_>, factor: f32) -> Result<Scaling> {
    let extrapolation = match keys.scale(EXTRAPOLATION, 1.0)? {
        unset if unset < 0.0 => 1.0,
        way if way <= 1.0 => way,
        way => return Err(keys.bad(EXTRAPOLATION, format!("{way} is more than the whole way, which is 1"))),
    };
    // A factor below 1 stretches nothing. Models whose scores are scaled elsewhere have a multiplier,
    // and without its ramp YaRN is a linear scaling.
    let grown = |by: f32| 1.0 + 0.1 * by * factor.ln().max(0.0);
    let prescribed = match grown(1.0) / grown(keys.scale(LOG_MULTIPLIER, 0.0)?) {
        _ if extrapolation == 0.0 => 1.0,
        sensible if sensible.is_finite() && sensible > 0.0 => sensible,
        magnitude => return Err(keys.bad(LOG_MULTIPLIER, format!("makes a magnitude of {magnitude}"))),
    };
    // Converters copy the whole magnitude here, as transformers takes it.
    let magnitude = keys.positive_or(MAGNITUDE, prescribed)?;
    Ok(Scaling::Yarn {
        factor,
        original_context: original_context(keys)?,
        extrapolation,
        magnitude,
        beta_fast: keys.positive_or(BETA_FAST, 32.0)?,
        beta_slow: keys.positive_or(BETA_SLOW, 1.0)?,
    })
}

/// Keys of YaRN where it is not asked for: most say nothing then.
fn without_yarn(keys: &Keys<'_>) -> Result<()> {
    keys.say_nothing(&[LOG_MULTIPLIER, BETA_FAST, BETA_SLOW]);
    for (key, none) in [(EXTRAPOLATION, 0.0), (MAGNITUDE, 1.0)] {
        let value = keys.scale(key, none)?;
        if value != none && !(key == EXTRAPOLATION && value < 0.0) {
            return Err(keys.bad(key, format!("{value} belongs to YaRN, and {SCALING} is another")));
        }
    }
    Ok(())
}

fn longrope(keys: &Keys<'_>) -> bool {
    keys.get(SCALING).and_then(|value| value.as_str()) == Some(LONGROPE)
}

/// Divisors as a Llama has them: Llama 3's, or by context where the file says so.
pub(super) fn llama_divisors(keys: &Keys<'_>) -> Divisors {
    if longrope(keys) { by_context(keys) } else { Divisors::Always }
}

/// Divisors by context.
pub(super) fn by_context(keys: &Keys<'_>) -> Divisors {
    Divisors::ByContext { required: longrope(keys) }
}

/// Refuses that scaling where the architecture has no divisors by context.
pub(super) fn check_longrope(keys: &Keys<'_>, spec: &Spec) -> Result<()> {
    match spec.divisors {
        Divisors::ByContext { .. } => Ok(()),
        _ if longrope(keys) => Err(keys.unsupported(format!("RoPE scaling of type \"{LONGROPE}\""))),
        _ => Ok(()),
    }
}

/// The context of training where a scaling reaches beyond it.
fn original_context(keys: &Keys<'_>) -> Result<usize> {
    match keys.get("rope.scaling.original_context_length") {
        Some(_) => keys.positions("rope.scaling.original_context_length"),
        None => keys.positions("context_length"),
    }
}

/// Windows for the layers that the pattern names: of `every` layers all but the last, unless the
/// file says otherwise. No window, or one of 0, leaves every layer without.
pub(super) fn windows(keys: &Keys<'_>, spec: &mut Spec, default: usize, every: usize) -> Result<()> {
    let key = "attention.sliding_window_pattern";
    let window = match keys.count_or("attention.sliding_window", default)? {
        0 => {
            keys.say_nothing(&[key]);
            return Ok(());
        }
        window => window,
    };
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
        keys.say_nothing(OF_EXPERTS);
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
    keys.say_nothing(&["expert_group_used_count"]);
    let scale = match keys.scale("expert_weights_scale", 1.0)? {
        0.0 => 1.0, // as good as not there
        scale => scale,
    };
    let ffn = keys.size_or("expert_feed_forward_length", keys.size_or("feed_forward_length", 1)?)?;
    let normalised = after || keys.bool_or("expert_weights_norm", true)?;
    Ok(Some(Experts { count, used, ffn, normalised, scale, shared: None }))
}

/// What would be said of experts. Their tensors are refused where there are none.
const OF_EXPERTS: &[&str] = &[
    "expert_feed_forward_length",
    "expert_gating_func",
    "expert_group_count",
    "expert_group_used_count",
    "expert_shared_count",
    "expert_shared_feed_forward_length",
    "expert_used_count",
    "expert_weights_norm",
    "expert_weights_scale",
];

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
