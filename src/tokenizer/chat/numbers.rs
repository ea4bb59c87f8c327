//! Filters of Jinja2 that make or change numbers.

use minijinja::{Error, ErrorKind, State, Value};

use super::arguments::Arguments;
use super::python::{self, integer, invalid, is_space, number};
use crate::tokenizer::unicode::is_digit;

pub(super) fn abs(_: &mut State, value: Value, _: &mut Arguments, _: u64) -> Result<Value, Error> {
    match (integer(&value), python::float(&value)) {
        (Some(number), _) => {
            number.checked_abs().map(whole).ok_or_else(|| invalid("the number is too large"))
        }
        (None, Some(number)) => Ok(number.abs().into()),
        (None, None) => Err(invalid(format!("a value of type {} has no absolute value", value.kind()))),
    }
}

/// A whole number in the form that minijinja knows best.
fn whole(number: i128) -> Value {
    i64::try_from(number).map_or_else(|_| number.into(), Value::from)
}

/// A number's text without what Python allows in it: white space around it, underscores between digits,
/// and digits of any script.
fn plain(text: &str) -> Option<String> {
    let text = text.trim_matches(is_space);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut last = ' ';
    while let Some(c) = chars.next() {
        match c {
            '_' if last.is_ascii_alphanumeric()
                && chars.peek().is_some_and(|next| next.is_alphanumeric()) => {}
            '_' => return None,
            c if !c.is_ascii() && is_digit(c) => {
                // Digits of a script stand together in tens, the zero first.
                let value = (0..10).find(|n| {
                    let before = u32::from(c) - n;
                    char::from_u32(before.wrapping_sub(1)).is_none_or(|c| !is_digit(c))
                });
                out.push(char::from_digit(value?, 10)?);
            }
            c => out.push(c),
        }
        last = if c.is_ascii() { c } else { '0' };
    }
    Some(out)
}

/// `float(text)`.
fn parse_float(text: &str) -> Option<f64> {
    let text = plain(text)?.to_ascii_lowercase();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(&text);
    // Rust reads the same, and no other words.
    let known = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || ["inf", "infinity", "nan"].contains(&digits);
    known.then(|| text.parse().ok()).flatten()
}

/// `int(text, base)`.
fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = plain(text)?.to_ascii_lowercase();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let prefix = match base {
        2 => "0b",
        8 => "0o",
        16 => "0x",
        _ => "",
    };
    let digits = digits.strip_prefix(prefix).unwrap_or(digits);
    if digits.starts_with(['-', '+']) {
        return None;
    }
    i128::from_str_radix(digits, base).ok().map(|number| sign * number)
}

/// A value that is no number at all: its own refusal is Python's as well.
fn defined(value: &Value) -> Result<(), Error> {
    if value.is_undefined() { Err(Error::from(ErrorKind::UndefinedError)) } else { Ok(()) }
}

pub(super) fn float(_: &mut State, value: Value, args: &mut Arguments, _: u64) -> Result<Value, Error> {
    let default = args.take("default")?.unwrap_or_else(|| 0.0.into());
    defined(&value)?;
    let number = value.as_str().map_or_else(|| number(&value), parse_float);
    Ok(number.map_or(default, Value::from))
}

pub(super) fn int(_: &mut State, value: Value, args: &mut Arguments, _: u64) -> Result<Value, Error> {
    let default = args.take("default")?.unwrap_or_else(|| 0.into());
    let base = args.number("base", 10)?;
    defined(&value)?;
    let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base));
    let base = base.ok_or_else(|| invalid("the base is not from 2 to 36"))?;
    let text = value.as_str();
    if let Some(number) = text.map_or_else(|| integer(&value), |text| parse_int(text, base)) {
        return Ok(whole(number));
    }
    let number = text.map_or_else(|| python::float(&value), parse_float);
    match number.map(f64::trunc) {
        Some(number) if number.abs() < 1e38 =>
        {
            #[allow(clippy::cast_possible_truncation, reason = "it is whole and small enough")]
            Ok(whole(number as i128))
        }
        Some(number) if number.is_finite() => Err(invalid("the number is too large")),
        _ => Ok(default),
    }
}

pub(super) fn round(_: &mut State, value: Value, args: &mut Arguments, _: u64) -> Result<Value, Error> {
    let precision = args.number("precision", 0)?;
    let method = args.text("method", "common")?;
    let precision = i32::try_from(precision).ok().filter(|p| (-300..=300).contains(p));
    let precision = precision.ok_or_else(|| invalid("the precision is not from -300 to 300"))?;
    let Some(number) = number(&value) else {
        return Err(invalid(format!("a value of type {} cannot be rounded", value.kind())));
    };
    let scale = 10f64.powi(precision);
    let whole_number = integer(&value);
    match (&*method, whole_number) {
        ("ceil", _) => Ok(((number * scale).ceil() / scale).into()),
        ("floor", _) => Ok(((number * scale).floor() / scale).into()),
        ("common", Some(number)) if precision >= 0 => Ok(whole(number)),
        ("common", Some(number)) => {
            let unit = 10i128.checked_pow(precision.unsigned_abs()).unwrap_or(i128::MAX);
            let (down, rest) = (number.div_euclid(unit), number.rem_euclid(unit));
            let up = rest > unit - rest || rest == unit - rest && down % 2 != 0;
            Ok(whole((down + i128::from(up)).saturating_mul(unit)))
        }
        ("common", None) if !number.is_finite() => Ok(number.into()),
        ("common", None) if precision < 0 => Ok(((number * scale).round_ties_even() / scale).into()),
        ("common", None) => {
            let decimals = usize::try_from(precision).unwrap_or(0);
            let rounded = format!("{number:.decimals$}").parse::<f64>();
            rounded.map(Value::from).map_err(|e| invalid(e.to_string()))
        }
        _ => Err(invalid("method must be common, ceil or floor")),
    }
}

/// A number of bytes for people.
pub(super) fn filesizeformat(
    _: &mut State,
    value: Value,
    args: &mut Arguments,
    _: u64,
) -> Result<Value, Error> {
    let binary = args.flag("binary", false)?;
    let bytes = value.as_str().map_or_else(|| number(&value), parse_float);
    let bytes = bytes.ok_or_else(|| invalid("a size is a number"))?;
    let (base, infix) = if binary { (1024.0, "i") } else { (1000.0, "") };
    if bytes == 1.0 {
        return Ok("1 Byte".into());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", bytes.trunc()).into());
    }
    let units = if binary { "KMGTPEZY" } else { "kMGTPEZY" };
    let mut unit = base;
    for (i, letter) in units.chars().enumerate() {
        unit *= base;
        if bytes < unit || i + 1 == units.len() {
            return Ok(format!("{:.1} {letter}{infix}B", base * bytes / unit).into());
        }
    }
    Ok(Value::from(bytes))
}
