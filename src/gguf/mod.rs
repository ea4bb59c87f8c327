//! The container: bytes → checked metadata and tensor table.
//!
//! A [`File`] owns its bytes (a memory map, or a slice embedded in the binary) and an index
//! into them. Opening walks the header once, strictly; nothing is copied out of it, so a
//! vocabulary of 150,000 tokens costs a walk and no allocation. Every tensor's range is
//! absolute, inside the file, aligned and disjoint from all others.
#![deny(clippy::arithmetic_side_effects)]

mod bytes;
mod error;
mod file;
mod value;
mod walk;
pub mod writer;

pub use bytes::Bytes;
pub use error::Error;
pub use file::{File, Tensor};
pub use value::{Array, StringIter, Value, ValueType};
