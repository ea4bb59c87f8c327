//! Models in several files, `NAME-00001-of-00003.gguf` and so on. Each is a whole GGUF file with a
//! header, an alignment and a data section of its own; the metadata are the first one's, and three
//! keys say which part a file is.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::Error;
use super::bytes::Bytes;
use super::file::find;
use super::walk::Header;

/// More parts than anybody cuts a model into. Their numbers have five digits.
pub const MOST_PARTS: usize = 9999;

/// Which part of a model a file says it is.
#[derive(Clone, Copy)]
pub(super) struct Split {
    /// From 0.
    index: u64,
    /// All parts, at least two.
    pub(super) count: u64,
    /// Tensors of all parts, where the file says that.
    pub(super) tensors: Option<u64>,
}

impl Split {
    /// What a header says; `None` for a model in one file.
    pub(super) fn read(bytes: &Bytes, header: &Header) -> Result<Option<Split>, Error> {
        let number = |key| match find(&header.entries, bytes, key) {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or(Error::SplitType { key, ty: value.ty() }),
        };
        let count = match number("split.count")? {
            None | Some(0 | 1) => return Ok(None),
            Some(count) if count > MOST_PARTS as u64 => {
                return Err(Error::Parts { count, most: MOST_PARTS as u64 });
            }
            Some(count) => count,
        };
        match number("split.no")? {
            Some(index) if index < count => {
                Ok(Some(Split { index, count, tensors: number("split.tensors.count")? }))
            }
            Some(index) => Err(Error::PartNumber { index, count }),
            None => Err(Error::NoPartNumber { count }),
        }
    }

    /// The place of this part among all parts, and the paths of all by that of this one.
    pub(super) fn paths(self, path: &Path) -> Result<(usize, Vec<PathBuf>), Error> {
        let name = path.file_name().unwrap_or_default();
        let stem = stem(name);
        let named = |index: u64| {
            let mut name = OsString::from(stem);
            name.push(format!("-{:05}-of-{:05}.gguf", index.saturating_add(1), self.count));
            name
        };
        if name != named(self.index) {
            let shown = |index| named(index).to_string_lossy().escape_debug().to_string();
            return Err(Error::PartName {
                no: self.index.saturating_add(1),
                count: self.count,
                name: shown(self.index),
                other: shown(u64::from(self.index == 0)),
            });
        }
        let index = usize::try_from(self.index).unwrap_or(usize::MAX);
        Ok((index, (0..self.count).map(|i| path.with_file_name(named(i))).collect()))
    }

    /// Refuses a part that has the next one behind it in the same file.
    pub(super) fn stands_alone(self, bytes: &Bytes, header: &Header) -> Result<(), Error> {
        let ends = header.tensors.iter().map(|t| t.offset.saturating_add(t.bytes));
        let end = usize::try_from(ends.max().unwrap_or(header.data_start)).unwrap_or(usize::MAX);
        // What `cat` joins comes where the file ended, behind the last tensor and what aligns it.
        let behind = bytes.get(end..).unwrap_or_default();
        let padding = behind.iter().take(header.alignment as usize).take_while(|b| **b == 0).count();
        match behind.get(padding..).is_some_and(|next| next.starts_with(b"GGUF")) {
            true => Err(Error::Joined { no: self.index.saturating_add(1), count: self.count }),
            false => Ok(()),
        }
    }

    /// Refuses another file that is not part `index` of the same model.
    pub(super) fn check(self, index: usize, other: Option<Split>) -> Result<(), Error> {
        let (found, at) = other.map_or((1, 0), |s| (s.count, s.index));
        if found != self.count {
            return Err(Error::PartKey { key: "split.count", found, right: self.count });
        }
        if at != index as u64 {
            return Err(Error::PartKey { key: "split.no", found: at, right: index as u64 });
        }
        Ok(())
    }
}

/// What to say of a file that is cut off, or begins in the middle, if its name ends as those do that
/// have been cut for uploading: `.gguf.part1of2`, `.gguf-split-a`, `.gguf.001`.
pub(super) fn piece(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let (_, end) = name.rsplit_once(".gguf")?;
    let numbered = |end: &str| end.len() > 1 && end[1..].bytes().all(|b| b.is_ascii_digit());
    let cut = end.starts_with(".part") || end.starts_with("-split-") || end.starts_with('.') && numbered(end);
    cut.then_some("by its name this is a piece of a file: join all pieces in order, as with `cat`")
}

/// A part's name without its ending and `-00001-of-00003`. Names need not be UTF-8.
fn stem(name: &OsStr) -> &OsStr {
    let bytes = name.as_encoded_bytes();
    let stem = bytes.strip_suffix(b".gguf").unwrap_or(bytes);
    let stem = without_numbers(stem).unwrap_or(stem);
    // SAFETY: what is left ends where the name ends, or right before a non-empty ASCII text in it.
    unsafe { OsStr::from_encoded_bytes_unchecked(stem) }
}

fn without_numbers(stem: &[u8]) -> Option<&[u8]> {
    let (name, numbers) = stem.split_at_checked(stem.len().checked_sub("-00001-of-00003".len())?)?;
    let fits = |(b, pattern): (&u8, u8)| if pattern == b'0' { b.is_ascii_digit() } else { *b == pattern };
    numbers.iter().zip(*b"-00000-of-00000").all(fits).then_some(name)
}
