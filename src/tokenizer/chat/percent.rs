//! Python's `%` on strings.

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::python::{self, exponent_text, invalid, too_large};

/// One conversion: `%(key)-08.3f`.
#[derive(Default)]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    zero: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

/// Where conversions take their values from.
struct Arguments<'a> {
    values: &'a [Value],
    /// What `%(key)s` looks into.
    map: Option<&'a Value>,
    next: usize,
}

impl Arguments<'_> {
    fn next(&mut self) -> Result<Value, Error> {
        let value =
            self.values.get(self.next).ok_or_else(|| invalid("not enough arguments for format string"))?;
        self.next += 1;
        Ok(value.clone())
    }

    fn size(&mut self) -> Result<i64, Error> {
        let value = python::integer(&self.next()?).ok_or_else(|| invalid("* wants int"))?;
        i64::try_from(value).map_err(|_| too_large())
    }
}

/// `format % argument`: the argument is a tuple of values, or a value; `size` is what a text may have in bytes.
pub(super) fn format(format: &str, argument: &Value, size: u64) -> Result<String, Error> {
    let values: Vec<Value> =
        if argument.is_tuple() { argument.try_iter()?.collect() } else { vec![argument.clone()] };
    let map = (argument.kind() == ValueKind::Map).then_some(argument);
    let mut arguments = Arguments { values: &values, map, next: 0 };
    let mut out = String::new();
    let mut rest = format;
    while let Some((text, conversion)) = rest.split_once('%') {
        out.push_str(text);
        let (piece, after) = convert(conversion, &mut arguments, size)?;
        if (out.len() + piece.len()) as u64 > size {
            return Err(too_large());
        }
        out.push_str(&piece);
        rest = after;
    }
    out.push_str(rest);
    // A list or a map may be there for its keys alone.
    let whole = !argument.is_tuple() && matches!(argument.kind(), ValueKind::Map | ValueKind::Seq);
    if arguments.next < values.len() && !whole {
        return Err(invalid("not all arguments converted during string formatting"));
    }
    Ok(out)
}

/// One conversion, from behind its `%`: its text, and what stands behind it.
fn convert<'a>(text: &'a str, arguments: &mut Arguments, size: u64) -> Result<(String, &'a str), Error> {
    let mut rest = text;
    let mut value = None;
    if let Some(behind) = rest.strip_prefix('(') {
        let (key, after) = key(behind).ok_or_else(|| invalid("incomplete format key"))?;
        let map = arguments.map.ok_or_else(|| invalid("format requires a mapping"))?;
        let found = map.get_item(&key.into())?;
        if found.is_undefined() {
            return Err(invalid(format!("no key {key:?} to format")));
        }
        value = Some(found);
        rest = after;
    }
    let mut spec = Spec::default();
    while let Some(flag) = rest.chars().next() {
        match flag {
            '-' => spec.left = true,
            '+' => spec.plus = true,
            ' ' => spec.space = true,
            '0' => spec.zero = true,
            '#' => spec.alternate = true,
            _ => break,
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    let mut number = |rest: &mut &'a str| -> Result<Option<i64>, Error> {
        if let Some(after) = rest.strip_prefix('*') {
            *rest = after;
            return arguments.size().map(Some);
        }
        let (digits, after) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
        *rest = after;
        if digits.is_empty() { Ok(None) } else { digits.parse().map(Some).map_err(|_| too_large()) }
    };
    if let Some(width) = number(&mut rest)? {
        spec.left |= width < 0;
        spec.width = width.unsigned_abs().try_into().map_err(|_| too_large())?;
    }
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        spec.precision = Some(number(&mut rest)?.unwrap_or(0).try_into().unwrap_or(0));
    }
    rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
    if spec.width.max(spec.precision.unwrap_or(0)) as u64 > size {
        return Err(too_large());
    }
    let kind = rest.chars().next().ok_or_else(|| invalid("incomplete format"))?;
    rest = rest.get(kind.len_utf8()..).unwrap_or_default();
    if kind == '%' && text.starts_with('%') {
        return Ok(("%".to_owned(), rest));
    }
    let value = value.map_or_else(|| arguments.next(), Ok)?;
    Ok((spec.write(kind, &value)?, rest))
}

/// The key of `(key)`, which may have parentheses itself, and what stands behind it.
fn key(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1;
    let end = text.char_indices().find(|(_, c)| {
        depth += i32::from(*c == '(') - i32::from(*c == ')');
        depth == 0
    });
    let (end, _) = end?;
    Some((text.get(..end)?, text.get(end + 1..)?))
}

