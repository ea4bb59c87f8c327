//! Metadata values, abbreviated for people.

use crate::cli::output;
use crate::gguf::{Array, Value};

/// The longest text that is shown of a string that stands alone, and of one in an array.
const ALONE: usize = 80;
const IN_ARRAY: usize = 16;
/// Elements of an array that are shown.
const ELEMENTS: usize = 6;

/// A key in one line.
pub(super) fn name(key: &str) -> String {
    let cut: String = key.chars().take(ALONE).collect();
    let more = if cut.len() < key.len() { "…" } else { "" };
    output::escape(&cut) + more
}

/// A value in one line.
pub(super) fn line(value: Value<'_>) -> String {
    match value {
        Value::String(v) => output::shown(v, ALONE),
        Value::Array(array) => elements(array),
        other => scalar(other),
    }
}

fn scalar(value: Value<'_>) -> String {
    match value {
        Value::F32(v) => format!("{v:?}"),
        Value::F64(v) => format!("{v:?}"),
        other => serde_json::to_string(&other).unwrap_or_default(),
    }
}

fn elements(array: Array<'_>) -> String {
    let shown: Vec<String> = match (array.strings(), array.scalars()) {
        (Some(s), _) => s.take(ELEMENTS).map(|s| output::shown(s, IN_ARRAY)).collect(),
        (None, Some(s)) => s.take(ELEMENTS).map(scalar).collect(),
        (None, None) => vec!["…".to_owned()],
    };
    let more = if array.len() > shown.len() { ", …" } else { "" };
    format!("[{}; {}] {}{more}", array.ty(), array.len(), shown.join(", "))
}
