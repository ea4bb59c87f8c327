//! A vocabulary of any size, for models of random weights: every byte, so that all text can be
//! written, a few merges, and words that nobody has ever used, so that what such a model says can
//! be read.

use std::collections::HashSet;

use super::byte_level;
use crate::gguf::writer::Writer;
use crate::{Error, Result};

const CONTROL: [&str; 2] = ["<|begin_of_text|>", "<|end_of_text|>"];

/// Pairs in the order in which they are merged; GPT-2 writes a space as `Ġ`.
const MERGES: [&str; 40] = [
    "Ġ t", "h e", "Ġ a", "i n", "r e", "o n", "Ġt he", "e r", "Ġ s", "a t", "Ġ w", "Ġ o", "e n", "Ġ c",
    "i t", "i s", "a n", "o r", "e s", "Ġ b", "e d", "Ġ f", "in g", "Ġ p", "o u", "Ġ an", "a l", "a r",
    "Ġt o", "Ġ m", "Ġo f", "Ġ in", "Ġ d", "Ġ h", "Ġan d", "l e", "Ġt h", "a s", "Ġw as", "e ar",
];

/// Writes the keys of a byte-level vocabulary of so many tokens.
///
/// # Errors
/// [`Error::Unsupported`] for fewer tokens than the bytes and what stands beside them.
pub fn made_up(tokens: usize, to: &mut Writer) -> Result<()> {
    let merged = MERGES.iter().map(|pair| pair.replace(' ', ""));
    let bytes = byte_level::chars().iter().map(char::to_string);
    let mut list: Vec<String> = CONTROL.iter().map(|c| (*c).to_owned()).chain(bytes).chain(merged).collect();
    let Some(more) = tokens.checked_sub(list.len()) else {
        let least = list.len();
        return Err(Error::Unsupported(format!(
            "a vocabulary of {tokens} tokens: at least {least} are needed"
        )));
    };
    let taken: HashSet<String> = list.iter().cloned().collect();
    list.extend(words().filter(|word| !taken.contains(word)).take(more));
    let kinds: Vec<i32> = (0..list.len()).map(|id| if id < CONTROL.len() { 3 } else { 1 }).collect();
    to.str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "gpt-2")
        .strings("tokenizer.ggml.tokens", &list)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .strings("tokenizer.ggml.merges", &MERGES)
        .u32("tokenizer.ggml.bos_token_id", 0)
        .u32("tokenizer.ggml.eos_token_id", 1)
        .bool("tokenizer.ggml.add_bos_token", true);
    Ok(())
}

/// Words of two syllables and more, each with a space in front; no two are alike, since every
/// syllable is a consonant and a vowel.
fn words() -> impl Iterator<Item = String> {
    const CONSONANTS: &[u8] = b"tlmkrsndbpgfvwzhjcy";
    const VOWELS: &[u8] = b"aeiou";
    let syllables = CONSONANTS.len() * VOWELS.len();
    // Numbers without a digit 0: what has one syllable comes first and is left out.
    (syllables + 1..).map(move |mut n| {
        let mut word = String::from("Ġ");
        while n > 0 {
            let syllable = (n - 1) % syllables;
            word.push(char::from(CONSONANTS[syllable % CONSONANTS.len()]));
            word.push(char::from(VOWELS[syllable / CONSONANTS.len()]));
            n = (n - 1) / syllables;
        }
        word
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::File;
    use crate::tokenizer::{Special, Tokenizer};

    fn tokenizer(tokens: usize) -> Tokenizer {
        let mut writer = Writer::new();
        made_up(tokens, &mut writer).unwrap();
        Tokenizer::from_file(&File::parse(writer.finish()).unwrap()).unwrap()
    }

    #[test]
    fn all_text_can_be_written_and_all_tokens_read() {
        let tokenizer = tokenizer(20_000);
        assert_eq!(tokenizer.len(), 20_000);
        let text = "The rest is in the ear, and Ärger → 'x'\n\0";
        let ids = tokenizer.encode_with_bos(text, Special::AsText).unwrap();
        assert_eq!((ids[0], tokenizer.decode(&ids).as_str()), (0, text));
        assert!(ids.len() < text.len() && tokenizer.notes().is_empty());
        assert_eq!(tokenizer.end_ids(), [1]);
        let pieces: HashSet<String> = (298..20_000).map(|id| tokenizer.piece(id)).collect();
        assert_eq!(pieces.len(), 20_000 - 298);
        assert!(pieces.iter().all(|p| p.starts_with(' ') && p.len() >= 5 && p.is_ascii()));
    }

    #[test]
    fn a_vocabulary_has_room_for_the_bytes() {
        assert_eq!(tokenizer(298).len(), 298);
        assert_eq!(made_up(297, &mut Writer::new()).err().map(|e| e.exit_code()), Some(4));
    }
}
