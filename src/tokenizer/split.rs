//! Cutting text into words before byte-level BPE, by hand-written rules.
//!
//! The rules are usually published as regular expressions with look-ahead, which need a
//! backtracking engine: on a run of a million spaces such an engine gives up. Each rule here
//! finds what its expression would find, in time linear in the text.

use super::unicode::{
    Classes, LETTER, LOWER, MARK, NUMBER, OTHER, PUNCT, SPACE, SYMBOL, UPPER, is_digit, is_word,
};

/// A set of characters: any of the classes, or in one of the ranges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Set {
    pub(super) classes: u8,
    pub(super) ranges: &'static [(char, char)],
}

impl Set {
    #[inline]
    fn has(&self, c: char, class: u8) -> bool {
        class & self.classes != 0 || self.ranges.iter().any(|(a, b)| (*a..=*b).contains(&c))
    }
}

/// What may stand once in front of a run and belongs to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Lead {
    /// Nothing.
    None,
    /// A space, as in ` ?`.
    Space,
    /// Any white space, as in `\s?`.
    White,
}

/// One pass over the pieces left by the pass before it. What it finds become pieces of their
/// own, and so does what lies between them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stage {
    /// Runs of a set, of at most so many characters.
    Run(Lead, Set, usize),
    /// Runs of what is neither white space nor in the set.
    RunOutside(Lead, Set),
    /// Three ASCII digits.
    ThreeDigits,
    /// Cuts in front of the last three of a run of digits, the three before them, and so on.
    ThreesFromTheRight,
    /// Digits in threes from the end of their run, if no letter and no underscore follows it.
    GroupedDigits,
    /// White space at the end of the piece.
    SpacesAtEnd,
    /// GPT-2's words.
    Gpt2,
    /// The words of cl100k and its many relatives.
    Cl100k(Cl100k),
    /// The words of o200k: runs of letters are cut where lower case turns to upper.
    O200k {
        /// The longest run of digits.
        digits: usize,
        /// `'s` and its like end a word.
        contractions: bool,
    },
    /// DeepSeek V3's words; numbers were cut off before.
    DeepSeek3,
    /// Lines, and the runs of line feeds between them.
    Lines,
}

/// How the relatives of cl100k differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cl100k {
    /// The longest run of digits.
    pub(super) digits: usize,
    /// Marks count as letters.
    pub(super) marks: bool,
    /// Line breaks after punctuation belong to it.
    pub(super) breaks_follow: bool,
    /// `'s` and its like are words.
    pub(super) contractions: bool,
}

/// A piece of text and the class of its characters.
#[derive(Clone, Copy)]
struct Text<'a> {
    text: &'a str,
    classes: Classes,
}

impl<'a> Text<'a> {
    /// The character at a byte offset, its class and where it ends; at the end nothing.
    #[inline]
    fn at(&self, at: usize) -> Option<(char, u8, usize)> {
        let bytes = self.text.as_bytes();
        let first = *bytes.get(at)?;
        if first < 0x80 {
            let c = char::from(first);
            return Some((c, self.classes.of(c), at + 1));
        }
        let c = self.text.get(at..)?.chars().next()?;
        Some((c, self.classes.of(c), at + c.len_utf8()))
    }

    /// The end of the run of characters that satisfy a test.
    #[inline]
    fn run(&self, mut at: usize, test: impl Fn(char, u8) -> bool) -> usize {
        while let Some((c, class, end)) = self.at(at)
            && test(c, class)
        {
            at = end;
        }
        at
    }

    /// The same, of at most so many characters.
    fn run_at_most(&self, mut at: usize, most: usize, test: impl Fn(char, u8) -> bool) -> usize {
        for _ in 0..most {
            match self.at(at) {
                Some((c, class, end)) if test(c, class) => at = end,
                _ => break,
            }
        }
        at
    }

    /// `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll`, `'d`.
    fn contraction(&self, at: usize, any_case: bool) -> Option<usize> {
        let rest = self.text.as_bytes().get(at..)?.strip_prefix(b"'")?;
        let fold = |b: u8| if any_case { b.to_ascii_lowercase() } else { b };
        match rest.first().map(|b| fold(*b))? {
            b's' | b't' | b'm' | b'd' => Some(at + 2),
            first => match (first, fold(*rest.get(1)?)) {
                (b'r' | b'v', b'e') | (b'l', b'l') => Some(at + 3),
                _ => None,
            },
        }
    }

