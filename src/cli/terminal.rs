//! The terminal's state, which is the user's: a line editor changes it while it waits for a line, and a
//! signal that ends the program then has to put it back.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

#[cfg(unix)]
pub(super) use unix::{drop_typed, remember};

/// A line is being edited.
static EDITING: AtomicBool = AtomicBool::new(false);

/// Runs a line editor.
pub(super) fn editing<T>(edit: impl FnOnce() -> T) -> T {
    EDITING.store(true, SeqCst);
    let line = edit();
    EDITING.store(false, SeqCst);
    line
}

/// Puts the terminal back to what it was when the program began.
pub(super) fn restore() {
    #[cfg(unix)]
    if EDITING.load(SeqCst) {
        unix::restore();
    }
}

/// Lets what comes next on a terminal begin a line: a bar or half a line may stand there.
pub(super) fn new_line() {
    if stderr().is_terminal() {
        super::output::say_text("\n");
    }
}

/// Nothing to remember: a console's mode is its own program's.
#[cfg(not(unix))]
pub(super) fn remember() {}

/// Consoles give characters, none of which is damaged.
#[cfg(not(unix))]
pub(super) fn drop_typed() {}

#[cfg(unix)]
mod unix {
    use std::sync::OnceLock;

    use libc::{STDIN_FILENO, STDOUT_FILENO};

    /// What the terminal was like.
    static BEFORE: OnceLock<libc::termios> = OnceLock::new();

    /// Looks at the terminal, if stdin is one.
    pub(in super::super) fn remember() {
        // SAFETY: all zero bits are a termios, which the call fills.
        unsafe {
            let mut state: libc::termios = std::mem::zeroed();
            if libc::tcgetattr(STDIN_FILENO, &raw mut state) == 0 {
                let _ = BEFORE.set(state);
            }
        }
    }

    /// Puts it back, unless it is another program's by now.
    pub(super) fn restore() {
        let Some(before) = BEFORE.get() else { return };
        // Pastes that are marked as such are turned off, too.
        let off = b"\x1b[?2004l";
        // SAFETY: the state is one that the system gave, and the bytes are as many as is said.
        unsafe {
            if libc::tcgetpgrp(STDIN_FILENO) == libc::getpgrp() {
                libc::tcsetattr(STDIN_FILENO, libc::TCSANOW, before);
                libc::write(STDOUT_FILENO, off.as_ptr().cast(), off.len());
            }
        }
    }

    /// Forgets what has been typed and is not read.
    pub(in super::super) fn drop_typed() {
        // SAFETY: takes two numbers.
        unsafe { libc::tcflush(STDIN_FILENO, libc::TCIFLUSH) };
    }
}
