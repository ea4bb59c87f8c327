//! `infer perplexity`: how well a model predicts a text.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::common::{Compute, ModelArg, at_least_one};
use super::progress::{Bar, Unit};
use super::{input, interrupt, load, output};
use crate::engine::Info;
use crate::engine::quality::{Perplexity, score, windows};
use crate::tokenizer::{Special, Tokenizer};
use crate::{Error, Result};

/// Measure how well a model predicts a text: exp of the mean of -ln p(token)
///
/// The definition is that of llama.cpp's tool, so the numbers can be compared. The text is taken as
/// it is, without a chat template, and cut into windows of --ctx tokens; what is left at its end is
/// not used. Each window is computed on its own, and begins with BOS in the place of its first token
/// where the file asks for BOS. Its first half is context alone, the tokens after it are predicted.
///
/// Neighbouring tokens are not independent, windows nearly are: the 95 % interval of the mean comes
/// from their spread (Student's t), and times the perplexity it is the perplexity's.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The text, as UTF-8; - is stdin
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Windows to predict at most, from the text's beginning; by default all
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least_one)]
    windows: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print nothing on stderr but errors
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    compute: Compute,
}

/// What `--ctx` is here.
pub(super) const CTX_HELP: &str = "Tokens of a window; by default 512, or what the model's context holds";

const WINDOW: usize = 512;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    model: String,
    #[serde(flatten)]
    result: Perplexity,
    context: usize,
    device: String,
    driver: String,
    math: String,
    kv: String,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let name = args.model.name();
    let model = load::model(&args.model)?;
    let file = load::file(&model)?;
    let tokenizer = Tokenizer::from_file(file).and_then(|tokenizer| {
        load::vocabulary(&tokenizer, &model)?;
        Ok(tokenizer)
    });
    let tokenizer = load::made(file, &name, tokenizer)?;
    let mut options = args.compute.options();
    let own = model.plan.spec.context;
    let context = options.context.unwrap_or(WINDOW.min(own));
    if context > own {
        return Err(Error::Request(format!(
            "--ctx {context} is more than the model's context of {own} tokens"
        )));
    }
    // The first half is context, the token after it has no prediction of its own.
    if context < 3 {
        return Err(Error::Request(format!(
            "a window of {context} tokens has none to predict: 3 are needed"
        )));
    }
    let mut windows = cut(args, &tokenizer, context)?;
    let mut notes = tokenizer.notes().to_vec();
    if let Some(most) = args.windows {
        if most > windows.len() {
            notes.push(format!("the text has {} windows, not {most}", windows.len()));
        }
        windows.truncate(most);
    }
    options.context = Some(context);
    let (mut engine, _deferred) = load::open_deferred(&model, &options, args.quiet)?;
    if !args.quiet {
        output::notes(&notes);
    }
    if engine.info().context < context {
        let fits = engine.info().context;
        return Err(Error::Request(format!(
            "windows of {context} tokens, only {fits} fit the memory: lower --ctx"
        )));
    }
    let mut bar = Bar::new(Unit::Predicted, args.quiet);
    let mut scores = Vec::new();
    for ids in &windows {
        let before = scores.len() * context;
        let mut progress = |done, _| {
            bar.set(before + done, windows.len() * context);
            if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        match score(&mut *engine, ids, context / 2, &mut progress) {
            Ok(sum) => scores.push(sum),
            Err(e) => {
                bar.clear();
                if !matches!(e, Error::Interrupted) {
                    return Err(e);
                }
                if let Some(so_far) = Perplexity::of(&scores) {
                    output::say(&format!("interrupted: {}", line(&so_far)));
                }
                interrupt::end();
            }
        }
        if let Some(so_far) = Perplexity::of(&scores) {
            bar.say(line(&so_far));
        }
    }
    bar.clear();
    let result = Perplexity::of(&scores).ok_or_else(|| Error::Other("nothing was predicted".to_owned()))?;
    print(args, name, result, engine.info())
}

/// The text's whole windows.
fn cut(args: &Args, tokenizer: &Tokenizer, context: usize) -> Result<Vec<Vec<u32>>> {
    let path = Some(&*args.file).filter(|file| *file != Path::new("-"));
    let text = input::text(None, path)?;
    let text = text.ok_or_else(|| Error::Usage("--file -: stdin is a terminal, give a pipe".to_owned()))?;
    let ids = tokenizer.encode_with_bos(&text, Special::AsText)?;
    let place = path.map_or_else(|| "stdin".to_owned(), |path| path.display().to_string());
    if ids.len() < context {
        return Err(Error::Request(format!(
            "{place}: the text has {} tokens, a window {context}: give a longer one, or lower --ctx",
            ids.len()
        )));
    }
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let mut windows = windows(&ids, context, bos);
    windows.retain(|ids| ids.len() == context);
    Ok(windows)
}

fn line(result: &Perplexity) -> String {
    let of = format!(
        "{} tokens in {} window{}",
        result.tokens,
        result.windows,
        if result.windows == 1 { "" } else { "s" }
    );
    match result.half_width {
        Some(half) => format!("perplexity {:.3} ± {half:.3} (95 %, {of})", result.perplexity),
        None => format!("perplexity {:.3} ({of}: no interval)", result.perplexity),
    }
}

fn print(args: &Args, model: String, result: Perplexity, info: &Info) -> Result<()> {
    if !args.json {
        return output::print(&(line(&result) + "\n"));
    }
    output::json(&Report {
        model,
        result,
        context: info.context,
        device: info.device.clone(),
        driver: info.driver.clone(),
        math: info.math.to_string(),
        kv: info.kv.to_string(),
    })
}
