//! What can be wrong with a container. Every text is one line and names the place.

use super::ValueType;

/// Why bytes are not a GGUF file that can be trusted.
#[derive(Debug, thiserror::Error, PartialEq)]
#[allow(missing_docs, reason = "the texts below say what each field is")]
pub enum Error {
    #[error("is empty")]
    Empty,
    #[error("is no GGUF file (it begins with {found}, not with \"GGUF\")")]
    Magic { found: String },
    #[error("is no GGUF file: it is {what}; {way_out}")]
    Foreign { what: &'static str, way_out: &'static str },
    #[error(
        "GGUF version {0} is not supported (2 and 3 are); convert the model again with a current converter"
    )]
    Version(u32),
    #[error("is a big-endian GGUF file; only little-endian ones are supported")]
    BigEndian,
    #[error("is truncated or damaged: {what} at byte {at} does not fit in the file's {file} bytes")]
    Truncated { what: &'static str, at: u64, file: u64 },
    #[error("is truncated or damaged: it claims {count} {what}, more than the {left} bytes left can hold")]
    Count { what: &'static str, count: u64, left: u64 },
    #[error("metadata key at byte {0} is empty")]
    EmptyKey(u64),
    #[error("metadata key {0} is no UTF-8")]
    KeyUtf8(String),
    #[error("metadata key {0} stands twice")]
    DuplicateKey(String),
    #[error("metadata key {key}: value type {id} does not exist")]
    ValueType { key: String, id: u32 },
    #[error("metadata key {key}: a bool must be 0 or 1, not {value}")]
    Bool { key: String, value: u8 },
    #[error("metadata key {0}: arrays are nested too deeply")]
    Nesting(String),
    #[error("general.alignment must be a u32, not {0}")]
    AlignmentType(ValueType),
    #[error("general.alignment of {0} is no power of two of at least 8")]
    Alignment(u32),
    #[error("tensor {0} of the table has an empty name")]
    EmptyName(u64),
    #[error("tensor {0}: the name is longer than 64 bytes")]
    LongName(String),
    #[error("tensor name {0} is no UTF-8")]
    NameUtf8(String),
    #[error("tensor {0}: stands twice in the table")]
    DuplicateTensor(String),
    #[error("tensor {name}: {dims} dimensions (1 to 4 are allowed)")]
    Dims { name: String, dims: u32 },
    #[error("tensor {0}: a dimension is 0")]
    ZeroDim(String),
    #[error("tensor {0}: its size overflows 64 bits")]
    Overflow(String),
    #[error("tensor {name}: type {id} does not exist")]
    UnknownType { name: String, id: u32 },
    #[error("tensor {name}: type {id} ({was}) was retired from the format; quantise the model again")]
    RetiredType { name: String, id: u32, was: &'static str },
    #[error("tensor {name}: rows of {row} are no multiple of {ty}'s {block} elements")]
    Row { name: String, row: u64, ty: crate::quant::Type, block: usize },
    #[error("tensor {name}: offset {offset} is no multiple of the alignment {alignment}")]
    Offset { name: String, offset: u64, alignment: u32 },
    #[error(
        "tensor {name}: {bytes} bytes at offset {offset} of the data section do not lie in the file's {file} bytes"
    )]
    Range { name: String, offset: u64, bytes: u64, file: u64 },
    #[error("tensors {a} and {b} overlap")]
    Overlap { a: String, b: String },
    #[error("{key} must be an integer that is not negative, not this {ty}")]
    SplitType { key: &'static str, ty: ValueType },
    #[error("split.count is {count}: a model has at most {most} parts")]
    Parts { count: u64, most: u64 },
    #[error("split.count is {count}, and split.no, which says which of the parts this is, is missing")]
    NoPartNumber { count: u64 },
    #[error("split.no is {index}, of {count} parts that are counted from 0")]
    PartNumber { index: u64, count: u64 },
    #[error(
        "is part {no} of {count} of a split model, and is not named so: name it {name}, and put {other} and all \
         other parts beside it"
    )]
    PartName { no: u64, count: u64, name: String, other: String },
    #[error("{key} is {found} and should be {right}: this is another model's part, or is named wrongly")]
    PartKey { key: &'static str, found: u64, right: u64 },
    #[error(
        "metadata key {key} has not the value that it has in {first}: they are parts of different models"
    )]
    PartMetadata { key: String, first: String },
    #[error(
        "split.tensors.count is {stated}, and the parts have {found} tensors: one of them is another model's"
    )]
    PartTensors { stated: u64, found: u64 },
    #[error("tensor {name}: stands in {other} as well: one of them is another model's part")]
    PartTensor { name: String, other: String },
    #[error(
        "is part {no} of {count} of a split model with other bytes joined behind it, as `cat` does: parts are no \
         pieces of one file; put them beside each other under their own names and open one, or merge them with \
         `llama-gguf-split --merge`"
    )]
    Joined { no: u64, count: u64 },
    #[error("is one of {0} parts of a split model, which is opened by a part's path, all parts being there")]
    Part(u64),
}
