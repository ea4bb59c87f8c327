//! The strict walk over a header: counts, keys, values, tensor infos, in file order.
//!
//! Nothing is reserved on the word of a count: each item takes bytes of the file, so growth is
//! bounded by the file's size, and a count that cannot fit is refused at once.

use std::collections::HashSet;
use std::ops::Range;

use super::bytes::Cursor;
use super::file::{Entry, Stored, Tensor, find};
use super::{Error, Value, ValueType, foreign};
use crate::quant::{Type, retired};

/// Arrays of arrays are legal; nobody nests them deeper than this.
const MAX_NESTING: u32 = 4;
const MAX_NAME: usize = 64;
const DEFAULT_ALIGNMENT: u32 = 32;

pub(super) struct Header {
    pub(super) version: u32,
    pub(super) alignment: u32,
    pub(super) entries: Vec<Entry>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) data_start: u64,
}

/// Bytes as text that is safe to print and not too long: for errors.
pub(crate) fn shown(bytes: &[u8]) -> String {
    // A character has at most four bytes: of a gigabyte that should be a name, no more is looked at.
    let head = &bytes[..bytes.len().min(4 * 64)];
    let text: String = String::from_utf8_lossy(head).chars().take(64).collect();
    text.escape_debug().to_string()
}

pub(super) fn walk(bytes: &[u8]) -> Result<Header, Error> {
    if bytes.is_empty() {
        return Err(Error::Empty);
    }
    let mut at = Cursor::new(bytes);
    let magic = &bytes[..bytes.len().min(4)];
    if magic != b"GGUF" {
        if b"GGUF".starts_with(magic) {
            return Err(Error::Truncated { what: "the magic", at: 0, file: bytes.len() as u64 });
        }
        if let Some((what, way_out)) = foreign::recognise(bytes) {
            return Err(Error::Foreign { what, way_out });
        }
        return Err(Error::Magic { found: format!("\"{}\"", magic.escape_ascii()) });
    }
    at.range(4, "the magic")?;
    let version = at.u32("the version")?;
    match version {
        2 | 3 => {}
        v if matches!(v.swap_bytes(), 1..=3) => return Err(Error::BigEndian),
        v => return Err(Error::Version(v)),
    }
    let tensor_count = at.u64("the tensor count")?;
    let entry_count = at.u64("the metadata count")?;
    // The least that an entry takes: an empty key's length, a byte of key, a type, a byte.
    count_fits("metadata keys", entry_count, 14, at.remaining())?;
    // The least that an info takes: length, a byte of name, n_dims, one dimension, type, offset.
    count_fits("tensors", tensor_count, 33, at.remaining())?;

    let entries = entries(bytes, &mut at, entry_count)?;
    let alignment = alignment(bytes, &entries)?;
    let tensors = infos(bytes, &mut at, tensor_count)?;
    resolve(bytes, at.position() as u64, alignment, version, entries, tensors)
}

fn count_fits(what: &'static str, count: u64, least: u64, remaining: usize) -> Result<(), Error> {
    match count.checked_mul(least) {
        Some(bytes) if bytes <= remaining as u64 => Ok(()),
        _ => Err(Error::Count { what, count, left: remaining as u64 }),
    }
}

fn entries(bytes: &[u8], at: &mut Cursor<'_>, count: u64) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    let mut seen: HashSet<&[u8]> = HashSet::new();
    for _ in 0..count {
        let start = at.position() as u64;
        let key = at.string("a metadata key")?;
        let name = &bytes[key.clone()];
        if name.is_empty() {
            return Err(Error::EmptyKey(start));
        }
        if std::str::from_utf8(name).is_err() {
            return Err(Error::KeyUtf8(shown(name)));
        }
        if !seen.insert(name) {
            return Err(Error::DuplicateKey(shown(name)));
        }
        let id = at.u32("a metadata value's type")?;
        let ty = ValueType::from_id(id).ok_or_else(|| Error::ValueType { key: shown(name), id })?;
        let value = match ty {
            ValueType::String => Stored::String(at.string("a metadata string")?),
            ValueType::Array => array(bytes, at, name)?,
            ty => Stored::Scalar(ty, scalar(bytes, at, ty, name)?),
        };
        entries.push(Entry { key, value });
    }
    Ok(entries)
}

fn scalar(bytes: &[u8], at: &mut Cursor<'_>, ty: ValueType, key: &[u8]) -> Result<Range<usize>, Error> {
    let size = ty.size().unwrap_or(0) as u64;
    let range = at.range(size, "a metadata value")?;
    if ty == ValueType::Bool && bytes[range.start] > 1 {
        return Err(Error::Bool { key: shown(key), value: bytes[range.start] });
    }
    Ok(range)
}

fn array(bytes: &[u8], at: &mut Cursor<'_>, key: &[u8]) -> Result<Stored, Error> {
    let (ty, len) = array_head(at, key)?;
    let start = at.position();
    array_body(bytes, at, ty, len, key, 1)?;
    let len = usize::try_from(len).map_err(|_| Error::Nesting(shown(key)))?;
    Ok(Stored::Array(ty, len, start..at.position()))
}

fn array_head(at: &mut Cursor<'_>, key: &[u8]) -> Result<(ValueType, u64), Error> {
    let id = at.u32("an array's element type")?;
    let ty = ValueType::from_id(id).ok_or_else(|| Error::ValueType { key: shown(key), id })?;
    Ok((ty, at.u64("an array's length")?))
}

