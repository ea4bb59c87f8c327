//! Codebooks: what the indices in a block stand for. The CPU decodes from the points themselves; a
//! shader gets a book's words, laid out so that an index is one load from workgroup memory.

use super::{Type, points};

/// A codebook of the format. Types may share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Book {
    /// The 16 levels of `IQ4_NL` and `IQ4_XS`.
    Iq4,
    /// 2,048 points of eight values from -1 to 1: `IQ1_S` and `IQ1_M`.
    Iq1,
    /// 256 points of eight of three magnitudes: `IQ2_XXS`.
    Iq2Xxs,
    /// 512 of them: `IQ2_XS`.
    Iq2Xs,
    /// 1,024 of them: `IQ2_S`.
    Iq2S,
    /// 256 points of four of eight magnitudes: `IQ3_XXS`.
    Iq3Xxs,
    /// 512 points of four odd numbers up to 15: `IQ3_S`.
    Iq3S,
}

/// The levels of IQ4_NL's and IQ4_XS's nibbles.
pub(super) const IQ4_LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// The magnitudes of the IQ2 types.
pub(super) const IQ2_LEVELS: [u8; 3] = [8, 25, 43];
/// The magnitudes of IQ3_XXS. Those of IQ3_S are `2 i + 1`.
pub(super) const IQ3_LEVELS: [u8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];

impl Book {
    /// The book's name in shaders.
    pub const fn name(self) -> &'static str {
        match self {
            Book::Iq4 => "iq4",
            Book::Iq1 => "iq1",
            Book::Iq2Xxs => "iq2_xxs",
            Book::Iq2Xs => "iq2_xs",
            Book::Iq2S => "iq2_s",
            Book::Iq3Xxs => "iq3_xxs",
            Book::Iq3S => "iq3_s",
        }
    }

    /// Points of eight values with two bits each.
    const fn eights(self) -> Option<&'static [u16]> {
        Some(match self {
            Book::Iq1 => &points::IQ1,
            Book::Iq2Xxs => &points::IQ2_XXS,
            Book::Iq2Xs => &points::IQ2_XS,
            Book::Iq2S => &points::IQ2_S,
            Book::Iq4 | Book::Iq3Xxs | Book::Iq3S => return None,
        })
    }

    /// Words of [`Book::words`]: a multiple of 4.
    pub const fn word_count(self) -> usize {
        match self {
            Book::Iq4 | Book::Iq3Xxs => 256,
            Book::Iq3S => 512,
            Book::Iq1 | Book::Iq2Xxs | Book::Iq2Xs | Book::Iq2S => match self.eights() {
                Some(points) => points.len(),
                None => 0,
            },
        }
    }

    /// The words that a shader looks up.
    ///
    /// - IQ4, by a byte: the level of its low nibble in byte 0, that of its high one in byte 2.
    /// - Points of eight: values 0–3 in the low nibbles of bytes 0–3, values 4–7 in the high ones.
    /// - Points of four: their magnitudes, a byte each.
    pub fn words(self) -> Vec<u32> {
        let four = |bytes: [u8; 4]| u32::from_le_bytes(bytes);
        if let Some(points) = self.eights() {
            let word = |p: &u16| four(std::array::from_fn(|i| value(*p, i) | value(*p, i + 4) << 4));
            return points.iter().map(word).collect();
        }
        match self {
            Book::Iq3Xxs => points::IQ3_XXS.iter().map(|p| four(iq3_xxs(*p))).collect(),
            Book::Iq3S => points::IQ3_S.iter().map(|p| four(iq3_s(*p))).collect(),
            _ => {
                let level = |nibble: usize| IQ4_LEVELS[nibble].cast_unsigned();
                (0..256).map(|b| four([level(b & 15), 0, level(b >> 4), 0])).collect()
            }
        }
    }
}

/// Value `i` of a point of eight.
pub(super) fn value(point: u16, i: usize) -> u8 {
    (point >> (2 * i) & 3) as u8
}

/// The magnitudes of a point of IQ3_XXS.
pub(super) fn iq3_xxs(point: u16) -> [u8; 4] {
    std::array::from_fn(|i| IQ3_LEVELS[usize::from(point >> (4 * i) & 7)])
}

/// The magnitudes of a point of IQ3_S.
pub(super) fn iq3_s(point: u16) -> [u8; 4] {
    std::array::from_fn(|i| 2 * (point >> (4 * i) & 7) as u8 + 1)
}

/// The books that types need, each once and in one order, with the word at which each begins
/// where they stand one after another; and the words of all.
pub fn books(types: impl IntoIterator<Item = Type>) -> (Vec<(Book, usize)>, usize) {
    let mut distinct: Vec<Book> = types.into_iter().filter_map(Type::book).collect();
    distinct.sort();
    distinct.dedup();
    let mut words = 0;
    let placed = distinct.into_iter().map(|book| {
        words += book.word_count();
        (book, words - book.word_count())
    });
    (placed.collect(), words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_books_length_is_that_of_its_words() {
        for ty in Type::ALL {
            if let Some(book) = ty.book() {
                assert_eq!(book.words().len(), book.word_count(), "{ty}");
                assert!(book.word_count().is_multiple_of(4), "{ty}");
            }
        }
    }

    #[test]
    fn books_stand_once_and_one_after_another() {
        let (placed, words) = books([Type::IQ2_S, Type::Q4_K, Type::IQ4_XS, Type::IQ4_NL]);
        assert_eq!(placed, [(Book::Iq4, 0), (Book::Iq2S, 256)]);
        assert_eq!(words, 1280);
    }
}
