//! What single tokens are for: which of them the file names, at which an answer ends, and which
//! control tokens are no part of a text.
//!
//! The file's word comes first. Its keys name tokens, and its list of kinds says what is text: a token
//! of kind user-defined was made so by somebody, like Gemma 3's `</s>`, which is a tag of HTML there.
//! Such a token stays text. Kinds normal and unused are what converters write for want of anything
//! better, and many have left `<|im_end|>` so: there, a text that nobody writes by chance decides.
//! `</s>` is no such text: what has come to be a token by the merges of a web page ends nothing. But
//! it does in a SentencePiece vocabulary with a `<s>` of kind control (in Phi-3's it is called text).
//! What is left in doubt is an end only where nothing else is. In a file without kinds, what a key
//! names is no text either.

use super::vocab::{KINDS, Kind, Model, Texts, damaged};
use crate::Result;
use crate::gguf::{File, Value};

/// SentencePiece's pair around a text, which is struck-out text in HTML.
const PAIR: [&str; 2] = ["<s>", "</s>"];

/// Tokens at which generation stops wherever they are, by their text.
const ENDS: [&str; 22] = [
    PAIR[1],
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
        "fim_pre",
        &["<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>"],
        false,
    ),
    (
        "fim_suf",
        &["<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>"],
        false,
    ),
    (
        "fim_mid",
        &["<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>"],
        false,
    ),
    ("fim_pad", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"], true),
    ("fim_rep", &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"], true),
    ("fim_sep", &["<|file_sep|>"], true),
];

/// Other keys that name tokens; the spelling of the first is the format's own.
const OTHERS: [&str; 4] = ["seperator", "padding", "cls", "mask"];

/// The tokens that gpt-oss writes around its channels.
const CHANNELS: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// What a key says of a special token.
pub(super) enum Named {
    /// The file has no such key.
    Absent,
    /// It says that there is none, by a number that is no token's: -1, 2^32 - 1, or one too large.
    None(i128),
    /// A token.
    Token(u32),
}

impl Named {
    /// The token; where the file says nothing, another.
    pub(super) fn or(self, default: Option<u32>) -> Option<u32> {
        match self {
            Named::Absent => default,
            Named::None(_) => None,
            Named::Token(id) => Some(id),
        }
    }
}

/// What `tokenizer.ggml.NAME_token_id` says, where there are so many tokens.
///
/// # Errors
/// For what is no whole number.
pub(super) fn named(file: &File, name: &str, tokens: usize) -> Result<Named> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let Some(value) = file.get(&key) else { return Ok(Named::Absent) };
    let number: i128 = match value {
        Value::I8(v) => v.into(),
        Value::I16(v) => v.into(),
        Value::I32(v) => v.into(),
        Value::I64(v) => v.into(),
        other => match other.as_u64() {
            Some(v) => v.into(),
            None => return Err(damaged(format_args!("{key} is no token id, but a {}", other.ty()))),
        },
    };
    let id = u32::try_from(number).ok().filter(|id| (*id as usize) < tokens);
    Ok(id.map_or(Named::None(number), Named::Token))
}

/// See the module's documentation.
pub(super) struct Roles {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) unk: Option<u32>,
    /// Where generation ends, sorted.
    pub(super) ends: Vec<u32>,
    /// The ends, and whatever else keys name (BOS, padding): of kind control, they add nothing to a text.
    pub(super) silent: Vec<u32>,
}

