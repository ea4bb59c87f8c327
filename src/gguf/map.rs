//! A mapped file, and whether it is still what it was when it was mapped.

use std::fs::{File, Metadata};
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use memmap2::{Mmap, MmapOptions};

use self::access::Access;

#[cfg(unix)]
use super::guard::Watch;

/// A file in memory. A file that shrinks or is written to meanwhile is no longer the one that was
/// checked: whoever has read asks [`Map::intact`]. Until then, what is gone reads as zeros on Unix;
/// on Windows, a file that is mapped can be neither shortened nor, as it is opened here, written to.
///
/// A file that takes this one's name is another file, and does no harm: the map stays with the old one.
pub struct Map {
    // Dropped first: nobody may look for what is gone.
    #[cfg(unix)]
    watch: Watch,
    map: Mmap,
    file: File,
    path: PathBuf,
    found: State,
    /// What was last found to go with the same bytes.
    known: Mutex<Known>,
    sample: u64,
}

/// What no change of a file's bytes leaves as it is, unless somebody turns the time back.
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

/// What tells that something has happened to a file, and what.
struct Known {
    access: Access,
    /// Whether the file had the name that it was opened by.
    is_named: bool,
}

impl Known {
    fn of(meta: &Metadata, path: &Path) -> Known {
        let access = Access::of(meta);
        let is_named = access.is_at(path);
        Known { access, is_named }
    }
}

/// Pieces of a file that stand for all of it, and their bytes.
const PIECES: usize = 64;
const PIECE: usize = 512;

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
        let file = open(path)?;
        let meta = file.metadata()?;
        let found = State::of(&meta);
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
            sample: sample(&map),
            map,
            file,
            path: path.to_owned(),
            found,
            known: Mutex::new(Known::of(&meta, path)),
        }))
    }

    /// True as long as the file is what it was when it was mapped.
    ///
    /// Where somebody has turned the time of the last change of its bytes back, that of the last change of
    /// anything tells. That time passes with a new link or name, too, which do no harm: where one of
    /// these is seen, a sample of the bytes decides, and each explains one such change. Where none is, the file
    /// counts as changed. So it does with another mode or owner: that is what copying over it brings along, and
    /// nothing proves that the bytes are the same.
    pub fn intact(&self) -> bool {
        let known = self.file.metadata().is_ok_and(|meta| {
            State::of(&meta) == self.found && (self.is_known(&meta) || self.is_explained(&meta))
        });
        // Asked last: to look at the sample may show what is gone.
        known && !self.is_damaged()
    }

    fn is_damaged(&self) -> bool {
        #[cfg(unix)]
        return self.watch.damaged();
        #[cfg(not(unix))]
        false
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_known(&self, meta: &Metadata) -> bool {
        self.known().access == Access::of(meta)
    }

    /// True where a link or a name has come or gone, which is known from then on: a name that is missing
    /// explains nothing that happens later.
    fn is_explained(&self, meta: &Metadata) -> bool {
        let mut known = self.known();
        let now = Known::of(meta, &self.path);
        let is_other = now.access.has_other_links(&known.access) || now.is_named != known.is_named;
        let is_explained =
            is_other && now.access.allows_the_same(&known.access) && sample(&self.map) == self.sample;
        if is_explained {
            *known = now;
        }
        is_explained
    }
}

/// Bytes from all over a map, its first and last among them, as a number.
fn sample(map: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    let head = |bytes: &[u8]| hasher.write(&bytes[..bytes.len().min(PIECE)]);
    map.chunks(map.len().div_ceil(PIECES).max(1)).for_each(head);
    hasher.write(&map[map.len().saturating_sub(PIECE)..]);
    hasher.finish()
}

#[cfg(not(windows))]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Others may read, rename and remove it meanwhile.
#[cfg(windows)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt;
    const READ: u32 = 1;
    const DELETE: u32 = 4;
    File::options().read(true).share_mode(READ | DELETE).open(path)
}

#[cfg(unix)]
mod access {
    use std::fs::Metadata;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    /// Who may do what with a file, by which names, and when anything about it has last changed.
    #[derive(PartialEq)]
    pub(super) struct Access {
        changed: (i64, i64),
        id: (u64, u64),
        links: u64,
        allowed: (u32, u32, u32),
    }

    impl Access {
        pub(super) fn of(meta: &Metadata) -> Access {
            Access {
                changed: (meta.ctime(), meta.ctime_nsec()),
                id: (meta.dev(), meta.ino()),
                links: meta.nlink(),
                allowed: (meta.mode(), meta.uid(), meta.gid()),
            }
        }

        /// True where there is a reason for another time that is not another content.
        pub(super) fn has_other_links(&self, before: &Access) -> bool {
            self.links != before.links
        }

        /// True where the file is whose it was, and for whom.
        pub(super) fn allows_the_same(&self, before: &Access) -> bool {
            self.allowed == before.allowed
        }

        /// True where the file still has this name.
        pub(super) fn is_at(&self, path: &Path) -> bool {
            std::fs::metadata(path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.id)
        }
    }
}

/// Nobody else can write to the file here.
#[cfg(not(unix))]
mod access {
    use std::fs::Metadata;
    use std::path::Path;

    #[derive(PartialEq)]
    pub(super) struct Access;

    impl Access {
        pub(super) fn of(_meta: &Metadata) -> Access {
            Access
        }

        pub(super) fn has_other_links(&self, _before: &Access) -> bool {
            false
        }

        pub(super) fn allows_the_same(&self, _before: &Access) -> bool {
            true
        }

        pub(super) fn is_at(&self, _path: &Path) -> bool {
            true
        }
    }
}

impl std::ops::Deref for Map {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map
    }
}
