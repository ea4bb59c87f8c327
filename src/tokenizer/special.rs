//! Finding special tokens in text, before anything else looks at it.
//!
//! The longest token is looked for first, everywhere; then the next, in what is left. A
//! vocabulary can have thousands of them, so a first pass over the text finds out which occur.

use super::vocab::{Kind, Vocab};

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Part<'a> {
    /// Text that is to be encoded.
    Text(&'a str),
    /// A special token.
    Token(u32),
}

struct Entry {
    text: Box<str>,
    id: u32,
    /// Recognised in any text, not only where special tokens are asked for.
    always: bool,
    /// Takes the white space behind it with it.
    strips: bool,
}

/// The special tokens of a vocabulary.
pub(super) struct Specials {
    /// Sorted by their bytes.
    entries: Vec<Entry>,
    /// Indices of entries, the longest first, else by id.
    order: Vec<usize>,
}

impl Specials {
    /// `strip`: whether a token of this text takes the white space behind it.
    pub(super) fn new(vocab: &Vocab, strip: impl Fn(&str) -> bool) -> Specials {
        let mut entries: Vec<Entry> = (0u32..)
            .zip(&vocab.kinds)
            .filter(|(_, kind)| matches!(kind, Kind::Control | Kind::UserDefined | Kind::Unknown))
            .filter_map(|(id, kind)| {
                let text = std::str::from_utf8(vocab.raw(id)).ok().filter(|t| !t.is_empty())?;
                let always = *kind == Kind::UserDefined;
                Some(Entry { text: text.into(), id, always, strips: strip(text) })
            })
            .collect();
        entries.sort_by(|a, b| a.text.cmp(&b.text));
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by_key(|i| (std::cmp::Reverse(entries[*i].text.len()), entries[*i].id));
        Specials { entries, order }
    }

    /// Cuts a text at its special tokens: at all of them, or at the user's own alone.
    pub(super) fn cut<'a>(&self, text: &'a str, recognise: bool) -> Vec<Part<'a>> {
        let mut parts = vec![Part::Text(text)];
        let found = self.occurring(text);
        for index in &self.order {
            let entry = &self.entries[*index];
            if found[*index] && (recognise || entry.always) {
                parts = cut_at(parts, entry);
            }
        }
        parts.retain(|part| *part != Part::Text(""));
        parts
    }

    /// Which entries stand anywhere in a text.
    fn occurring(&self, text: &str) -> Vec<bool> {
        let mut found = vec![false; self.entries.len()];
        // Per first byte: the entries that begin with it, and how many were not yet found.
        let mut starts: Vec<(std::ops::Range<usize>, usize)> = vec![(0..0, 0); 256];
        for (i, entry) in self.entries.iter().enumerate() {
            let (range, missing) = &mut starts[usize::from(entry.text.as_bytes()[0])];
            *range = if *missing == 0 { i..i + 1 } else { range.start..i + 1 };
            *missing += 1;
        }
        let bytes = text.as_bytes();
        for (at, first) in bytes.iter().enumerate() {
            let (range, missing) = &mut starts[usize::from(*first)];
            if *missing == 0 {
                continue;
            }
            // All entries of the range agree with the text in their first `depth` bytes.
            let (mut range, mut depth) = (range.clone(), 1);
            while !range.is_empty() {
                while !range.is_empty() && self.entries[range.start].text.len() == depth {
                    if !std::mem::replace(&mut found[range.start], true) {
                        *missing -= 1;
                    }
                    range.start += 1;
                }
                let Some(next) = bytes.get(at + depth) else { break };
                let part = &self.entries[range.clone()];
                let low = part.partition_point(|e| e.text.as_bytes()[depth] < *next);
                let high = part.partition_point(|e| e.text.as_bytes()[depth] <= *next);
                range = range.start + low..range.start + high;
                depth += 1;
            }
        }
        found
    }
}

fn cut_at<'a>(parts: Vec<Part<'a>>, entry: &Entry) -> Vec<Part<'a>> {
    let mut out = Vec::with_capacity(parts.len());
    for part in parts {
        let Part::Text(mut text) = part else {
            out.push(part);
            continue;
        };
        while let Some((before, after)) = text.split_once(&*entry.text) {
            if !before.is_empty() {
                out.push(Part::Text(before));
            }
            out.push(Part::Token(entry.id));
            text = if entry.strips { after.trim_start_matches(is_space) } else { after };
        }
        if !text.is_empty() {
            out.push(Part::Text(text));
        }
    }
    out
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\u{b}' | '\u{c}' | '\r')
}
