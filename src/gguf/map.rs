//! A mapped file, and whether it is still what it was when it was mapped.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use memmap2::{Mmap, MmapOptions};

#[cfg(unix)]
use super::guard::Watch;

/// A file in memory. A file that shrinks or is written to meanwhile is no longer the one that was
/// checked: whoever has read asks [`Map::intact`]. Until then, what is gone reads as zeros on Unix;
/// on Windows, a file that is mapped cannot be shortened.
pub struct Map {
    // Dropped first: nobody may look for what is gone.
    #[cfg(unix)]
    watch: Watch,
    map: Mmap,
    file: File,
    found: State,
}

/// What shows that a file has changed.
#[derive(PartialEq)]
struct State {
    len: u64,
    modified: Option<SystemTime>,
}

impl State {
    fn of(meta: &Metadata) -> State {
        State { len: meta.len(), modified: meta.modified().ok() }
    }
}

impl Map {
    /// Maps a file; `None` for an empty one, which some systems cannot map.
    ///
    /// # Errors
    /// The operating system's, when the file cannot be opened or mapped, or is no regular file.
    pub(super) fn new(path: &Path) -> io::Result<Option<Map>> {
        // Asked before opening: to open a named pipe would wait for somebody who writes to it.
        let meta = std::fs::metadata(path)?;
        if meta.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory"));
        }
        if !meta.is_file() {
            return Err(io::Error::other("is no regular file, and a model is mapped, not read"));
        }
        let file = File::open(path)?;
        let found = State::of(&file.metadata()?);
        let len = usize::try_from(found.len).map_err(|_| io::Error::other("is too large to be mapped"))?;
        if len == 0 {
            return Ok(None);
        }
        // SAFETY: the map is read-only and every access goes through a checked slice. That the
        // bytes may change under it is what `intact` is for.
        let map = unsafe { MmapOptions::new().len(len).map(&file)? };
        Ok(Some(Map {
            #[cfg(unix)]
            watch: Watch::new(&map)?,
            map,
            file,
            found,
        }))
    }

    /// True as long as the file is what it was when it was mapped.
    pub fn intact(&self) -> bool {
        #[cfg(unix)]
        if self.watch.damaged() {
            return false;
        }
        self.file.metadata().is_ok_and(|meta| State::of(&meta) == self.found)
    }
}

impl std::ops::Deref for Map {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map
    }
}