impl Spec {
    fn write(&self, kind: char, value: &Value) -> Result<String, Error> {
        match kind {
            's' => Ok(self.text(&python::str(value)?)),
            'r' => Ok(self.text(&python::repr(value)?)),
            'a' => Ok(self.text(&python::ascii(value)?)),
            'c' => {
                let c = match value.as_str() {
                    Some(text) => text.chars().next().filter(|c| c.len_utf8() == text.len()),
                    None => python::integer(value).and_then(|c| char::from_u32(c.try_into().ok()?)),
                };
                let c = c.ok_or_else(|| invalid("%c takes a character"))?;
                Ok(Spec { precision: None, ..Spec { left: self.left, width: self.width, ..Spec::default() } }
                    .text(&c.to_string()))
            }
            'd' | 'i' | 'u' => {
                let float = python::float(value).filter(|v| v.is_finite() && v.abs() < 1e38);
                #[allow(clippy::cast_possible_truncation, reason = "it is small enough, and cut on purpose")]
                let number = python::integer(value).or(float.map(|v| v as i128));
                let number = number.ok_or_else(|| invalid(format!("%{kind} takes a number")))?;
                Ok(self.number(number < 0, "", self.digits(number.unsigned_abs().to_string())))
            }
            'x' | 'X' | 'o' => {
                let number =
                    python::integer(value).ok_or_else(|| invalid(format!("%{kind} takes a whole number")))?;
                let (prefix, digits) = match kind {
                    'x' => ("0x", format!("{:x}", number.unsigned_abs())),
                    'X' => ("0X", format!("{:X}", number.unsigned_abs())),
                    _ => ("0o", format!("{:o}", number.unsigned_abs())),
                };
                let prefix = if self.alternate { prefix } else { "" };
                Ok(self.number(number < 0, prefix, self.digits(digits)))
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                let number =
                    python::number(value).ok_or_else(|| invalid(format!("%{kind} takes a number")))?;
                let mut digits = self.float(kind.to_ascii_lowercase(), number.abs());
                if kind.is_ascii_uppercase() {
                    digits = digits.to_uppercase();
                }
                Ok(self.number(number.is_sign_negative() && !number.is_nan(), "", digits))
            }
            _ => Err(invalid(format!("unsupported format character {kind:?}"))),
        }
    }

    fn text(&self, text: &str) -> String {
        let text: String = match self.precision {
            Some(precision) => text.chars().take(precision).collect(),
            None => text.to_owned(),
        };
        let fill = " ".repeat(self.width.saturating_sub(text.chars().count()));
        if self.left { text + &fill } else { fill + &text }
    }

    /// At least as many digits as the precision says.
    fn digits(&self, digits: String) -> String {
        let missing = self.precision.unwrap_or(0).saturating_sub(digits.len());
        "0".repeat(missing) + &digits
    }

    fn number(&self, negative: bool, prefix: &str, digits: String) -> String {
        let sign = if negative {
            "-"
        } else if self.plus {
            "+"
        } else if self.space {
            " "
        } else {
            ""
        };
        let missing = self.width.saturating_sub(sign.len() + prefix.len() + digits.len());
        if self.left {
            format!("{sign}{prefix}{digits}{}", " ".repeat(missing))
        } else if self.zero {
            format!("{sign}{prefix}{}{digits}", "0".repeat(missing))
        } else {
            format!("{}{sign}{prefix}{digits}", " ".repeat(missing))
        }
    }

    /// A float that is not negative.
    fn float(&self, kind: char, number: f64) -> String {
        if !number.is_finite() {
            return python::float_repr(number);
        }
        let precision = self.precision.unwrap_or(6);
        let point = |text: String| if self.alternate && !text.contains('.') { text + "." } else { text };
        let scientific = |precision: usize| {
            let text = format!("{number:.precision$e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            (digits.to_owned(), exponent.parse::<i32>().unwrap_or(0))
        };
        match kind {
            'f' => point(format!("{number:.precision$}")),
            'e' => {
                let (digits, exponent) = scientific(precision);
                format!("{}e{}", point(digits), exponent_text(exponent))
            }
            _ => {
                let precision = precision.max(1);
                let (digits, exponent) = scientific(precision - 1);
                let trim = |text: String| {
                    if self.alternate || !text.contains('.') {
                        return point(text);
                    }
                    text.trim_end_matches('0').trim_end_matches('.').to_owned()
                };
                let fixed =
                    usize::try_from(i64::try_from(precision).unwrap_or(i64::MAX) - 1 - i64::from(exponent));
                match fixed {
                    Ok(decimals) if exponent >= -4 => trim(format!("{number:.decimals$}")),
                    _ => format!("{}e{}", trim(digits), exponent_text(exponent)),
                }
            }
        }
    }
}
