//! GPT-2's way of writing bytes as printable characters, which is how byte-level vocabularies
//! stand in a file: `Ġthe` is ` the`.

use std::sync::OnceLock;

/// The character that stands for a byte: itself where it is printable, else one of those from
/// U+0100 on, in order.
pub(super) fn chars() -> &'static [char; 256] {
    static CHARS: OnceLock<[char; 256]> = OnceLock::new();
    CHARS.get_or_init(|| {
        let mut next = '\u{100}'..;
        std::array::from_fn(|byte| match u8::try_from(byte).map(char::from) {
            Ok(c @ ('!'..='~' | '¡'..='¬' | '®'..='ÿ')) => c,
            _ => next.next().unwrap_or(char::REPLACEMENT_CHARACTER),
        })
    })
}

/// The byte for which a character stands.
fn byte(c: char) -> Option<u8> {
    static BYTES: OnceLock<[Option<u8>; 0x144]> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let mut bytes = [None; 0x144];
        for (byte, c) in (0..=u8::MAX).zip(chars()) {
            bytes[*c as usize] = Some(byte);
        }
        bytes
    });
    bytes.get(c as usize).copied().flatten()
}

/// Appends the bytes that a token's text stands for. A text that is not written in this way,
/// such as an added token with a plain space in it, stands for itself, and gives false.
pub(super) fn decode(text: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let plain = std::str::from_utf8(text).ok().and_then(|text| {
        for c in text.chars() {
            out.push(byte(c)?);
        }
        Some(())
    });
    if plain.is_none() {
        out.truncate(start);
        out.extend(text);
    }
    plain.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        let text: String = chars().iter().collect();
        let mut out = Vec::new();
        assert!(decode(text.as_bytes(), &mut out));
        assert_eq!(out, (0..=u8::MAX).collect::<Vec<u8>>());
        assert_eq!(chars()[usize::from(b' ')], 'Ġ');
        assert_eq!(chars()[0xad], '\u{143}');
    }

    #[test]
    fn other_texts_stand_for_themselves() {
        let mut out = b"x".to_vec();
        assert!(!decode("a b".as_bytes(), &mut out));
        assert!(!decode(b"\xff", &mut out));
        assert_eq!(out, b"xa b\xff");
    }
}