    /// `X?Y+`, where X is one character that satisfies a test.
    fn led_run(
        &self,
        at: usize,
        lead: impl Fn(char, u8) -> bool,
        test: impl Fn(char, u8) -> bool,
    ) -> Option<usize> {
        let (c, class, next) = self.at(at)?;
        if lead(c, class) {
            let end = self.run(next, &test);
            if end > next {
                return Some(end);
            }
        }
        test(c, class).then(|| self.run(next, &test))
    }

    /// `\s+(?!\S)|\s+`: a run of white space leaves its last character to the word behind it.
    fn spaces(&self, at: usize) -> Option<usize> {
        let (_, class, first) = self.at(at)?;
        if class & SPACE == 0 {
            return None;
        }
        let mut last = at;
        let mut end = first;
        while let Some((_, class, next)) = self.at(end)
            && class & SPACE != 0
        {
            last = end;
            end = next;
        }
        Some(if end == self.text.len() || last == at { end } else { last })
    }

    /// `\s*[\r\n]+`: white space up to the last line break in it.
    fn breaks(&self, at: usize) -> Option<usize> {
        let end = self.run(at, |_, class| class & SPACE != 0);
        let last = self.text.as_bytes().get(at..end)?.iter().rposition(|b| is_break(char::from(*b)))?;
        Some(at + last + 1)
    }

    fn gpt2(&self, at: usize) -> Option<usize> {
        let space = |c, _| c == ' ';
        self.contraction(at, false)
            .or_else(|| self.led_run(at, space, |_, class| class & LETTER != 0))
            .or_else(|| self.led_run(at, space, |_, class| class & NUMBER != 0))
            .or_else(|| self.led_run(at, space, |_, class| class & (SPACE | LETTER | NUMBER) == 0))
            .or_else(|| self.spaces(at))
    }

    fn cl100k(&self, at: usize, rules: Cl100k) -> Option<usize> {
        let letters = if rules.marks { LETTER | MARK } else { LETTER };
        let contraction = rules.contractions.then(|| self.contraction(at, true)).flatten();
        if let Some(end) = contraction.or_else(|| self.word(at, letters)) {
            return Some(end);
        }
        let number = self.run_at_most(at, rules.digits, |_, class| class & NUMBER != 0);
        if number > at {
            return Some(number);
        }
        let others = SPACE | NUMBER | letters;
        if let Some(end) = self.led_run(at, |c, _| c == ' ', |_, class| class & others == 0) {
            return Some(if rules.breaks_follow { self.run(end, |c, _| is_break(c)) } else { end });
        }
        self.breaks(at).or_else(|| self.spaces(at))
    }

    /// `[^\r\n\p{L}\p{N}]?X+`, where X are letters.
    fn word(&self, at: usize, letters: u8) -> Option<usize> {
        let lead = |c, class: u8| class & (LETTER | NUMBER) == 0 && !is_break(c);
        self.led_run(at, lead, |_, class| class & letters != 0)
    }

    fn o200k(&self, at: usize, digits: usize, contractions: bool) -> Option<usize> {
        if let Some(end) = self.cased_word(at) {
            return Some(if contractions { self.contraction(end, true).unwrap_or(end) } else { end });
        }
        let number = self.run_at_most(at, digits, |_, class| class & NUMBER != 0);
        if number > at {
            return Some(number);
        }
        let others = SPACE | LETTER | NUMBER;
        if let Some(end) = self.led_run(at, |c, _| c == ' ', |_, class| class & others == 0) {
            return Some(self.run(end, |c, _| is_break(c) || c == '/'));
        }
        self.breaks(at).or_else(|| self.spaces(at))
    }

    /// `P?U*L+|P?U+L*`, P one character that is no letter, number or line break, U upper case
    /// and L lower case, both of them with the letters that have no case and with marks.
    fn cased_word(&self, at: usize) -> Option<usize> {
        let (c, class, next) = self.at(at)?;
        let led = class & (LETTER | NUMBER) == 0 && !is_break(c);
        let starts = [led.then_some(next), Some(at)];
        let lowered = |start| {
            let upper = self.run(start, |_, class| class & (UPPER | OTHER | MARK) != 0);
            let end = self.run(upper, |_, class| class & (LOWER | OTHER | MARK) != 0);
            if end > upper {
                return Some(end);
            }
            // U+ took all; the last of it that is also L may be what L+ matches instead.
            self.text.get(start..upper)?.char_indices().rev().find_map(|(i, c)| {
                (self.classes.of(c) & (OTHER | MARK) != 0).then(|| start + i + c.len_utf8())
            })
        };
        let raised = |start| {
            let upper = self.run(start, |_, class| class & (UPPER | OTHER | MARK) != 0);
            (upper > start).then(|| self.run(upper, |_, class| class & (LOWER | OTHER | MARK) != 0))
        };
        starts
            .iter()
            .flatten()
            .find_map(|s| lowered(*s))
            .or_else(|| starts.iter().flatten().find_map(|s| raised(*s)))
    }

