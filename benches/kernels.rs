//! The kernel lab: times the product's matrix-vector kernels (one token) at the shapes and in the
//! types that models have, as the engine would run them and in other variants.
//!
//! A line is a shape: what the engine takes, then the fastest variant, each as
//! `threads/tiles/unroll`, µs a dispatch, GB/s of weights, and how much of the time the device's
//! limits explain. `--json` prints an object a line with every variant. The exit code is 1 if a
//! variant's outputs are not the twin's.

use std::process::ExitCode;

use clap::Parser;
use infer::Result;
use infer::cli::{kv, shapes};
use infer::engine::DeviceChoice;
use infer::engine::lab::{Lab, Shape, Sweep, Timing};
use infer::kernels::{Kv, Math};
use serde::Serialize;

/// The models whose shapes are measured.
const MODELS: [&str; 6] =
    ["llama-3.2-1b", "llama-3.1-8b", "qwen3-0.6b", "smollm2-135m", "gemma-3-1b", "llama-3.1-70b"];

/// Time decode kernels at real shapes
#[derive(Parser)]
struct Args {
    /// gpu (any adapter, software too), auto, or an adapter's index or part of its name
    #[arg(long, default_value = "gpu", value_name = "DEVICE")]
    device: DeviceChoice,
    /// The arithmetic: f16, f32, int16 or int8; may be repeated
    #[arg(long, default_values = ["int16", "int8"], value_name = "MATH", value_parser = math)]
    math: Vec<Math>,
    /// Measure these models, each in these types, by default Q4_K_M: NAME[:FTYPE], may be repeated
    #[arg(long, value_name = "SHAPE", default_values = MODELS)]
    model: Vec<String>,
    /// Only lines that have all of these words: part of a model's name, a stage (qkv, residual,
    /// gated, logits), a type
    #[arg(long, default_value = "", value_name = "TEXT")]
    filter: String,
    /// Only what the engine takes, no other variant
    #[arg(long)]
    quick: bool,
    /// Every combination of lanes, tiles and unrolling, not only the promising ones
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Time attention instead, of one token with so many before it
    #[arg(long, value_name = "DEPTH")]
    attention: Option<usize>,
    /// How keys and values are stored, for attention; by default as the arithmetic
    #[arg(long, value_name = "TYPE", value_parser = kv())]
    kv: Option<Kv>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

fn math(text: &str) -> Result<Math, String> {
    let all = [Math::F16, Math::F32, Math::Int16, Math::Int8];
    all.into_iter().find(|m| m.to_string() == text).ok_or_else(|| "f16, f32, int16 or int8".to_owned())
}

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    device: &'a str,
    math: String,
    read_gb_per_s: f64,
    dispatch_us: f64,
    model: &'a str,
    kernel: &'a str,
    /// Of a dispatch.
    bytes: u64,
    /// Of the matrices.
    copies: usize,
    floor_us: f64,
    #[serde(flatten)]
    sweep: &'a Sweep,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("kernels: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

/// Whether everything is right.
fn run(args: &Args) -> Result<bool> {
    let mut shapes: Vec<(&str, String, Shape)> = Vec::new();
    for model in &args.model {
        for shape in Shape::of(&shapes::model(model)?) {
            let label = shape.label()?;
            let line = format!("{model} {label}").to_lowercase();
            let wanted = args.filter.split_whitespace().all(|w| line.contains(&w.to_lowercase()));
            if wanted && !shapes.iter().any(|(_, _, s)| s.is_like(&shape)) {
                shapes.push((model, label, shape));
            }
        }
    }
    let mut right = true;
    for math in &args.math {
        let lab = Lab::open(&args.device, *math, args.kv)?;
        let limits = lab.limits();
        if let Some(depth) = args.attention {
            right &= attention(&lab, args, depth)?;
            continue;
        }
        if !args.json {
            let (device, driver) = lab.device();
            println!(
                "{device}, {driver}; {math}: reads {:.0} GB/s, {:.2} us a dispatch",
                limits.read_gb_per_s, limits.dispatch_us
            );
            println!(
                "{:13} {:37} | {:>10} {:>8} {:>5} {:>4} | {:>10} {:>8} {:>5} {:>4} {:>5} | error",
                "model", "kernel", "engine", "us", "GB/s", "%", "best", "us", "GB/s", "%", "gain"
            );
        }
        for (model, kernel, shape) in &shapes {
            // A device may be too small for the largest shapes: the others are still worth it.
            let case = match lab.case(shape) {
                Ok(case) => case,
                Err(e) => {
                    eprintln!("{model} {kernel}: left out: {e}");
                    continue;
                }
            };
            let sweep = if args.quick { lab.quick(&case)? } else { lab.sweep(&case, args.full)? };
            let wrong: Vec<&Timing> = sweep.all.iter().filter(|t| t.wrong).collect();
            right &= wrong.is_empty();
            if args.json {
                let line = Line {
                    device: lab.device().0,
                    math: math.to_string(),
                    read_gb_per_s: limits.read_gb_per_s,
                    dispatch_us: limits.dispatch_us,
                    model,
                    kernel,
                    bytes: case.bytes(),
                    copies: case.copies(),
                    floor_us: lab.floor_us(&case),
                    sweep: &sweep,
                };
                println!("{}", serde_json::to_string(&line).map_err(std::io::Error::from)?);
                continue;
            }
            let Sweep { own, best, .. } = &sweep;
            let error = sweep.all.iter().map(|t| t.error).fold(0.0, f64::max);
            println!(
                "{model:13} {kernel:37} | {} | {} {:>+4.0}% | {error:.0e}",
                figures(own),
                figures(best),
                100.0 * (own.us / best.us - 1.0)
            );
            wrong.iter().for_each(|t| println!("  WRONG: {} has an error of {:.1e}", t.knobs, t.error));
        }
    }
    Ok(right)
}

/// Attention of those models whose name has the filter; whether everything is right. The engine's
/// variant comes first: heads a workgroup, lanes, keys of a lane, units and values at once.
fn attention(lab: &Lab, args: &Args, depth: usize) -> Result<bool> {
    let mut right = true;
    for model in args.model.iter().filter(|m| m.contains(&args.filter)) {
        for t in lab.attention(&shapes::model(model)?, depth)? {
            right &= !t.wrong;
            if args.json {
                println!("{}", serde_json::to_string(&t).map_err(std::io::Error::from)?);
                continue;
            }
            let wrong = if t.wrong { "  WRONG" } else { "" };
            println!(
                "{model:13} attention over {depth:6} {:>14} in {:>2} splits {:>8.2} us {:>5.0} GB/s, differs by {:.0e}{wrong}",
                t.knobs, t.splits, t.us, t.gb_per_s, t.difference
            );
        }
    }
    Ok(right)
}

fn figures(t: &Timing) -> String {
    format!("{:>10} {:>8.2} {:>5.0} {:>4.0}", t.knobs, t.us, t.gb_per_s, 100.0 * t.of_floor)
}
