//! `infer bench`: how fast a model decodes and reads prompts on a device.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::account::Account;
use super::common::{Compute, ModelArg, at_least_one, count};
use super::stats::{per, rate};
use super::{load, output, shapes};
use crate::engine::generate::{History, Outcome, Request, generate};
use crate::engine::profile::{Limits, median};
use crate::engine::tune::Tuned;
use crate::engine::{Counters, Engine};
use crate::kernels::sample::Sampling;

use crate::{Error, Result};

/// Measure tokens per second
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Random weights at a known model's shape instead of a file; FTYPE is Q3_K_M, Q4_K_M, Q5_K_M,
    /// MXFP4_MOE or a type's name [default: Q4_K_M, else what the model is usually found in]
    #[arg(long, value_name = "SHAPE[:FTYPE]", conflicts_with_all = ["path", "ignore_key"])]
    synthetic: Option<String>,
    /// Tokens to generate in a run
    #[arg(long, value_name = "N", default_value_t = 128, allow_negative_numbers = true,
          value_parser = at_least_one)]
    tokens: usize,
    /// Tokens of the prompt to read in a run
    #[arg(long, value_name = "N", default_value_t = 512, allow_negative_numbers = true,
          value_parser = at_least_one)]
    prompt_tokens: usize,
    /// Tokens that stand in the context before
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true,
          value_parser = count::<usize>)]
    depth: usize,
    /// Measured runs of each kind
    #[arg(long, value_name = "N", default_value_t = 5, allow_negative_numbers = true,
          value_parser = at_least_one)]
    repeat: usize,
    /// Show where the time of a token goes, kernel by kernel
    #[arg(long)]
    profile: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: Compute,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    device: String,
    driver: String,
    model: String,
    math: String,
    /// What the knobs of products owe to measurements here; `null` on the CPU.
    knobs: Option<Tuned>,
    limits: Measurable,
    results: Vec<Measured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Account>,
}

/// What the device can do at most, as far as it has been measured.
#[derive(Serialize)]
struct Measurable {
    read_gb_per_s: Option<f64>,
    matrix_tflops: Option<f64>,
    dispatch_us: Option<f64>,
}

impl Measurable {
    fn of(limits: Option<Limits>) -> Measurable {
        Measurable {
            read_gb_per_s: limits.map(|l| l.read_gb_per_s),
            matrix_tflops: None,
            dispatch_us: limits.map(|l| l.dispatch_us),
        }
    }
}

#[derive(Serialize)]
pub(super) struct Measured {
    kind: &'static str,
    prompt_tokens: usize,
    tokens: usize,
    depth: usize,
    runs_tokens_per_s: Vec<f64>,
    pub(super) median_tokens_per_s: f64,
    spread_percent: f64,
    bytes_per_token: Option<u64>,
    gb_per_s: Option<f64>,
    percent_of_limit: Option<f64>,
    submits_per_token: Option<f64>,
    dispatches_per_token: Option<f64>,
    readback_bytes_per_token: Option<f64>,
    pub(super) cpu_encode_us_per_token: Option<f64>,
}

/// Tokens of the short prompt before decoding.
const SHORT: usize = 16;
/// Two windows that agree within this end the warm-up.
const AGREE: f64 = 0.01;
/// So many windows, or so much time, end it at the latest.
const WINDOWS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(args: &Args) -> Result<()> {
    let (name, model) = match &args.synthetic {
        Some(shape) => (shape.clone(), Arc::new(shapes::model(shape)?)),
        None => (args.model.name(), load::model(&args.model)?),
    };
    let mut options = args.compute.options();
    let needed = args.depth.saturating_add(args.prompt_tokens.max(SHORT.saturating_add(args.tokens)));
    let context = options.context.unwrap_or(model.plan.spec.context);
    if needed > context {
        return Err(Error::Request(format!(
            "--depth, --prompt-tokens and --tokens need {needed} tokens, the context holds {context}"
        )));
    }
    options.context.get_or_insert(needed);
    let mut bench = Bench {
        engine: load::open(&model, &options, false)?,
        history: History::default(),
        vocab: u32::try_from(model.plan.spec.vocab).unwrap_or(u32::MAX),
        depth: args.depth,
        turn: 0,
    };
    let decode = bench.measure(args.repeat, SHORT, args.tokens + 1)?;
    let prefill = bench.measure(args.repeat, args.prompt_tokens, 1)?;
    // What has been measured is not lost where memory is too full for this.
    let limits = bench.engine.limits().unwrap_or_else(|e| {
        output::notes(&[format!("the device's limits are not measured: {e}")]);
        None
    });
    let profile = match args.profile {
        true => bench.engine.profile(args.depth + SHORT + args.tokens / 2)?,
        false => None,
    };
    if args.profile && profile.is_none() {
        output::notes(&["this device has no clock for single kernels: no profile".to_owned()]);
    }
    output::notes(&bench.engine.take_notes());
    let info = bench.engine.info();
    let decode = decoding(&*bench.engine, args, &decode, limits);
    let profile = profile.zip(limits).map(|(p, l)| Account::new(p, &l, &decode));
    let results = vec![
        decode,
        Measured {
            prompt_tokens: args.prompt_tokens,
            ..measured("prefill", args, &prefill, |o| rate(o.prompt_tokens, o.prefill))
        },
    ];
    let report = Report {
        device: info.device.clone(),
        driver: info.driver.clone(),
        model: name,
        math: info.math.to_string(),
        knobs: info.knobs,
        limits: Measurable::of(limits),
        results,
        profile,
    };
    if args.json { output::json(&report) } else { print(&report) }
}

