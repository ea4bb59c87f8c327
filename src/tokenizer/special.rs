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

    /// Cuts a text at its special tokens: at all of them, or at the user's own alone.
    pub(super) fn cut<'a>(&self, text: &'a str, recognise: bool) -> Vec<Part<'a>> {
        let bytes = text.as_bytes();
        let waiting = |at: usize, room: usize| -> Option<Waiting> {
            let index = self.longest(&bytes[at..at + room], recognise)?;
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

    /// The longest entry with which a text begins.
    fn longest(&self, text: &[u8], recognise: bool) -> Option<usize> {
        let mut range = self.starts[usize::from(*text.first()?)].clone();
        let (mut depth, mut found) = (1, None);
        // All entries of the range agree with the text in their first `depth` bytes.
        while !range.is_empty() {
            let same = self.entries[range.clone()].iter().take_while(|e| e.text.len() == depth).count();
            let allowed = |i: &usize| recognise || self.entries[*i].always;
            found = (range.start..range.start + same).find(allowed).or(found);
            range.start += same;
            let Some(next) = text.get(depth) else { break };
            let part = &self.entries[range.clone()];
            let low = part.partition_point(|e| e.text.as_bytes()[depth] < *next);
            let high = part.partition_point(|e| e.text.as_bytes()[depth] <= *next);
            range = range.start + low..range.start + high;
            depth += 1;
        }
        found
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
    fn one_by_one<'a>(specials: &Specials, text: &'a str, recognise: bool) -> Vec<Part<'a>> {
        let mut order: Vec<&Entry> = specials.entries.iter().filter(|e| recognise || e.always).collect();
        order.sort_by_key(|e| (Reverse(e.text.len()), e.id));
        let mut parts = vec![Part::Text(text)];
        for entry in order {
            let mut out = Vec::new();
            for part in parts {
                let Part::Text(mut text) = part else {
                    out.push(part);
                    continue;
                };
                while let Some((before, after)) = text.split_once(&*entry.text) {
                    out.extend([Part::Text(before), Part::Token(entry.id)]);
                    text = if entry.strips { after.trim_start_matches([' ', '\n']) } else { after };
                }
                out.push(Part::Text(text));
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
            recognise in any::<bool>(),
        ) {
            let entries = (0..).zip(&tokens).map(|(id, (text, [always, strips]))| {
                Entry { text: text.as_str().into(), id, always: *always, strips: *strips }
            });
            let specials = Specials::of(entries.collect());
            prop_assert_eq!(specials.cut(&text, recognise), one_by_one(&specials, &text, recognise));
        }
    }
}
