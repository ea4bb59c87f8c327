//! From ids to text as it is generated: a character is shown once all of its bytes are there.

use super::Tokenizer;
use super::vocab::Kind;

/// Turns ids into text one at a time. A token may end in the middle of a character: its bytes
/// wait here for the rest.
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    pending: Vec<u8>,
    /// The space that encoding puts in front is taken off again, where a text begins and behind
    /// special tokens.
    strips: bool,
    /// The next token stands at such a place.
    first: bool,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, strips: bool) -> Decoder<'a> {
        Decoder { tokenizer, pending: Vec::new(), strips, first: true }
    }

    /// The text that this id completes; often it is a word, sometimes nothing yet.
    pub fn push(&mut self, id: u32) -> String {
        let mut text = String::new();
        self.append(id, &mut text);
        text
    }

    /// The same, behind another text.
    pub(super) fn append(&mut self, id: u32, text: &mut String) {
        let part = self.tokenizer.bytes(id);
        let strip = self.strips && self.first;
        self.pending.extend(if strip { part.strip_prefix(b" ").unwrap_or(part) } else { part });
        let kind = self.tokenizer.vocab.kind(id);
        self.first = matches!(kind, Some(Kind::Control | Kind::Unknown | Kind::UserDefined));
        let kept = take(&self.pending, text);
        self.pending.drain(..self.pending.len() - kept);
    }

    /// Whether bytes wait here for the rest of their character.
    pub fn waits(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What is left when nothing more comes: U+FFFD for a character that was begun.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

/// Appends all that is decided, with U+FFFD for bytes that cannot be text any more, and gives
/// the number of bytes at the end that may yet become a character: at most three.
fn take(bytes: &[u8], text: &mut String) -> usize {
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        let bad = chunk.invalid();
        if bad.is_empty() {
            continue;
        }
        let last = chunks.peek().is_none();
        if last && std::str::from_utf8(bad).is_err_and(|e| e.error_len().is_none()) {
            return bad.len();
        }
        text.push(char::REPLACEMENT_CHARACTER);
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_character_that_can_still_come_waits() {
        let mut text = String::new();
        assert_eq!(take(b"a\xff\xe2\x82", &mut text), 2);
        assert_eq!(text, "a\u{fffd}");
        assert_eq!(take(b"\xe2\x82\xac\xf0\x9f", &mut text), 2);
        assert_eq!(text, "a\u{fffd}\u{20ac}");
        // A second lead byte: the first character will never be complete.
        assert_eq!(take(b"\xe2\xe2", &mut text), 1);
        assert_eq!(take(b"\xc3\xa9\x80", &mut text), 0);
        assert_eq!(text, "a\u{fffd}\u{20ac}\u{fffd}é\u{fffd}");
    }
}
