//! The words of a template: tokens of a tag, strings as Python writes them, and ends of lines.

use std::borrow::Cow;

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Token<'a> {
    /// A name, a number or a string.
    Operand(&'a str),
    Open(char),
    Close,
    /// An operator between two operands, if it stands behind one.
    Operator(&'a str),
    /// Anything that neither is nor joins operands: a comma, a dot, a bar, …
    Other(&'a str),
}

/// A string, which has no name.
pub(super) const STRING: Token = Token::Operand("\"\"");

/// Names that are no operands.
pub(super) const KEYWORDS: [&str; 9] = ["and", "or", "not", "if", "else", "elif", "is", "in", "recursive"];

pub(super) fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The token at the beginning of a text that is not empty, and its length.
pub(super) fn next_token(text: &str) -> (Token<'_>, usize) {
    let head = |len: usize| text.get(..len).unwrap_or(text);
    let first = text.chars().next().unwrap_or(' ');
    if first == '"' || first == '\'' {
        let mut escaped = false;
        let end = text.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == first && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let len = end.map_or(text.len(), |(i, c)| i + c.len_utf8());
        return (STRING, len);
    }
    if is_name(first) {
        let mut len = text.find(|c| !is_name(c)).unwrap_or(text.len());
        // The point of 1.5, which is no attribute.
        if first.is_ascii_digit() && text.get(len..).is_some_and(|t| t.starts_with('.')) {
            let digits = text.get(len + 1..).unwrap_or("");
            if digits.starts_with(|c: char| c.is_ascii_digit()) {
                len += 1 + digits.find(|c| !is_name(c)).unwrap_or(digits.len());
            }
        }
        // The sign of 1e-5, which is no operator.
        if first.is_ascii_digit() && !head(len).starts_with("0x") && head(len).ends_with(['e', 'E']) {
            let exponent = text.get(len..).unwrap_or("").strip_prefix(['-', '+']).unwrap_or("");
            if exponent.starts_with(|c: char| c.is_ascii_digit()) {
                len += 1 + exponent.find(|c| !is_name(c)).unwrap_or(exponent.len());
            }
        }
        return (Token::Operand(head(len)), len);
    }
    let two = head(2);
    if ["==", "!=", "<=", ">=", "//", "**"].contains(&two) {
        return (Token::Operator(two), 2);
    }
    let len = first.len_utf8();
    match first {
        '(' | '[' | '{' => (Token::Open(first), len),
        ')' | ']' | '}' => (Token::Close, len),
        '~' | '+' | '-' | '*' | '/' | '%' | '<' | '>' => (Token::Operator(head(len)), len),
        _ => (Token::Other(head(len)), len),
    }
}

/// Jinja2 reads every end of a line as one.
pub(super) fn lines(source: &str) -> Cow<'_, str> {
    if source.contains('\r') {
        source.replace("\r\n", "\n").replace('\r', "\n").into()
    } else {
        source.into()
    }
}

/// A string of Python as minijinja reads it. An escape that neither knows is one that minijinja refuses.
pub(super) fn literal(text: &str) -> String {
    const WRONG: &str = "\\uzzzz";
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    out.extend(chars.next());
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let digits = |chars: &mut std::str::Chars, radix: u32, most: usize| {
            let digits: String = chars.clone().take(most).take_while(|c| c.is_digit(radix)).collect();
            *chars = chars.as_str().get(digits.len()..).unwrap_or_default().chars();
            (radix == 8 || digits.len() == most).then(|| u32::from_str_radix(&digits, radix).ok()).flatten()
        };
        let known = match chars.next() {
            // The end of a line in a string that goes on.
            Some('\n') => continue,
            Some(c @ ('\\' | '\'' | '"')) => Some(c),
            Some('a') => Some('\x07'),
            Some('b') => Some('\x08'),
            Some('f') => Some('\x0c'),
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some('v') => Some('\x0b'),
            Some('x') => digits(&mut chars, 16, 2).and_then(char::from_u32),
            Some('u') => digits(&mut chars, 16, 4).and_then(char::from_u32),
            Some('U') => digits(&mut chars, 16, 8).and_then(char::from_u32),
            Some('N') => None,
            Some(c @ '0'..='7') => {
                chars =
                    text.get(text.len() - chars.as_str().len() - c.len_utf8()..).unwrap_or_default().chars();
                digits(&mut chars, 8, 3).and_then(char::from_u32)
            }
            // What is no escape is what it is.
            Some(c) => {
                out.push_str("\\\\");
                Some(c)
            }
            None => Some('\\'),
        };
        match known {
            Some(c @ ('\\' | '\'' | '"')) => out.extend(['\\', c]),
            Some(c) => out.push(c),
            None => out.push_str(WRONG),
        }
    }
    out
}
