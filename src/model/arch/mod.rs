//! The known architectures: one short file each, metadata → [`Spec`].

mod cohere2;
mod common;
mod gemma;
mod glm4;
mod gpt_oss;
mod granite;
mod llama;
mod mistral3;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen2moe;
mod qwen3;
mod smollm3;
mod starcoder2;
mod unread;

use super::keys::Keys;
use super::spec::Spec;
use crate::gguf::{File, Value, shown};
use crate::{Error, Result};

/// Reads an architecture's metadata.
type Reader = fn(&Keys<'_>) -> Result<Spec>;

/// Names, as in `general.architecture`, and readers.
const ARCHITECTURES: &[(&str, Reader)] = &[
    ("cohere2", cohere2::spec),
    ("gemma2", gemma::gemma2),
    ("gemma3", gemma::gemma3),
    ("glm4", glm4::spec),
    ("gpt-oss", gpt_oss::spec),
    ("granite", granite::spec),
    ("llama", llama::spec),
    ("mistral3", mistral3::spec),
    ("olmo2", olmo2::spec),
    ("phi3", phi3::spec),
    ("qwen2", qwen2::spec),
    ("qwen2moe", qwen2moe::spec),
    ("qwen3", qwen3::spec),
    ("qwen3moe", qwen3::moe),
    ("smollm3", smollm3::spec),
    ("starcoder2", starcoder2::spec),
];

/// The names of the known architectures.
pub fn names() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|(name, _)| *name)
}

/// The hyper-parameters of a file's model.
///
/// # Errors
/// [`Error::Unsupported`] for a file that is no language model, an unknown architecture, and keys that
/// are missing, not sensible, or not known though they may change what is computed.
pub fn spec(file: &File) -> Result<Spec> {
    is_model(file)?;
    let key = "general.architecture";
    let value = file.get(key).ok_or_else(|| Error::Unsupported(format!("metadata key {key} is missing")))?;
    let name = value.as_str().ok_or_else(|| match value {
        Value::String(text) => Error::Unsupported(format!("metadata key {key}: {} is no UTF-8", shown(text))),
        _ => Error::Unsupported(format!("metadata key {key} must be text, not {}", value.ty())),
    })?;
    let Some((_, read)) = ARCHITECTURES.iter().find(|(known, _)| *known == name) else {
        let known = names().collect::<Vec<_>>().join(", ");
        let name = shown(name.as_bytes());
        return Err(Error::Unsupported(format!("architecture {name} is not supported ({known} are)")));
    };
    let keys = Keys::new(file, name);
    let spec = read(&keys)?;
    common::check_longrope(&keys, &spec)?;
    unread::refuse(&keys, &spec)?;
    Ok(spec)
}

/// Refuses what GGUF is used for besides.
fn is_model(file: &File) -> Result<()> {
    let text = |key: &str| file.get(key).and_then(|value| value.as_str());
    let kind = match text("general.type") {
        Some(kind) => kind,
        None if text("adapter.type").is_some() => "adapter",
        None if text("general.architecture") == Some("clip") => "mmproj",
        None => "model",
    };
    let what = match kind {
        "model" => return Ok(()),
        "adapter" => "an adapter (LoRA), which changes a model: merge it into its model, and give that",
        "mmproj" => "the part of a model that reads pictures or sound: give the file of the text's model",
        "imatrix" => "an importance matrix, which helps to quantise a model: give the model",
        "vocab" => "a vocabulary without a model: give the model",
        other => {
            let other = shown(other.as_bytes());
            return Err(Error::Unsupported(format!(
                "general.type is \"{other}\": only a \"model\" can be run"
            )));
        }
    };
    Err(Error::Unsupported(format!("is {what}")))
}
