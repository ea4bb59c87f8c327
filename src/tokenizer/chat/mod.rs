//! Conversations → text, by the template that the file carries.
//!
//! A template is a Jinja program written for transformers, by whoever made the file. It sees
//! the conversation, the two special tokens and the date, and nothing else: there is no loader
//! and no function that reaches out. What it may use up is bounded (`limits`), and what
//! transformers' Jinja2 has that minijinja lacks is added here or put in its place beforehand
//! (`source`).

mod arguments;
mod filters;
mod json;
mod limits;
mod methods;
mod numbers;
mod objects;
mod origin;
mod percent;
mod python;
mod source;
mod strftime;
mod token;
mod turns;
mod wrap;

use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Value, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, ErrorKind, State, context};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use self::arguments::Arguments;
use self::limits::Limits;
use self::turns::Turn;
use super::roles::named;
use super::{Special, Tokenizer};
use crate::gguf::File;
use crate::{Error, Result};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else a template knows.
    pub role: String,
    /// The text.
    pub content: String,
}

/// A conversation as a model is to read it: [`Tokenizer::encode_rendered`] makes ids of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Where it has no special tokens but those that are recognised in any text. In order.
    pub(super) plain: Vec<Range<usize>>,
    /// Tokens that would be recognised in any text, and are not in `plain` either: turns are made of them.
    pub(super) structure: Vec<u32>,
}

/// Why a conversation was not rendered.
struct Failure {
    error: Error,
    /// Time or memory is spent: one does not try again.
    spent: bool,
}

impl Failure {
    fn new(line: Option<usize>, what: &str) -> Failure {
        Failure { error: failed(line, what), spent: false }
    }
}

/// A file's chat template, with the special tokens that it may write.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
    now: Option<OffsetDateTime>,
}

impl ChatTemplate {
    /// The template of a file, if it has one that is not empty. Whether it is any good shows when it renders.
    pub fn from_file(file: &File) -> Option<ChatTemplate> {
        let source = file.get("tokenizer.chat_template")?.as_bytes()?;
        // An empty one would leave nothing of a conversation.
        if source.trim_ascii().is_empty() {
            return None;
        }
        // SentencePiece's models have these two where a file names none.
        let spm = file.get("tokenizer.ggml.model").is_some_and(|v| v.as_bytes() == Some(b"llama"));
        let token = |name: &str, default: u32| {
            let mut tokens = file.get("tokenizer.ggml.tokens")?.as_array()?.strings()?;
            let id = named(file, name, tokens.len()).ok()?.or(spm.then_some(default))?;
            Some(String::from_utf8_lossy(tokens.nth(id as usize)?).into_owned())
        };
        Some(ChatTemplate::new(
            &String::from_utf8_lossy(source),
            &token("bos", 1).unwrap_or_default(),
            &token("eos", 2).unwrap_or_default(),
        ))
    }

    /// A template from its text and the texts of the two special tokens.
    pub fn new(source: &str, bos: &str, eos: &str) -> ChatTemplate {
        ChatTemplate { source: source.to_owned(), bos: bos.to_owned(), eos: eos.to_owned(), now: None }
    }

    /// Sets the time that the template is told, in seconds since 1970, UTC. Without it, it is
    /// told the time.
    #[must_use]
    pub fn at(mut self, unix_seconds: i64) -> ChatTemplate {
        self.now = OffsetDateTime::from_unix_timestamp(unix_seconds).ok();
        self
    }

