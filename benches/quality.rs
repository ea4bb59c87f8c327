//! What the faster arithmetics cost in quality, against `--math f32` over the same texts: KL
//! divergence, perplexity, and how often the most likely token is the same. The logits are a prefill's.
//!
//! Two engines are open at a time, f32 and one other, and the logits of one window are held for
//! each: memory is bounded by the model and the window, not by the texts. Keys and values are stored
//! as each arithmetic stores them by default, so what is measured is what a user gets.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use infer::cli::{execute, kv, math, open, print, say};
use infer::engine::quality::{self, Estimate, Position, Summary, compare};
use infer::engine::{self, DeviceChoice, Engine, Info, Options};
use infer::kernels::{Kv, Math};
use infer::model::Model;
use infer::tokenizer::{Special, Tokenizer};
use infer::{Error, Result};
use rayon::prelude::*;
use serde_json::json;

/// Measure what arithmetics cost in quality against f32
#[derive(Parser)]
#[command(name = "quality", max_term_width = 100)]
struct Args {
    /// A GGUF file, or `demo`
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// Texts to predict; windows are taken from all over them
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    text: Vec<PathBuf>,
    /// Where to compute, as `infer --device`
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
    /// Where f32 is computed; by default where the others are
    #[arg(long, value_name = "DEVICE")]
    reference: Option<DeviceChoice>,
    /// The arithmetics; f32 as well, which shows how exact the reference is
    #[arg(long, default_value = "f16,int16,int8", value_name = "MATHS", value_delimiter = ',',
        value_parser = math())]
    maths: Vec<Math>,
    /// How the arithmetics store keys and values; by default each as it does
    #[arg(long, value_name = "TYPE", value_parser = kv())]
    kv: Option<Kv>,
    /// Tokens of a window, lowered to the model's context
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    window: u32,
    /// Tokens to predict
    #[arg(long, default_value_t = 20_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// One arithmetic's results.
struct Row {
    info: Info,
    summary: Summary,
}

fn main() -> ExitCode {
    execute(std::env::args_os(), |args: Args| print(&run(&args)?))
}

/// Measures; gives what is to be printed.
fn run(args: &Args) -> Result<String> {
    let name = args.model.display().to_string();
    let file = open(&args.model)?;
    let tokenizer = Tokenizer::from_file(&file).map_err(|e| e.context(&name))?;
    let model = Model::from_file(file).map(Arc::new).map_err(|e| e.context(&name))?;
    let spec = &model.plan.spec;
    if tokenizer.len() != spec.vocab {
        return Err(Error::Unsupported(format!(
            "{name}: the tokenizer has {} tokens, the model {}",
            tokenizer.len(),
            spec.vocab
        )));
    }
    let window = spec.context.min(args.window as usize);
    if window < args.window as usize {
        say(&format!("note: windows have {window} tokens, the model's context"));
    }
    if window < 2 {
        return Err(Error::Request(format!("{name}: a context of {window} token has none to predict")));
    }
    tokenizer.notes().iter().for_each(|note| say(&format!("note: {note}")));
    let windows = windows(args, &tokenizer, window)?;
    let options = |device: &DeviceChoice, math, kv: Option<Kv>| Options {
        device: device.clone(),
        math: Some(math),
        kv,
        context: Some(window),
        ..Options::default()
    };
    let mut none = |_, _| ControlFlow::Continue(());
    let device = args.reference.as_ref().unwrap_or(&args.device);
    let mut reference = engine::open(model.clone(), &options(device, Math::F32, None), &mut none)?;
    reference.info().notes.iter().for_each(|note| say(&format!("note: {note}")));
    let mut rows = Vec::new();
    for math in &args.maths {
        let mut other = engine::open(model.clone(), &options(&args.device, *math, args.kv), &mut none)?;
        let positions = measure(reference.as_mut(), other.as_mut(), &windows)?;
        let summary = Summary::of(&positions).ok_or_else(|| Error::Other("nothing to measure".to_owned()))?;
        rows.push(Row { info: other.info().clone(), summary });
    }
    if args.json {
        object(&name, window, reference.info(), &rows)
    } else {
        Ok(table(&name, window, reference.info(), &rows))
    }
}

/// Cuts the texts into windows that predict `--tokens` tokens together. A window begins with BOS as
/// the model asks; a text's end may make a shorter one.
fn windows(args: &Args, tokenizer: &Tokenizer, window: usize) -> Result<Vec<Vec<u32>>> {
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let mut all = Vec::new();
    for path in &args.text {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|e| Error::File(format!("{name}: {e}")))?;
        let ids = tokenizer.encode(&text, Special::AsText).map_err(|e| e.context(name))?;
        all.extend(quality::windows(&ids, window, bos));
    }
    all.retain(|ids| ids.len() > 1);
    // Multiples of the golden ratio lie evenly between whole numbers: however many windows are
    // wanted, they come from everywhere in the texts, beginnings, middles and ends.
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|a, b| {
        let place = |i: usize| (i as f64 * 0.618_033_988_749_895).fract();
        place(*a).total_cmp(&place(*b))
    });
    let (mut left, mut taken) = (args.tokens as usize, Vec::new());
    for i in order {
        let mut ids = std::mem::take(&mut all[i]);
        ids.truncate(left + 1);
        left -= ids.len() - 1;
        taken.push(ids);
        if left == 0 {
            return Ok(taken);
        }
    }
    let have = args.tokens as usize - left;
    if have == 0 {
        return Err(Error::Request("the texts are empty".to_owned()));
    }
    say(&format!("note: the texts have {have} tokens to predict, not {}", args.tokens));
    Ok(taken)
}

