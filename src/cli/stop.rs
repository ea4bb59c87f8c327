//! Stop texts in a stream: what could be the beginning of one is held back.

use std::ops::Range;

/// Looks for stop texts in the texts of tokens. Those that are not shown count whole: a stop text
/// may be or contain one, and never ends within one.
pub(super) struct Stops {
    texts: Vec<String>,
    /// What may be the beginning of a stop text.
    held: String,
    /// The parts of it that are not shown.
    silent: Vec<Range<usize>>,
    /// Bytes before what is held.
    before: usize,
    /// For each token the number of bytes up to its end.
    ends: Vec<usize>,
}

/// What a token brings.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    /// Its text, as far as that is decided.
    pub(super) text: &'a str,
    /// False for a control token that adds nothing to the answer.
    pub(super) shown: bool,
    /// False where it ends within a character.
    pub(super) whole: bool,
}

impl Stops {
    /// Looks for these, none of which is empty.
    pub(super) fn new(texts: Vec<String>) -> Stops {
        Stops { texts, held: String::new(), silent: Vec::new(), before: 0, ends: Vec::new() }
    }

    /// Takes a token; gives what may be shown, and true when a stop text has come. That one and
    /// what is behind it are dropped.
    pub(super) fn push(&mut self, piece: Piece<'_>) -> (String, bool) {
        let start = self.held.len();
        self.held.push_str(piece.text);
        if !piece.shown {
            self.silent.push(start..self.held.len());
        }
        // A character that is begun has a byte at least.
        self.ends.push(self.before + self.held.len() + usize::from(!piece.whole));
        self.search()
    }

    /// Takes the rest of the text, behind all tokens, as [`Stops::push`] takes theirs.
    pub(super) fn rest(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        self.search()
    }

    /// What is left when nothing more comes.
    pub(super) fn finish(&mut self) -> String {
        self.release(self.held.len())
    }

    /// After a stop text has come: how many tokens have no part of it, and stand before it.
    pub(super) fn tokens_before(&self) -> usize {
        self.ends.partition_point(|end| *end <= self.before)
    }

    fn search(&mut self) -> (String, bool) {
        let found = self.places().find(|at| {
            let rest = &self.held[*at..];
            self.texts.iter().any(|text| rest.starts_with(text) && self.outside(at + text.len()))
        });
        if let Some(at) = found {
            let text = self.release(at);
            self.held.clear();
            self.silent.clear();
            return (text, true);
        }
        let begun = self.places().find(|at| {
            let rest = &self.held[*at..];
            self.texts.iter().any(|text| text.starts_with(rest))
        });
        (self.release(begun.unwrap_or(self.held.len())), false)
    }

    /// Where a stop text can begin.
    fn places(&self) -> impl Iterator<Item = usize> {
        self.held.char_indices().map(|(at, _)| at).filter(|at| self.outside(*at))
    }

    /// Whether a place is not within the text of a token that is not shown.
    fn outside(&self, at: usize) -> bool {
        !self.silent.iter().any(|range| range.start < at && at < range.end)
    }

    /// Gives what is held up to a place, without what is not shown.
    fn release(&mut self, to: usize) -> String {
        let rest = self.held.split_off(to);
        let mut text = std::mem::replace(&mut self.held, rest);
        self.before += to;
        let (gone, kept): (Vec<_>, Vec<_>) = self.silent.drain(..).partition(|range| range.end <= to);
        self.silent.extend(kept.into_iter().map(|range| range.start - to..range.end - to));
        for range in gone.into_iter().rev() {
            text.replace_range(range, "");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces as tokens; those in `<…>` are not shown. Gives what is shown after each, whether a
    /// stop text came, and the tokens before it.
    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<usize>) {
        let mut s = Stops::new(stops.iter().map(|t| (*t).to_owned()).collect());
        let mut out = Vec::new();
        for p in pieces {
            let (text, stop) = s.push(Piece { text: p, shown: !p.starts_with('<'), whole: true });
            out.push(text);
            if stop {
                return (out, Some(s.tokens_before()));
            }
        }
        out.push(s.finish());
        (out, None)
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|t| (*t).to_owned()).collect()
    }

    #[test]
    fn without_stop_texts_everything_passes_at_once() {
        assert_eq!(run(&[], &["a", "é", "<s>"]), (strings(&["a", "é", "", ""]), None));
    }

    #[test]
    fn a_stop_text_over_several_pieces_is_never_shown() {
        assert_eq!(run(&["END"], &["x", "y E", "N", "D y"]), (strings(&["x", "y ", "", ""]), Some(1)));
        // The beginning of one that comes to nothing is shown after all.
        assert_eq!(run(&["END"], &["x E", "N", "x"]), (strings(&["x ", "", "ENx", ""]), None));
        assert_eq!(run(&["END"], &["E", "N"]), (strings(&["", "", "EN"]), None));
        assert_eq!(run(&["aab"], &["aa", "ab"]), (strings(&["", "a"]), Some(0)));
        assert_eq!(run(&["ab"], &["a", "a", "b"]), (strings(&["", "a", ""]), Some(1)));
    }

    #[test]
    fn the_first_place_counts_not_the_first_text() {
        assert_eq!(run(&["b", "a"], &["xayb"]), (strings(&["x"]), Some(0)));
        assert_eq!(run(&["é"], &["caf", "é!"]), (strings(&["caf", ""]), Some(1)));
    }

    #[test]
    fn tokens_that_are_not_shown_are_found_whole() {
        assert_eq!(run(&["<s>"], &["a", "<s>", "b"]), (strings(&["a", ""]), Some(1)));
        assert_eq!(run(&["x<s>"], &["a", "x", "<s>"]), (strings(&["a", "", ""]), Some(1)));
        assert_eq!(run(&["\n<s>\n"], &["a\n", "<s>", "\n"]), (strings(&["a", "", ""]), Some(0)));
        assert_eq!(run(&["<s><p>y"], &["<s>", "<p>", "xy"]), (strings(&["", "", "xy", ""]), None));
        // Not by a part of their text, and nothing of them is left where nothing is found.
        assert_eq!(run(&["s", ">b", "a<"], &["a", "<s>", "b"]), (strings(&["", "a", "b", ""]), None));
        assert_eq!(run(&["a<s>c"], &["a", "<s>", "b"]), (strings(&["", "", "ab", ""]), None));
    }

    #[test]
    fn a_token_with_a_part_of_a_character_of_the_stop_text_has_a_part_of_it() {
        let mut s = Stops::new(vec!["é".to_owned()]);
        for (text, whole) in [("a", true), ("", false)] {
            assert_eq!(s.push(Piece { text, shown: true, whole }), (text.to_owned(), false));
        }
        assert_eq!(s.push(Piece { text: "é", shown: true, whole: true }), (String::new(), true));
        assert_eq!(s.tokens_before(), 1);
        let mut s = Stops::new(vec!["\u{fffd}".to_owned()]);
        s.push(Piece { text: "a", shown: true, whole: false });
        assert_eq!(s.rest("\u{fffd}"), (String::new(), true));
        assert_eq!(s.tokens_before(), 0);
    }
}
