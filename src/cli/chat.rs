//! The interactive chat: a line, an answer, a line.

use std::io::ErrorKind;

use rustyline::error::ReadlineError;
use rustyline::{Cmd, DefaultEditor, KeyEvent};

use super::prompt::Prompter;
use super::session::{Answer, Session};
use super::stats::Stats;
use super::{interrupt, output, terminal};
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

/// Talks until the user leaves. Each turn is rendered and tokenized as a whole; the session computes
/// only what has changed since the last one. A message that cannot be answered, because the context
/// has no room for it, say, is refused, and the conversation is what it was before.
///
/// # Errors
/// The engine's and the terminal's.
pub(super) fn chat(mut session: Session, prompter: &Prompter, system: Option<&str>) -> Result<()> {
    let failed = |e: ReadlineError| Error::Other(format!("terminal: {e}"));
    let mut editor = DefaultEditor::new().map_err(failed)?;
    // There is nothing to complete, and code that somebody pastes has tabs.
    editor.bind_sequence(KeyEvent::from('\t'), Cmd::SelfInsert(1, '\t'));
    let mut messages = opening(system);
    let mut pressed = false;
    if !session.settings.quiet {
        output::say("/help shows what can be done besides talking");
    }
    loop {
        let line = match terminal::editing(|| editor.readline("> ")) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) if pressed => interrupt::end(),
            Err(ReadlineError::Interrupted) => {
                pressed = true;
                output::say("Ctrl-C once more, or /exit, leaves");
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(ReadlineError::Io(e)) if e.kind() == ErrorKind::InvalidData => {
                // The editor has let go of what it had read, so nobody can tell where the line ends.
                terminal::drop_typed();
                output::say(
                    "the line is refused, with what came right behind it: it has bytes that are no UTF-8",
                );
                continue;
            }
            Err(e) => return Err(failed(e)),
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
        match turn(&mut session, prompter, &messages) {
            Ok(answer) => {
                pressed = answer.interrupted();
                let said = said(&answer.text);
                if said.trim().is_empty() {
                    // Many templates refuse a conversation with an empty answer in it.
                    messages.pop();
                    output::say("the answer is empty: it and the message are not kept");
                    continue;
                }
                messages.push(Message { role: "assistant".to_owned(), content: said.to_owned() });
            }
            Err(Error::Request(why)) => {
                messages.pop();
                output::say(&format!("the message is refused: {why}"));
            }
            Err(e) => return Err(e),
        }
    }
}

/// What a model says to the user, of an answer that has parts: a template of this format (OpenAI's harmony) writes
/// the marks of the last part itself, and refuses a conversation that has them.
fn said(answer: &str) -> &str {
    if !answer.contains("<|channel|>") {
        return answer;
    }
    answer.rsplit("<|message|>").next().unwrap_or(answer)
}

/// One answer.
fn turn(session: &mut Session, prompter: &Prompter, messages: &[Message]) -> Result<Answer> {
    let ids = prompter.ids(messages)?;
    let context = session.engine.info().context;
    if ids.len() > context {
        return Err(Error::Request(format!(
            "with it the conversation has {} tokens, the context holds {context}: shorten it, begin anew with \
             /reset, or raise --ctx",
            ids.len()
        )));
    }
    interrupt::reset();
    let answer = session.answer(prompter, &ids, &mut output::print_text);
    // Whatever ended it, its line ends: the terminal may have put a ^C there.
    let ended = output::print("\n");
    let answer = answer?;
    ended?;
    interrupt::reset();
    if !session.settings.quiet {
        let zero = std::time::Duration::ZERO;
        output::say(&Stats::new(session.engine.info(), &answer.outcome, zero, zero).line());
        output::notes(&session.engine.take_notes());
    }
    if answer.stop_reason == "context" {
        output::say(&format!(
            "the answer ends here: the conversation has {} tokens, the context holds {context} (/reset begins \
             anew, --ctx makes room)",
            ids.len() + answer.ids.len()
        ));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::said;

    #[test]
    fn the_last_part_of_an_answer_is_what_it_says() {
        let parts =
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Yes.";
        assert_eq!(said(parts), "Yes.");
        for whole in ["", "Yes.", "a <|message|> b", "[THINK]hm[/THINK]Yes."] {
            assert_eq!(said(whole), whole);
        }
    }
}
