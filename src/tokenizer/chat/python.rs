//! Values as Python writes them: `str`, `repr`, floats, and what it takes for white space.

use std::fmt::Write as _;
use std::sync::OnceLock;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use crate::tokenizer::unicode::{self, Classes};

/// An error of a filter, a test or a function.
pub(super) fn invalid(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

/// What is refused for its size.
pub(super) fn too_large() -> Error {
    Error::new(ErrorKind::OutOfFuel, "a value is too large or too deep")
}

/// `str(value)`. `limits` has seen that the value is neither large nor deep.
pub(super) fn str(value: &Value) -> Result<String, Error> {
    if value.is_undefined() {
        return Ok(String::new());
    }
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let mut out = String::new();
    write(value, &mut out)?;
    Ok(out)
}

/// `repr(value)`.
pub(super) fn repr(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    write(value, &mut out)?;
    Ok(out)
}

/// A value of `objects`, which is no list even where it has items.
pub(super) fn is_own(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().contains("tokenizer::chat"))
}

/// A list or a tuple; minijinja's sums and slices are lazy.
pub(super) fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) && !is_own(value)
}

fn write(value: &Value, out: &mut String) -> Result<(), Error> {
    match value.kind() {
        // Objects know their text, where it has no address in it.
        _ if is_own(value) => {
            return write!(out, "{value}").map_err(|_| invalid("an object has no text"));
        }
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match float(value) {
            Some(number) => out.push_str(&float_repr(number)),
            None => out.push_str(&value.to_string()),
        },
        ValueKind::String if value.is_safe() => {
            out.push_str("Markup(");
            string_repr(value.as_str().unwrap_or_default(), out);
            out.push(')');
        }
        ValueKind::String => string_repr(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.push(open);
            let mut items = 0;
            for item in value.try_iter()? {
                if items > 0 {
                    out.push_str(", ");
                }
                write(&item, out)?;
                items += 1;
            }
            if value.is_tuple() && items == 1 {
                out.push(',');
            }
            out.push(close);
        }
        ValueKind::Map if value.as_object().is_some_and(|object| object.type_name().contains("::vm::")) => {
            return Err(invalid("a loop has no text"));
        }
        ValueKind::Map => {
            let named = is_namespace(value);
            out.push_str(if named { "<Namespace {" } else { "{" });
            for (i, key) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write(&key, out)?;
                out.push_str(": ");
                write(&value.get_item(&key)?, out)?;
            }
            out.push_str(if named { "}>" } else { "}" });
        }
        kind => return Err(invalid(format!("a value of type {kind} cannot be written"))),
    }
    Ok(())
}

/// What `namespace()` gives, which is a map to minijinja.
pub(super) fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

/// A number that is a float.
pub(super) fn float(value: &Value) -> Option<f64> {
    if value.kind() != ValueKind::Number || value.is_integer() {
        return None;
    }
    f64::try_from(value.clone()).ok()
}

/// A number, or a bool, which is one.
pub(super) fn number(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Bool => Some(if value.is_true() { 1.0 } else { 0.0 }),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// A whole number, or a bool, which is one.
pub(super) fn integer(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// The shortest digits that mean a float, with an exponent where Python has one.
pub(super) fn float_repr(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let shortest = format!("{number:e}");
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..16 => format!("{number:?}").replace("e0", ""),
        exponent => format!("{digits}e{}", exponent_text(exponent)),
    }
}

/// An exponent has a sign and at least two digits.
pub(super) fn exponent_text(exponent: i32) -> String {
    format!("{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// A string in quotes: in single ones, unless it has those alone.
fn string_repr(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => escape(c, out),
        }
    }
    out.push(quote);
}

/// `ascii(value)`.
pub(super) fn ascii(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    for c in repr(value)?.chars() {
        if c.is_ascii() { out.push(c) } else { escape(c, &mut out) }
    }
    Ok(out)
}

fn escape(c: char, out: &mut String) {
    // Writing to a string does not fail.
    let _ = match u32::from(c) {
        code @ ..=0xff => write!(out, "\\x{code:02x}"),
        code @ ..=0xffff => write!(out, "\\u{code:04x}"),
        code => write!(out, "\\U{code:08x}"),
    };
}

/// Letters, marks, numbers, punctuation and symbols, and the plain space.
pub(super) fn is_printable(c: char) -> bool {
    let seen = unicode::LETTER | unicode::MARK | unicode::NUMBER | unicode::PUNCT | unicode::SYMBOL;
    static CLASSES: OnceLock<Classes> = OnceLock::new();
    c == ' ' || CLASSES.get_or_init(Classes::get).of(c) & seen != 0
}

/// `str.isspace` of a character: also the separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.splitlines`, with the ends of lines or without.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end = |c: char| matches!(c, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some((at, end)) = rest.char_indices().find(|(_, c)| is_end(*c)) {
        let behind = rest.get(at..).unwrap_or_default();
        let len = if behind.starts_with("\r\n") { 2 } else { end.len_utf8() };
        lines.push(rest.get(..if keep_ends { at + len } else { at }).unwrap_or_default());
        rest = rest.get(at + len..).unwrap_or_default();
    }
    lines.extend((!rest.is_empty()).then_some(rest));
    lines
}

/// A character at the beginning of a word: of those that become several, the first is large.
pub(super) fn title(c: char) -> String {
    match c {
        '\u{1c4}'..='\u{1c6}' => '\u{1c5}'.into(),
        '\u{1c7}'..='\u{1c9}' => '\u{1c8}'.into(),
        '\u{1ca}'..='\u{1cc}' => '\u{1cb}'.into(),
        '\u{1f1}'..='\u{1f3}' => '\u{1f2}'.into(),
        'ß' | 'և' | '\u{fb00}'..='\u{fb17}' => {
            let mut upper = c.to_uppercase();
            upper.next().into_iter().chain(upper.flat_map(char::to_lowercase)).collect()
        }
        c => c.to_uppercase().collect(),
    }
}

/// How values compare in an order, if they do: numbers with numbers, strings with strings, lists with
/// lists and tuples with tuples.
pub(super) fn comparable(left: &Value, right: &Value) -> bool {
    let is_number = |value: &Value| matches!(value.kind(), ValueKind::Bool | ValueKind::Number);
    match (left.kind(), right.kind()) {
        (ValueKind::String, ValueKind::String) => true,
        _ if is_list(left) && is_list(right) && left.is_tuple() == right.is_tuple() => {
            let (Ok(left), Ok(right)) = (left.try_iter(), right.try_iter()) else { return false };
            // What is equal is not compared further.
            let mut pairs = left.zip(right).skip_while(|(left, right)| left == right);
            pairs.next().is_none_or(|(left, right)| comparable(&left, &right))
        }
        _ => is_number(left) && is_number(right),
    }
}

/// The refusal of an order that Python does not have.
pub(super) fn not_comparable(left: &Value, right: &Value) -> Error {
    invalid(format!("values of the types {} and {} cannot be compared", left.kind(), right.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_have_pythons_digits() {
        for (number, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (1e15, "1000000000000000.0"),
            (9_999_999_999_999_998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (1.234_567_890_123_456_8e17, "1.2345678901234568e+17"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(float_repr(number), text);
        }
    }
}
