//! Metadata values: whole as JSON, abbreviated for people.

use serde::{Serialize, Serializer};

use crate::cli::output;
use crate::gguf::{Array, File, Value};

/// All metadata as JSON, from where they lie. Text that is no UTF-8 is shown lossily; NaN and
/// infinities, which JSON has not, are strings.
pub(super) struct Json<'a>(pub(super) &'a File);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.metadata().map(|(key, value)| (key, JsonValue(value))))
    }
}

struct JsonValue<'a>(Value<'a>);

impl Serialize for JsonValue<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::U8(v) => to.serialize_u8(v),
            Value::I8(v) => to.serialize_i8(v),
            Value::U16(v) => to.serialize_u16(v),
            Value::I16(v) => to.serialize_i16(v),
            Value::U32(v) => to.serialize_u32(v),
            Value::I32(v) => to.serialize_i32(v),
            Value::U64(v) => to.serialize_u64(v),
            Value::I64(v) => to.serialize_i64(v),
            Value::Bool(v) => to.serialize_bool(v),
            Value::F32(v) if v.is_finite() => to.serialize_f64(v.into()),
            Value::F64(v) if v.is_finite() => to.serialize_f64(v),
            Value::F32(v) => to.collect_str(&v),
            Value::F64(v) => to.collect_str(&v),
            Value::String(v) => to.serialize_str(&String::from_utf8_lossy(v)),
            Value::Array(array) => match (array.strings(), array.scalars()) {
                (Some(strings), _) => to.collect_seq(strings.map(String::from_utf8_lossy)),
                (None, Some(scalars)) => to.collect_seq(scalars.map(JsonValue)),
                // Nobody nests arrays; that there is one is all that can be said.
                (None, None) => to.collect_str(&format_args!("{array:?}")),
            },
        }
    }
}

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
        other => serde_json::to_string(&JsonValue(other)).unwrap_or_default(),
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
