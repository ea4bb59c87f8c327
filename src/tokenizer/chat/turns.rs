//! How a template takes what is said: as a text, or as a list of typed parts; and whether it shows.
//!
//! A template that wants typed parts and is given a text often writes nothing at all, and the
//! question is lost. A message shows if the rendering changes with it: with other
//! characters in its place, as many of them. So a template may trim a message, change it or cut
//! thoughts off; what it may not do is leave it out.

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
    /// A key more in the typed part: who sees it writes a part out as it is.
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

    /// The same with another text, of which not one character is the same.
    fn disguised(&self) -> Turn {
        let other = |c: char| match c {
            'x' => 'y',
            c if c.is_whitespace() => c,
            _ => 'x',
        };
        Turn { content: self.content.chars().map(other).collect(), odd: true, ..self.clone() }
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
    let mut turns: Vec<Turn> = messages.iter().map(Turn::from).collect();
    let as_text = template.write(&turns, prompt);
    let lost: BTreeSet<String> = match &as_text {
        Ok(text) => lost(template, &turns, text, prompt)?,
        Err(Failure { spent: false, .. }) => turns.iter().map(|turn| turn.role.clone()).collect(),
        Err(_) => BTreeSet::new(),
    };
    let left_out = match as_text {
        Ok(text) if lost.is_empty() => return Ok((turns, text)),
        Ok(_) => {
            let roles: Vec<&str> = lost.iter().map(String::as_str).collect();
            Error::Request(format!(
                "the model's chat template leaves out what the {} says (--raw does without the template)",
                roles.join(" and the ")
            ))
        }
        Err(failure) => failure.error,
    };
    for turn in turns.iter_mut().filter(|turn| lost.contains(&turn.role)) {
        turn.typed = true;
    }
    match template.write(&turns, prompt) {
        Ok(text) if self::lost(template, &turns, &text, prompt)?.is_empty() => Ok((turns, text)),
        _ => Err(left_out),
    }
}

/// The roles whose last message does not show.
fn lost(template: &ChatTemplate, turns: &[Turn], text: &str, prompt: bool) -> Result<BTreeSet<String>> {
    let says_something = |turn: &&Turn| !turn.content.trim().is_empty();
    let roles: BTreeSet<&str> = turns.iter().filter(says_something).map(|turn| &*turn.role).collect();
    let mut lost = BTreeSet::new();
    for role in roles {
        let of_role = |turn: &Turn| turn.role == role && says_something(&turn);
        let Some(last) = turns.iter().rposition(of_role) else { continue };
        let mut others = turns.to_vec();
        others[last] = others[last].disguised();
        match template.write(&others, prompt) {
            Ok(other) if other == text || other.contains(ODD) && !text.contains(ODD) => {
                lost.insert(role.to_owned());
            }
            // A template that refuses other words has looked at these.
            Ok(_) | Err(Failure { spent: false, .. }) => {}
            Err(failure) => return Err(failure.error),
        }
    }
    Ok(lost)
}
