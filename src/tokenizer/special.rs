//! Finding special tokens in text, before anything else looks at it.
//!
//! The longest token is taken first, everywhere; then the next, in what is left. A vocabulary can
//! have thousands of them and a text can have them all, so the text is not searched for each: at
//! every place the longest token there waits in a heap, and where something longer has taken a
//! part of its text, the longest that still fits takes its turn.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::vocab::{Kind, Vocab, damaged};
use crate::Result;

/// Bytes of a special token. A text is compared with so many at every place.
const LONGEST: usize = 512;

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Part<'a> {
    /// Text that is to be encoded.
    Text(&'a str),
    /// A special token.
    Token(u32),
}

/// The text of a special token in a text.
pub(super) struct Found {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) id: u32,
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
    /// Sorted by their bytes, then by id.
    entries: Vec<Entry>,
    /// By first byte: the entries that begin with it.
    starts: Vec<Range<usize>>,
}

/// An entry that may be taken: of those that wait, the longest, then the lowest id, then the first.
type Waiting = (usize, Reverse<u32>, Reverse<usize>, usize);

impl Specials {
    /// `strip`: whether a token of this text takes the white space behind it.
    ///
    /// # Errors
    /// For a special token of hundreds of bytes.
    pub(super) fn new(vocab: &Vocab, strip: impl Fn(&str) -> bool) -> Result<Specials> {
        let mut entries = Vec::new();
        for (id, kind) in (0u32..).zip(&vocab.kinds) {
            if !matches!(kind, Kind::Control | Kind::UserDefined | Kind::Unknown) {
                continue;
            }
            let raw = vocab.raw(id);
            if raw.len() > LONGEST {
                let bytes = raw.len();
                return Err(damaged(format_args!("token {id} is special and has {bytes} bytes")));
            }
            if let Some(text) = std::str::from_utf8(raw).ok().filter(|text| !text.is_empty()) {
                let always = *kind == Kind::UserDefined;
                entries.push(Entry { text: text.into(), id, always, strips: strip(text) });
            }
        }
        Ok(Specials::of(entries))
    }

    fn of(mut entries: Vec<Entry>) -> Specials {
        entries.sort_by(|a, b| a.text.cmp(&b.text).then(a.id.cmp(&b.id)));
        // Of those with the same text, one can be found, or two: the first, and the first of the user's.
        entries.dedup_by(|next, kept| next.text == kept.text && (kept.always || !next.always));
        let mut starts = vec![0..0; 256];
        for (i, entry) in entries.iter().enumerate() {
            let range = &mut starts[usize::from(entry.text.as_bytes()[0])];
            *range = if range.end == 0 { i..i + 1 } else { range.start..i + 1 };
        }
        Specials { entries, starts }
    }

