//! The filter `wordwrap`: Python's `textwrap.wrap` of each line.

use minijinja::{Error, State, Value};

use super::arguments::Arguments;
use super::python::{self, invalid};

pub(super) fn wordwrap(_: &mut State, value: Value, args: &mut Arguments, size: u64) -> Result<Value, Error> {
    let width = args.number("width", 79)?;
    let break_long = args.flag("break_long_words", true)?;
    let between = args.take("wrapstring")?.filter(|text| !text.is_none());
    let hyphens = args.flag("break_on_hyphens", true)?;
    let between = between.as_ref().map_or(Some("\n"), |text| text.as_str());
    let between = between.ok_or_else(|| invalid("what lines are joined by is a string"))?;
    let text = value.as_str().ok_or_else(|| invalid("what is wrapped is a string"))?;
    let width = usize::try_from(width).ok().filter(|width| *width > 0);
    let width = width.ok_or_else(|| invalid("the width is no number above 0"))?;
    if hyphens && text.contains('-') {
        return Err(invalid("wordwrap: texts with hyphens are wrapped with break_on_hyphens=false alone"));
    }
    if (text.len() as u64).saturating_mul(between.len() as u64 + 1) > size {
        return Err(python::too_large());
    }
    let lines = python::lines(text, false).into_iter();
    let lines: Vec<String> = lines.map(|line| wrapped(line, width, break_long).join(between)).collect();
    Ok(lines.join(between).into())
}

/// A line's words and the white space between them, in lines of at most `width` characters; white space
/// at a break is left out.
fn wrapped(line: &str, width: usize, break_long: bool) -> Vec<String> {
    let is_space = |c: char| " \t\n\u{b}\u{c}\r".contains(c);
    let mut lines: Vec<String> = Vec::new();
    let (mut current, mut length) = (String::new(), 0);
    let mut rest = line;
    let mut end = |current: &mut String, length: &mut usize| {
        let text = current.trim_end_matches(is_space);
        if !text.is_empty() {
            lines.push(text.to_owned());
        }
        current.clear();
        *length = 0;
        !lines.is_empty()
    };
    let mut begun = false;
    while let Some(first) = rest.chars().next() {
        let stop = rest.find(|c| is_space(c) != is_space(first)).unwrap_or(rest.len());
        let (chunk, behind) = rest.split_at(stop);
        let chars = chunk.chars().count();
        if length == 0 && begun && is_space(first) {
            rest = behind;
        } else if length + chars <= width {
            current.push_str(chunk);
            length += chars;
            rest = behind;
        } else if chars > width && (break_long || length == 0) {
            // A part of a word that is longer than a line, or all of it.
            let room = if break_long { width - length } else { chars };
            let cut = chunk.char_indices().nth(room).map_or(chunk.len(), |(i, _)| i);
            let (part, _) = chunk.split_at(cut);
            current.push_str(part);
            rest = rest.get(cut..).unwrap_or_default();
            begun = end(&mut current, &mut length);
        } else {
            begun = end(&mut current, &mut length);
        }
    }
    end(&mut current, &mut length);
    lines
}
