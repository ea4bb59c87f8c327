//! Opening a model and an engine for it, with everything that is said meanwhile.

use std::io::{IsTerminal, stderr};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::common::{self, ModelArg};
use super::progress::{Bar, Unit};
use super::{interrupt, output};
use crate::engine::{self, Engine, Info, Options};
use crate::gguf::File;
use crate::model::{Model, Weights};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Opens and plans a file's model.
///
/// # Errors
/// What is wrong with the file, which is named.
pub(super) fn model(arg: &ModelArg) -> Result<Arc<Model>> {
    let file = arg.open()?;
    made(&file, &arg.name(), Model::from_file(file.clone())).map(Arc::new)
}

/// What has been made of a file, if that is still what was opened.
///
/// # Errors
/// That the file has changed, which may be why nothing could be made of it; what is wrong with it
/// otherwise. The file is named.
pub(super) fn made<T>(file: &File, name: &str, made: Result<T>) -> Result<T> {
    file.intact()?;
    made.map_err(|e| e.context(name))
}

/// The file of a model that has one.
pub(super) fn file(model: &Model) -> Result<&File> {
    match &model.weights {
        Weights::File(file) => Ok(file),
        Weights::Synthetic(_) => Err(Error::Other("random weights have no file".to_owned())),
    }
}

/// Refuses a tokenizer that is not this model's.
///
/// # Errors
/// [`Error::Unsupported`] with both counts.
pub(super) fn vocabulary(tokenizer: &Tokenizer, model: &Model) -> Result<()> {
    let (tokens, rows) = (tokenizer.len(), model.plan.spec.vocab);
    if tokens == rows {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "tokenizer.ggml.tokens has {tokens} tokens, token_embd.weight has {rows} rows"
    )))
}

/// Opens the engine. What the file alone decides has been decided: to refuse that comes first.
///
/// # Errors
/// The engine's, and [`Error::Interrupted`].
pub(super) fn open(model: &Arc<Model>, options: &Options, quiet: bool) -> Result<Box<dyn Engine>> {
    let mut bar = Bar::new(Unit::Bytes, quiet);
    let mut progress = |done, all| {
        bar.set(done, all);
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut options = options.clone();
    options.tune.say = (!quiet && stderr().is_terminal()).then_some(tuning);
    let engine = engine::open(Arc::clone(model), &options, &mut progress);
    drop(bar);
    let engine = engine?;
    if interrupt::requested() {
        return Err(Error::Interrupted);
    }
    announce(engine.info(), quiet);
    if let (Ok(file), false) = (file(model), quiet) {
        output::notes(&common::ignored(file));
    }
    Ok(engine)
}

/// What is said on a terminal, as a bar is shown there alone.
fn tuning(device: &str) {
    output::say(&format!("tuning for {device}: what is found is kept (--tune never leaves it out)"));
}

/// The first line on stderr, and what the user should know besides.
fn announce(info: &Info, quiet: bool) {
    if quiet {
        return;
    }
    let driver = if info.driver.is_empty() { String::new() } else { format!(" ({})", info.driver) };
    output::say(&format!(
        "{}{driver}, math {}, kv {}, context {}",
        info.device, info.math, info.kv, info.context
    ));
    output::notes(&info.notes);
}
