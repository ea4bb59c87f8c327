//! Ctrl-C, Ctrl-Break, and a console that is closed.

use std::io;

/// Starts the thread that waits for them.
pub(super) fn listen() -> io::Result<()> {
    ctrlc::set_handler(super::on_interrupt).map_err(io::Error::other)
}

/// Ends the process now.
pub(super) fn exit(code: i32) -> ! {
    std::process::exit(code)
}
