//! The interactive chat: a line, an answer, a line.

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::prompt::Prompter;
use super::session::Session;
use super::stats::Stats;
use super::{interrupt, output};
use crate::tokenizer::Message;
use crate::{Error, Result};

const HELP: &str = "\
/reset   forget the conversation
/exit    leave (Ctrl-D does, too)
/help    show this
Ctrl-C stops an answer; pressed again, it leaves.
";

/// The messages that stand before the user's first.
pub(super) fn opening(system: Option<&str>) -> Vec<Message> {
    let message = |text: &str| Message { role: "system".to_owned(), content: text.to_owned() };
    system.map(message).into_iter().collect()
}

/// Talks until the user leaves or the context is full. Each turn is rendered and tokenized as a
/// whole; the session computes only what has changed since the last one.
///
/// # Errors
/// [`Error::Interrupted`] after Ctrl-C, [`Error::Request`] when the context is full; the
/// engine's, the template's and the terminal's.
pub(super) fn chat(mut session: Session, prompter: &Prompter, system: Option<&str>) -> Result<()> {
    let terminal = |e: ReadlineError| Error::Other(format!("terminal: {e}"));
    let mut editor = DefaultEditor::new().map_err(terminal)?;
    let mut messages = opening(system);
    let mut pressed = false;
    if !session.settings.quiet {
        output::say("/help shows what can be done besides talking");
    }
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) if pressed => return Err(Error::Interrupted),
            Err(ReadlineError::Interrupted) => {
                pressed = true;
                output::say("Ctrl-C once more, or /exit, leaves");
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(e) => return Err(terminal(e)),
        };
        pressed = false;
        match line.trim() {
            "" => continue,
            "/exit" => return Ok(()),
            "/help" => {
                output::say_text(HELP);
                continue;
            }
            "/reset" => {
                messages = opening(system);
                session.history.clear();
                continue;
            }
            _ => {}
        }
        // A line that cannot be kept for the arrow keys is no reason to stop.
        let _ = editor.add_history_entry(&line);
        messages.push(Message { role: "user".to_owned(), content: line });
        let full = turn(&mut session, prompter, &mut messages, &mut pressed)?;
        if let Some(tokens) = full {
            return Err(Error::Request(format!(
                "the conversation has {tokens} tokens, the context holds {}: start again, or raise --ctx",
                session.engine.info().context
            )));
        }
    }
}

/// One answer, which becomes a message. Gives the number of tokens when the context is full.
fn turn(
    session: &mut Session,
    prompter: &Prompter,
    messages: &mut Vec<Message>,
    pressed: &mut bool,
) -> Result<Option<usize>> {
    let ids = prompter.ids(messages)?;
    if ids.len() > session.engine.info().context {
        return Ok(Some(ids.len()));
    }
    interrupt::reset();
    let answer = session.answer(prompter, &ids, &mut output::print);
    // Whatever ended it, its line ends: the terminal may have put a ^C there.
    let ended = output::print("\n");
    let answer = answer?;
    ended?;
    *pressed = answer.interrupted();
    interrupt::reset();
    if !session.settings.quiet {
        let zero = std::time::Duration::ZERO;
        output::say(&Stats::new(session.engine.info(), &answer.outcome, zero, zero).line());
    }
    messages.push(Message { role: "assistant".to_owned(), content: answer.text });
    Ok((answer.stop_reason == "context").then(|| ids.len() + answer.ids.len()))
}
