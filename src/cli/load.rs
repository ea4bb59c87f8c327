//! Opening a model and an engine for it, with everything that is said meanwhile.

use std::io::{IsTerminal, stderr};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::common::{self, ModelArg};
use super::interrupt::{self, Deferred};
use super::output;
use super::progress::{Bar, Unit};
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
/// The engine's.
pub(super) fn open(model: &Arc<Model>, options: &Options, quiet: bool) -> Result<Box<dyn Engine>> {
    let engine = engine(model, options, quiet)?;
    announce(model, engine.info(), quiet);
    Ok(engine)
}

/// The same for who can be asked to stop from when the engine is announced on.
///
/// # Errors
/// As [`open`]'s.
pub(super) fn open_deferred(
    model: &Arc<Model>,
    options: &Options,
    quiet: bool,
) -> Result<(Box<dyn Engine>, Deferred)> {
    let options = Options { stop: Some(interrupt::flag()), ..options.clone() };
    let engine = engine(model, &options, quiet)?;
    let deferred = Deferred::new();
    announce(model, engine.info(), quiet);
    Ok((engine, deferred))
}

fn engine(model: &Arc<Model>, options: &Options, quiet: bool) -> Result<Box<dyn Engine>> {
    let mut bar = Bar::new(Unit::Bytes, quiet);
    let mut progress = |done, all| {
        bar.set(done, all);
        ControlFlow::Continue(())
    };
    let mut options = options.clone();
    options.tune.say = (!quiet && stderr().is_terminal()).then_some(tuning);
    let engine = engine::open(Arc::clone(model), &options, &mut progress);
    // Of what is no longer there nothing can be made.
    if let (Err(_), Ok(file)) = (&engine, file(model)) {
        file.intact()?;
    }
    engine
}

/// What is said on a terminal, as a bar is shown there alone.
fn tuning(device: &str) {
    output::say(&format!("tuning for {device}: what is found is kept (--tune never leaves it out)"));
}

/// The first line on stderr, and what the user should know besides.
fn announce(model: &Model, info: &Info, quiet: bool) {
    if quiet {
        return;
    }
    let driver = if info.driver.is_empty() { String::new() } else { format!(" ({})", info.driver) };
    output::say(&format!(
        "{}{driver}, math {}, kv {}, context {}",
        info.device, info.math, info.kv, info.context
    ));
    output::notes(&info.notes);
    if let Ok(file) = file(model) {
        output::notes(&common::ignored(file));
    }
}
