//! Runs GGUF language models on any GPU.

mod error;
pub mod gguf;
pub mod quant;

pub use error::{Error, Result};
