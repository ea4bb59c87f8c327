//! What Ctrl-C and other signals do: they end the program at once, wherever it is, and leave nothing
//! behind, no file that is not finished and no terminal that is not as it was.
//!
//! Only where something is to be said of what there is so far does the first Ctrl-C ask instead
//! ([`Deferred`]); a second one ends there, too. That needs no help of whoever computes, waits for a
//! driver or reads stdin, because signals are waited for on a thread of their own.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
use unix as system;
#[cfg(windows)]
mod windows;
#[cfg(windows)]
use windows as system;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};

use super::terminal;
use crate::{Error, Result, atomic_file};

/// Set by a Ctrl-C that asks.
static ASKED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// The first Ctrl-C asks.
static DEFERS: AtomicBool = AtomicBool::new(false);

/// Listens from now on.
///
/// # Errors
/// The operating system's.
pub(super) fn install() -> Result<()> {
    terminal::remember();
    system::listen().map_err(|e| Error::Other(format!("cannot listen for Ctrl-C and other signals: {e}")))
}

/// While it lives, the first Ctrl-C asks to stop and a second one ends the program.
pub(super) struct Deferred(());

impl Deferred {
    pub(super) fn new() -> Deferred {
        DEFERS.store(true, SeqCst);
        Deferred(())
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        DEFERS.store(false, SeqCst);
    }
}

/// True once Ctrl-C has asked.
pub(super) fn requested() -> bool {
    ASKED.load(SeqCst)
}

/// What is set when Ctrl-C asks: for an engine, which looks at it all the time.
pub(super) fn flag() -> Arc<AtomicBool> {
    Arc::clone(&ASKED)
}

/// Forgets what was asked.
pub(super) fn reset() {
    ASKED.store(false, SeqCst);
}

/// Ctrl-C.
fn on_interrupt() {
    if !DEFERS.load(SeqCst) || ASKED.swap(true, SeqCst) {
        clean_up();
        terminal::new_line();
        system::exit(Error::Interrupted.exit_code().into());
    }
}

/// Ends the program once it has said what there is. To close an engine might mean to wait for a device
/// that is still at work.
pub(super) fn end() -> ! {
    clean_up();
    system::exit(Error::Interrupted.exit_code().into())
}

/// What has to be done before the process ends: nothing else of it runs any more.
fn clean_up() {
    atomic_file::abandon_all();
    terminal::restore();
}
