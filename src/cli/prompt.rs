//! From what a user says to ids: the chat template, or the text as it is.

use crate::Result;
use crate::gguf::File;
use crate::tokenizer::{ChatTemplate, Decoder, Message, Special, Tokenizer};

/// A file's tokenizer and template.
pub(super) struct Prompter {
    /// Text ↔ ids.
    pub(super) tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// What the text of a special token means in a message.
    special: Special,
}

impl Prompter {
    /// Reads both; of a raw prompt's template nothing is wanted.
    ///
    /// # Errors
    /// The tokenizer's.
    pub(super) fn new(file: &File, raw: bool) -> Result<Prompter> {
        let tokenizer = Tokenizer::from_file(file)?;
        let template = if raw { None } else { ChatTemplate::from_file(file) };
        Ok(Prompter { tokenizer, template, special: Special::AsText })
    }

    /// The same, where the text of a special token in a message is the token.
    pub(super) fn special(self) -> Prompter {
        Prompter { special: Special::Recognise, ..self }
    }

    /// True where a template is applied.
    pub(super) fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// A decoder for what a model says: behind a template it is an answer and stands for itself, else it
    /// continues the prompt.
    pub(super) fn stream(&self) -> Decoder<'_> {
        if self.has_template() { self.tokenizer.stream_text() } else { self.tokenizer.stream() }
    }

    /// The ids that a model is to continue. BOS stands in front where the file asks for it and the
    /// text has none; EOS is never added, since the text goes on.
    ///
    /// # Errors
    /// The template's and the tokenizer's.
    pub(super) fn ids(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let mut ids = match &self.template {
            Some(template) => {
                let rendered = template.prompt(messages, &self.tokenizer, self.special)?;
                self.tokenizer.encode_rendered(&rendered)?
            }
            // What is continued as it is may have special tokens.
            None => {
                let text: String = messages.iter().map(|m| m.content.as_str()).collect();
                self.tokenizer.encode(&text, Special::Recognise)?
            }
        };
        if self.tokenizer.add_bos()
            && let Some(bos) = self.tokenizer.bos()
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }
}
