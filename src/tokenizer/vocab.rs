//! The list of tokens: their bytes, their kinds, and which of them mean something.

use super::byte_level;
use super::ids::{Ids, text_of};
use super::roles::Roles;
use crate::gguf::{Array, File};
use crate::{Error, Result};

/// What a token is for, with the format's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Normal,
    /// Stands for what cannot be encoded.
    Unknown,
    /// Structure, not text: recognised only where special tokens are.
    Control,
    /// Text that is always taken whole, before anything else.
    UserDefined,
    /// A hole in the list.
    Unused,
    /// A single byte, `<0xXX>`.
    Byte,
}

/// The key of the list of kinds.
pub(super) const KINDS: &str = "tokenizer.ggml.token_type";

/// The scheme that `tokenizer.ggml.model` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Model {
    /// Byte-level BPE (`gpt2`).
    Bpe,
    /// SentencePiece's scores (`llama`).
    Spm,
}

/// The tokens, with ids into one buffer of bytes.
pub(super) struct Vocab {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    pub(super) kinds: Vec<Kind>,
    pub(super) roles: Roles,
}

/// The texts as they stand in the file, while a tokenizer is being built.
pub(super) struct Texts<'a> {
    pub(super) list: Vec<&'a [u8]>,
    pub(super) ids: Ids,
}

impl Texts<'_> {
    /// The token of a text.
    pub(super) fn find(&self, text: &[u8]) -> Option<u32> {
        self.ids.find(text, |id| self.list[id as usize])
    }
}

pub(super) fn damaged(what: impl std::fmt::Display) -> Error {
    Error::Unsupported(format!("the tokenizer is damaged: {what}; convert the model again"))
}

fn array<'a>(file: &'a File, key: &str) -> Result<Option<Array<'a>>> {
    match file.get(key) {
        None => Ok(None),
        Some(value) => value
            .as_array()
            .map(Some)
            .ok_or_else(|| damaged(format_args!("{key} is no array, but a {}", value.ty()))),
    }
}

/// A list with one entry per token.
pub(super) fn per_token<'a>(file: &'a File, key: &str, tokens: usize) -> Result<Option<Array<'a>>> {
    let list = array(file, key)?;
    if let Some(list) = list
        && list.len() != tokens
    {
        let len = list.len();
        return Err(damaged(format_args!("{key} has {len} entries for {tokens} tokens")));
    }
    Ok(list)
}

/// The strings of a list that has to be there.
pub(super) fn strings<'a>(
    file: &'a File,
    key: &str,
) -> Result<impl ExactSizeIterator<Item = &'a [u8]> + use<'a>> {
    let list = array(file, key)?.ok_or_else(|| damaged(format_args!("{key} is missing")))?;
    list.strings().ok_or_else(|| damaged(format_args!("{key} is no list of strings, but of {}", list.ty())))
}

/// A bool that may be absent.
pub(super) fn flag(file: &File, key: &str) -> Result<Option<bool>> {
    match file.get(key) {
        None => Ok(None),
        Some(value) => value
            .as_bool()
            .map(Some)
            .ok_or_else(|| damaged(format_args!("{key} is no bool, but a {}", value.ty()))),
    }
}

impl Vocab {
    /// Reads the list and what the file says about it; `notes` gets what a user should know of it.
    pub(super) fn read<'a>(
        file: &'a File,
        model: Model,
        notes: &mut Vec<String>,
    ) -> Result<(Vocab, Texts<'a>)> {
        let key = "tokenizer.ggml.tokens";
        let list: Vec<&[u8]> = strings(file, key)?.collect();
        let tokens = list.len();
        if tokens == 0 {
            return Err(damaged(format_args!("{key} is empty")));
        }
        if u32::try_from(tokens).is_err() {
            return Err(damaged(format_args!("{key} has {tokens} entries")));
        }
        let ids = Ids::new(&list);
        let texts = Texts { list, ids };
        let mut kinds = kinds(file, tokens)?;
        let roles = Roles::read(file, model, &texts, &mut kinds, notes)?;
        let mut vocab = Vocab { bytes: Vec::new(), ends: Vec::with_capacity(tokens), kinds, roles };
        vocab.store(&texts, model)?;
        Ok((vocab, texts))
    }

    /// Keeps every token as the bytes it stands for.
    fn store(&mut self, texts: &Texts<'_>, model: Model) -> Result<()> {
        for (text, kind) in texts.list.iter().zip(&self.kinds) {
            match (model, kind) {
                (Model::Bpe, Kind::Normal | Kind::Unused) => {
                    byte_level::decode(text, &mut self.bytes);
                }
                (Model::Spm, Kind::Normal | Kind::Unused) => unescape(text, &mut self.bytes),
                (_, Kind::Byte) => match byte_named(text) {
                    Some(byte) => self.bytes.push(byte),
                    None => self.bytes.extend(*text),
                },
                (_, Kind::UserDefined | Kind::Control | Kind::Unknown) => self.bytes.extend(*text),
            }
            let end = u32::try_from(self.bytes.len()).map_err(|_| damaged("the tokens exceed 4 GiB"))?;
            self.ends.push(end);
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes a token stands for, whatever its kind; nothing for an id that is not there.
    pub(super) fn raw(&self, id: u32) -> &[u8] {
        text_of(&self.bytes, &self.ends, id)
    }

    pub(super) fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    /// The bytes a token adds to a text. A control token that a model writes within an answer
    /// (`[THINK]`, a tool's call) says something; those that stand around texts do not.
    pub(super) fn visible(&self, id: u32) -> &[u8] {
        match self.kind(id) {
            Some(Kind::Normal | Kind::UserDefined | Kind::Byte) => self.raw(id),
            Some(Kind::Control) if !self.roles.silent.contains(&id) => self.raw(id),
            Some(Kind::Control | Kind::Unknown | Kind::Unused) | None => &[],
        }
    }
}

fn kinds(file: &File, tokens: usize) -> Result<Vec<Kind>> {
    let Some(list) = per_token(file, KINDS, tokens)? else {
        return Ok(vec![Kind::Normal; tokens]);
    };
    let numbers = list.integers().ok_or_else(|| damaged(format_args!("{KINDS} is no list of integers")))?;
    Ok(numbers
        .iter()
        .map(|n| match n {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            6 => Kind::Byte,
            // 5 is "unused"; what has no meaning has no use.
            _ => Kind::Unused,
        })
        .collect())
}

/// The byte of `<0x0A>`.
pub(super) fn byte_named(text: &[u8]) -> Option<u8> {
    let hex = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    if hex.len() != 2 || !hex.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
}

/// SentencePiece writes a space as U+2581.
fn unescape(text: &[u8], out: &mut Vec<u8>) {
    let mark = "\u{2581}".as_bytes();
    let mut rest = text;
    while let Some(first) = rest.first() {
        if let Some(after) = rest.strip_prefix(mark) {
            out.push(b' ');
            rest = after;
        } else {
            out.push(*first);
            rest = rest.get(1..).unwrap_or(&[]);
        }
    }
}
