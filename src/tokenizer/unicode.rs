//! What kind of character a character is: general categories as bits, from the tables of
//! `regex-syntax`, laid out once so that a look-up is one load.

use std::sync::OnceLock;

use regex_syntax::hir::{Class, HirKind};

/// Cased upper: `\p{Lu}` and `\p{Lt}`.
pub(super) const UPPER: u8 = 1;
/// `\p{Ll}`.
pub(super) const LOWER: u8 = 2;
/// Letters without case: `\p{Lm}` and `\p{Lo}`.
pub(super) const OTHER: u8 = 4;
/// `\p{L}`.
pub(super) const LETTER: u8 = UPPER | LOWER | OTHER;
/// `\p{M}`.
pub(super) const MARK: u8 = 8;
/// `\p{N}`.
pub(super) const NUMBER: u8 = 16;
/// `\p{P}`.
pub(super) const PUNCT: u8 = 32;
/// `\p{S}`.
pub(super) const SYMBOL: u8 = 64;
/// `\s`.
pub(super) const SPACE: u8 = 128;

const CLASSES: [(&str, u8); 8] = [
    (r"[\p{Lu}\p{Lt}]", UPPER),
    (r"\p{Ll}", LOWER),
    (r"[\p{Lm}\p{Lo}]", OTHER),
    (r"\p{M}", MARK),
    (r"\p{N}", NUMBER),
    (r"\p{P}", PUNCT),
    (r"\p{S}", SYMBOL),
    (r"\s", SPACE),
];

/// The characters of a class.
fn ranges(pattern: &str) -> Vec<(char, char)> {
    let hir = regex_syntax::parse(pattern);
    let Ok(HirKind::Class(Class::Unicode(class))) = hir.as_ref().map(|h| h.kind()) else {
        unreachable!("{pattern} is a Unicode class");
    };
    class.ranges().iter().map(|range| (range.start(), range.end())).collect()
}

/// The class of every scalar value. Untouched planes of it stay unmapped zero pages.
fn table() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = vec![0u8; char::MAX as usize + 1];
        for (pattern, bit) in CLASSES {
            for (start, end) in ranges(pattern) {
                for entry in &mut table[start as usize..=end as usize] {
                    *entry |= bit;
                }
            }
        }
        table
    })
}

/// `\d`: decimal digits, of any script. Few rules ask, so it has no bit in the table.
pub(super) fn is_digit(c: char) -> bool {
    static DIGITS: OnceLock<Vec<(char, char)>> = OnceLock::new();
    if c.is_ascii() {
        return c.is_ascii_digit();
    }
    let digits = DIGITS.get_or_init(|| ranges(r"\d"));
    let after = digits.partition_point(|(start, _)| *start <= c);
    after.checked_sub(1).is_some_and(|i| c <= digits[i].1)
}

/// `\w`: what a word's border `\b` lies beside.
pub(super) fn is_word(c: char) -> bool {
    regex_syntax::try_is_word_character(c).unwrap_or(false)
}

/// The look-up itself, taken once per text.
#[derive(Clone, Copy)]
pub(super) struct Classes(&'static [u8]);

impl Classes {
    pub(super) fn get() -> Classes {
        Classes(table())
    }

    #[inline]
    pub(super) fn of(self, c: char) -> u8 {
        self.0[c as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_unicode() {
        let of = |c| Classes::get().of(c);
        assert_eq!(of('a'), LOWER);
        assert_eq!(of('É'), UPPER);
        assert_eq!(of('ǅ'), UPPER);
        assert_eq!(of('中'), OTHER);
        assert_eq!(of('\u{0301}'), MARK);
        assert_eq!(of('½'), NUMBER);
        assert_eq!(of('¿'), PUNCT);
        assert_eq!(of('€'), SYMBOL);
        assert_eq!(of('\u{3000}'), SPACE);
        assert_eq!(of('\u{200b}'), 0);
        assert_eq!(of(char::MAX), 0);
        assert!(
            ['0', '9', '٣', '９'].into_iter().all(is_digit)
                && !['a', '½', '²', 'Ⅷ', '\u{10ffff}'].into_iter().any(is_digit)
        );
        assert!(['a', '_', '1', '\u{301}'].into_iter().all(is_word) && !['-', ' '].into_iter().any(is_word));
    }
}
