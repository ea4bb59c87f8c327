//! Writing to stdout and stderr: nothing is lost in silence but what nobody reads any more.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{Formatter, PrettyFormatter};

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
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| failed(&e))
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

/// Writes to stdout what is made on the way, and flushes it: of a long result only a piece is held.
///
/// # Errors
/// As [`print`]'s.
pub(super) fn write(make: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    make(&mut out).and_then(|()| out.flush()).map_err(|e| {
        // What is in the buffer has nowhere to go.
        let _ = out.into_parts();
        failed(&e)
    })
}

fn failed(e: &io::Error) -> Error {
    if e.kind() == io::ErrorKind::BrokenPipe {
        CLOSED.store(true, Ordering::Relaxed);
    }
    Error::Other(format!("stdout: {e}"))
}

/// Writes an object as JSON and a line's end to stdout, while it is being made.
///
/// # Errors
/// As [`print`]'s.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    write(|mut out| {
        value.serialize(&mut Serializer::with_formatter(&mut out, Harmless::default()))?;
        out.write_all(b"\n")
    })
}

/// JSON in lines, without characters that a terminal would act upon. They stand in strings alone,
/// where their number means the same.
#[derive(Default)]
struct Harmless(PrettyFormatter<'static>);

impl Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| acts(*c)) {
            out.write_all(&rest.as_bytes()[..at])?;
            write!(out, "\\u{:04x}", u32::from(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        out.write_all(rest.as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_array(out)
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array(out)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array_value(out)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object(out)
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object(out)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object_value(out)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object_value(out)
    }
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
        let json = |text: &str| {
            let mut out = Vec::new();
            text.serialize(&mut Serializer::with_formatter(&mut out, Harmless::default())).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(json("a\"\n\x1b\x7f\u{9b}\u{202e}é"), r#""a\"\n\u001b\u007f\u009b\u202eé""#);
        assert_eq!(shown(b"caf\xe9", 10), "\"caf\u{fffd}\"");
        assert_eq!(shown("ééééé".as_bytes(), 3), "\"ééé\"… (10 bytes)");
        assert_eq!(shown("ééé".as_bytes(), 3), "\"ééé\"");
        assert_eq!(bytes(999), "999 bytes");
        assert_eq!(bytes(3_778_656), "3.8 MB");
    }
}
