//! Python's methods that templates call and minijinja-contrib's pycompat lacks, or takes with fewer
//! arguments.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, Value};

use super::filters::{capitalized, centered};
use super::objects;
use super::python::{self, invalid, is_printable, is_space, lines, too_large};
use crate::tokenizer::unicode::is_digit;

/// Calls a method, if it is one of these; `size` is what a value may take in bytes.
pub(super) fn call(value: &Value, method: &str, args: &[Value], size: u64) -> Option<Result<Value, Error>> {
    match value.kind() {
        ValueKind::String => of_string(value.as_str()?, method, args, size),
        ValueKind::Seq if method == "index" => Some(index_of(value, args)),
        ValueKind::Seq if method == "copy" && args.is_empty() && !value.is_tuple() => Some(Ok(value.clone())),
        ValueKind::Map if args.is_empty() => objects::of_map(value, method),
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
        "find" | "rfind" | "index" | "rindex" => place_of(text, method, args),
        "count" if args.len() > 1 => part_of(text, args).and_then(|(part, wanted, _)| {
            let part = part.ok_or_else(|| invalid("no part of the text"))?;
            let count =
                if wanted.is_empty() { part.chars().count() + 1 } else { part.matches(wanted).count() };
            Ok(count.into())
        }),
        "strip" | "lstrip" | "rstrip" if args.is_empty() => Ok(match method {
            "strip" => text.trim_matches(is_space),
            "lstrip" => text.trim_start_matches(is_space),
            _ => text.trim_end_matches(is_space),
        }
        .into()),
        "join" => joined(text, args),
        "istitle" => {
            from_args(args).map(|()| (title(text) == *text && text.chars().any(char::is_alphabetic)).into())
        }
        "isprintable" => from_args(args).map(|()| text.chars().all(is_printable).into()),
        "isidentifier" => from_args(args).map(|()| {
            let inside = |c: char| c.is_alphanumeric() || c == '_';
            (!text.starts_with(|c: char| c.is_numeric()) && !text.is_empty() && text.chars().all(inside))
                .into()
        }),
        "expandtabs" => expandtabs(text, args, size),
        "isdecimal" => from_args(args).map(|()| (!text.is_empty() && text.chars().all(is_digit)).into()),
        // What is alike in upper case is alike.
        "casefold" => from_args(args).map(|()| {
            let small = text.chars().flat_map(char::to_lowercase).flat_map(char::to_uppercase);
            small.flat_map(char::to_lowercase).collect::<String>().into()
        }),
        "isspace" => from_args(args).map(|()| (!text.is_empty() && text.chars().all(is_space)).into()),
        "splitlines" => {
            let keep = from_args::<(Option<bool>, Kwargs)>(args).and_then(|(keep, names)| {
                let keep = keep.or(names.get("keepends")?).unwrap_or(false);
                names.assert_all_used().map(|()| keep)
            });
            keep.map(|keep| lines(text, keep).into_iter().map(Value::from).collect())
        }
        "capitalize" => from_args(args).map(|()| capitalized(text).into()),
        "swapcase" => from_args(args).map(|()| text.chars().map(swapped).collect::<String>().into()),
        "title" => from_args(args).map(|()| title(text).into()),
        "center" | "ljust" | "rjust" | "zfill" => pad(text, method, args, size),
        _ => return None,
    })
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
            out.push_str(&python::title(c));
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
            rest = rest.trim_end_matches(is_space);
            while !rest.is_empty() && parts.len() < most {
                let start = rest.rfind(is_space).map_or(0, |i| i + char_len(rest, i));
                let (before, part) = rest.split_at(start);
                parts.push(part.into());
                rest = before.trim_end_matches(is_space);
            }
            parts.extend((!rest.is_empty()).then(|| rest.into()));
        }
        None => {
            rest = rest.trim_start_matches(is_space);
            while !rest.is_empty() && parts.len() < most {
                let end = rest.find(is_space).unwrap_or(rest.len());
                let (part, after) = rest.split_at(end);
                parts.push(part.into());
                rest = after.trim_start_matches(is_space);
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
    let (affix, start, end): (Value, Option<i64>, Option<i64>) = from_args(args)?;
    let part = cut(text, start, end).map(|(part, _)| part);
    let fits = |affix: &Value| {
        let affix = affix.as_str()?;
        Some(part.is_some_and(|part| if prefix { part.starts_with(affix) } else { part.ends_with(affix) }))
    };
    let found = match affix.kind() {
        ValueKind::Seq => affix.try_iter()?.any(|affix| fits(&affix) == Some(true)),
        _ => fits(&affix).ok_or_else(|| invalid("what a text starts or ends with is a string"))?,
    };
    Ok(found.into())
}

/// The part of a text from one character to another, as slices have them, with the number of
/// characters before it; none where it begins behind the text.
fn cut(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(&str, usize)> {
    let len = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let place = |at: i64| {
        usize::try_from(if at < 0 { at.saturating_add(len) } else { at }.clamp(0, len)).unwrap_or(0)
    };
    let start = start.unwrap_or(0);
    let (first, last) = (place(start), place(end.unwrap_or(len)));
    if start > len || first > last {
        return None;
    }
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(i, _)| i);
    Some((text.get(byte(first)..byte(last))?, first))
}

/// The part of a text that `find` and the like look into, what they look for, and the characters before it.
fn part_of<'a>(text: &'a str, args: &'a [Value]) -> Result<(Option<&'a str>, &'a str, usize), Error> {
    let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let part = cut(text, start, end);
    Ok((part.map(|(part, _)| part), wanted, part.map_or(0, |(_, before)| before)))
}