/// An engine that is measured.
struct Bench {
    engine: Box<dyn Engine>,
    history: History,
    vocab: u32,
    depth: usize,
    turn: u32,
}

impl Bench {
    /// Runs until two runs agree, then as often as asked.
    fn measure(&mut self, repeat: usize, prompt: usize, tokens: usize) -> Result<Vec<Outcome>> {
        let start = Instant::now();
        let mut last = 0.0;
        for _ in 0..WINDOWS {
            let run = self.once(prompt, tokens)?;
            let time = (if tokens > 1 { run.decode } else { run.prefill }).as_secs_f64();
            if (time - last).abs() <= AGREE * time || start.elapsed() > PATIENCE {
                break;
            }
            last = time;
        }
        (0..repeat).map(|_| self.once(prompt, tokens)).collect()
    }

    /// One run: so many tokens in the context, a prompt, so many tokens out of it.
    fn once(&mut self, prompt: usize, tokens: usize) -> Result<Outcome> {
        self.turn = self.turn.wrapping_add(1);
        // Nothing of the prompt was in the run before, all of what lies before it was.
        let vocab = self.vocab;
        let spread = |i: u32, by: u32| i.wrapping_mul(0x9e37_79b1).wrapping_add(by) % vocab;
        let mut ids: Vec<u32> = (0..self.depth as u32).map(|i| spread(i, 0)).collect();
        // What lies before is computed once: later runs find it in the cache.
        if self.depth > 0 && self.turn == 1 {
            self.generate(&ids, 1)?;
        }
        ids.extend((0..prompt as u32).map(|i| spread(i, self.turn)));
        self.generate(&ids, tokens)
    }

    fn generate(&mut self, ids: &[u32], tokens: usize) -> Result<Outcome> {
        let flow = || ControlFlow::Continue(());
        let request = Request { ids, sampling: Sampling::greedy(), tokens: Some(tokens), end_ids: &[] };
        generate(&mut *self.engine, &mut self.history, &request, &mut |_, _| flow(), &mut |_| flow())
    }
}

/// Speed of runs, and nothing that is special to their kind.
fn measured(kind: &'static str, args: &Args, runs: &[Outcome], speed: impl Fn(&Outcome) -> f64) -> Measured {
    let runs: Vec<f64> = runs.iter().map(speed).collect();
    let median = median(runs.clone());
    let range = runs.iter().fold(f64::NEG_INFINITY, |m, v| m.max(*v))
        - runs.iter().fold(f64::INFINITY, |m, v| m.min(*v));
    Measured {
        kind,
        prompt_tokens: SHORT,
        tokens: 0,
        depth: args.depth,
        runs_tokens_per_s: runs,
        median_tokens_per_s: median,
        spread_percent: if median > 0.0 { 100.0 * range / median } else { 0.0 },
        bytes_per_token: None,
        gb_per_s: None,
        percent_of_limit: None,
        submits_per_token: None,
        dispatches_per_token: None,
        readback_bytes_per_token: None,
        cpu_encode_us_per_token: None,
    }
}

#[allow(clippy::cast_precision_loss, reason = "rates")]
fn decoding(engine: &dyn Engine, args: &Args, runs: &[Outcome], limits: Option<Limits>) -> Measured {
    let m = measured("decode", args, runs, |o| rate(o.decode_tokens, o.decode));
    let mut sum = Counters::default();
    for run in runs {
        sum.steps += run.counters.steps;
        sum.submits += run.counters.submits;
        sum.dispatches += run.counters.dispatches;
        sum.readback_bytes += run.counters.readback_bytes;
        sum.encode += run.counters.encode;
    }
    // Of the step in the middle.
    let bytes = engine.step_bytes(args.depth + SHORT + args.tokens / 2);
    let gb_per_s = bytes as f64 * m.median_tokens_per_s / 1e9;
    Measured {
        tokens: args.tokens,
        bytes_per_token: Some(bytes),
        gb_per_s: Some(gb_per_s),
        percent_of_limit: limits.map(|l| 100.0 * gb_per_s / l.read_gb_per_s),
        submits_per_token: Some(per(sum.submits, sum.steps)),
        dispatches_per_token: Some(per(sum.dispatches, sum.steps)),
        readback_bytes_per_token: Some(per(sum.readback_bytes, sum.steps)),
        cpu_encode_us_per_token: Some(sum.encode.as_secs_f64() * 1e6 / (sum.steps.max(1)) as f64),
        ..m
    }
}

fn print(report: &Report) -> Result<()> {
    let mut out = format!("{}\n", output::escape(&report.model));
    for r in &report.results {
        let count = if r.kind == "decode" { r.tokens } else { r.prompt_tokens };
        let mut rate = r.gb_per_s.map_or_else(String::new, |g| format!(", {g:.1} GB/s"));
        if let (Some(percent), Some(limit)) = (r.percent_of_limit, report.limits.read_gb_per_s) {
            rate += &format!(" = {percent:.1} % of the device's {limit:.0}");
        }
        out += &format!(
            "{:8} {:>10.1} tokens/s, spread {:.1} %, {} runs of {count} tokens at depth {}{rate}\n",
            r.kind,
            r.median_tokens_per_s,
            r.spread_percent,
            r.runs_tokens_per_s.len(),
            r.depth
        );
    }
    if let Some(knobs) = &report.knobs {
        out += &format!("knobs    {knobs}\n");
    }
    if let Some(account) = &report.profile {
        out += &account.table();
    }
    output::print(&out)
}
