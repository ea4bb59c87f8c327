//! Block formats: what the bytes of a tensor mean.

mod types;
pub use types::*;
