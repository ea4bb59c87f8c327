//! Who owns a file's bytes, and the cursor that all offset arithmetic goes through.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::Error;
use super::map::Map;

/// The bytes of a GGUF file: mapped, embedded or held in memory. Cloning is cheap.
#[derive(Clone)]
pub enum Bytes {
    /// Part of the binary.
    Static(&'static [u8]),
    /// A memory-mapped file.
    Mapped(Arc<Map>),
    /// In memory.
    Owned(Arc<[u8]>),
}

impl Bytes {
    /// Maps a file.
    ///
    /// # Errors
    /// The operating system's, when the file cannot be opened or mapped, or is no regular file.
    pub fn map(path: &Path) -> std::io::Result<Bytes> {
        let map = Map::new(path)?;
        Ok(map.map_or(Bytes::Static(&[]), |map| Bytes::Mapped(Arc::new(map))))
    }

    /// True unless the file behind the bytes has changed since it was mapped.
    pub fn intact(&self) -> bool {
        match self {
            Bytes::Mapped(map) => map.intact(),
            Bytes::Static(_) | Bytes::Owned(_) => true,
        }
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
