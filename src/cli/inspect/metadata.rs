//! Metadata values: whole as JSON, abbreviated for people.

use serde_json::{Map, Value as Json};

use crate::cli::output;
use crate::gguf::{Array, File, Value};

/// All metadata. Text that is no UTF-8 is shown lossily; NaN and infinities, which JSON has
/// not, are strings.
pub(super) fn json(file: &File) -> Map<String, Json> {
    file.metadata().map(|(key, value)| (key.to_owned(), to_json(value))).collect()
}

fn to_json(value: Value<'_>) -> Json {
    let float = |v: f64| if v.is_finite() { Json::from(v) } else { Json::from(v.to_string()) };
    match value {
        Value::U8(v) => v.into(),
        Value::I8(v) => v.into(),
        Value::U16(v) => v.into(),
        Value::I16(v) => v.into(),
        Value::U32(v) => v.into(),
        Value::I32(v) => v.into(),
        Value::U64(v) => v.into(),
        Value::I64(v) => v.into(),
        Value::Bool(v) => v.into(),
        Value::F32(v) => float(v.into()),
        Value::F64(v) => float(v),
        Value::String(v) => String::from_utf8_lossy(v).into(),
        Value::Array(array) => match (array.strings(), array.scalars()) {
            (Some(strings), _) => strings.map(String::from_utf8_lossy).collect(),
            (None, Some(scalars)) => scalars.map(to_json).collect(),
            // Nobody nests arrays; that there is one is all that can be said.
            (None, None) => Json::from(format!("{array:?}")),
        },
    }
}

/// The longest text that is shown of a string that stands alone, and of one in an array.
const ALONE: usize = 80;
const IN_ARRAY: usize = 16;
/// Elements of an array that are shown.
const ELEMENTS: usize = 6;

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
        other => to_json(other).to_string(),
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
