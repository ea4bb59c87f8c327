//! Python's methods that templates call and minijinja-contrib's pycompat lacks, or takes with fewer
//! arguments.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, Value};

use super::super::unicode::is_digit;

/// Calls a method, if it is one of these; `size` is what a value may take in bytes.
pub(super) fn call(value: &Value, method: &str, args: &[Value], size: u64) -> Option<Result<Value, Error>> {
    match value.kind() {
        ValueKind::String => of_string(value.as_str()?, method, args, size),
        ValueKind::Seq if method == "index" => Some(index_of(value, args)),
        _ => None,
    }
}

fn of_string(text: &str, method: &str, args: &[Value], size: u64) -> Option<Result<Value, Error>> {
    Some(match method {
        "split" | "rsplit" => split(text, method == "rsplit", args),
        "partition" | "rpartition" => partition(text, method == "rpartition", args),
        "removeprefix" => {
            from_args(args).map(|(affix,): (&str,)| text.strip_prefix(affix).unwrap_or(text).into())
        }
        "removesuffix" => {
            from_args(args).map(|(affix,): (&str,)| text.strip_suffix(affix).unwrap_or(text).into())
        }
        "startswith" | "endswith" if args.len() > 1 => affix_of_part(text, method == "startswith", args),
        "index" | "rindex" => from_args(args).and_then(|(part,): (&str,)| {
            let at = if method == "index" { text.find(part) } else { text.rfind(part) };
            let at = at.and_then(|at| text.get(..at)).map(|before| before.chars().count());
            at.map(Value::from).ok_or_else(|| invalid("substring not found"))
        }),
        "isdecimal" => from_args(args).map(|()| (!text.is_empty() && text.chars().all(is_digit)).into()),
        "casefold" => from_args(args).map(|()| text.to_lowercase().into()),
        "swapcase" => from_args(args).map(|()| text.chars().map(swapped).collect::<String>().into()),
        "title" => from_args(args).map(|()| title(text).into()),
        "center" | "ljust" | "rjust" | "zfill" => pad(text, method, args, size),
        _ => return None,
    })
}

fn invalid(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

fn swapped(c: char) -> String {
    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
}

/// Upper case for what follows no letter, lower case for the rest.
fn title(text: &str) -> String {
    let (mut out, mut inside) = (String::with_capacity(text.len()), false);
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_lowercase() || c.is_uppercase();
    }
    out
}

/// `split` and `rsplit`, with their arguments by place or by name.
fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, most, names): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.or(names.get("sep")?).filter(|s| !s.is_none());
    let most = most.or(names.get("maxsplit")?).and_then(|n| usize::try_from(n).ok());
    names.assert_all_used()?;
    let mut parts: Vec<Value> = Vec::new();
    let most = most.unwrap_or(usize::MAX);
    let mut rest = text;
    match separator
        .as_ref()
        .map(|s| s.as_str().ok_or_else(|| invalid("the separator is no string")))
        .transpose()?
    {
        Some("") => return Err(invalid("empty separator")),
        Some(separator) => {
            while parts.len() < most {
                let cut = if from_right { rest.rsplit_once(separator) } else { rest.split_once(separator) };
                let Some((before, after)) = cut else { break };
                let (part, left) = if from_right { (after, before) } else { (before, after) };
                parts.push(part.into());
                rest = left;
            }
            parts.push(rest.into());
        }
        None if from_right => {
            rest = rest.trim_end();
            while !rest.is_empty() && parts.len() < most {
                let start = rest.rfind(char::is_whitespace).map_or(0, |i| i + char_len(rest, i));
                let (before, part) = rest.split_at(start);
                parts.push(part.into());
                rest = before.trim_end();
            }
            parts.extend((!rest.is_empty()).then(|| rest.into()));
        }
        None => {
            rest = rest.trim_start();
            while !rest.is_empty() && parts.len() < most {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                let (part, after) = rest.split_at(end);
                parts.push(part.into());
                rest = after.trim_start();
            }
            parts.extend((!rest.is_empty()).then(|| rest.into()));
        }
    }
    if from_right {
        parts.reverse();
    }
    Ok(parts.into())
}

fn char_len(text: &str, at: usize) -> usize {
    text.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8)
}

fn partition(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(invalid("empty separator"));
    }
    let cut = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match cut {
        Some((before, after)) => [before, separator, after],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Tuple::from(parts.map(Value::from)).into())
}

/// `startswith(x, start, end)`: of a part of the text.
fn affix_of_part(text: &str, prefix: bool, args: &[Value]) -> Result<Value, Error> {
    let (affix, start, end): (Value, i64, Option<i64>) = from_args(args)?;
    let len = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let beyond = start > len;
    let place = |at: i64| {
        usize::try_from(if at < 0 { at.saturating_add(len) } else { at }.clamp(0, len)).unwrap_or(0)
    };
    let (start, end) = (place(start), place(end.unwrap_or(len)));
    let part: String = text.chars().take(end).skip(start).collect();
    let fits = |affix: &Value| {
        let affix = affix.as_str()?;
        Some(!beyond && start <= end && if prefix { part.starts_with(affix) } else { part.ends_with(affix) })
    };
    let found = match affix.kind() {
        ValueKind::Seq => affix.try_iter()?.any(|affix| fits(&affix) == Some(true)),
        _ => fits(&affix).ok_or_else(|| invalid("what a text starts or ends with is a string"))?,
    };
    Ok(found.into())
}

fn index_of(list: &Value, args: &[Value]) -> Result<Value, Error> {
    let (wanted,): (Value,) = from_args(args)?;
    let at = list.try_iter()?.position(|item| item == wanted);
    at.map(Value::from).ok_or_else(|| invalid("the value is not in the list"))
}

fn pad(text: &str, method: &str, args: &[Value], size: u64) -> Result<Value, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(args)?;
    let fill = match fill.unwrap_or(if method == "zfill" { "0" } else { " " }) {
        fill if fill.chars().count() == 1 => fill,
        _ => return Err(invalid("the fill character must be exactly one character long")),
    };
    let width = u64::try_from(width).unwrap_or(0);
    if width.saturating_mul(fill.len() as u64) > size {
        return Err(Error::new(ErrorKind::OutOfFuel, "a value is too large or too deep"));
    }
    let width = usize::try_from(width).unwrap_or(0);
    let missing = width.saturating_sub(text.chars().count());
    let before = match method {
        "rjust" | "zfill" => missing,
        // As Python does it: what is left over stands before the text only in odd widths.
        "center" => missing / 2 + (missing & width & 1),
        _ => 0,
    };
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'+' | b'-') if method == "zfill" => text.split_at(1),
        _ => ("", text),
    };
    Ok(format!("{sign}{}{digits}{}", fill.repeat(before), fill.repeat(missing - before)).into())
}
