//! How a template takes what is said: as a text, or as a list of typed parts; and whether it shows.
//!
//! A template that wants typed parts and is given a text often writes nothing at all, and the
//! question is lost. A message shows if the rendering changes with its words: with other
//! characters in their places, as many of them. So a template may trim a message, change it or cut
//! thoughts off. Where a text does not show, typed parts may; where they do not either, a template
//! may still count words or letters, or ask for no message at all. What is left is an error.

use std::collections::BTreeSet;

use minijinja::Value;

use super::{ChatTemplate, Failure, Message};
use crate::{Error, Result};

/// A message in the form in which a template takes it.
#[derive(Clone)]
pub(super) struct Turn {
    pub(super) role: String,
    pub(super) content: String,
    /// `[{"type": "text", "text": content}]` in the place of the text.
    typed: bool,
    /// A key more in the typed part: who shows it writes a part out as it is.
    odd: bool,
}

/// Nobody's key.
const ODD: &str = "key-of-nobody";

impl From<&Message> for Turn {
    fn from(message: &Message) -> Turn {
        Turn { role: message.role.clone(), content: message.content.clone(), typed: false, odd: false }
    }
}

impl Turn {
    /// What the template sees.
    pub(super) fn value(&self) -> Value {
        let content = if self.typed {
            let odd = self.odd.then_some((ODD, ODD));
            let part = [("type", "text"), ("text", &*self.content)].into_iter().chain(odd);
            Value::from(vec![Value::from_pairs(part)])
        } else {
            Value::from(&*self.content)
        };
        Value::from_pairs([("role", Value::from(&*self.role)), ("content", content)])
    }

    /// A user's turn in the same form.
    pub(super) fn of_user(&self, content: &str) -> Turn {
        Turn { role: "user".to_owned(), content: content.to_owned(), ..self.clone() }
    }

    /// The same with another text, of which not one character is the same.
    pub(super) fn disguised(&self) -> Turn {
        let other = |c: char| match c {
            'x' => 'y',
            c if c.is_whitespace() => c,
            _ => 'x',
        };
        Turn { content: self.content.chars().map(other).collect(), ..self.clone() }
    }

    fn says_something(&self) -> bool {
        !self.content.trim().is_empty()
    }
}

/// A conversation, and the template that is to render it.
struct Trial<'a> {
    template: &'a ChatTemplate,
    turns: &'a [Turn],
    prompt: bool,
}

impl Trial<'_> {
    /// Whether the rendering changes if this is done to a role's last message. A template that refuses
    /// what comes of it has looked at it.
    fn changes(&self, text: &str, role: &str, change: impl Fn(&Turn) -> Turn) -> Result<bool> {
        let mut others = self.turns.to_vec();
        let last = others.iter_mut().rfind(|turn| turn.role == role && turn.says_something());
        if let Some(turn) = last {
            *turn = change(turn);
        }
        match self.template.write(&others, self.prompt) {
            Ok(other) => Ok(other != text),
            Err(Failure { spent: true, error }) => Err(error),
            Err(_) => Ok(true),
        }
    }

    /// Whether the words of a role's last message show.
    fn shows(&self, text: &str, role: &str) -> Result<bool> {
        self.changes(text, role, Turn::disguised)
    }

    /// Whether it shows how many there are.
    fn counts(&self, text: &str, role: &str) -> Result<bool> {
        let more = |turn: &Turn| Turn { content: format!("{} x", turn.content), ..turn.clone() };
        self.changes(text, role, more)
    }

    /// Whether a part is written out as it is, key by key.
    fn is_copied(&self, text: &str, role: &str) -> Result<bool> {
        self.changes(text, role, |turn| Turn { odd: true, ..turn.clone() })
    }
}

/// The conversation in forms in which all of it shows, and its rendering.
///
/// # Errors
/// The template's, and [`Error::Request`] if it leaves a message out.
pub(super) fn shown(
    template: &ChatTemplate,
    messages: &[Message],
    prompt: bool,
) -> Result<(Vec<Turn>, String)> {
    let turns: Vec<Turn> = messages.iter().map(Turn::from).collect();
    let roles: BTreeSet<&str> = messages
        .iter()
        .zip(&turns)
        .filter(|(_, turn)| turn.says_something())
        .map(|(m, _)| &*m.role)
        .collect();
    let as_text = template.write(&turns, prompt);
    let trial = Trial { template, turns: &turns, prompt };
    let mut unseen = Vec::new();
    for role in roles {
        match &as_text {
            Ok(text) if trial.shows(text, role)? => {}
            Ok(_) | Err(Failure { spent: false, .. }) => unseen.push(role),
            Err(_) => {}
        }
    }
    let as_text = match as_text {
        Ok(text) if unseen.is_empty() => return Ok((turns, text)),
        other => other,
    };
    let mut typed = turns.clone();
    for turn in typed.iter_mut().filter(|turn| unseen.contains(&&*turn.role)) {
        turn.typed = true;
    }
    if let Ok(text) = template.write(&typed, prompt) {
        let trial = Trial { template, turns: &typed, prompt };
        let mut still = Vec::new();
        for role in &unseen {
            if !trial.shows(&text, role)? || trial.is_copied(&text, role)? {
                still.push(*role);
            }
        }
        if still.is_empty() {
            return Ok((typed, text));
        }
    }
    let text = as_text.map_err(|failure| failure.error)?;
    let mut lost = Vec::new();
    for role in unseen {
        if !trial.counts(&text, role)? {
            lost.push(role);
        }
    }
    // A template that asks for no message's text has none to leave out.
    if lost.is_empty() || !template.source.contains("content") {
        return Ok((turns, text));
    }
    Err(Error::Request(format!(
        "the model's chat template leaves out what the {} says (--raw does without the template)",
        lost.join(" and the ")
    )))
}
