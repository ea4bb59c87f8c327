//! Writing to stdout and stderr: nothing is lost in silence but what nobody reads any more.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

/// The reader of stdout has gone: the command ends, and that is no failure.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// True once stdout turned out to be a closed pipe.
pub(super) fn closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

/// Writes to stdout and flushes it.
///
/// # Errors
/// A full disk, say. For a closed pipe an error as well, to end the command; it is none for
/// [`super::execute`].
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| {
        if e.kind() == io::ErrorKind::BrokenPipe {
            CLOSED.store(true, Ordering::Relaxed);
        }
        Error::Other(format!("stdout: {e}"))
    })
}

/// Writes what a model or a file says to stdout: as it is, but on a terminal with everything escaped
/// that it would act upon.
///
/// # Errors
/// As [`print`]'s.
pub(super) fn print_text(text: &str) -> Result<()> {
    if io::stdout().is_terminal() { print(&printable(text)) } else { print(text) }
}

/// A text in lines with characters escaped that a terminal would act upon. A carriage return is one: it
/// lets a line be written over. Each is escaped by itself, so a text may come in any pieces.
fn printable(text: &str) -> String {
    escape_but(text, |c| matches!(c, '\n' | '\t'))
}

/// Writes an object as JSON and a line's end to stdout.
///
/// # Errors
/// As [`print`]'s.
pub(super) fn json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::Other(format!("JSON: {e}")))?;
    print(&(harmless(text) + "\n"))
}

/// JSON without characters that a terminal would act upon. They stand in strings alone, where
/// their number means the same.
fn harmless(json: String) -> String {
    let acts = |c: char| c != '\n' && acts(c);
    if !json.contains(acts) {
        return json;
    }
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if acts(c) {
            out += &format!("\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// Writes one line to stderr, with whatever a file may have put into it escaped. When stderr is
/// closed, nobody wants to know.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{}", escape(line));
}

/// Writes notes to stderr, each as a line.
pub(super) fn notes(notes: &[String]) {
    for note in notes {
        say(&format!("note: {note}"));
    }
}

/// Writes a text of this program's own to stderr.
pub(super) fn say_text(text: &str) {
    let _ = write!(io::stderr(), "{text}");
}

/// Control characters, and those that turn the direction of writing.
fn acts(c: char) -> bool {
    let turns = |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns(c)
}

/// A text with characters escaped that a terminal would act upon.
pub(super) fn escape(text: &str) -> String {
    escape_but(text, |_| false)
}

fn escape_but(text: &str, passes: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) && !passes(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// A text in quotes, from which it can be read back: quotes and backslashes are escaped, too.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", escape(&text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Bytes that should be text, in quotes, lossily where they are no UTF-8, and cut after `most`
/// characters.
pub(super) fn shown(bytes: &[u8], most: usize) -> String {
    // Not all of a long string needs to be looked at: a character has at most four bytes.
    let head = &bytes[..bytes.len().min(most.saturating_add(1).saturating_mul(4))];
    let text = String::from_utf8_lossy(head);
    let cut: String = text.chars().take(most).collect();
    let more = if cut.len() < text.len() { format!("… ({} bytes)", bytes.len()) } else { String::new() };
    quoted(&cut) + &more
}

/// Bytes for people: GB are 10⁹ bytes.
pub(super) fn bytes(n: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let n = n as f64;
    match n {
        ..1e3 => format!("{n} bytes"),
        ..1e6 => format!("{:.1} kB", n / 1e3),
        ..1e9 => format!("{:.1} MB", n / 1e6),
        _ => format!("{:.2} GB", n / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_raw() {
        assert_eq!(escape("a\x1b[31m\n\u{9b}\u{202e}é"), "a\\u{1b}[31m\\n\\u{9b}\\u{202e}é");
        assert_eq!(
            printable("a\tb\r\n\x1b]0;t\x07\u{7f}\u{9d}é👩\u{200d}👧"),
            "a\tb\\r\n\\u{1b}]0;t\\u{7}\\u{7f}\\u{9d}é👩\u{200d}👧"
        );
        assert_eq!(quoted("a\"\\n\n"), r#""a\"\\n\n""#);
        assert_eq!(harmless("{\n\"a\\u001b\u{9b}\u{202e}é\"}".to_owned()), "{\n\"a\\u001b\\u009b\\u202eé\"}");
        assert_eq!(shown(b"caf\xe9", 10), "\"caf\u{fffd}\"");
        assert_eq!(shown("ééééé".as_bytes(), 3), "\"ééé\"… (10 bytes)");
        assert_eq!(shown("ééé".as_bytes(), 3), "\"ééé\"");
        assert_eq!(bytes(999), "999 bytes");
        assert_eq!(bytes(3_778_656), "3.8 MB");
    }
}
