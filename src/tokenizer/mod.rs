//! Text ↔ ids, and conversations → text, all from what the file itself says.
//!
//! A text goes through three steps: `special` cuts it at special tokens, `split` cuts the rest
//! into words by the rules that `tokenizer.ggml.pre` names (`pre`), and `bpe` merges the bytes
//! of each word. SentencePiece vocabularies (`spm`) know no words. Back from ids to text is a
//! table of bytes (`vocab`) and, while text is generated, a [`Decoder`] that never shows half a
//! character. Conversations become text by the file's own template (`chat`).
//!
//! The `tokenizers` crate is not used. Its pre-tokenizers run a backtracking engine whose
//! errors they swallow (a million spaces give wrong ids), so the words would have to be ours
//! anyway; it ranks pairs where SentencePiece scores results, so that would be ours as well;
//! what is left, merging a word, takes every merge as two owned strings, and is a hundred lines.

mod bpe;
mod byte_level;
mod chat;
mod ids;
mod made_up;
mod pre;
mod roles;
#[cfg(test)]
mod rules;
mod special;
mod split;
mod spm;
mod stream;
mod unicode;
mod vocab;

use std::ops::Range;

use crate::gguf::{File, shown};
use crate::{Error, Result};
use bpe::Bpe;
pub use chat::{ChatTemplate, Message, Rendered};
pub use made_up::made_up;
use special::{Part, Specials};
use spm::Spm;
pub use stream::Decoder;
use vocab::{Model, Vocab, damaged, flag};

/// What the text of a special token, such as `<|im_end|>`, means in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// The token: for text that a template has made.
    Recognise,
    /// Nothing special: for text that somebody has written.
    AsText,
}

enum Scheme {
    Bpe(Bpe),
    Spm(Spm),
}

/// The tokenizer of one file.
pub struct Tokenizer {
    vocab: Vocab,
    specials: Specials,
    scheme: Scheme,
    add_bos: bool,
    add_eos: bool,
    notes: Vec<String>,
}

impl Tokenizer {
    /// Builds what the file's metadata describes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model or a pre-tokenizer that is not known, and for lists
    /// that are missing or contradict each other.
    pub fn from_file(file: &File) -> Result<Tokenizer> {
        Tokenizer::with_pre(file, None)
    }

    /// The same with another name in the place of `tokenizer.ggml.pre`.
    ///
    /// # Errors
    /// Those of [`Tokenizer::from_file`].
    pub fn with_pre(file: &File, name: Option<&str>) -> Result<Tokenizer> {
        let model = match text(file, "tokenizer.ggml.model")? {
            Some("gpt2") => Model::Bpe,
            Some("llama") => Model::Spm,
            Some(other) => {
                return Err(Error::Unsupported(format!(
                    "tokenizer.ggml.model: \"{}\" is not supported (gpt2 and llama are)",
                    shown(other.as_bytes())
                )));
            }
            None => return Err(damaged("tokenizer.ggml.model is missing")),
        };
        let mut notes = Vec::new();
        let named = match name {
            Some(name) => Some(name),
            None => text(file, "tokenizer.ggml.pre")?,
        };
        // Older files of byte-level BPE have none, or one that is empty.
        let known = named.filter(|name| !name.is_empty());
        if known.is_none() && model == Model::Bpe {
            let what = if named.is_some() { "empty" } else { "missing" };
            notes.push(format!(
                "tokenizer.ggml.pre is {what}: the default rules may give ids that are slightly wrong"
            ));
        }
        let pre = known.unwrap_or("default");
        normalisers(file)?;
        let (vocab, texts) = Vocab::read(file, model, &mut notes)?;
        let (scheme, bos_by_default) = match model {
            Model::Spm => (Scheme::Spm(Spm::read(file, &vocab, &texts)?), true),
            Model::Bpe => {
                let row = pre::find(pre).ok_or_else(|| {
                    Error::Unsupported(format!(
                        "tokenizer.ggml.pre: pre-tokenizer \"{}\" is not known, and another would give wrong ids",
                        shown(pre.as_bytes())
                    ))
                })?;
                (Scheme::Bpe(Bpe::read(file, row, form(file, pre)?, &texts)?), row.add_bos)
            }
        };
        let specials = Specials::new(&vocab, strips(file))?;
        Ok(Tokenizer {
            specials,
            scheme,
            add_bos: flag(file, "tokenizer.ggml.add_bos_token")?.unwrap_or(bos_by_default),
            add_eos: flag(file, "tokenizer.ggml.add_eos_token")?.unwrap_or(false),
            vocab,
            notes,
        })
    }

