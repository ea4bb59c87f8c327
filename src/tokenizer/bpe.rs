//! Byte-level BPE: in each word, the pair that was learnt first is merged first.
//!
//! A merge is kept as a pair of ids and its rank. A word's symbols are a linked list, and the
//! pairs that can be merged wait in a heap, so a word of n bytes takes n·log n steps: two
//! million letters without a space are one word.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use super::byte_level;
use super::ids::Words;
use super::pre::{Form, Pre};
use super::split;
use super::vocab::{Texts, damaged, strings};
use crate::gguf::{File, shown};
use crate::{Error, Result};

/// The end of a list, the lack of a token, and a symbol merged into its neighbour.
const NONE: u32 = u32::MAX;
/// Merges that one thread looks up at a time.
const PIECE: usize = 8192;
/// Threads that look up merges: it is a matter of milliseconds.
const THREADS: usize = 8;

/// Merges and rules of a byte-level vocabulary.
pub(super) struct Bpe {
    pre: &'static Pre,
    form: Form,
    /// The token of each byte.
    bytes: [u32; 256],
    /// By rank.
    merges: Vec<Merge>,
    /// Pair of ids → rank. Made for the first word: whoever only looks at a file needs none.
    ranks: OnceLock<HashMap<u64, u32>>,
    /// Whole words that are tokens, where the rules take them so.
    words: Option<Words>,
}

/// A pair of tokens and the one that it becomes.
#[derive(Clone, Copy)]
struct Merge {
    left: u32,
    right: u32,
    token: u32,
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Bpe {
    pub(super) fn read(file: &File, pre: &'static Pre, form: Form, texts: &Texts<'_>) -> Result<Bpe> {
        let mut utf8 = [0; 4];
        let bytes =
            byte_level::chars().map(|c| texts.find(c.encode_utf8(&mut utf8).as_bytes()).unwrap_or(NONE));

        let list: Vec<&[u8]> = strings(file, "tokenizer.ggml.merges")?.collect();
        if u32::try_from(list.len()).is_err() {
            return Err(damaged(format_args!("tokenizer.ggml.merges has {} entries", list.len())));
        }
        // Hundreds of thousands, each with three texts that may be anywhere.
        let unknown = Merge { left: NONE, right: NONE, token: NONE };
        let mut merges = vec![unknown; list.len()];
        let words = || {
            // What is not written byte by byte is no word.
            let append = |text: &[u8], all: &mut Vec<u8>| {
                let start = all.len();
                if !byte_level::decode(text, all) {
                    all.truncate(start);
                }
            };
            pre.whole_words.then(|| Words::new(&texts.list, append)).transpose()
        };
        let words = look_up(&list, &mut merges, texts, words);
        if let Some(rank) = merges.iter().position(|m| m.token == NONE) {
            let shown = shown(list[rank]);
            let why = if halves(list[rank]).is_none() { "is no pair" } else { "names unknown tokens" };
            return Err(damaged(format_args!("merge {rank}, \"{shown}\", {why}")));
        }

        Ok(Bpe { pre, form, bytes, merges, ranks: OnceLock::new(), words: words? })
    }

    /// Appends the ids of a text without special tokens.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        let text = self.form.of(text);
        // Composing may take more bytes than it saves.
        if u32::try_from(text.len()).is_err() {
            return Err(Error::Request("the text is longer than 4 GiB".to_owned()));
        }
        let mut work = Work::default();
        let mut result = Ok(());
        split::split(&text, self.pre.stages, &mut |word| {
            if result.is_ok() {
                result = self.word(word.as_bytes(), &mut work, out);
            }
        });
        result
    }

    fn word(&self, word: &[u8], work: &mut Work, out: &mut Vec<u32>) -> Result<()> {
        if let Some(id) = self.words.as_ref().and_then(|words| words.find(word)) {
            out.push(id);
            return Ok(());
        }
        work.clear();
        for byte in word {
            let id = self.bytes[usize::from(*byte)];
            if id == NONE {
                return Err(Error::Request(format!(
                    "the text has the byte 0x{byte:02x}, for which the model's vocabulary has no token"
                )));
            }
            work.push(id);
        }
        let ranks = self.ranks.get_or_init(|| ranks(&self.merges));
        work.merge(|left, right| {
            let rank = *ranks.get(&pair(left, right))?;
            Some((rank, self.merges.get(rank as usize)?.token))
        });
        out.extend(work.ids.iter().filter(|id| **id != NONE));
        Ok(())
    }
}

