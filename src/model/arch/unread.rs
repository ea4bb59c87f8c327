//! Keys that no reader function has asked for. A key of the architecture that is passed over may
//! change what is computed; so each is known to be without effect, or the model is refused.

use crate::gguf::{Value, shown};
use crate::model::keys::Keys;
use crate::model::spec::Spec;
use crate::{Error, Result};

/// Refuses keys that have been left unread, and are not known to be without effect.
///
/// # Errors
/// [`Error::Unsupported`] with their names and values.
pub(super) fn refuse(keys: &Keys<'_>, spec: &Spec) -> Result<()> {
    let unread = keys.unread();
    let mut left = unread.iter().filter(|(key, value)| !without_effect(spec, key, *value)).peekable();
    if left.peek().is_none() {
        return Ok(());
    }
    let (mut found, mut flags, mut more) = (Vec::new(), Vec::new(), 0);
    for (key, value) in left {
        if found.len() == NAMED {
            more += 1;
            continue;
        }
        let name = keys.name(key);
        // What a shell would act upon is nobody's to paste.
        let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        flags.push(format!("--ignore-key {}", if is_plain { &*name } else { "NAME" }));
        found.push(format!("{} = {}", shown(name.as_bytes()), brief(*value)));
    }
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(Error::Unsupported(format!(
        "metadata key {}{more}: not supported, and the result may be wrong without it; {} goes on as if it were \
         not there",
        found.join(", "),
        flags.join(" ")
    )))
}

/// Keys that an error names.
const NAMED: usize = 8;

/// Whether a key that nobody reads changes nothing, at this value, in a model of this spec.
fn without_effect(spec: &Spec, key: &str, value: Value<'_>) -> bool {
    let is = |wanted: &[f64]| all(value, |n| wanted.contains(&n));
    match key {
        // The embedding's rows are what counts.
        "vocab_size" => true,
        // Nothing is put together of the rows, or nobody has said how.
        "pooling_type" => is(&[-1.0, 0.0]),
        // Of the other kind of norm; converters write both where a configuration has both.
        "attention.layer_norm_epsilon" | "attention.layer_norm_rms_epsilon" => true,
        // How the scaling came about.
        "rope.scaling.finetuned" => true,
        // What reads pictures stands beside the text's model in files of some programs.
        "image_token_index" | "spatial_merge_size" | "projector_hidden_act" => true,
        _ if key.starts_with("vision.") || key.starts_with("mm.") => true,
        // How query and key rows are ordered, as all converters order them.
        "tensor_data_layout" => value.as_str() == Some("Meta AI original pth"),
        // A position sees those before it.
        "attention.causal" => is(&[1.0]),
        "use_parallel_residual" => is(&[f64::from(u8::from(spec.block.parallel))]),
        // Every layer is alike, and there is none besides.
        "interleave_moe_layer_step" | "moe_every_n_layers" | "full_attention_interval" => is(&[0.0, 1.0]),
        "embedding_length_out" => is(&[0.0, exact(spec.width)]),
        "attention.key_length_swa" | "attention.value_length_swa" => is(&[exact(spec.head_dim)]),
        "rope.dimension_count_swa" => is(&spec.ropes.first().map_or([0.0], |rope| [exact(rope.dims)])),
        "rope.freq_base_swa" => is(&spec.ropes.first().map_or([0.0], |rope| [rope.base.into()])),
        // One that is no shorter than the context hides nothing. Without one, no layer has it.
        "attention.sliding_window" => all(value, |n| n <= 0.0 || n >= exact(spec.context)),
        "attention.sliding_window_pattern" => spec.layers.iter().all(|layer| layer.window.is_none()),
        // Factors: 0 stands for none.
        "embedding_scale" => is(&[0.0, spec.embedding_scale.into()]),
        "residual_scale" => is(&[0.0, spec.residual_scale.into()]),
        "logit_scale" => is(&[0.0, spec.logit_scale.into()]),
        "attention.output_scale" | "rope.scaling.alpha" => is(&[0.0, 1.0]),
        _ => ABSENT_AT_ZERO.contains(&key) && is(&[0.0]),
    }
}

/// What other architectures do; 0, or false, says that it is not done.
const ABSENT_AT_ZERO: &[&str] = &[
    "activation_sparsity_scale",
    "attention.clamp_kqv",
    "attention.kv_lora_rank",
    "attention.max_alibi_bias",
    "attention.q_lora_rank",
    "attention.relative_buckets_count",
    "attention.shared_kv_layers",
    "attention.temperature_length",
    "attention.temperature_scale",
    "attn_logit_softcapping",
    "embedding_length_per_layer_input",
    "expert_group_scale",
    "expert_shared_count",
    "expert_shared_feed_forward_length",
    "final_logit_softcapping",
    "leading_dense_block_count",
    "moe_latent_size",
    "n_deepstack_layers",
    "nextn_predict_layers",
    "rescale_every_n_layers",
    "rope.dimension_sections",
    "router_logit_softcapping",
    "swiglu_clamp_exp",
    "swiglu_clamp_shexp",
    "swin_norm",
    "token_shift_count",
];

/// True for a number, or an array of numbers, that are all so. A bool is 0 or 1.
fn all(value: Value<'_>, so: impl Fn(f64) -> bool) -> bool {
    match value {
        Value::Array(array) => match array.scalars() {
            Some(mut values) => values.all(|v| number(v).is_some_and(&so)),
            None => false,
        },
        other => number(other).is_some_and(so),
    }
}

#[allow(clippy::cast_precision_loss, reason = "what is compared with is below 2^53")]
fn number(value: Value<'_>) -> Option<f64> {
    match value {
        Value::Bool(v) => Some(f64::from(u8::from(v))),
        Value::F32(v) => Some(v.into()),
        Value::F64(v) => Some(v),
        Value::I8(v) => Some(v.into()),
        Value::I16(v) => Some(v.into()),
        Value::I32(v) => Some(v.into()),
        Value::I64(v) => Some(v as f64),
        other => other.as_u64().map(|v| v as f64),
    }
}

#[allow(clippy::cast_precision_loss, reason = "sizes are below 2^53")]
fn exact(size: usize) -> f64 {
    size as f64
}

/// A value in few words.
fn brief(value: Value<'_>) -> String {
    match value {
        Value::String(text) => format!("\"{}\"", shown(text)),
        Value::Array(array) => format!("an array of {} {}", array.len(), array.ty()),
        Value::Bool(v) => v.to_string(),
        other => number(other).map_or_else(String::new, |n| n.to_string()),
    }
}
