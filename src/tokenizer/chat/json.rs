//! `tojson` as transformers has it: Python's `json.dumps`, which neither escapes HTML nor
//! sorts, and takes `ensure_ascii`, `indent`, `separators` and `sort_keys`.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::python::{self, invalid};

struct Style {
    ascii: bool,
    sorted: bool,
    /// What stands before a line for each level; without it all stands on one line.
    indent: Option<String>,
    /// Behind an item, and behind a key.
    separators: (String, String),
}

pub(super) fn tojson(value: &Value, indent: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => kwargs.get::<Option<Value>>("indent")?,
    };
    let indent = match indent {
        Some(indent) if indent.is_none() => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) if text.len() <= 64 => text.to_owned(),
            Some(_) => return Err(python::too_large()),
            None => " ".repeat(i64::try_from(indent)?.clamp(0, 64) as usize),
        }),
        None => None,
    };
    let style = Style {
        ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        separators: match kwargs.get::<Option<Vec<String>>>("separators")?.as_deref() {
            Some([item, key]) => (item.clone(), key.clone()),
            Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson takes two separators")),
            None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
            None => (", ".to_owned(), ": ".to_owned()),
        },
        indent,
    };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    style.write(value, 0, &mut out)?;
    Ok(Value::from(out))
}

impl Style {
    /// `limits` has seen that the value is neither large nor deep.
    fn write(&self, value: &Value, level: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => match python::float(value) {
                Some(number) if number.is_nan() => out.push_str("NaN"),
                Some(number) => out.push_str(&python::float_repr(number).replace("inf", "Infinity")),
                None => out.push_str(&value.to_string()),
            },
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            _ if python::is_list(value) => {
                out.push('[');
                let mut empty = true;
                for item in value.try_iter()? {
                    self.before_item(empty, level + 1, out);
                    empty = false;
                    self.write(&item, level + 1, out)?;
                }
                self.after_items(empty, level, out);
                out.push(']');
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                out.push('{');
                for (i, key) in keys.iter().enumerate() {
                    self.before_item(i == 0, level + 1, out);
                    match (key.as_str(), key.kind()) {
                        (Some(text), _) => self.string(text, out),
                        // Keys are texts: none is "null", and true "true".
                        (None, ValueKind::None | ValueKind::Bool | ValueKind::Number) => {
                            out.push('"');
                            self.write(key, level + 1, out)?;
                            out.push('"');
                        }
                        (None, kind) => {
                            return Err(invalid(format!("a key of type {kind} cannot be written as JSON")));
                        }
                    }
                    out.push_str(&self.separators.1);
                    self.write(&value.get_item(key)?, level + 1, out)?;
                }
                self.after_items(keys.is_empty(), level, out);
                out.push('}');
            }
            kind => {
                return Err(Error::new(
                    ErrorKind::BadSerialization,
                    format!("a value of type {kind} cannot be written as JSON"),
                ));
            }
        }
        Ok(())
    }

    fn before_item(&self, first: bool, level: usize, out: &mut String) {
        if !first {
            out.push_str(&self.separators.0);
        }
        self.line(level, out);
    }

    fn after_items(&self, empty: bool, level: usize, out: &mut String) {
        if !empty {
            self.line(level, out);
        }
    }

    fn line(&self, level: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(level));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || self.ascii && !c.is_ascii() => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a string does not fail.
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}