fn array_body(
    bytes: &[u8],
    at: &mut Cursor<'_>,
    ty: ValueType,
    len: u64,
    key: &[u8],
    depth: u32,
) -> Result<(), Error> {
    match ty {
        ValueType::String => {
            count_fits("strings in an array", len, 8, at.remaining())?;
            for _ in 0..len {
                at.string("a string of an array")?;
            }
        }
        ValueType::Array => {
            if depth >= MAX_NESTING {
                return Err(Error::Nesting(shown(key)));
            }
            count_fits("arrays in an array", len, 12, at.remaining())?;
            for _ in 0..len {
                let (ty, len) = array_head(at, key)?;
                array_body(bytes, at, ty, len, key, depth.saturating_add(1))?;
            }
        }
        fixed => {
            let size = fixed.size().unwrap_or(1) as u64;
            count_fits("array elements", len, size, at.remaining())?;
            let range = at.range(len.saturating_mul(size), "an array")?;
            if fixed == ValueType::Bool
                && let Some(&value) = bytes[range].iter().find(|b| **b > 1)
            {
                return Err(Error::Bool { key: shown(key), value });
            }
        }
    }
    Ok(())
}

fn alignment(bytes: &[u8], entries: &[Entry]) -> Result<u32, Error> {
    match find(entries, bytes, "general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(a)) if a >= 8 && a.is_power_of_two() => Ok(a),
        Some(Value::U32(a)) => Err(Error::Alignment(a)),
        Some(other) => Err(Error::AlignmentType(other.ty())),
    }
}

/// A tensor info as it stands in the file: the offset is still relative.
struct Info {
    tensor: Tensor,
    relative: u64,
}

fn infos(bytes: &[u8], at: &mut Cursor<'_>, count: u64) -> Result<Vec<Info>, Error> {
    let mut infos = Vec::new();
    let mut seen: HashSet<&[u8]> = HashSet::new();
    for index in 0..count {
        let range = at.string("a tensor's name")?;
        let raw = &bytes[range];
        if raw.is_empty() {
            return Err(Error::EmptyName(index));
        }
        if raw.len() > MAX_NAME {
            return Err(Error::LongName(shown(raw)));
        }
        let name = std::str::from_utf8(raw).map_err(|_| Error::NameUtf8(shown(raw)))?;
        let printed = || shown(raw);
        if !seen.insert(raw) {
            return Err(Error::DuplicateTensor(printed()));
        }
        let n_dims = at.u32("a tensor's number of dimensions")?;
        if !(1..=4).contains(&n_dims) {
            return Err(Error::Dims { name: printed(), dims: n_dims });
        }
        let mut shape = [1u64; 4];
        for dim in shape.iter_mut().take(n_dims as usize) {
            *dim = at.u64("a tensor's dimensions")?;
        }
        if shape.contains(&0) {
            return Err(Error::ZeroDim(printed()));
        }
        let id = at.u32("a tensor's type")?;
        let relative = at.u64("a tensor's offset")?;
        let ty = Type::from_id(id).ok_or_else(|| match retired(id) {
            Some(was) => Error::RetiredType { name: printed(), id, was },
            None => Error::UnknownType { name: printed(), id },
        })?;
        let bytes = tensor_bytes(ty, &shape).map_err(|e| match e {
            Size::Overflow => Error::Overflow(printed()),
            Size::Row => Error::Row { name: printed(), row: shape[0], ty, block: ty.block_elements() },
        })?;
        let n_dims = n_dims as usize;
        let tensor = Tensor { name: name.to_owned(), ty, shape, n_dims, part: 0, offset: 0, bytes };
        infos.push(Info { tensor, relative });
    }
    Ok(infos)
}

enum Size {
    Overflow,
    Row,
}

fn tensor_bytes(ty: Type, shape: &[u64; 4]) -> Result<u64, Size> {
    let block = ty.block_elements() as u64;
    let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).ok_or(Size::Overflow)?;
    if !shape[0].is_multiple_of(block) {
        return Err(Size::Row);
    }
    let blocks = elements.checked_div(block).ok_or(Size::Overflow)?;
    blocks.checked_mul(ty.block_bytes() as u64).ok_or(Size::Overflow)
}

/// Turns relative offsets into absolute ranges, once, and checks them against the file and
/// each other.
fn resolve(
    bytes: &[u8],
    end_of_infos: u64,
    alignment: u32,
    version: u32,
    entries: Vec<Entry>,
    infos: Vec<Info>,
) -> Result<Header, Error> {
    let file = bytes.len() as u64;
    let data_start = end_of_infos.checked_next_multiple_of(alignment.into()).ok_or(Error::Truncated {
        what: "the data section",
        at: end_of_infos,
        file,
    })?;
    if data_start > file && !infos.is_empty() {
        return Err(Error::Truncated { what: "the data section", at: data_start, file });
    }
    let mut tensors = Vec::with_capacity(infos.len());
    for Info { mut tensor, relative } in infos {
        if !relative.is_multiple_of(alignment.into()) {
            return Err(Error::Offset { name: shown(tensor.name.as_bytes()), offset: relative, alignment });
        }
        let range_error =
            Error::Range { name: shown(tensor.name.as_bytes()), offset: relative, bytes: tensor.bytes, file };
        match data_start.checked_add(relative) {
            Some(start) if start <= file && tensor.bytes <= file.saturating_sub(start) => {
                tensor.offset = start
            }
            _ => return Err(range_error),
        }
        tensors.push(tensor);
    }
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|t| t.offset);
    for pair in order.windows(2) {
        // Both ends were checked to lie in the file: the sum cannot wrap.
        if pair[0].offset.saturating_add(pair[0].bytes) > pair[1].offset {
            return Err(Error::Overlap {
                a: shown(pair[0].name.as_bytes()),
                b: shown(pair[1].name.as_bytes()),
            });
        }
    }
    Ok(Header { version, alignment, entries, tensors, data_start })
}
