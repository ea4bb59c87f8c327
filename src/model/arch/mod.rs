//! The known architectures: one short file each, metadata → [`Spec`].

mod llama;
mod qwen2;
mod qwen3;

use super::keys::Keys;
use super::spec::Spec;
use crate::gguf::{File, Value, shown};
use crate::{Error, Result};

/// Reads an architecture's metadata.
type Reader = fn(&Keys<'_>) -> Result<Spec>;

/// Names, as in `general.architecture`, and readers.
const ARCHITECTURES: &[(&str, Reader)] =
    &[("llama", llama::spec), ("qwen2", qwen2::spec), ("qwen3", qwen3::spec)];

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