    /// Cuts a text at its special tokens: at the user's own everywhere, at the others and at `structure` where
    /// they do not reach into one of these ranges, which are in order.
    pub(super) fn cut<'a>(&self, text: &'a str, plain: &[Range<usize>], structure: &[u32]) -> Vec<Part<'a>> {
        let bytes = text.as_bytes();
        let waiting = |at: usize, room: usize| -> Option<Waiting> {
            let next = plain.get(plain.partition_point(|range| range.end <= at));
            let free = next.map_or(room, |range| range.start.saturating_sub(at));
            let index = self.longest(&bytes[at..at + room], free, structure)?;
            let entry = &self.entries[index];
            Some((entry.text.len(), Reverse(entry.id), Reverse(at), index))
        };
        let places = (0..bytes.len()).filter_map(|at| waiting(at, bytes.len() - at));
        let mut heap: BinaryHeap<Waiting> = places.collect();
        if heap.is_empty() {
            return if text.is_empty() { vec![] } else { vec![Part::Text(text)] };
        }
        let mut taken = vec![false; bytes.len()];
        let mut found: Vec<(usize, usize, u32)> = Vec::new();
        while let Some((len, _, Reverse(at), index)) = heap.pop() {
            if let Some(room) = taken[at..at + len].iter().position(|taken| *taken) {
                heap.extend(waiting(at, room));
                continue;
            }
            let entry = &self.entries[index];
            let mut end = at + len;
            if entry.strips {
                end += (end..bytes.len()).take_while(|i| !taken[*i] && is_space(bytes[*i])).count();
            }
            taken[at..end].fill(true);
            found.push((at, end, entry.id));
        }
        found.sort_unstable();
        let mut parts = Vec::with_capacity(2 * found.len() + 1);
        let mut done = 0;
        let between = |parts: &mut Vec<_>, done: usize, next: usize| {
            parts.extend(text.get(done..next).filter(|t| !t.is_empty()).map(Part::Text));
        };
        for (start, end, id) in found {
            between(&mut parts, done, start);
            parts.push(Part::Token(id));
            done = end;
        }
        between(&mut parts, done, text.len());
        parts
    }

    /// Where in a text special tokens begin, and the end of the shortest there. `counts`: whether a token is
    /// looked for, by its id and whether it is recognised in any text.
    pub(super) fn begin<'a>(
        &'a self,
        text: &'a str,
        counts: impl Fn(u32, bool) -> bool + 'a,
    ) -> impl Iterator<Item = Found> + 'a {
        (0..text.len()).filter_map(move |at| {
            let here = text.as_bytes().get(at..).unwrap_or(&[]);
            let mut entries = self.at(here).map(|index| &self.entries[index]);
            let entry = entries.find(|entry| counts(entry.id, entry.always))?;
            Some(Found { start: at, end: at + entry.text.len(), id: entry.id })
        })
    }

    /// Whether a token is recognised in any text.
    pub(super) fn is_always(&self, id: u32) -> bool {
        self.entries.iter().any(|entry| entry.id == id && entry.always)
    }

    /// Whether a token that is not recognised in any text could begin before this one and end in it
    /// or behind it, and whether one could begin in it and end behind it.
    pub(super) fn reach_into(&self, text: &str) -> (bool, bool) {
        let text = text.as_bytes();
        let tokens = || self.entries.iter().filter(|entry| !entry.always).map(|entry| entry.text.as_bytes());
        let ends = |part: &[u8]| text.starts_with(part) || part.starts_with(text);
        let before = tokens().any(|token| (1..token.len()).any(|at| ends(&token[at..])));
        let behind = tokens().any(|token| (1..token.len()).any(|at| text.ends_with(&token[..at])));
        (before, behind)
    }

    /// The longest entry with which a text begins: of those that are not recognised in any text,
    /// and of `structure`, the longest of at most `free` bytes.
    fn longest(&self, text: &[u8], free: usize, structure: &[u32]) -> Option<usize> {
        let always = |entry: &Entry| entry.always && !structure.contains(&entry.id);
        let fits = |entry: &Entry| always(entry) || entry.text.len() <= free;
        let mut found: Option<usize> = None;
        for index in self.at(text).filter(|index| fits(&self.entries[*index])) {
            // Of two with the same text, the first.
            if found.is_none_or(|found| self.entries[found].text.len() < self.entries[index].text.len()) {
                found = Some(index);
            }
        }
        found
    }

    /// All entries with which a text begins, the shortest first.
    fn at<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
        let mut range = text.first().map_or(0..0, |first| self.starts[usize::from(*first)].clone());
        let mut depth = 1;
        // All entries of the range agree with the text in their first `depth` bytes.
        std::iter::from_fn(move || {
            while !range.is_empty() {
                if self.entries[range.start].text.len() == depth {
                    range.start += 1;
                    return Some(range.start - 1);
                }
                let next = *text.get(depth)?;
                let part = &self.entries[range.clone()];
                let low = part.partition_point(|e| e.text.as_bytes()[depth] < next);
                let high = part.partition_point(|e| e.text.as_bytes()[depth] <= next);
                range = range.start + low..range.start + high;
                depth += 1;
            }
            None
        })
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0xb | 0xc | b'\r')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is meant: one token after another, each looked for in all that is left.
    fn one_by_one<'a>(specials: &Specials, text: &'a str, plain: &Range<usize>) -> Vec<Part<'a>> {
        let mut order: Vec<&Entry> = specials.entries.iter().collect();
        order.sort_by_key(|e| (Reverse(e.text.len()), e.id));
        let mut parts = vec![Part::Text(text)];
        for entry in order {
            let mut out = Vec::new();
            for part in parts {
                let Part::Text(part) = part else {
                    out.push(part);
                    continue;
                };
                let (mut done, mut from) = (0, 0);
                while let Some(at) = part[from..].find(&*entry.text).map(|at| from + at) {
                    let start = part.as_ptr() as usize - text.as_ptr() as usize + at;
                    let plain = plain.start < start + entry.text.len() && start < plain.end;
                    if plain && !entry.always {
                        from = at + entry.text.chars().next().map_or(1, char::len_utf8);
                        continue;
                    }
                    out.extend([Part::Text(&part[done..at]), Part::Token(entry.id)]);
                    let after = &part[at + entry.text.len()..];
                    let rest = if entry.strips { after.trim_start_matches([' ', '\n']) } else { after };
                    (done, from) = (part.len() - rest.len(), part.len() - rest.len());
                }
                out.push(Part::Text(&part[done..]));
            }
            parts = out;
        }
        parts.retain(|part| *part != Part::Text(""));
        parts
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn a_text_is_cut_as_if_one_by_one(
            tokens in prop::collection::vec(("[ab<é ]{1,4}", any::<[bool; 2]>()), 0..12),
            text in "[ab<é ]{0,30}",
            plain in (0usize..40, 0usize..40),
        ) {
            let entries = (0..).zip(&tokens).map(|(id, (text, [always, strips]))| {
                Entry { text: text.as_str().into(), id, always: *always, strips: *strips }
            });
            let specials = Specials::of(entries.collect());
            let plain = plain.0.min(plain.1)..plain.0.max(plain.1);
            let parts = specials.cut(&text, std::slice::from_ref(&plain), &[]);
            prop_assert_eq!(parts, one_by_one(&specials, &text, &plain));
        }
    }
}
