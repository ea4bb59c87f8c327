//! The container: bytes → checked metadata and tensor table.
//!
//! A [`File`] owns its bytes (a memory map, or a slice embedded in the binary) and an index
//! into them. Opening walks the header once, strictly; nothing is copied out of it, so a
//! vocabulary of 150,000 tokens costs a walk and no allocation. Every tensor's range is
//! absolute, inside the file, aligned and disjoint from all others. A model may lie in several
//! files, its parts: then each tensor knows its own.
//!
//! Files can change while they are mapped. That ends nothing: what is gone reads as zeros, and
//! [`File::intact`] says so to whoever asks after reading.
#![deny(clippy::arithmetic_side_effects)]

mod bytes;
mod error;
mod file;
mod foreign;
#[cfg(unix)]
mod guard;
mod json;
mod map;
mod split;
mod value;
mod walk;
pub mod writer;

pub use bytes::Bytes;
pub use error::Error;
pub use file::{File, Part, Tensor};
pub use json::Json;
pub use map::Map;
pub use split::MOST_PARTS;
pub use value::{Array, StringIter, Value, ValueType};
pub(crate) use walk::shown;