    /// `(?=(\d{3})+(?!\d))`, which only says where to cut, or `\d{1,3}(?=(?:\d{3})*\b)`, which finds
    /// whole groups. Both look to the end of a run of digits, so a run is taken at once.
    fn cut_digits(&self, groups: bool, each: &mut dyn FnMut(&'a str)) {
        let (mut at, mut begun) = (0, 0);
        let mut cut = |to: usize| {
            emit(self.text, begun, to, each);
            begun = to;
        };
        while let Some((c, _, next)) = self.at(at) {
            if !is_digit(c) {
                at = next;
                continue;
            }
            let end = self.run(at, |c, _| is_digit(c));
            let joined = groups && self.at(end).is_some_and(|(c, ..)| is_word(c));
            if groups && !joined {
                cut(at);
            }
            let mut left = self.text.get(at..end).map_or(0, |run| run.chars().count());
            while let Some((_, _, next)) = self.at(at).filter(|_| at < end) {
                if !joined && left % 3 == 0 {
                    cut(at);
                }
                left -= 1;
                at = next;
            }
            if groups && !joined {
                cut(end);
            }
        }
        cut(self.text.len());
    }

    fn deepseek3(&self, at: usize) -> Option<usize> {
        let (c, _, next) = self.at(at)?;
        if c.is_ascii_punctuation() {
            let end = self.run(next, |c, _| c.is_ascii_alphabetic());
            if end > next {
                return Some(end);
            }
        }
        let lead = |c, class: u8| class & (LETTER | PUNCT | SYMBOL) == 0 && !is_break(c);
        self.led_run(at, lead, |_, class| class & (LETTER | MARK) != 0)
            .or_else(|| {
                let end = self.led_run(at, |c, _| c == ' ', |_, class| class & (PUNCT | SYMBOL) != 0)?;
                Some(self.run(end, |c, _| is_break(c)))
            })
            .or_else(|| self.breaks(at))
            .or_else(|| self.spaces(at))
    }
}

fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

impl Stage {
    /// The end of what this stage finds at exactly this place, if it does.
    fn match_at(&self, text: &Text<'_>, at: usize) -> Option<usize> {
        let lead = |lead: Lead| {
            move |c: char, class: u8| match lead {
                Lead::None => false,
                Lead::Space => c == ' ',
                Lead::White => class & SPACE != 0,
            }
        };
        match *self {
            Stage::Run(Lead::None, set, most) => {
                let end = text.run_at_most(at, most, |c, class| set.has(c, class));
                (end > at).then_some(end)
            }
            Stage::Run(before, set, _) => text.led_run(at, lead(before), |c, class| set.has(c, class)),
            Stage::RunOutside(before, set) => {
                text.led_run(at, lead(before), |c, class| class & SPACE == 0 && !set.has(c, class))
            }
            Stage::ThreeDigits => {
                let digits = text.text.as_bytes().get(at..at + 3)?;
                digits.iter().all(u8::is_ascii_digit).then_some(at + 3)
            }
            Stage::SpacesAtEnd | Stage::ThreesFromTheRight | Stage::GroupedDigits => None,
            Stage::Gpt2 => text.gpt2(at),
            Stage::Cl100k(rules) => text.cl100k(at, rules),
            Stage::O200k { digits, contractions } => text.o200k(at, digits, contractions),
            Stage::DeepSeek3 => text.deepseek3(at),
            Stage::Lines => {
                let (first, _, next) = text.at(at)?;
                Some(text.run(next, |c, _| (c == '\n') == (first == '\n')))
            }
        }
    }

