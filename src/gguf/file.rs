//! An opened file: metadata by key, tensors by name.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::Error;
use super::bytes::Bytes;
use super::split::{Split, piece};
use super::value::{Array, Value, ValueType};
use super::walk::{Header, shown, walk};
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

/// The value of a key.
pub(super) fn find<'a>(entries: &[Entry], bytes: &'a [u8], key: &str) -> Option<Value<'a>> {
    let entry = entries.iter().find(|e| &bytes[e.key.clone()] == key.as_bytes())?;
    Some(entry.value.view(bytes))
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
    /// Which of the model's files it lies in.
    pub part: usize,
    /// The first byte, from the beginning of that file.
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

/// A file of a model. Most models have one.
pub struct Part {
    name: String,
    bytes: Bytes,
    alignment: u32,
    data_start: u64,
}

impl Part {
    /// The path as it was given; nothing for bytes in memory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bytes of the whole file.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The alignment of tensors in bytes.
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// The first byte of the data section.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }
}

/// A GGUF file, or all files of a model that is split: the bytes and a checked index into them.
/// Cloning is cheap. See the module's documentation.
#[derive(Clone)]
pub struct File {
    index: Arc<Index>,
    /// Keys that are passed over.
    ignored: Arc<[String]>,
}

struct Index {
    version: u32,
    /// At least one.
    parts: Vec<Part>,
    /// Of the first part.
    entries: Vec<Entry>,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
}

/// A file on the way to becoming a part.
struct Walked {
    bytes: Bytes,
    header: Header,
    split: Option<Split>,
}

impl Walked {
    fn new(bytes: Bytes) -> Result<Walked, Error> {
        let header = walk(&bytes)?;
        let split = Split::read(&bytes, &header)?;
        if let Some(split) = split {
            split.stands_alone(&bytes, &header)?;
        }
        Ok(Walked { bytes, header, split })
    }

    fn open(path: &Path) -> Result<Walked, crate::Error> {
        let bytes = Bytes::map(path).map_err(|e| {
            let why = match e.kind() {
                std::io::ErrorKind::NotFound => "no such file".to_owned(),
                std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
                _ => e.to_string(),
            };
            crate::Error::File(why)
        })?;
        let walked = Walked::new(bytes.clone());
        // What is wrong with a file that changes is no fault of the file.
        if !bytes.intact() {
            return Err(changed());
        }
        walked.map_err(|e| match piece(path) {
            Some(way_out) => crate::Error::File(format!("{e}; {way_out}")),
            None => crate::Error::File(e.to_string()),
        })
    }
}

/// A key that says something of the model in a part, and another thing or nothing in the first one. Tools write no more into parts behind
/// the first than which they are; where there is more, it must fit.
fn contradiction((bytes, entries): (&[u8], &[Entry]), first: (&[u8], &[Entry])) -> Option<String> {
    let architecture = find(first.1, first.0, "general.architecture").and_then(|value| value.as_str());
    let of_architecture = |key: &str| {
        architecture.and_then(|name| key.strip_prefix(name)).is_some_and(|rest| rest.starts_with('.'))
    };
    let of_model = |key: &str| {
        key != "general.alignment" && (key.starts_with("general.") || key.starts_with("tokenizer."))
            || of_architecture(key)
    };
    let keys = entries.iter().filter_map(|e| std::str::from_utf8(&bytes[e.key.clone()]).ok());
    let mut shared = keys.filter(|key| of_model(key));
    let differs = |key: &&str| {
        let there = find(first.1, first.0, key);
        let counts = there.is_some() || of_architecture(key) || key.starts_with("tokenizer.");
        counts && there != find(entries, bytes, key)
    };
    shared.find(differs).map(str::to_owned)
}

fn changed() -> crate::Error {
    crate::Error::File("changed while it was read: start again".to_owned())
}

impl File {
    /// Opens a file by mapping it, and with one part of a split model all of them.
    ///
    /// # Errors
    /// An I/O error, or the container's first fault, with the file's path.
    pub fn open(path: &Path) -> Result<File, crate::Error> {
        let first = Walked::open(path).map_err(|e| e.context(path.display()))?;
        let Some(split) = first.split else { return Ok(File::single(path.display().to_string(), first)) };
        let fault = |path: &Path, e: Error| crate::Error::File(format!("{}: {e}", path.display()));
        let (own, paths) = split.paths(path).map_err(|e| fault(path, e))?;
        let mut given = Some(first);
        let mut parts = Vec::new();
        for (i, path) in paths.iter().enumerate() {
            let walked = match given.take_if(|_| i == own) {
                Some(walked) => walked,
                None => Walked::open(path).map_err(|e| {
                    let part = i.saturating_add(1);
                    e.context(format!("{} (part {part} of {})", path.display(), split.count))
                })?,
            };
            split.check(i, walked.split).map_err(|e| fault(path, e))?;
            parts.push((path.display().to_string(), walked));
        }
        File::join(parts).map_err(|(name, e)| crate::Error::File(format!("{name}: {e}")))
    }

    /// Walks bytes from any source.
    ///
    /// # Errors
    /// The container's first fault; bytes that are a part of a split model.
    pub fn parse(bytes: impl Into<Bytes>) -> Result<File, Error> {
        let walked = Walked::new(bytes.into())?;
        match walked.split {
            Some(split) => Err(Error::Part(split.count)),
            None => Ok(File::single(String::new(), walked)),
        }
    }