impl Roles {
    /// Reads the keys, guesses the rest, and makes control tokens of those whose text says so.
    /// `notes` gets a line for every key that names no token.
    ///
    /// # Errors
    /// For a key that is no whole number.
    pub(super) fn read(
        file: &File,
        model: Model,
        texts: &Texts<'_>,
        kinds: &mut [Kind],
        notes: &mut Vec<String>,
    ) -> Result<Roles> {
        let tokens = texts.list.len();
        let mut keys = Keys { file, tokens, notes, found: Vec::new() };
        // What SentencePiece's own models have there, where a file leaves them out.
        let default = |id: u32| (model == Model::Spm && (id as usize) < tokens).then_some(id);
        let unk = keys.read("unknown")?.or(default(0));
        let bos = keys.read("bos")?.or(default(1));
        let eos = keys.read("eos")?.or(default(2));
        let mut ends: Vec<u32> = eos.into_iter().collect();
        for name in ["eot", "eom"] {
            ends.extend(keys.read(name)?.or(None));
        }
        for name in OTHERS {
            keys.read(name)?;
        }
        let mut guess = Guess { model, texts, kinds };
        for (name, list, is_end) in FILL_IN {
            let id = match keys.read(name)? {
                Named::Absent => {
                    list.iter().find_map(|text| guess.find(text)).filter(|id| guess.control(*id))
                }
                named => named.or(None),
            };
            ends.extend(id.filter(|_| is_end));
        }
        let mut silent = keys.found;
        silent.extend([bos, eos, unk].into_iter().flatten());
        if file.get(KINDS).is_none() {
            for id in &silent {
                guess.control(*id);
            }
        }
        guess.ends(&mut ends);
        silent.extend(&ends);
        // gpt-oss ends a message, not a turn, with <|end|>; Solar does the same.
        if let Some(end) = guess.end_of_message() {
            ends.retain(|id| *id != end);
            silent.retain(|id| *id != end);
        }
        for list in [&mut ends, &mut silent] {
            list.sort_unstable();
            list.dedup();
        }
        Ok(Roles { bos, eos, unk, ends, silent })
    }
}

/// The keys of a file that name tokens.
struct Keys<'a> {
    file: &'a File,
    tokens: usize,
    notes: &'a mut Vec<String>,
    /// All tokens that were named.
    found: Vec<u32>,
}

impl Keys<'_> {
    fn read(&mut self, name: &str) -> Result<Named> {
        let named = named(self.file, name, self.tokens)?;
        match named {
            Named::Absent => {}
            Named::None(number) => self.notes.push(format!(
                "tokenizer.ggml.{name}_token_id is {number}, and there are {} tokens: taken as none",
                self.tokens
            )),
            Named::Token(id) => self.found.push(id),
        }
        Ok(named)
    }
}

/// Tokens that are known by their text.
struct Guess<'a> {
    model: Model,
    texts: &'a Texts<'a>,
    kinds: &'a mut [Kind],
}

impl Guess<'_> {
    fn find(&self, text: &str) -> Option<u32> {
        self.texts.find(text.as_bytes())
    }

    fn is_control(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&Kind::Control)
    }

    fn set_control(&mut self, id: u32) {
        if let Some(kind) = self.kinds.get_mut(id as usize) {
            *kind = Kind::Control;
        }
    }

    /// Makes a token structure, unless the file has decided that it is text. Gives whether it is.
    fn control(&mut self, id: u32) -> bool {
        match self.kinds.get(id as usize) {
            Some(Kind::Normal | Kind::Unused) => {
                self.set_control(id);
                true
            }
            Some(Kind::Control | Kind::Unknown) => true,
            _ => false,
        }
    }

    /// Adds the ends that are known by their text.
    fn ends(&mut self, ends: &mut Vec<u32>) {
        let found: Vec<(&str, u32)> =
            ENDS.iter().filter_map(|text| Some((*text, self.find(text)?))).collect();
        let paired = self.model == Model::Spm && self.find(PAIR[0]).is_some_and(|id| self.is_control(id));
        for (text, id) in &found {
            let plain = *text == PAIR[1] && !self.is_control(*id);
            if plain && paired {
                self.set_control(*id);
            }
            if self.control(*id) && (!plain || paired) {
                ends.push(*id);
            }
        }
        if let [Some(user), Some(observation), Some(_)] = GLM.map(|text| self.find(text)) {
            ends.extend([user, observation].into_iter().filter(|id| self.control(*id)));
        }
        // Gemma 4's files have it as text, so that it is shown; the model stops there all the same.
        if let (Some(response), Some(_)) = (self.find("<|tool_response>"), self.find("<turn|>")) {
            ends.push(response);
        }
        for id in CHANNELS.iter().filter_map(|text| self.texts.find(text.as_bytes())) {
            self.control(id);
        }
        if ends.is_empty() {
            for (_, id) in found {
                self.control(id);
                ends.push(id);
            }
        }
    }

    /// The end of a message behind which the turn goes on, where the vocabulary is of that family.
    fn end_of_message(&self) -> Option<u32> {
        let one_of = |texts: [&str; 2]| texts.iter().any(|text| self.find(text).is_some());
        let family = one_of(["<|call|>", "<|calls|>"]) && one_of(["<|return|>", "<|flush|>"]);
        self.find("<|end|>").filter(|_| family)
    }
}
