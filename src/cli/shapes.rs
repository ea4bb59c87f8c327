//! Shapes of well-known models: `models.toml`, whose form is so simple that it is read here.

use serde_json::Value;

use crate::model::{Ftype, Key, Model, Synthetic};
use crate::{Error, Result};

const TABLE: &str = include_str!("../../models.toml");

/// The entries: keys and values.
fn entries() -> impl Iterator<Item = Vec<(&'static str, Value)>> {
    TABLE.split("\n[[model]]\n").skip(1).map(|entry| {
        let pairs = entry.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once(" = "));
        pairs.filter_map(|(key, value)| Some((key, serde_json::from_str(value).ok()?))).collect()
    })
}

/// A model of random weights by `SHAPE[:FTYPE]`.
///
/// # Errors
/// [`Error::Usage`] for a name that is not in the table; [`Error::Unsupported`] for an
/// architecture that cannot be made yet, or a type without kernels.
pub fn model(name: &str) -> Result<Model> {
    synthetic(name, None).and_then(Model::synthetic)
}

/// The weights of a shape, of any type, with as many layers as it has or as are asked for.
///
/// # Errors
/// As [`model`]'s, but no type is refused.
pub fn synthetic(name: &str, layers: Option<usize>) -> Result<Synthetic> {
    let (shape, ftype) = match name.split_once(':') {
        Some((shape, ftype)) => (shape, Some(ftype)),
        None => (name, None),
    };
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
    let ftype = ftype.unwrap_or_else(|| usual(get("types")));
    let ftype = Ftype::parse(ftype).ok_or_else(|| {
        let known = Ftype::names().collect::<Vec<_>>().join(", ");
        Error::Usage(format!("{name}: type {ftype} is not known: {known}"))
    })?;
    let wrong = |key: &str| Error::Other(format!("models.toml: {shape}: {key} is no number"));
    let size = |key: &str| {
        let number = get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        number.ok_or_else(|| wrong(key))
    };
    let architecture = get("architecture").and_then(Value::as_str).unwrap_or_default();
    let (heads, head_dim, width) = (size("heads")?, size("head_dim")?, size("width")?);
    let own = get("layers").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let layers = layers.or(own).and_then(|n| u32::try_from(n).ok()).ok_or_else(|| wrong("layers"))?;
    let mut keys: Vec<(String, Key)> = Vec::new();
    let mut count = |key: &str, n: u32| keys.push((key.to_owned(), Key::Count(n)));
    count("block_count", layers);
    count("context_length", size("context")?);
    count("embedding_length", width);
    count("feed_forward_length", size("ffn")?);
    count("attention.head_count", heads);
    count("attention.head_count_kv", size("kv_heads")?);
    if heads * head_dim != width {
        count("attention.key_length", head_dim);
        count("attention.value_length", head_dim);
    }
    count("rope.dimension_count", head_dim);
    let mut number = |key: &str, n: f32| keys.push((key.to_owned(), Key::Number(n)));
    #[allow(clippy::cast_precision_loss, reason = "bases are far below 2^24")]
    number("rope.freq_base", size("rope_base")? as f32);
    number("attention.layer_norm_rms_epsilon", 1e-5);
    number("attention.layer_norm_epsilon", 1e-5);
    for pair in get("keys").and_then(Value::as_array).into_iter().flatten() {
        keys.push(extra(pair).ok_or_else(|| wrong("keys"))?);
    }
    let vocab = usize::try_from(size("vocab")?).unwrap_or(usize::MAX);
    let tied = get("tied") == Some(&Value::Bool(true));
    Synthetic::new(architecture, keys, (vocab, tied), ftype)
}

/// A pair of `keys`: a name and a value. A number with a point is a float.
fn extra(pair: &Value) -> Option<(String, Key)> {
    let [name, value] = pair.as_array()?.as_slice() else { return None };
    #[allow(clippy::cast_possible_truncation, reason = "keys are F32")]
    let value = match value {
        Value::String(text) => Key::Text(text.clone()),
        Value::Number(n) => match n.as_u64() {
            Some(n) => Key::Count(u32::try_from(n).ok()?),
            None => Key::Number(n.as_f64()? as f32),
        },
        _ => return None,
    };
    Some((name.as_str()?.to_owned(), value))
}

/// Q4_K_M where it is usual, else what is most usual.
fn usual(types: Option<&Value>) -> &str {
    let mut types = types.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let first = types.next().unwrap_or("Q4_K_M");
    if types.any(|ty| ty == "Q4_K_M") { "Q4_K_M" } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_can_be_made() {
        let mut made = 0;
        for entry in entries() {
            let text = |key: &str| {
                let (_, value) = entry.iter().find(|(k, _)| *k == key).unwrap_or_else(|| panic!("{key}"));
                value.as_str().unwrap_or_else(|| panic!("{key}")).to_owned()
            };
            let name = text("name");
            let model = model(&name).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(model.plan.spec.architecture, text("architecture"));
            made += 1;
        }
        assert!(made >= 15);
        assert_eq!(model("smollm2-135m:Q9").err().map(|e| e.exit_code()), Some(2));
        assert_eq!(model("gpt-9").err().map(|e| e.exit_code()), Some(2));
    }
}