    fn single(name: String, walked: Walked) -> File {
        let Walked { bytes, header, .. } = walked;
        let by_name = header.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        let part = Part { name, bytes, alignment: header.alignment, data_start: header.data_start };
        File::of(Index {
            version: header.version,
            parts: vec![part],
            entries: header.entries,
            tensors: header.tensors,
            by_name,
        })
    }

    fn of(index: Index) -> File {
        File { index: Arc::new(index), ignored: Arc::default() }
    }

    /// The same file, read as if these keys were not there. What its container is remains.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] for a key that the file has not, or that says how to read it.
    pub fn ignoring(self, keys: &[String]) -> Result<File, crate::Error> {
        for key in keys {
            let shown = shown(key.as_bytes());
            if find(&self.index.entries, &self.first().bytes, key).is_none() {
                return Err(crate::Error::Usage(format!("the file has no metadata key {shown}")));
            }
            if key == "general.alignment" || key == "general.architecture" || key.starts_with("split.") {
                return Err(crate::Error::Usage(format!("the file cannot be read without {shown}")));
            }
        }
        Ok(File { ignored: keys.into(), ..self })
    }

    /// True for a key that is passed over.
    pub fn ignores(&self, key: &str) -> bool {
        self.ignored.iter().any(|ignored| ignored == key)
    }

    /// The keys that are passed over.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// A model of several files, which say that they are its parts. The error names one.
    fn join(files: Vec<(String, Walked)>) -> Result<File, (String, Error)> {
        let found = files.iter().fold(0, |n: u64, (_, f)| n.saturating_add(f.header.tensors.len() as u64));
        let mut index =
            Index { version: 0, parts: vec![], entries: vec![], tensors: vec![], by_name: HashMap::new() };
        for (part, (name, Walked { bytes, header, split })) in files.into_iter().enumerate() {
            if let Some(stated) = split.and_then(|s| s.tensors)
                && stated != found
            {
                return Err((name, Error::PartTensors { stated, found }));
            }
            if let Some(first) = index.parts.first()
                && let Some(key) = contradiction((&bytes, &header.entries), (&first.bytes, &index.entries))
            {
                let first = first.name.clone();
                return Err((name, Error::PartMetadata { key: shown(key.as_bytes()), first }));
            }
            if part == 0 {
                index.version = header.version;
                index.entries = header.entries;
            }
            for mut tensor in header.tensors {
                tensor.part = part;
                if let Some(at) = index.by_name.insert(tensor.name.clone(), index.tensors.len()) {
                    let other = index.tensors.get(at).and_then(|t| index.parts.get(t.part));
                    let other = other.map_or_else(|| name.clone(), |p| p.name.clone());
                    return Err((name, Error::PartTensor { name: shown(tensor.name.as_bytes()), other }));
                }
                index.tensors.push(tensor);
            }
            let (alignment, data_start) = (header.alignment, header.data_start);
            index.parts.push(Part { name, bytes, alignment, data_start });
        }
        Ok(File::of(index))
    }

    /// Says whether the files are still those that were opened. What has been read before is right
    /// where they are; where they are not, it may be anything.
    ///
    /// # Errors
    /// [`crate::Error::File`] with the file that has changed.
    pub fn intact(&self) -> Result<(), crate::Error> {
        match self.parts().iter().find(|part| !part.bytes.intact()) {
            Some(part) => Err(changed().context(&part.name)),
            None => Ok(()),
        }
    }

    /// The files, at least one.
    pub fn parts(&self) -> &[Part] {
        &self.index.parts
    }

    fn first(&self) -> &Part {
        &self.index.parts[0]
    }

    /// The format's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.index.version
    }

    /// The alignment of tensors in bytes: the first file's.
    pub fn alignment(&self) -> u32 {
        self.first().alignment
    }

    /// The first byte of the first file's data section.
    pub fn data_start(&self) -> u64 {
        self.first().data_start
    }

    /// The size of all files in bytes.
    pub fn size(&self) -> u64 {
        self.parts().iter().fold(0, |n, part| n.saturating_add(part.bytes.len() as u64))
    }

    /// All metadata in file order, ignored or not. Keys are UTF-8: the walk refuses others.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        let bytes = &self.first().bytes;
        self.index.entries.iter().map(|e| {
            let key = std::str::from_utf8(&bytes[e.key.clone()]).unwrap_or_default();
            (key, e.value.view(bytes))
        })
    }

    /// The value of a key, unless it is ignored.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        if self.ignores(key) {
            return None;
        }
        find(&self.index.entries, &self.first().bytes, key)
    }

    /// All tensors in the tables' order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.index.tensors
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.index.by_name.get(name).map(|i| &self.index.tensors[*i])
    }

    /// A tensor's bytes.
    pub fn data(&self, tensor: &Tensor) -> &[u8] {
        let start = usize::try_from(tensor.offset).unwrap_or(usize::MAX);
        let end = usize::try_from(tensor.offset.saturating_add(tensor.bytes)).unwrap_or(usize::MAX);
        // A tensor of another file could lie outside of this one: then there is no data.
        self.parts().get(tensor.part).and_then(|part| part.bytes.get(start..end)).unwrap_or(&[])
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File")
            .field("version", &self.version())
            .field("parts", &self.parts().len())
            .field("size", &self.size())
            .field("tensors", &self.tensors().len())
            .finish_non_exhaustive()
    }
}