/// Compares two engines at every token of every window that another follows.
fn measure(
    reference: &mut dyn Engine,
    other: &mut dyn Engine,
    windows: &[Vec<u32>],
) -> Result<Vec<Vec<Position>>> {
    let math = other.info().math;
    // Hidden where stderr is no terminal.
    let bar = ProgressBar::new(windows.len() as u64).with_message(math.to_string());
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} windows ({eta})") {
        bar.set_style(style);
    }
    let mut positions = Vec::new();
    for ids in windows {
        let (_, followed) = ids.split_last().ok_or_else(|| Error::Other("a window is empty".to_owned()))?;
        let (exact, got) = (logits(reference, followed)?, logits(other, followed)?);
        let compared: Option<Vec<Position>> =
            (exact.par_iter().zip(&got).zip(&ids[1..])).map(|((a, b), next)| compare(a, b, *next)).collect();
        positions.push(compared.ok_or_else(|| {
            Error::Other(format!("the logits of f32 or {math} are not finite: the computation overflows"))
        })?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(positions)
}

/// The logits after each token.
fn logits(engine: &mut dyn Engine, ids: &[u32]) -> Result<Vec<Vec<f32>>> {
    let mut rows = Vec::with_capacity(ids.len());
    engine.logits(ids, true, &mut |_, _| ControlFlow::Continue(()), &mut |row| {
        rows.push(row.to_vec());
        Ok(())
    })?;
    if rows.len() == ids.len() {
        return Ok(rows);
    }
    Err(Error::Other(format!("the engine gave {} rows of logits for {} tokens", rows.len(), ids.len())))
}

/// What a table or an object says of an engine.
fn place(info: &Info) -> String {
    let driver = if info.driver.is_empty() { String::new() } else { format!(" ({})", info.driver) };
    format!("{}{driver}", info.device)
}

fn object(model: &str, window: usize, reference: &Info, rows: &[Row]) -> Result<String> {
    let failed = |e| Error::Other(format!("JSON: {e}"));
    let engine = |info: &Info| {
        json!({ "math": info.math.to_string(), "kv": info.kv.to_string(), "device": info.device,
                "driver": info.driver })
    };
    let mut maths = Vec::new();
    for row in rows {
        let mut object = engine(&row.info);
        object["quality"] = serde_json::to_value(&row.summary).map_err(failed)?;
        maths.push(object);
    }
    let object = json!({ "model": model, "window": window, "reference": engine(reference), "maths": maths });
    serde_json::to_string_pretty(&object).map(|text| text + "\n").map_err(failed)
}

fn table(model: &str, window: usize, reference: &Info, rows: &[Row]) -> String {
    const HEAD: [&str; 12] = [
        "math",
        "kv",
        "tokens",
        "mean KL",
        "± 95 %",
        "median",
        "p99",
        "max",
        "ppl f32",
        "ppl",
        "NLL - f32's ± 95 %",
        "same top-1",
    ];
    let half = |e: &Estimate| e.half_width.map_or_else(|| "-".to_owned(), |half| format!("{half:.1e}"));
    let mut lines = vec![HEAD.map(str::to_owned)];
    for Row { info, summary: s } in rows {
        lines.push([
            info.math.to_string(),
            info.kv.to_string(),
            s.tokens.to_string(),
            format!("{:.3e}", s.divergence.mean),
            half(&s.divergence),
            format!("{:.1e}", s.divergence_median),
            format!("{:.1e}", s.divergence_p99),
            format!("{:.1e}", s.divergence_max),
            format!("{:.4}", s.reference_perplexity),
            format!("{:.4}", s.perplexity),
            format!("{:+.2e} ± {}", s.nll_difference.mean, half(&s.nll_difference)),
            format!("{:.3} %", s.agreement_percent),
        ]);
    }
    let wide: [usize; HEAD.len()] =
        std::array::from_fn(|i| lines.iter().map(|l| l[i].chars().count()).max().unwrap_or(0));
    let windows = rows.first().map_or(0, |r| r.summary.windows);
    let mut out = format!(
        "{model}, windows of at most {window} tokens ({windows} of them), against f32 (kv {}) on {}\n",
        reference.kv,
        place(reference)
    );
    if let Some(row) = rows.iter().find(|row| place(&row.info) != place(reference)) {
        out += &format!("computed on {}\n", place(&row.info));
    }
    for line in lines {
        let cells: Vec<String> = line.iter().zip(wide).map(|(cell, wide)| format!("{cell:>wide$}")).collect();
        out += &(cells.join("  ") + "\n");
    }
    out
}