    /// What a user should know of this tokenizer, each in a line: that it may be wrong, say.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The ids of a text, and nothing added.
    ///
    /// # Errors
    /// [`Error::Request`] for a text of more than 4 GiB, or with a byte that the vocabulary
    /// cannot write.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        let plain = if special == Special::Recognise { 0..0 } else { 0..text.len() };
        self.encode_parts(text, std::slice::from_ref(&plain), &[])
    }

    /// The ids of a conversation, and nothing added. What is not recognised as a special token is
    /// one stretch of text with its neighbours.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn encode_rendered(&self, rendered: &Rendered) -> Result<Vec<u32>> {
        self.encode_parts(&rendered.text, &rendered.plain, &rendered.structure)
    }

    /// `plain`: where no special tokens are recognised but those that always are, in order; `structure`: nor these.
    fn encode_parts(&self, text: &str, plain: &[Range<usize>], structure: &[u32]) -> Result<Vec<u32>> {
        if u32::try_from(text.len()).is_err() {
            return Err(Error::Request("the text is longer than 4 GiB".to_owned()));
        }
        let mut ids = Vec::new();
        let mut first = true;
        for part in self.specials.cut(text, plain, structure) {
            match (part, &self.scheme) {
                (Part::Token(id), _) => ids.push(id),
                (Part::Text(text), Scheme::Bpe(bpe)) => bpe.encode(text, &mut ids)?,
                (Part::Text(text), Scheme::Spm(spm)) => spm.encode(text, first, &mut ids)?,
            }
            first = matches!(part, Part::Token(_));
        }
        Ok(ids)
    }

    /// The ids of a text with BOS before and EOS behind it as the file asks. A text that
    /// already begins with BOS gets no second one.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn encode_with_bos(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        let mut ids = self.encode(text, special)?;
        if let Some(bos) = self.bos().filter(|bos| self.add_bos && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        if self.add_eos {
            ids.extend(self.eos());
        }
        Ok(ids)
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.vocab.roles.bos
    }

    /// The token that ends a text. Generation ends at more: see [`Tokenizer::end_ids`].
    pub fn eos(&self) -> Option<u32> {
        self.vocab.roles.eos
    }

    /// Whether a text is to begin with BOS.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether a text is to end with EOS.
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }

    /// Every id at which generation ends, in order.
    pub fn end_ids(&self) -> &[u32] {
        &self.vocab.roles.ends
    }

    /// The number of tokens.
    #[allow(clippy::len_without_is_empty, reason = "a tokenizer without tokens cannot be built")]
    pub fn len(&self) -> usize {
        self.vocab.len()
    }

    /// A token for the eye, whatever its kind, with U+FFFD for bytes that alone are no text.
    pub fn piece(&self, id: u32) -> String {
        String::from_utf8_lossy(self.vocab.raw(id)).into_owned()
    }

    /// The bytes that a token adds to a text: none for holes in the vocabulary, for ids that it
    /// does not have, and for control tokens that end a text or that the file names by a key (BOS,
    /// padding). Other control tokens are written where a model has something to say with them:
    /// `[THINK]`, or the call of a tool.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.vocab.visible(id)
    }

    /// The text of ids, with U+FFFD where bytes are no UTF-8. It undoes
    /// [`Tokenizer::encode`]: the space that SentencePiece puts in front is taken off again.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut stream = self.stream_text();
        let mut text = String::new();
        for id in ids {
            stream.append(*id, &mut text);
        }
        text + &stream.finish()
    }

    /// A decoder for ids as they are generated. Their text continues a prompt, so a space in
    /// front belongs to it.
    pub fn stream(&self) -> Decoder<'_> {
        Decoder::new(self, false)
    }

    /// A decoder for ids whose text stands for itself, such as the answer to a message: it gives
    /// what [`Tokenizer::decode`] gives.
    pub fn stream_text(&self) -> Decoder<'_> {
        Decoder::new(self, matches!(&self.scheme, Scheme::Spm(spm) if spm.space_prefix))
    }
}

/// A string of the metadata; one that is no UTF-8 names nothing that is known.
fn text<'a>(file: &'a File, key: &str) -> Result<Option<&'a str>> {
    match file.get(key) {
        None => Ok(None),
        Some(value) => {
            let text = value.as_str().ok_or_else(|| damaged(format_args!("{key} is no text")))?;
            Ok(Some(text))
        }
    }
}

/// Refuses what would be done to a text beforehand and is not done here.
fn normalisers(file: &File) -> Result<()> {
    for key in ["tokenizer.ggml.normalizer.lowercase", "tokenizer.ggml.normalizer.strip_accents"] {
        if flag(file, key)? == Some(true) {
            return Err(Error::Unsupported(format!(
                "{key} is not supported, and without it ids would be wrong"
            )));
        }
    }
    let key = "tokenizer.ggml.precompiled_charsmap";
    match file.get(key).map(|value| value.as_array().is_some_and(|map| map.is_empty())) {
        Some(false) => {
            Err(Error::Unsupported(format!("{key} is not supported, and without it ids would be wrong")))
        }
        _ => Ok(()),
    }
}

/// The form of a byte-level vocabulary's texts: the file's own word, or what is known of its name.
fn form(file: &File, name: &str) -> Result<pre::Form> {
    Ok(match flag(file, "tokenizer.ggml.normalizer.nfc")? {
        Some(true) => pre::Form::Nfc,
        Some(false) => pre::Form::AsWritten,
        None => pre::form(name),
    })
}

/// Which special tokens take the white space behind them: a file does not say. Those of Phi-3 and
/// Phi-3.5 do, which are known by their name, or by the architecture with a SentencePiece
/// vocabulary: Phi-4, which has the same architecture, has none.
fn strips(file: &File) -> impl Fn(&str) -> bool + use<> {
    let is = |key: &str, text: &str| file.get(key).and_then(|v| v.as_str()) == Some(text);
    let name = file.get("general.name").and_then(|v| v.as_str()).unwrap_or_default().to_lowercase();
    let phi3 = name.contains("phi-3")
        || name.contains("phi3")
        || is("general.architecture", "phi3") && is("tokenizer.ggml.model", "llama");
    move |token| phi3 && !matches!(token, "<unk>" | "<s>" | "<|endoftext|>")
}
