//! Which parts of a rendering are a user's text, in which a special token is nothing special.
//!
//! A template may do anything with a message, so nothing can stand in its place while the template
//! runs. The conversation is rendered as it is, and that text counts. Where a message has the text
//! of a special token, it is rendered once more with marks around one character of it, and
//! where the marks come out is where that character went. The marks are believed if the rendering
//! without them is the first one, character by character: then the template has not looked at what
//! was marked.
//!
//! A message without such texts, which is nearly every one, is rendered once.

use std::collections::HashSet;
use std::ops::Range;

use super::turns::Turn;
use super::{ChatTemplate, Failure};
use crate::tokenizer::Tokenizer;
use crate::tokenizer::special::Part;
use crate::{Error, Result};

/// The role of the model's own messages.
const MODEL: &str = "assistant";
/// Special tokens in the model's messages that a template may look for.
const NAMED: usize = 16;

/// The ranges of a rendering in which special tokens are not recognised, in order; and which of those that
/// would be recognised in any text are not, there.
///
/// # Errors
/// [`Error::Request`] where a template has taken a special token's text apart, so that it cannot be
/// told whether a token is the template's own, or has made one of something else that was said.
pub(super) fn find(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    turns: &[Turn],
    text: &str,
    prompt: bool,
) -> Result<(Vec<Range<usize>>, Vec<u32>)> {
    let mut search = Search { template, tokenizer, turns, text, prompt, around: None, structure: vec![] };
    search.around = search.around_a_message()?;
    search.structure = search.tags();
    let ranges = search.ranges()?;
    match search.made(&ranges)? {
        Some(id) => Err(search.refused(id)),
        None => Ok((ranges, search.structure)),
    }
}

/// Characters of a message that are to be marked.
type Places = Vec<Range<usize>>;

struct Search<'a> {
    template: &'a ChatTemplate,
    tokenizer: &'a Tokenizer,
    turns: &'a [Turn],
    text: &'a str,
    prompt: bool,
    /// The special tokens that the template writes around a user's message; none if it cannot be told.
    around: Option<HashSet<u32>>,
    /// Those of them that would be recognised in any text.
    structure: Vec<u32>,
}

