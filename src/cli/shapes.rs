//! Shapes of well-known models: `models.toml`, whose form is so simple that it is read here.

use serde_json::Value;

use crate::model::{Activation, Ftype, Model, Pairing, Rope, Scaling, Spec, Synthetic};
use crate::{Error, Result};

const TABLE: &str = include_str!("../../models.toml");

/// The entries: keys and values.
fn entries() -> impl Iterator<Item = Vec<(&'static str, Value)>> {
    TABLE.split("\n[[model]]\n").skip(1).map(|entry| {
        let pairs = entry.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once(" = "));
        pairs.filter_map(|(key, value)| Some((key, serde_json::from_str(value).ok()?))).collect()
    })
}

/// What is made of an architecture that cannot be made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Other {
    /// Nothing.
    Refused,
    /// A Llama.
    Any,
}

/// A model of random weights by `SHAPE[:FTYPE]`.
///
/// # Errors
/// [`Error::Usage`] for a name that is not in the table; [`Error::Unsupported`] for an
/// architecture that cannot be made yet, or a type without kernels.
pub fn model(name: &str) -> Result<Model> {
    made(name, Other::Refused).and_then(Model::synthetic)
}

/// The same for every architecture of the table: what is not known is taken for a Llama. Its
/// matrices have the right sizes, which is enough to time them.
///
/// # Errors
/// [`Error::Usage`] for a name that is not in the table; [`Error::Unsupported`] for a type without
/// kernels.
pub fn matrices(name: &str) -> Result<Model> {
    made(name, Other::Any).and_then(Model::synthetic)
}

/// The weights of a shape, of any type and exactly of its architecture.
///
/// # Errors
/// As [`model`]'s, but no type is refused.
pub fn synthetic(name: &str) -> Result<Synthetic> {
    made(name, Other::Refused)
}

fn made(name: &str, other: Other) -> Result<Synthetic> {
    let (shape, ftype) = name.split_once(':').unwrap_or((name, "Q4_K_M"));
    let ftype = Ftype::parse(ftype).ok_or_else(|| {
        let known = Ftype::names().collect::<Vec<_>>().join(", ");
        Error::Usage(format!("{name}: type {ftype} is not known: {known}"))
    })?;
    let named = |entry: &Vec<(&str, Value)>| entry.iter().any(|(k, v)| *k == "name" && v == shape);
    let Some(entry) = entries().find(named) else {
        let names: Vec<String> = entries()
            .flatten()
            .filter(|(k, _)| *k == "name")
            .filter_map(|(_, v)| Some(v.as_str()?.to_owned()))
            .collect();
        return Err(Error::Usage(format!("shape {shape} is not known: {}", names.join(", "))));
    };
    let get = |key: &str| entry.iter().find(|(k, _)| *k == key).map(|(_, v)| v);
    let size = |key: &str| {
        get(key)
            .and_then(Value::as_u64)
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| Error::Other(format!("models.toml: {shape}: {key} is no number")))
    };
    let (architecture, pairing) = match get("architecture").and_then(Value::as_str) {
        Some("llama") => ("llama", Pairing::Neighbours),
        Some("qwen2") => ("qwen2", Pairing::Halves),
        Some("qwen3") => ("qwen3", Pairing::Halves),
        Some(_) if other == Other::Any => ("llama", Pairing::Halves),
        unknown => {
            return Err(Error::Unsupported(format!(
                "{shape}: random weights of architecture {} are not supported yet",
                unknown.unwrap_or("unknown")
            )));
        }
    };
    #[allow(clippy::cast_precision_loss, reason = "bases are far below 2^24")]
    let base = size("rope_base")? as f32;
    let spec = Spec {
        architecture,
        vocab: size("vocab")?,
        width: size("width")?,
        layers: size("layers")?,
        heads: size("heads")?,
        kv_heads: size("kv_heads")?,
        head_dim: size("head_dim")?,
        ffn: size("ffn")?,
        context: size("context")?,
        norm_eps: 1e-5,
        rope: Rope { pairing, dims: size("head_dim")?, base, scaling: Scaling::None },
        head_norms: architecture == "qwen3",
        activation: Activation::Silu,
    };
    let tied = get("tied") == Some(&Value::Bool(true));
    Ok(Synthetic { vocab: spec.vocab, spec, tied, ftype, seed: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dense_shape_of_a_known_architecture_can_be_made() {
        let mut made = 0;
        for entry in entries() {
            let text = |key: &str| {
                entry
                    .iter()
                    .find(|(k, _)| *k == key)
                    .and_then(|(_, v)| v.as_str())
                    .unwrap_or_else(|| panic!("{key}"))
            };
            let known = matches!(text("architecture"), "llama" | "qwen2" | "qwen3");
            match model(text("name")) {
                Ok(model) => {
                    assert!(known);
                    assert_eq!(model.plan.spec.architecture, text("architecture"));
                    made += 1;
                }
                Err(e) => assert!(!known && e.exit_code() == 4, "{}: {e}", text("name")),
            }
        }
        assert!(made >= 5);
        assert_eq!(model("smollm2-135m:Q9").err().map(|e| e.exit_code()), Some(2));
        assert_eq!(model("gpt-9").err().map(|e| e.exit_code()), Some(2));
    }
}