fn place_of(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (part, wanted, before) = part_of(text, args)?;
    let at = part.and_then(|part| {
        let at = if method.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) };
        Some(before + part.get(..at?)?.chars().count())
    });
    match at {
        Some(at) => Ok(at.into()),
        None if method.ends_with("find") => Ok((-1).into()),
        None => Err(invalid("substring not found")),
    }
}

/// `separator.join(texts)`, of texts alone.
fn joined(separator: &str, args: &[Value]) -> Result<Value, Error> {
    let (items,): (Value,) = from_args(args)?;
    let mut texts = Vec::new();
    for item in items.try_iter()? {
        texts.push(item.to_str().ok_or_else(|| invalid(format!("what is joined is a {}", item.kind())))?);
    }
    Ok(texts.join(separator).into())
}

fn expandtabs(text: &str, args: &[Value], size: u64) -> Result<Value, Error> {
    let (width,): (Option<i64>,) = from_args(args)?;
    let width = u64::try_from(width.unwrap_or(8)).unwrap_or(0);
    if (text.matches('\t').count() as u64).saturating_mul(width) > size {
        return Err(too_large());
    }
    let width = usize::try_from(width).unwrap_or(0);
    let (mut out, mut column) = (String::with_capacity(text.len()), 0);
    for c in text.chars() {
        match c {
            '\t' => {
                let spaces = if width == 0 { 0 } else { width - column % width };
                out.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            c => {
                out.push(c);
                column += 1;
            }
        }
    }
    Ok(out.into())
}

fn index_of(list: &Value, args: &[Value]) -> Result<Value, Error> {
    let (wanted, start, end): (Value, Option<i64>, Option<i64>) = from_args(args)?;
    let items: Vec<Value> = list.try_iter()?.collect();
    let len = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let place = |at: i64| if at < 0 { at.saturating_add(len).max(0) } else { at };
    let (start, end) = (place(start.unwrap_or(0)), place(end.unwrap_or(len)));
    let mut places = (0i64..).zip(items).filter(|(at, _)| (start..end).contains(at));
    let at = places.find(|(_, item)| *item == wanted);
    at.map(|(at, _)| at.into()).ok_or_else(|| invalid("the value is not in the list"))
}

fn pad(text: &str, method: &str, args: &[Value], size: u64) -> Result<Value, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(args)?;
    let fill = match fill.unwrap_or(if method == "zfill" { "0" } else { " " }) {
        fill if fill.chars().count() == 1 => fill,
        _ => return Err(invalid("the fill character must be exactly one character long")),
    };
    let width = u64::try_from(width).unwrap_or(0);
    if width.saturating_mul(fill.len() as u64) > size {
        return Err(too_large());
    }
    let width = usize::try_from(width).unwrap_or(0);
    if method == "center" {
        return Ok(centered(text, width, fill).into());
    }
    let missing = width.saturating_sub(text.chars().count());
    let before = if method == "ljust" { 0 } else { missing };
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'+' | b'-') if method == "zfill" => text.split_at(1),
        _ => ("", text),
    };
    Ok(format!("{sign}{}{digits}{}", fill.repeat(before), fill.repeat(missing - before)).into())
}
