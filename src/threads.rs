//! Threads of our own. Those that rayon would start by itself are as many as the environment says,
//! and where they cannot be had it panics.

use crate::{Error, Result};

/// As many threads as can run at a time.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// So many threads, which end with the pool.
///
/// # Errors
/// [`Error::Device`] where the system has no more of them.
pub(crate) fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    // Of 0 the environment would make what it likes.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build();
    pool.map_err(|e| {
        Error::Device(format!(
            "cannot start {threads} thread(s): {e}: allow more of them (ulimit -u, ulimit -v)"
        ))
    })
}