/// The two texts of a merge. A token never begins with a plain space, so a space in first place is
/// a letter.
fn halves(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = text.iter().skip(1).position(|b| *b == b' ')?;
    Some((text.get(..space + 1)?, text.get(space + 2..)?))
}

/// Finds the tokens of all merges, while something else is done. Threads share the work; where the system
/// has none to give, this one does it all.
fn look_up<T>(list: &[&[u8]], merges: &mut [Merge], texts: &Texts<'_>, meanwhile: impl FnOnce() -> T) -> T {
    let pieces = Mutex::new(list.chunks(PIECE).zip(merges.chunks_mut(PIECE)));
    let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some((list, merges)) = next() {
            find_all(list, merges, texts);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let helpers = threads.min(list.len().div_ceil(PIECE)).saturating_sub(1);
    thread::scope(|scope| {
        for _ in 0..helpers {
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        let result = meanwhile();
        work();
        result
    })
}

/// Finds the tokens of merges; those of which one is unknown are left as they are.
fn find_all(list: &[&[u8]], merges: &mut [Merge], texts: &Texts<'_>) {
    let mut whole = Vec::new();
    let mut last = NONE;
    for (text, merge) in list.iter().zip(merges) {
        let Some((left, right)) = halves(text) else { continue };
        // Vocabularies are learnt merge by merge: a merge's token mostly follows the one before.
        let is_next = |id: &u32| {
            let next = texts.list.get(*id as usize).and_then(|text| text.strip_prefix(left));
            texts.ids.unique && next == Some(right)
        };
        let guess = [last, last.wrapping_add(1)].into_iter().find(is_next);
        let token = guess.or_else(|| {
            whole.clear();
            whole.extend(left);
            whole.extend(right);
            texts.find(&whole)
        });
        if let (Some(left), Some(right), Some(token)) = (texts.find(left), texts.find(right), token) {
            *merge = Merge { left, right, token };
            last = token;
        }
    }
}

fn ranks(merges: &[Merge]) -> HashMap<u64, u32> {
    let mut ranks = HashMap::with_capacity(merges.len());
    for (rank, merge) in (0u32..).zip(merges) {
        ranks.entry(pair(merge.left, merge.right)).or_insert(rank);
    }
    ranks
}

/// A word's symbols as a linked list, and the merges that wait. Kept from word to word.
#[derive(Default)]
struct Work {
    /// The token of a symbol, or none once it was merged into the one before it.
    ids: Vec<u32>,
    prev: Vec<u32>,
    next: Vec<u32>,
    /// Rank and place of a pair, and its two ids when it was found.
    heap: BinaryHeap<Reverse<(u32, u32, u32, u32)>>,
}

impl Work {
    fn clear(&mut self) {
        self.ids.clear();
        self.prev.clear();
        self.next.clear();
        self.heap.clear();
    }

    #[allow(clippy::cast_possible_truncation, reason = "the caller refuses texts of 4 GiB")]
    fn push(&mut self, id: u32) {
        let at = self.ids.len() as u32;
        self.ids.push(id);
        self.prev.push(at.wrapping_sub(1));
        self.next.push(at + 1);
    }

    fn find(&mut self, left: u32, right: u32, rank: impl Fn(u32, u32) -> Option<(u32, u32)>) {
        if left == NONE || right == NONE {
            return;
        }
        let (a, b) = (self.ids[left as usize], self.ids[right as usize]);
        if let Some((rank, _)) = rank(a, b) {
            self.heap.push(Reverse((rank, left, a, b)));
        }
    }

    /// Merges the lowest rank first, and of equal ranks the leftmost.
    fn merge(&mut self, rank: impl Fn(u32, u32) -> Option<(u32, u32)>) {
        let Some(last) = self.next.last_mut() else { return };
        *last = NONE;
        for left in 0..self.ids.len().saturating_sub(1) as u32 {
            self.find(left, left + 1, &rank);
        }
        while let Some(Reverse((_, left, a, b))) = self.heap.pop() {
            let right = self.next[left as usize];
            if self.ids[left as usize] != a || right == NONE || self.ids[right as usize] != b {
                continue;
            }
            let Some((_, id)) = rank(a, b) else { continue };
            let after = self.next[right as usize];
            self.ids[left as usize] = id;
            self.ids[right as usize] = NONE;
            self.next[left as usize] = after;
            if after != NONE {
                self.prev[after as usize] = left;
            }
            self.find(self.prev[left as usize], left, &rank);
            self.find(left, after, &rank);
        }
    }
}
