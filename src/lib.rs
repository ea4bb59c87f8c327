//! Runs GGUF language models on any GPU, through wgpu and WGSL alone.
//!
//! What flows where: bytes → [`gguf::File`] (a checked index) → [`model::Spec`] (numbers) →
//! [`model::Plan`] (operations over tensors) → [`engine::stage`] (fused stages) → an
//! [`engine::Engine`] → token ids → text ([`tokenizer`]).
//!
//! ```no_run
//! use std::{ops::ControlFlow, path::Path, sync::Arc};
//! use infer::{engine, gguf, kernels::sample::Sampling, model::Model, tokenizer};
//!
//! let file = gguf::File::open(Path::new("model.gguf"))?;
//! let tokenizer = tokenizer::Tokenizer::from_file(&file)?;
//! let ids = tokenizer.encode_with_bos("Once upon a time", tokenizer::Special::Recognise)?;
//! let model = Arc::new(Model::from_file(file)?);
//! let mut quiet = |_, _| ControlFlow::Continue(());
//! let mut engine = engine::open(model, &engine::Options::default(), &mut quiet)?;
//! engine.begin(0, &ids, &Sampling::greedy(), 8, &mut quiet)?;
//! for _ in 0..8 {
//!     print!("{}", tokenizer.piece(engine.next()?));
//! }
//! # Ok::<(), infer::Error>(())
//! ```

mod atomic_file;
pub mod cli;
pub mod engine;
mod environment;
mod error;
pub mod gguf;
pub mod kernels;
pub mod model;
pub mod quant;
mod threads;
pub mod tokenizer;

pub use error::{Error, Result};

/// Version and commit.
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("INFER_COMMIT"), ")");
