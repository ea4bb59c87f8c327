//! Models in several files, `NAME-00001-of-00003.gguf` and so on. Each is a whole GGUF file with a
//! header, an alignment and a data section of its own; the metadata are the first one's, and three
//! keys say which part a file is.

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
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let stem = name.strip_suffix(".gguf").unwrap_or(name);
        let stem = without_numbers(stem).unwrap_or(stem);
        let named = |index: u64| format!("{stem}-{:05}-of-{:05}.gguf", index.saturating_add(1), self.count);
        if name != named(self.index) {
            return Err(Error::PartName {
                no: self.index.saturating_add(1),
                count: self.count,
                name: named(self.index).escape_debug().to_string(),
                other: named(u64::from(self.index == 0)).escape_debug().to_string(),
            });
        }
        let index = usize::try_from(self.index).unwrap_or(usize::MAX);
        Ok((index, (0..self.count).map(|i| path.with_file_name(named(i))).collect()))
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

/// A part's name without its ending and `-00001-of-00003`.
fn without_numbers(stem: &str) -> Option<&str> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    (digits(count) && digits(number)).then_some(name)
}
