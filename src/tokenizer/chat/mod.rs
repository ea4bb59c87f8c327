//! Conversations → text, by the template that the file carries.
//!
//! A template is a Jinja program written for transformers, by whoever made the file. It sees
//! the conversation, the two special tokens and the date, and nothing else: there is no loader
//! and no function that reaches out. What it may use up is bounded (`limits`), and what
//! transformers' Jinja2 has that minijinja lacks is added here or put in its place beforehand
//! (`source`).

mod json;
mod limits;
mod methods;
mod source;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, State, context};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use self::limits::Limits;
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

/// A file's chat template, with the special tokens that it may write.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
    now: Option<OffsetDateTime>,
}

impl ChatTemplate {
    /// The template of a file, if it has one. Whether it is any good shows when it renders.
    pub fn from_file(file: &File) -> Option<ChatTemplate> {
        let source = file.get("tokenizer.chat_template")?.as_bytes()?;
        // SentencePiece's models have these two where a file names none.
        let spm = file.get("tokenizer.ggml.model").is_some_and(|v| v.as_bytes() == Some(b"llama"));
        let token = |key: &str, default: u64| {
            let named = file.get(key).and_then(|v| v.as_u64());
            let id = usize::try_from(named.or(spm.then_some(default))?).ok()?;
            let text = file.get("tokenizer.ggml.tokens")?.as_array()?.strings()?.nth(id)?;
            Some(String::from_utf8_lossy(text).into_owned())
        };
        Some(ChatTemplate::new(
            &String::from_utf8_lossy(source),
            &token("tokenizer.ggml.bos_token_id", 1).unwrap_or_default(),
            &token("tokenizer.ggml.eos_token_id", 2).unwrap_or_default(),
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

    /// The text of a conversation. `add_generation_prompt` opens the model's turn behind it.
    ///
    /// # Errors
    /// [`Error::Request`] if the template is wrong, refuses the conversation, or would take
    /// more time or memory than it may; [`Error::Device`] where there is no thread to render on.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let text: usize = messages.iter().map(|m| m.role.len() + m.content.len()).sum();
        let limits = Limits::for_bytes(self.source.len(), text).map_err(|why| failed(None, &why))?;
        let template = self.clone();
        let messages: Value = messages
            .iter()
            .map(|m| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]))
            .collect();
        let rendered = limits.in_time(move || template.run(limits, messages, add_generation_prompt))?;
        rendered.unwrap_or_else(|why| Err(failed(None, &why)))
    }

    fn run(&self, limits: Limits, messages: Value, add_generation_prompt: bool) -> Result<String> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| failed(None, &e.to_string()))?);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.remove_global("debug");
        env.add_function("raise_exception", |text: String| {
            Err::<Value, _>(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        });
        let now = self.now;
        env.add_function("strftime_now", move |format: &str| strftime(now, format));
        // As Jinja2 has them: none is not iterable, and a string is a sequence.
        env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        env.add_test("sequence", |value: &Value| {
            matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
        });
        env.add_filter("tojson", json::tojson);
        env.add_filter("default", default);
        env.add_filter("d", default);
        env.add_filter(source::MODULO, modulo);
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
            failed(e.line(), &what)
        })
    }
}

/// The error of a template, on one line.
fn failed(line: Option<usize>, what: &str) -> Error {
    let place = line.map(|line| format!(", line {line}")).unwrap_or_default();
    let what: String = what.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    Error::Request(format!("the model's chat template{place}: {what} (--raw does without the template)"))
}

/// Jinja2's `default(value, default_value="", boolean=false)`, with names.
fn default(
    value: Value,
    other: Option<Value>,
    boolean: Option<bool>,
    names: Kwargs,
) -> Result<Value, minijinja::Error> {
    let other = other.or(names.get("default_value")?).unwrap_or_else(|| Value::from(""));
    let boolean = boolean.or(names.get("boolean")?).unwrap_or(false);
    names.assert_all_used()?;
    Ok(if value.is_undefined() || boolean && !value.is_true() { other } else { value })
}

/// `%`: a string's is its use as a format.
fn modulo(state: &mut State, left: Value, right: Value) -> Result<Value, minijinja::Error> {
    if left.as_str().is_some() {
        let mut args = vec![left];
        match right.try_iter().ok().filter(|_| right.is_tuple()) {
            Some(items) => args.extend(items),
            None => args.push(right),
        }
        return state.apply_filter("format", &args);
    }
    state.env().compile_expression("left % right")?.eval(context! { left, right })
}

fn strftime(now: Option<OffsetDateTime>, format: &str) -> Result<String, minijinja::Error> {
    let fail = |e: &dyn std::fmt::Display| {
        let shown: String = format.chars().take(64).collect();
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: \"{shown}\": {e}"))
    };
    // A process with several threads cannot always ask for the local time.
    let now = now.or_else(|| OffsetDateTime::now_local().ok()).unwrap_or_else(OffsetDateTime::now_utc);
    let items = time::format_description::parse_strftime_borrowed(format).map_err(|e| fail(&e))?;
    now.format(&items).map_err(|e| fail(&e))
}