    /// Cuts a piece and hands each part on, in order.
    fn cut<'a>(&self, piece: &'a str, classes: Classes, each: &mut dyn FnMut(&'a str)) {
        if matches!(self, Stage::SpacesAtEnd) {
            let (body, _) = piece.split_at(piece.trim_end().len());
            emit(piece, 0, body.len(), each);
            emit(piece, body.len(), piece.len(), each);
            return;
        }
        let text = Text { text: piece, classes };
        if matches!(self, Stage::ThreesFromTheRight | Stage::GroupedDigits) {
            text.cut_digits(matches!(self, Stage::GroupedDigits), each);
            return;
        }
        let (mut at, mut begun) = (0, 0);
        while let Some((_, _, next)) = text.at(at) {
            match self.match_at(&text, at) {
                Some(end) => {
                    emit(piece, begun, at, each);
                    emit(piece, at, end, each);
                    (at, begun) = (end, end);
                }
                None => at = next,
            }
        }
        emit(piece, begun, piece.len(), each);
    }
}

fn emit<'a>(piece: &'a str, from: usize, to: usize, each: &mut dyn FnMut(&'a str)) {
    if let Some(part) = piece.get(from..to)
        && !part.is_empty()
    {
        each(part);
    }
}

/// Cuts text into words by the stages in turn.
pub(super) fn split<'a>(text: &'a str, stages: &[Stage], each: &mut dyn FnMut(&'a str)) {
    fn go<'a>(text: &'a str, stages: &[Stage], classes: Classes, each: &mut dyn FnMut(&'a str)) {
        match stages {
            [] => each(text),
            [stage, rest @ ..] => {
                stage.cut(text, classes, &mut |piece| go(piece, rest, classes, each));
            }
        }
    }
    if !text.is_empty() {
        go(text, stages, Classes::get(), each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<'a>(text: &'a str, stages: &[Stage]) -> Vec<&'a str> {
        let mut out = Vec::new();
        split(text, stages, &mut |w| out.push(w));
        assert_eq!(out.concat(), text);
        out
    }

    const CL100K: Cl100k = Cl100k { digits: 3, marks: false, breaks_follow: true, contractions: true };
    const O200K: Stage = Stage::O200k { digits: 3, contractions: true };

    #[test]
    fn gpt2_words() {
        assert_eq!(
            words("I'll go  to\n\n B'LL 12ab!?", &[Stage::Gpt2]),
            ["I", "'ll", " go", " ", " to", "\n\n", " B", "'", "LL", " 12", "ab", "!?"]
        );
        assert_eq!(words("  ", &[Stage::Gpt2]), ["  "]);
        assert_eq!(words("a\nb", &[Stage::Gpt2]), ["a", "\n", "b"]);
    }

    #[test]
    fn cl100k_words() {
        assert_eq!(
            words("I'LL go\n\n  12345 (x)!\n\ny  ", &[Stage::Cl100k(CL100K)]),
            ["I", "'LL", " go", "\n\n", " ", " ", "123", "45", " (", "x", ")!\n\n", "y", "  "]
        );
        assert_eq!(words("\t\tx \n y", &[Stage::Cl100k(CL100K)]), ["\t", "\tx", " \n", " y"]);
    }

    #[test]
    fn marks_join_letters_only_where_the_rules_say_so() {
        let thai = "ที่";
        let marks = Cl100k { marks: true, digits: 1, ..CL100K };
        assert_eq!(words(thai, &[Stage::Cl100k(marks)]), [thai]);
        assert_eq!(words(thai, &[Stage::Cl100k(CL100K)]).len(), 2);
    }

    #[test]
    fn o200k_words() {
        assert_eq!(
            words("HelloWorld don't ABCdef XY //\n2024", &[O200K]),
            ["Hello", "World", " don't", " ABCdef", " XY", " //\n", "202", "4"]
        );
        // Without case a letter is both: the lower-case run may end in the middle.
        assert_eq!(words("中A", &[O200K]), ["中", "A"]);
        assert_eq!(words("ÉCOLEé", &[O200K]), ["ÉCOLEé"]);
    }

    #[test]
    fn digits_are_grouped_from_the_right() {
        let threes = [Stage::ThreesFromTheRight];
        assert_eq!(words("1234567", &threes), ["1", "234", "567"]);
        assert_eq!(words("ab 123456 c", &threes), ["ab ", "123", "456 c"]);
        assert_eq!(words("x12 ١٢٣٤", &threes), ["x12 ١", "٢٣٤"]);
        let groups = [Stage::GroupedDigits];
        assert_eq!(words("a1234567 b", &groups), ["a", "1", "234", "567", " b"]);
        assert_eq!(words("12345x 1234_ 12", &groups), ["12345x 1234_ ", "12"]);
    }

    #[test]
    fn stages_cut_what_the_ones_before_left() {
        let each = Set { classes: NUMBER, ranges: &[] };
        assert_eq!(
            words("ab12 3", &[Stage::Run(Lead::None, each, 1), Stage::Gpt2]),
            ["ab", "1", "2", " ", "3"]
        );
        assert_eq!(words("12345", &[Stage::ThreeDigits]), ["123", "45"]);
        assert_eq!(words("a  ", &[Stage::SpacesAtEnd]), ["a", "  "]);
        assert_eq!(words(" a-b! c", &[Stage::DeepSeek3]), [" a", "-b", "!", " c"]);
    }
}