impl Search<'_> {
    /// See [`find`].
    fn ranges(&self) -> Result<Vec<Range<usize>>> {
        let whole = |turn: &Turn| self.tokens(turn, &|_| true);
        let with_seams = |turn: &Turn| [whole(turn), self.seams(turn)].concat();
        if self.turns.iter().all(|turn| with_seams(turn).is_empty()) {
            return Ok(vec![]);
        }
        // What a template does to the beginning or the end of a text is no reason to refuse it.
        if let Some(ranges) = self.rendered(&with_seams)? {
            return Ok(ranges);
        }
        if let Some(ranges) = self.rendered(&whole)? {
            return Ok(ranges);
        }
        // A template reads what the model has said before: where its thoughts end, say.
        let read = self.read_in_answers()?;
        let unread = |turn: &Turn| self.tokens(turn, &|id| turn.role != MODEL || !read.contains(&id));
        if let Some(ranges) = self.rendered(&unread)? {
            return Ok(ranges);
        }
        // Where none of the tokens is left, there is nothing to tell apart.
        let said: HashSet<u32> = self.turns.iter().flat_map(|turn| self.ids(turn)).collect();
        match self.written(self.text, &[], &[]).find(|id| said.contains(id)) {
            Some(id) => Err(self.refused(id)),
            None => Ok(vec![]),
        }
    }

    fn refused(&self, id: u32) -> Error {
        Error::Request(format!(
            "a message has the text of the special token {:?}, which the model's chat template changes: \
             --special takes it as the token, --raw does without the template",
            self.tokenizer.piece(id)
        ))
    }

    /// A special token that a template has made of what somebody other than the model says, by leaving
    /// letters out or changing their case: there are fewer of it if something else is said.
    fn made(&self, ranges: &[Range<usize>]) -> Result<Option<u32>> {
        let said = || self.turns.iter().filter(|turn| turn.role != MODEL).map(|turn| &*turn.content);
        let structure = &*self.structure;
        let written: Vec<u32> = self.written(self.text, ranges, structure).collect();
        let ids: HashSet<u32> = written.iter().copied().collect();
        let could = |id: &u32| {
            if self.tokenizer.specials.is_always(*id) && !structure.contains(id) {
                return false;
            }
            let piece = String::from_utf8_lossy(self.tokenizer.vocab.raw(*id));
            said().any(|text| is_within(&piece, text))
        };
        let suspects: Vec<u32> = ids.into_iter().filter(could).collect();
        if suspects.is_empty() {
            return Ok(None);
        }
        let other = |turn: &Turn| if turn.role == MODEL { turn.clone() } else { turn.disguised() };
        let others: Vec<Turn> = self.turns.iter().map(other).collect();
        let there: Vec<u32> = match self.template.write(&others, self.prompt) {
            Ok(text) => self.written(&text, &[], structure).collect(),
            Err(Failure { spent: true, error }) => return Err(error),
            Err(_) => vec![],
        };
        let count = |ids: &[u32], id: u32| ids.iter().filter(|other| **other == id).count();
        Ok(suspects.into_iter().find(|id| count(&written, *id) > count(&there, *id)))
    }

    /// Of the tokens around a message those that look like tags and would be recognised in any text:
    /// their kind says so, and the template says that they are more.
    fn tags(&self) -> Vec<u32> {
        let is_tag = |id: &u32| {
            let raw = self.tokenizer.vocab.raw(*id);
            matches!((raw.first(), raw.last()), (Some(b'<'), Some(b'>')) | (Some(b'['), Some(b']')))
        };
        let around = self.around.iter().flatten().copied();
        around.filter(|id| self.tokenizer.specials.is_always(*id) && is_tag(id)).collect()
    }

    /// A token that the model's answers show is a token again where it stands in one, unless turns are made
    /// of it. One that is recognised in any text is text where turns are made of it.
    fn counts(&self, turn: &Turn, id: u32, always: bool) -> bool {
        if always {
            return self.structure.contains(&id);
        }
        let is_structure = || self.around.as_ref().is_none_or(|ids| ids.contains(&id));
        turn.role != MODEL || self.tokenizer.bytes(id).is_empty() || is_structure()
    }

    /// See [`Search::around`]. Only asked for where it matters: a message of the model's has a special token, or
    /// another one that is recognised in any text.
    fn around_a_message(&self) -> Result<Option<HashSet<u32>>> {
        let has = |turn: &Turn| {
            let counts = |_, always| always || turn.role == MODEL;
            self.tokenizer.specials.begin(&turn.content, counts).next().is_some()
        };
        if !self.turns.iter().any(has) {
            return Ok(None);
        }
        let Some(turn) = self.turns.iter().find(|turn| turn.role != MODEL) else { return Ok(None) };
        match self.template.write(&[turn.of_user("-")], false) {
            Ok(text) => Ok(Some(self.written(&text, &[], &[]).collect())),
            Err(Failure { spent: true, error }) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// The special tokens in a text, where they are recognised.
    fn written(&self, text: &str, plain: &[Range<usize>], structure: &[u32]) -> impl Iterator<Item = u32> {
        let parts = self.tokenizer.specials.cut(text, plain, structure).into_iter();
        parts.filter_map(|part| if let Part::Token(id) = part { Some(id) } else { None })
    }

    /// The characters of each special token in a message, with those of tokens within it. Not the first nor
    /// the last, which a template may look at.
    fn tokens(&self, turn: &Turn, counts: &dyn Fn(u32) -> bool) -> Places {
        let found = self
            .tokenizer
            .specials
            .begin(&turn.content, |id, always| self.counts(turn, id, always) && counts(id));
        let inner = found.flat_map(|found| {
            let token = turn.content.get(found.start..found.end).unwrap_or_default();
            let count = token.chars().count();
            let inner =
                token.char_indices().skip(usize::from(count > 1)).take(count.saturating_sub(2).max(1));
            inner.map(move |(at, c)| found.start + at..found.start + at + c.len_utf8())
        });
        inner.collect()
    }

    /// The first and the last character of a message, where they may be a part of a token that
    /// begins before or ends behind it.
    fn seams(&self, turn: &Turn) -> Places {
        let content = turn.content.trim_end();
        let start = content.len() - content.trim_start().len();
        let content = content.trim_start();
        let (before, behind) = self.tokenizer.specials.reach_into(content);
        let first = content.chars().next().filter(|_| before).map(|c| start..start + c.len_utf8());
        let end = start + content.len();
        let last = content.chars().next_back().filter(|_| behind).map(|c| end - c.len_utf8()..end);
        first.into_iter().chain(last).collect()
    }

    /// The special tokens in a message.
    fn ids(&self, turn: &Turn) -> Vec<u32> {
        let found = self.tokenizer.specials.begin(&turn.content, |id, always| self.counts(turn, id, always));
        found.map(|found| found.id).collect()
    }

    /// The special tokens that a template looks for in the model's messages.
    fn read_in_answers(&self) -> Result<HashSet<u32>> {
        let answers = self.turns.iter().filter(|turn| turn.role == MODEL);
        let ids: HashSet<u32> = answers.flat_map(|turn| self.ids(turn)).collect();
        let mut read = HashSet::new();
        for id in ids.into_iter().take(NAMED) {
            let only = |turn: &Turn| {
                if turn.role == MODEL { self.tokens(turn, &|other| other == id) } else { vec![] }
            };
            if self.rendered(&only)?.is_none() {
                read.insert(id);
            }
        }
        Ok(read)
    }

    /// Renders with marks around the characters at these places: where they come out, or none if the
    /// template has taken notice of the marks.
    fn rendered(&self, places: &dyn Fn(&Turn) -> Places) -> Result<Option<Vec<Range<usize>>>> {
        let Some(marks) = self.free() else { return Ok(None) };
        let mut turns = self.turns.to_vec();
        for turn in &mut turns {
            turn.content = insert(&turn.content, places(turn), marks);
        }
        match self.template.write(&turns, self.prompt) {
            Ok(text) => {
                Ok(take_out(&text, marks).filter(|(text, _)| text == self.text).map(|(_, ranges)| ranges))
            }
            Err(Failure { spent: true, error }) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Two characters that nobody has used: of those that stand for nothing, or of those for private use.
    fn free(&self) -> Option<[char; 2]> {
        let texts = self.turns.iter().flat_map(|turn| [&*turn.role, &*turn.content]);
        let texts = texts.chain([self.text, &*self.template.source]);
        let used: HashSet<char> = texts.flat_map(str::chars).filter(|c| *c >= '\u{e000}').collect();
        let mut free =
            ('\u{fdd0}'..='\u{fdef}').chain('\u{f0000}'..='\u{ffffd}').filter(|c| !used.contains(c));
        Some([free.next()?, free.next()?])
    }
}

/// Whether a text has these characters in this order, whatever stands between them, in any case.
fn is_within(characters: &str, text: &str) -> bool {
    let mut text = text.chars().flat_map(char::to_lowercase);
    characters.chars().flat_map(char::to_lowercase).all(|c| text.any(|other| other == c))
}

fn insert(content: &str, mut places: Places, [open, close]: [char; 2]) -> String {
    places.sort_unstable_by_key(|place| place.start);
    places.dedup();
    let mut out = String::with_capacity(content.len() + 8 * places.len());
    let mut done = 0;
    for place in places {
        out.push_str(content.get(done..place.start).unwrap_or_default());
        out.push(open);
        out.push_str(content.get(place.clone()).unwrap_or_default());
        out.push(close);
        done = place.end;
    }
    out.push_str(content.get(done..).unwrap_or_default());
    out
}

/// A text without marks, and where the marked characters stand in it; none if marks have been torn
/// apart.
fn take_out(marked: &str, [open, close]: [char; 2]) -> Option<(String, Vec<Range<usize>>)> {
    let mut text = String::with_capacity(marked.len());
    let mut ranges = Vec::new();
    let mut chars = marked.chars();
    while let Some(c) = chars.next() {
        if c == close {
            return None;
        }
        if c != open {
            text.push(c);
            continue;
        }
        let start = text.len();
        text.push(chars.next().filter(|c| ![open, close].contains(c))?);
        ranges.push(start..text.len());
        if chars.next() != Some(close) {
            return None;
        }
    }
    Some((text, ranges))
}
