//! Metadata as JSON, from where they lie. Text that is no UTF-8 is shown lossily; NaN and infinities,
//! which JSON has not, are strings.

use serde::{Serialize, Serializer};

use super::{File, Value};

/// All metadata of a file: an object.
pub struct Json<'a>(pub &'a File);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.metadata())
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match *self {
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
                (None, Some(scalars)) => to.collect_seq(scalars),
                // Nobody nests arrays; that there is one is all that can be said.
                (None, None) => to.collect_str(&format_args!("{array:?}")),
            },
        }
    }
}
