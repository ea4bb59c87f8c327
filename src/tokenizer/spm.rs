//! SentencePiece's scheme: of all neighbours that together are a token, those with the highest
//! score are merged first. What is no token in the end is written byte by byte.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::ids::Words;
use super::vocab::{Texts, Vocab, damaged, flag, per_token};
use crate::gguf::File;
use crate::{Error, Result};

const NONE: u32 = u32::MAX;

/// Scores and rules of a SentencePiece vocabulary.
pub(super) struct Spm {
    /// Tokens by their text as it stands in the file.
    words: Words,
    scores: Vec<f32>,
    /// The token of each byte.
    bytes: [u32; 256],
    unk: Option<u32>,
    longest: usize,
    /// A space is put before a text, and before what follows a special token.
    pub(super) space_prefix: bool,
    /// Spaces around a text are left out, and several are one.
    few_spaces: bool,
}

impl Spm {
    pub(super) fn read(file: &File, vocab: &Vocab, texts: &Texts<'_>) -> Result<Spm> {
        let key = "tokenizer.ggml.scores";
        let scores = per_token(file, key, vocab.len())?
            .ok_or_else(|| damaged(format_args!("{key} is missing")))?
            .floats()
            .ok_or_else(|| damaged(format_args!("{key} is no list of floats")))?;
        let find = |text: &[u8]| texts.find(text);
        let bytes = std::array::from_fn(|byte| {
            let named = find(format!("<0x{byte:02X}>").as_bytes());
            let plain = u8::try_from(byte).ok().and_then(|b| find(&[b]));
            named.or(plain).unwrap_or(NONE)
        });
        Ok(Spm {
            words: Words::new(&texts.list, |text, all| all.extend(text))?,
            scores,
            bytes,
            unk: vocab.roles.unk,
            longest: texts.list.iter().map(|text| text.len()).max().unwrap_or(0),
            space_prefix: flag(file, "tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
            few_spaces: flag(file, "tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false),
        })
    }

    /// Appends the ids of a text without special tokens. `first`: it begins the whole text, or
    /// follows a special token.
    pub(super) fn encode(&self, text: &str, first: bool, out: &mut Vec<u32>) -> Result<()> {
        let mut escaped = String::with_capacity(text.len() + 3);
        if self.space_prefix && first {
            escaped.push('\u{2581}');
        }
        let text = if self.few_spaces { text.trim_matches(' ') } else { text };
        let mut last = None;
        for c in text.chars() {
            if !(self.few_spaces && c == ' ' && last == Some(' ')) {
                escaped.push(if c == ' ' { '\u{2581}' } else { c });
            }
            last = Some(c);
        }
        let mut work = Work::of(&escaped)?;
        work.merge(self);
        for symbol in work.symbols.iter().filter(|s| s.len > 0) {
            let bytes = symbol.text(escaped.as_bytes());
            match self.words.find(bytes) {
                Some(id) => out.push(id),
                None => self.spell(bytes, out)?,
            }
        }
        Ok(())
    }

    /// Writes a character that is no token byte by byte.
    fn spell(&self, character: &[u8], out: &mut Vec<u32>) -> Result<()> {
        let bytes = character.iter().map(|b| self.bytes[usize::from(*b)]);
        if bytes.clone().all(|id| id != NONE) {
            out.extend(bytes);
            return Ok(());
        }
        let Some(unk) = self.unk else {
            let shown = String::from_utf8_lossy(character).into_owned();
            return Err(Error::Request(format!(
                "the text has the character {shown:?}, for which the model's vocabulary has no token"
            )));
        };
        out.push(unk);
        Ok(())
    }
}

/// A stretch of the text that is a character or a token.
struct Symbol {
    start: u32,
    /// 0 once it was merged into the one before it.
    len: u32,
    prev: u32,
    next: u32,
}

impl Symbol {
    fn text<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        let start = self.start as usize;
        text.get(start..start + self.len as usize).unwrap_or(&[])
    }
}

/// A merge that waits.
struct Merge {
    score: f32,
    left: u32,
    right: u32,
    /// Bytes of both when it was found.
    len: u32,
}

impl Ord for Merge {
    fn cmp(&self, other: &Merge) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left)).then(other.len.cmp(&self.len))
    }
}

impl PartialOrd for Merge {
    fn partial_cmp(&self, other: &Merge) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Merge {
    fn eq(&self, other: &Merge) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Merge {}

struct Work<'a> {
    text: &'a [u8],
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Merge>,
}

impl<'a> Work<'a> {
    fn of(text: &'a str) -> Result<Work<'a>> {
        let too_long = |_| Error::Request("the text is longer than 4 GiB".to_owned());
        u32::try_from(text.len()).map_err(too_long)?;
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len() / 2);
        for (at, (start, c)) in (0u32..).zip(text.char_indices()) {
            let start = u32::try_from(start).map_err(too_long)?;
            let len = u32::try_from(c.len_utf8()).map_err(too_long)?;
            symbols.push(Symbol { start, len, prev: at.wrapping_sub(1), next: at + 1 });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        Ok(Work { text: text.as_bytes(), symbols, heap: BinaryHeap::new() })
    }

    /// Notes that two neighbours can be merged, if they can.
    fn find(&mut self, left: u32, right: u32, spm: &Spm) {
        if left == NONE || right == NONE {
            return;
        }
        let (a, b) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        let len = a.len + b.len;
        if len as usize > spm.longest {
            return;
        }
        let both = Symbol { start: a.start, len, prev: NONE, next: NONE };
        if let Some(id) = spm.words.find(both.text(self.text)) {
            // Adding zero makes one zero of the two.
            let score = spm.scores.get(id as usize).copied().unwrap_or(0.0) + 0.0;
            self.heap.push(Merge { score, left, right, len });
        }
    }

    fn merge(&mut self, spm: &Spm) {
        for left in (0u32..).take(self.symbols.len().saturating_sub(1)) {
            self.find(left, left + 1, spm);
        }
        while let Some(Merge { left, right, len, .. }) = self.heap.pop() {
            let (a, b) = (&self.symbols[left as usize], &self.symbols[right as usize]);
            // One of them has been merged since.
            if a.len == 0 || b.len == 0 || a.len + b.len != len {
                continue;
            }
            let (before, after) = (a.prev, b.next);
            self.symbols[right as usize].len = 0;
            self.symbols[left as usize].len = len;
            self.symbols[left as usize].next = after;
            if after != NONE {
                self.symbols[after as usize].prev = left;
            }
            self.find(before, left, spm);
            self.find(left, after, spm);
        }
    }
}
