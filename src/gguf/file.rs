//! An opened file: metadata by key, tensors by name.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::Error;
use super::bytes::Bytes;
use super::value::{Array, Value, ValueType};
use super::walk::walk;
use crate::quant::Type;

/// A metadata pair, as ranges of the file.
pub(super) struct Entry {
    pub(super) key: Range<usize>,
    pub(super) value: Stored,
}

/// Where a value lies. The walk has checked every range.
pub(super) enum Stored {
    Scalar(ValueType, Range<usize>),
    String(Range<usize>),
    Array(ValueType, usize, Range<usize>),
}

impl Stored {
    pub(super) fn view<'a>(&self, bytes: &'a [u8]) -> Value<'a> {
        match self {
            Stored::Scalar(ty, range) => Value::scalar(*ty, &bytes[range.clone()]).unwrap_or(Value::U8(0)),
            Stored::String(range) => Value::String(&bytes[range.clone()]),
            Stored::Array(ty, len, range) => {
                Value::Array(Array { ty: *ty, len: *len, bytes: &bytes[range.clone()] })
            }
        }
    }
}

/// A tensor of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// The tensor's name.
    pub name: String,
    /// The type of its blocks.
    pub ty: Type,
    /// Dimensions, fastest first, padded with ones: `[in, out, 1, 1]` for a matrix.
    pub shape: [u64; 4],
    /// How many of them the file states.
    pub n_dims: usize,
    /// The first byte, from the beginning of the file.
    pub offset: u64,
    /// The length in bytes.
    pub bytes: u64,
}

impl Tensor {
    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |n: u64, d| n.saturating_mul(*d))
    }

    /// The stated dimensions without trailing ones, at least one of them.
    pub fn dims(&self) -> &[u64] {
        let used = self.shape.iter().rposition(|d| *d != 1).map_or(1, |i| i.saturating_add(1));
        &self.shape[..used]
    }
}

/// A GGUF file: its bytes and a checked index into them. See the module's documentation.
pub struct File {
    bytes: Bytes,
    version: u32,
    alignment: u32,
    data_start: u64,
    entries: Vec<Entry>,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
}

impl File {
    /// Opens a file by mapping it.
    ///
    /// # Errors
    /// An I/O error, or the container's first fault.
    pub fn open(path: &Path) -> Result<File, crate::Error> {
        let shown = path.display();
        let bytes = Bytes::map(path).map_err(|e| {
            let why = match e.kind() {
                std::io::ErrorKind::NotFound => "no such file".to_owned(),
                std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
                _ => e.to_string(),
            };
            crate::Error::File(format!("{shown}: {why}"))
        })?;
        File::parse(bytes).map_err(|e| crate::Error::File(format!("{shown}: {e}")))
    }

    /// Walks bytes from any source.
    ///
    /// # Errors
    /// The container's first fault.
    pub fn parse(bytes: impl Into<Bytes>) -> Result<File, Error> {
        let bytes = bytes.into();
        let header = walk(&bytes)?;
        let by_name = header.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Ok(File {
            bytes,
            version: header.version,
            alignment: header.alignment,
            data_start: header.data_start,
            entries: header.entries,
            tensors: header.tensors,
            by_name,
        })
    }

    /// The format's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The alignment of tensors in bytes.
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// The first byte of the data section.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// The file's size in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// All metadata in file order. Keys are UTF-8: the walk refuses others.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.entries.iter().map(|e| {
            let key = std::str::from_utf8(&self.bytes[e.key.clone()]).unwrap_or_default();
            (key, e.value.view(&self.bytes))
        })
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        let entry = self.entries.iter().find(|e| &self.bytes[e.key.clone()] == key.as_bytes())?;
        Some(entry.value.view(&self.bytes))
    }

    /// All tensors in the table's order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name).map(|i| &self.tensors[*i])
    }

    /// A tensor's bytes.
    pub fn data(&self, tensor: &Tensor) -> &[u8] {
        let start = usize::try_from(tensor.offset).unwrap_or(usize::MAX);
        let end = usize::try_from(tensor.offset.saturating_add(tensor.bytes)).unwrap_or(usize::MAX);
        // A tensor of another file could lie outside of this one: then there is no data.
        self.bytes.get(start..end).unwrap_or(&[])
    }

    /// The bytes of the whole file.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File")
            .field("version", &self.version)
            .field("size", &self.size())
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}
