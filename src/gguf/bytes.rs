//! Who owns a file's bytes, and the cursor that all offset arithmetic goes through.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::Error;

/// The bytes of a GGUF file: mapped, embedded or held in memory. Cloning is cheap.
#[derive(Clone)]
pub enum Bytes {
    /// Part of the binary.
    Static(&'static [u8]),
    /// A memory-mapped file.
    Mapped(Arc<Mmap>),
    /// In memory.
    Owned(Arc<[u8]>),
}

impl Bytes {
    /// Maps a file.
    ///
    /// # Errors
    /// The operating system's, when the file cannot be opened or mapped, or is no regular file.
    pub fn map(path: &Path) -> std::io::Result<Bytes> {
        // Asked before opening: to open a named pipe would wait for somebody who writes to it.
        let meta = std::fs::metadata(path)?;
        if meta.is_dir() {
            return Err(std::io::Error::new(std::io::ErrorKind::IsADirectory, "is a directory"));
        }
        if !meta.is_file() {
            return Err(std::io::Error::other("is no regular file, and a model is mapped, not read"));
        }
        let file = std::fs::File::open(path)?;
        // An empty map is an error on some systems.
        if file.metadata()?.len() == 0 {
            return Ok(Bytes::Static(&[]));
        }
        // SAFETY: the map is read-only and every access goes through a checked slice. Another
        // process that shrinks the file while it is mapped can still raise a signal; no
        // portable interface rules that out.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Bytes::Mapped(Arc::new(map)))
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Static(b) => b,
            Bytes::Mapped(m) => m,
            Bytes::Owned(v) => v,
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(v: Vec<u8>) -> Bytes {
        Bytes::Owned(v.into())
    }
}

/// A position in the bytes. Reads are checked; an error names what was being read.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// The range of the next `len` bytes, stepping over them.
    pub(super) fn range(&mut self, len: u64, what: &'static str) -> Result<Range<usize>, Error> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len));
        match end {
            Some(end) if end <= self.bytes.len() => {
                let start = std::mem::replace(&mut self.at, end);
                Ok(start..end)
            }
            _ => Err(Error::Truncated { what, at: self.at as u64, file: self.bytes.len() as u64 }),
        }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Error> {
        let range = self.range(N as u64, what)?;
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[range]);
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, Error> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, Error> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A length-prefixed string's range.
    pub(super) fn string(&mut self, what: &'static str) -> Result<Range<usize>, Error> {
        let len = self.u64(what)?;
        self.range(len, what)
    }
}
