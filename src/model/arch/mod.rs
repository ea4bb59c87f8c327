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
/// [`Error::Unsupported`] for an unknown architecture, or keys that are missing or not sensible.
pub fn spec(file: &File) -> Result<Spec> {
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
    read(&Keys::new(file, name))
}
