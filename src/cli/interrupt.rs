//! Ctrl-C: the first one asks, a second one leaves.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Error, Result};

static PRESSED: AtomicUsize = AtomicUsize::new(0);

/// From now on Ctrl-C is noticed by [`requested`] instead of ending the process. Who does not
/// listen is ended by the second one.
///
/// # Errors
/// The operating system's.
pub(super) fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        if PRESSED.fetch_add(1, Ordering::SeqCst) > 0 {
            std::process::exit(Error::Interrupted.exit_code().into());
        }
    })
    .map_err(|e| Error::Other(format!("Ctrl-C: {e}")))
}

/// True after Ctrl-C.
pub(super) fn requested() -> bool {
    PRESSED.load(Ordering::SeqCst) > 0
}

/// Forgets what was pressed.
pub(super) fn reset() {
    PRESSED.store(0, Ordering::SeqCst);
}
