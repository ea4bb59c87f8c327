//! Texts that a user gives: in a flag, in a file, or on stdin.

use std::fmt::Display;
use std::io::{IsTerminal, Read, stdin};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::output;
use crate::{Error, Result};

/// Who reads from a pipe beside a prompt and gets nothing is told so after this time.
const PATIENCE: Duration = Duration::from_secs(1);

/// The text of a flag, of a file, or of stdin; `None` where stdin is a terminal.
///
/// # Errors
/// [`Error::File`] for what cannot be read or is no UTF-8.
pub(super) fn text(flag: Option<String>, file: Option<&Path>) -> Result<Option<String>> {
    if flag.is_some() {
        return Ok(flag);
    }
    if let Some(path) = file {
        let bytes = std::fs::read(path).map_err(|e| {
            let why = if e.kind() == std::io::ErrorKind::NotFound {
                "no such file".to_owned()
            } else {
                e.to_string()
            };
            Error::File(format!("{}: {why}", path.display()))
        })?;
        return utf8(bytes, &path.display()).map(Some);
    }
    if stdin().is_terminal() {
        return Ok(None);
    }
    read_stdin().map(Some)
}

/// What a given prompt has beside it on stdin.
pub(super) enum Beside {
    /// Nobody meant anything to be read: a terminal, say, or `/dev/null`.
    Nothing,
    /// What a pipe or a redirected file has.
    Text(String),
    /// A socket. Programs and remote shells that start others leave one open and send nothing, so it is
    /// not read.
    Socket,
}

impl Beside {
    /// Reads it to its end, which may take as long as who writes it takes.
    ///
    /// # Errors
    /// As [`text`]'s.
    pub(super) fn read(quiet: bool) -> Result<Beside> {
        match kind() {
            Kind::Other => Ok(Beside::Nothing),
            Kind::Socket => Ok(Beside::Socket),
            Kind::Pipe => {
                let (done, wait) = mpsc::channel::<()>();
                let patient = move || {
                    if !quiet && wait.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                        output::say(
                            "note: waiting for the end of stdin, which belongs to the prompt (</dev/null leaves it out)",
                        );
                    }
                };
                // Without a thread it is only not said.
                let _ = std::thread::Builder::new().spawn(patient);
                let text = read_stdin();
                drop(done);
                text.map(Beside::Text)
            }
        }
    }
}

/// A text without the end of its last line.
pub(super) fn without_line_end(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

/// What stdin is, where it is read beside a prompt.
enum Kind {
    /// A pipe or a file.
    Pipe,
    Socket,
    Other,
}

#[cfg(unix)]
fn kind() -> Kind {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileTypeExt;
    let meta = stdin().as_fd().try_clone_to_owned().and_then(|fd| std::fs::File::from(fd).metadata());
    match meta.map(|meta| meta.file_type()) {
        Ok(ty) if ty.is_fifo() || ty.is_file() => Kind::Pipe,
        Ok(ty) if ty.is_socket() => Kind::Socket,
        _ => Kind::Other,
    }
}

#[cfg(not(unix))]
fn kind() -> Kind {
    if stdin().is_terminal() { Kind::Other } else { Kind::Pipe }
}

fn read_stdin() -> Result<String> {
    let mut bytes = Vec::new();
    stdin().lock().read_to_end(&mut bytes).map_err(|e| Error::File(format!("stdin: {e}")))?;
    utf8(bytes, &"stdin")
}

/// The text of a file's bytes, without the mark that some programs put before it.
fn utf8(bytes: Vec<u8>, place: &dyn Display) -> Result<String> {
    let way_out = match &bytes[..] {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => {
            " is UTF-32, which `iconv -f UTF-32 -t UTF-8` converts:"
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => " is UTF-16, which `iconv -f UTF-16 -t UTF-8` converts:",
        _ => ":",
    };
    let mut text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::File(format!("{place}{way_out} is no text (byte {at} is no UTF-8)"))
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_before_a_text_are_known() {
        let read = |bytes: &[u8]| utf8(bytes.to_vec(), &"f").map_err(|e| e.to_string());
        assert_eq!(read(b"ab").unwrap(), "ab");
        assert_eq!(read(b"\xef\xbb\xbfab").unwrap(), "ab");
        assert_eq!(read(b"\xef\xbb\xbf").unwrap(), "");
        // One within a text, or a second one, is a character.
        assert_eq!(read(b"\xef\xbb\xbf\xef\xbb\xbfa").unwrap(), "\u{feff}a");
        assert_eq!(read(b"a\xef\xbb\xbf").unwrap(), "a\u{feff}");
        for (bytes, name) in [
            (&b"\xff\xfea\0b\0"[..], "UTF-16"),
            (b"\xfe\xff\0a\0b", "UTF-16"),
            (b"\xff\xfe\0\0a\0\0\0", "UTF-32"),
        ] {
            let line = read(bytes).unwrap_err();
            assert!(line.starts_with(&format!("f is {name}, ")) && line.contains("iconv"), "{line}");
            assert!(line.ends_with("is no text (byte 0 is no UTF-8)"), "{line}");
        }
        assert_eq!(read(b"caf\xe9").unwrap_err(), "f: is no text (byte 3 is no UTF-8)");
    }

    #[test]
    fn one_line_end_is_left_out() {
        for (text, without) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("a\r", "a\r")] {
            assert_eq!(without_line_end(text.to_owned()), without);
        }
    }
}