    /// The text of a conversation, as the template writes it. `add_generation_prompt` opens the
    /// model's turn behind it.
    ///
    /// # Errors
    /// [`Error::Request`] if the template is wrong, refuses the conversation, or would take
    /// more time or memory than it may; [`Error::Device`] where there is no thread to render on.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let turns: Vec<Turn> = messages.iter().map(Turn::from).collect();
        self.write(&turns, add_generation_prompt).map_err(|failure| failure.error)
    }

    /// What a model is to continue: the conversation and the opening of the model's turn. A template
    /// that takes messages as typed parts is given them. `special` says what the text of a special
    /// token means in a message; in the template's own text it is the token. In the model's messages
    /// those are tokens that its answers show, and those that the template looks for.
    ///
    /// # Errors
    /// Those of [`ChatTemplate::render`], and [`Error::Request`] if the template leaves out what somebody
    /// says, or does something with a special token's text so that it cannot be told whose it is.
    pub fn prompt(&self, messages: &[Message], tokenizer: &Tokenizer, special: Special) -> Result<Rendered> {
        // Renderings are compared: it is the same time for all.
        let template = ChatTemplate { now: Some(self.now.unwrap_or_else(time_of_day)), ..self.clone() };
        let (turns, text) = turns::shown(&template, messages, true)?;
        let (plain, structure) = match special {
            Special::Recognise => (vec![], vec![]),
            Special::AsText => origin::find(&template, tokenizer, &turns, &text, true)?,
        };
        Ok(Rendered { text, plain, structure })
    }

    fn write(&self, turns: &[Turn], add_generation_prompt: bool) -> Result<String, Failure> {
        let text: usize = turns.iter().map(|turn| turn.role.len() + turn.content.len()).sum();
        let limits = Limits::for_bytes(self.source.len(), text).map_err(|why| Failure::new(None, &why))?;
        let template = self.clone();
        let turns = turns.to_vec();
        let rendered = limits.in_time(move || {
            let messages = turns.iter().map(Turn::value).collect();
            template.run(limits, messages, add_generation_prompt)
        });
        // Where there was no thread there will be none for another try.
        let rendered = rendered.map_err(|error| Failure { error, spent: true })?;
        rendered.unwrap_or_else(|why| Err(Failure { spent: true, ..Failure::new(None, &why) }))
    }

    fn run(&self, limits: Limits, messages: Value, add_generation_prompt: bool) -> Result<String, Failure> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| Failure::new(None, &e.to_string()))?);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.remove_global("debug");
        env.add_function("raise_exception", |text: String| {
            Err::<Value, _>(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        });
        let now = self.now.unwrap_or_else(time_of_day);
        env.add_function("strftime_now", move |format: &str| strftime::strftime(now, format));
        add_builtins(&mut env, limits.size());
        limits.apply(&mut env);
        let source = source::prepare(&self.source);
        let result = env.render_named_str(
            "chat template",
            &source,
            context! {
                messages,
                add_generation_prompt,
                bos_token => &*self.bos,
                eos_token => &*self.eos,
                tools => (),
                documents => (),
            },
        );
        result.map_err(|e| {
            let what = match (e.kind(), e.detail()) {
                (ErrorKind::OutOfFuel, _) => "it takes more work or memory than it may".to_owned(),
                (ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
                (kind, Some(detail)) => format!("{kind}: {detail}"),
                (kind, None) => kind.to_string(),
            };
            Failure { spent: e.kind() == ErrorKind::OutOfFuel, ..Failure::new(e.line(), &what) }
        })
    }
}

/// The error of a template, on one line.
fn failed(line: Option<usize>, what: &str) -> Error {
    let place = line.map(|line| format!(", line {line}")).unwrap_or_default();
    let what: String = what.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    Error::Request(format!("the model's chat template{place}: {what} (--raw does without the template)"))
}

/// What Jinja2 has, in the place of what minijinja has or lacks; `size` is what a value may take in bytes.
fn add_builtins(env: &mut Environment<'static>, size: u64) {
    for (name, filter) in filters::FILTERS {
        env.add_filter(name, move |state: &mut State, value: Value, rest: Rest<ValueOrKwargs>| {
            let mut args = Arguments::new(&rest.into_values())?;
            let result = filter(state, value, &mut args, size)?;
            args.finish()?;
            Ok::<_, minijinja::Error>(result)
        });
    }
    for name in filters::FOREIGN_FILTERS {
        env.remove_filter(name);
    }
    for name in filters::FOREIGN_TESTS {
        env.remove_test(name);
    }
    env.add_filter("tojson", json::tojson);
    env.add_filter(source::MODULO, move |state: &mut State, left: Value, right: Value| {
        modulo(state, left, right, size)
    });
    // As Jinja2 has them: none is not iterable, and a string is a sequence.
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_test("sequence", objects::is_sequence);
    env.add_test("callable", objects::is_callable);
    env.add_test("filter", |state: &State, name: &str| {
        !name.starts_with("__") && minijinja::tests::is_filter(state, name)
    });
    env.add_function("range", objects::range);
    env.add_function("cycler", objects::cycler);
    env.add_function("joiner", objects::joiner);
}

/// `%`: a string's is its use as a format.
fn modulo(state: &mut State, left: Value, right: Value, size: u64) -> Result<Value, minijinja::Error> {
    match left.as_str() {
        Some(format) => Ok(percent::format(format, &right, size)?.into()),
        None => state.env().compile_expression("left % right")?.eval(context! { left, right }),
    }
}

/// A process with several threads cannot always ask for the local time.
fn time_of_day() -> OffsetDateTime {
    OffsetDateTime::now_local().unwrap_or_else(|_| OffsetDateTime::now_utc())
}
