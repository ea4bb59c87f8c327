//! The list of tokens: their bytes, their kinds, and which of them mean something.

use super::byte_level;
use super::ids::{Ids, text_of};
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
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) unk: Option<u32>,
    /// Sorted.
    pub(super) end_ids: Vec<u32>,
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

/// Tokens at which generation stops wherever they are, by their text.
const ENDS: [&str; 22] = [
    "</s>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<end_of_turn>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<｜end▁of▁sentence｜>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "[e~[",
    "<|END_OF_TURN_TOKEN|>",
];

/// GLM's models write no end of their turn: they begin another's. The three together are GLM's
/// alone, while others (Phi-3, say) have one or two of them.
const GLM: [&str; 3] = ["<|user|>", "<|observation|>", "[gMASK]"];

/// The parts of a fill-in-the-middle prompt: the key that names the token, the texts by which
/// it is known otherwise, and whether a model that writes one has come to an end.
const FILL_IN: [(&str, &[&str], bool); 6] = [
    (
        "tokenizer.ggml.fim_pre_token_id",
        &["<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>"],
        false,
    ),
    (
        "tokenizer.ggml.fim_suf_token_id",
        &["<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>"],
        false,
    ),
    (
        "tokenizer.ggml.fim_mid_token_id",
        &["<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>"],
        false,
    ),
    ("tokenizer.ggml.fim_pad_token_id", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"], true),
    (
        "tokenizer.ggml.fim_rep_token_id",
        &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
        true,
    ),
    ("tokenizer.ggml.fim_sep_token_id", &["<|file_sep|>"], true),
];

/// The tokens that gpt-oss writes around its channels, which belong to the text.
const CHANNELS: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

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

/// The id that a key names.
fn id(file: &File, key: &str, tokens: usize) -> Result<Option<u32>> {
    let Some(value) = file.get(key) else { return Ok(None) };
    match value.as_u64() {
        Some(id) if id < tokens as u64 => Ok(u32::try_from(id).ok()),
        Some(id) => Err(damaged(format_args!("{key} is {id}, and there are {tokens} tokens"))),
        None => Err(damaged(format_args!("{key} is no token id, but a {}", value.ty()))),
    }
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
    /// Reads the list and what the file says about it.
    pub(super) fn read(file: &File, model: Model) -> Result<(Vocab, Texts<'_>)> {
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
        let mut vocab = Vocab {
            bytes: Vec::new(),
            ends: Vec::with_capacity(tokens),
            kinds: kinds(file, tokens)?,
            bos: id(file, "tokenizer.ggml.bos_token_id", tokens)?,
            eos: id(file, "tokenizer.ggml.eos_token_id", tokens)?,
            unk: id(file, "tokenizer.ggml.unknown_token_id", tokens)?,
            end_ids: Vec::new(),
        };
        if model == Model::Spm {
            // What SentencePiece's own models have there, where a file leaves them out.
            let default = |id: u32| ((id as usize) < tokens).then_some(id);
            vocab.unk = vocab.unk.or(default(0));
            vocab.bos = vocab.bos.or(default(1));
            vocab.eos = vocab.eos.or(default(2));
        }
        vocab.mark(file, &texts)?;
        vocab.store(&texts, model)?;
        Ok((vocab, texts))
    }

    /// Finds the tokens at which generation ends, and puts right the kind of tokens whose text
    /// says what they are: converters have left many of them as plain text.
    fn mark(&mut self, file: &File, texts: &Texts<'_>) -> Result<()> {
        let tokens = texts.list.len();
        let find = |text: &str| texts.find(text.as_bytes());
        let mut ends: Vec<u32> = Vec::new();
        for (key, names, is_end) in FILL_IN {
            let named = id(file, key, tokens)?;
            if named.is_none() {
                for id in names.iter().filter_map(|n| find(n)).take(1) {
                    self.set(id, Kind::Control);
                }
            }
            if is_end {
                ends.extend(named.or_else(|| names.iter().find_map(|n| find(n))));
            }
        }
        for id in ENDS.iter().filter_map(|text| find(text)) {
            self.set(id, Kind::Control);
            ends.push(id);
        }
        ends.extend(self.eos);
        ends.extend(id(file, "tokenizer.ggml.eot_token_id", tokens)?);
        ends.extend(id(file, "tokenizer.ggml.eom_token_id", tokens)?);
        if let [Some(user), Some(observation), Some(_)] = GLM.map(find) {
            for id in [user, observation] {
                self.set(id, Kind::Control);
                ends.push(id);
            }
        }
        for id in CHANNELS.iter().filter_map(|text| find(text)) {
            self.set(id, Kind::UserDefined);
        }
        // gpt-oss ends a message, not a turn, with <|end|>; Solar does the same.
        let calls = find("<|call|>").or_else(|| find("<|calls|>")).is_some();
        if calls
            && (find("<|return|>").is_some() || find("<|flush|>").is_some())
            && let Some(end) = find("<|end|>")
        {
            ends.retain(|id| *id != end);
            self.set(end, Kind::UserDefined);
        }
        // Gemma 4 has </s> as plain text.
        if let Some(response) = find("<|tool_response>") {
            self.set(response, Kind::Control);
            ends.push(response);
            if let Some(s) = find("</s>") {
                ends.retain(|id| *id != s);
                self.set(s, Kind::Normal);
            }
        }
        ends.sort_unstable();
        ends.dedup();
        self.end_ids = ends;
        Ok(())
    }

    fn set(&mut self, id: u32, kind: Kind) {
        if let Some(slot) = self.kinds.get_mut(id as usize) {
            *slot = kind;
        }
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

    /// The bytes a token adds to a text: none if it is structure.
    pub(super) fn visible(&self, id: u32) -> &[u8] {
        match self.kind(id) {
            Some(Kind::Normal | Kind::UserDefined | Kind::Byte) => self.raw(id),
            Some(Kind::Control | Kind::Unknown | Kind::Unused) | None => &[],
        }
    }
}

fn kinds(file: &File, tokens: usize) -> Result<Vec<Kind>> {
    let key = "tokenizer.ggml.token_type";
    let Some(list) = per_token(file, key, tokens)? else {
        return Ok(vec![Kind::Normal; tokens]);
    };
    let numbers = list.integers().ok_or_else(|| damaged(format_args!("{key} is no list of integers")))?;
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
