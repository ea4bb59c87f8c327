//! Opening a model and an engine for it, with everything that is said meanwhile.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::common::ModelArg;
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
    whole(&file).and_then(|()| Model::from_file(file)).map(Arc::new).map_err(|e| e.context(arg.name()))
}

/// Refuses a file that holds a part of a model.
///
/// # Errors
/// [`Error::Unsupported`] with the number of parts.
pub(super) fn whole(file: &File) -> Result<()> {
    let key = "split.count";
    match file.get(key).and_then(|parts| parts.as_u64()) {
        Some(parts @ 2..) => Err(Error::Unsupported(format!(
            "{key} is {parts}: the file is a part of a split model, which is not supported yet"
        ))),
        _ => Ok(()),
    }
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

/// Opens the engine while `beside` runs on another thread: that is for what the file alone
/// decides, and its error comes first.
///
/// # Errors
/// Those of `beside`, then the engine's, and [`Error::Interrupted`].
pub(super) fn open_beside<T: Send>(
    model: &Arc<Model>,
    options: &Options,
    quiet: bool,
    beside: impl FnOnce() -> Result<T> + Send,
) -> Result<(Box<dyn Engine>, T)> {
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| beside().inspect_err(|_| failed.store(true, Ordering::Relaxed)));
        let mut bar = Bar::new(Unit::Bytes, quiet);
        let mut progress = |done, all| {
            bar.set(done, all);
            if interrupt::requested() || failed.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let engine = engine::open(Arc::clone(model), options, &mut progress);
        drop(bar);
        let value = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let engine = engine?;
        if interrupt::requested() {
            return Err(Error::Interrupted);
        }
        announce(engine.info(), quiet);
        Ok((engine, value))
    })
}

/// Opens the engine.
///
/// # Errors
/// The engine's, and [`Error::Interrupted`].
pub(super) fn open(model: &Arc<Model>, options: &Options, quiet: bool) -> Result<Box<dyn Engine>> {
    open_beside(model, options, quiet, || Ok(())).map(|(engine, ())| engine)
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
