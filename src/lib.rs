//! Runs GGUF language models on any GPU.

pub mod cli;
pub mod engine;
mod error;
pub mod gguf;
pub mod kernels;
pub mod model;
pub mod quant;
pub mod tokenizer;

pub use error::{Error, Result};
