//! The tune: which knobs of a model's products are fastest on this device, measured once.
//!
//! The built-in rules (`tuning.rs`) were found on a few devices. On another, neighbours of
//! what they say run in the lab's way (`case.rs`), in turns, so that a clock that drifts
//! drifts for all, and the fastest takes the rules' place where it is faster by a clear margin.
//! Knobs change no result beyond rounding; a variant whose outputs are further from the twin's than
//! the rules' is not taken. What was found is kept (`tune/cache.rs`); what there was no time for is
//! measured when a model is opened again.

mod cache;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use self::cache::{Cache, Entries, Entry, Identity};
use super::case::{Case, Shape, Variant, allows, copies_of, distinct, kernel, own};
use super::device::Gpu;
use super::profile::{Watch, median};
use super::stage::{Stage, lower, settle};
use super::tuning::Tuning;
use super::{Options, Progress};
use crate::kernels::gemv::{Epilogue, Gemv, Knobs, Part, Tail, Take};
use crate::kernels::{Form, loops};
use crate::model::Model;
use crate::quant::TILE;
use crate::{Error, Result};

pub use self::cache::folder;

/// When the knobs of products are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// Never: the built-in rules are used, whatever was measured before.
    #[default]
    Never,
    /// Once, on GPUs that the built-in rules were not found on. What was measured before is used on
    /// any device.
    Auto,
    /// Whenever a model is opened, on any device, software too.
    Always,
}

/// Whether and how an engine is tuned to its device.
#[derive(Clone, Debug)]
pub struct Tune {
    /// When.
    pub when: When,
    /// The folder in which is kept what was found; without one nothing is.
    pub folder: Option<PathBuf>,
    /// How long to measure, beside compiling. A product that is begun is finished.
    pub budget: Duration,
    /// Is told the device's name before anything is measured.
    pub say: Option<fn(&str)>,
}

impl Default for Tune {
    fn default() -> Tune {
        Tune { when: When::Never, folder: None, budget: Duration::from_secs(2), say: None }
    }
}

/// What a model's products owe to measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tuned {
    /// Distinct products of a token's step that can be measured.
    pub products: usize,
    /// Those that were, now or before; the others have the built-in knobs.
    pub measured: usize,
    /// Those whose knobs differ from the built-in ones.
    pub changed: usize,
}

impl fmt::Display for Tuned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tuned { products, measured, changed } = self;
        match measured {
            0 => f.write_str("built in"),
            _ => write!(f, "tuned: {measured} of {products} products measured here, {changed} changed"),
        }
    }
}

/// Names of adapters that the built-in rules were found on contain one of these. (GH200 as well.)
const KNOWN: [&str; 2] = ["H100", "H200"];
/// The whole of a tune takes at most so many budgets: a driver may compile for long.
const PATIENCE: u32 = 5;
/// Bytes of weights on the device at once.
const ROOM: u64 = 1 << 30;
/// How long a device is kept busy before a product is measured.
const WARM_UP: Duration = Duration::from_millis(30);
/// Turns in which every variant that is left runs once, and how many of them there are at least.
const TURNS: usize = 9;
const LEAST: usize = 3;
/// A variant that takes so much longer than the fastest leaves.
const LOST: f64 = 1.15;
/// What a variant takes at most of the built-in one's time to be taken: what is a little faster alone may be
/// slower among others (benches/LOG.md).
const MARGIN: f64 = 0.93;
/// A variant's error may be so much of the built-in one's: both are rounding.
const AS_RIGHT: f64 = 1.5;

/// The knobs that were measured, by product.
#[derive(Default)]
pub(super) struct Table(HashMap<String, Knobs>);

impl Table {
    /// The kernel with the knobs that were measured for its product. Experts, routers and products
    /// whose rows are cut have rules of their own.
    pub(super) fn put(&self, form: Form, mut kernel: Gemv) -> Gemv {
        let own_rules = kernel.tokens > 1
            || kernel.splits > 1
            || matches!(kernel.take, Take::Chosen { .. })
            || matches!(kernel.tail, Tail::Route(_));
        if !own_rules && let Some(knobs) = self.0.get(&key(form, &kernel.epilogue, &kernel.parts)) {
            kernel.knobs = *knobs;
        }
        kernel
    }
}

/// What decides which knobs are fastest on a device: how stages follow each other, what becomes of the
/// rows, and the matrices. A norm's factor, a bias and the settling behind are the same work in all variants.
fn key(form: Form, epilogue: &Epilogue, parts: &[Part]) -> String {
    let what = match epilogue {
        Epilogue::Raw => "rows",
        Epilogue::Residual { .. } => "residual",
        Epilogue::Gated(_) => "gated",
        Epilogue::Logits { .. } => "logits",
    };
    let matrix = |part: &Part| format!(" {}x{} {}", part.layout.rows, part.layout.cols, part.layout.ty);
    let how = if form.overlapped { "overlapping " } else { "" };
    how.to_owned() + what + &parts.iter().map(matrix).collect::<Vec<_>>().join(",")
}

/// A model's product that can be measured.
struct Product {
    key: String,
    shape: Shape,
    parts: Vec<Part>,
    /// By the built-in rules.
    own: Knobs,
}

/// The distinct products of a step whose knobs are not cut to a tail, and that fit the device several
/// times.
fn products(gpu: &Gpu, form: Form, model: &Model, options: &Options) -> Result<Vec<Product>> {
    let spec = &model.plan.spec;
    let cut = |stage: &Stage| match stage {
        Stage::Route { .. } => Ok(true),
        Stage::Output { weight, settling, .. } if gpu.form.inline_merge => {
            let part = Part { layout: weight.layout(weight.rows)?, offset: 0, scale: 1.0 };
            let tail = Tail::Settle(settle(spec, settling, true));
            Ok::<_, Error>(Tuning::of(gpu).cut(&[part], &tail).1 > 1)
        }
        _ => Ok(false),
    };
    let mut shapes = Vec::new();
    for stage in lower(&model.plan) {
        if !cut(&stage)? {
            shapes.extend(Shape::of_stage(stage, spec.activation));
        }
    }
    // The weights are not there yet, but other programs may be.
    let room = options.memory.or(gpu.memory).map_or(ROOM, |memory| ROOM.min(memory / 2));
    let mut made = Vec::new();
    for shape in distinct(shapes.into_iter()) {
        let (parts, bytes) = shape.parts()?;
        if bytes <= gpu.weight_binding && bytes.saturating_mul(copies_of(gpu, bytes, 1)) <= room {
            let own = own(gpu, form, &shape.epilogue, &parts);
            made.push(Product { key: key(form, &shape.epilogue, &parts), shape, parts, own });
        }
    }
    Ok(made)
}

/// What comes of opening a device for a model.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) table: Table,
    pub(super) tuned: Tuned,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

/// The knobs for a model's products: those that were measured before, and those that are measured
/// now, if the options ask for it. Nothing of it is left on the device.
///
/// # Errors
/// [`Error::Interrupted`] where `progress` says so; the device's, if it is lost. What keeps a
/// product from being measured is a note.
pub(super) fn tune(
    gpu: &Gpu,
    adapter: &wgpu::AdapterInfo,
    form: Form,
    model: &Model,
    options: &Options,
    progress: Progress<'_>,
) -> Result<Outcome> {
    let Tune { when, folder, .. } = &options.tune;
    let products = products(gpu, form, model, options)?;
    let mut made = Outcome::default();
    made.tuned.products = products.len();
    if *when == When::Never {
        return Ok(made);
    }
    let cache = folder.as_ref().map(|folder| Cache::new(folder, Identity::of(gpu, adapter, options)));
    let mut entries = cache.as_ref().map_or_else(Entries::default, Cache::read);
    // What a file says may be of another program, or nobody's: only what this device can run counts.
    for product in &products {
        let of = |knobs| allows(gpu, form, &kernel(&product.shape.epilogue, &product.parts, knobs));
        let sound = entries.get(&product.key).is_some_and(|entry| of(entry.knobs()));
        if *when == When::Always || !sound {
            entries.remove(&product.key);
        }
    }
    let unknown = !gpu.software && !KNOWN.iter().any(|name| gpu.name.contains(name));
    let missing: Vec<&Product> = products.iter().filter(|p| !entries.contains_key(&p.key)).collect();
    if !missing.is_empty() && (*when == When::Always || unknown) {
        let found = measure((gpu, form), &missing, &options.tune, &mut made.notes, progress)?;
        let some = !found.is_empty();
        entries.extend(found);
        if let Some(cache) = cache.filter(|_| some)
            && let Err(e) = cache.write(&entries)
        {
            made.notes.push(format!("what tuning found is not kept: {e}"));
        }
    }
    for product in &products {
        if let Some(entry) = entries.get(&product.key) {
            made.tuned.measured += 1;
            made.tuned.changed += usize::from(entry.knobs() != product.own);
            made.table.0.insert(product.key.clone(), entry.knobs());
        }
    }
    Ok(made)
}

/// Measures products until the time is over.
fn measure(
    (gpu, form): (&Gpu, Form),
    products: &[&Product],
    options: &Tune,
    notes: &mut Vec<String>,
    progress: Progress<'_>,
) -> Result<Entries> {
    let mut found = Entries::new();
    if let Some(say) = options.say.filter(|_| !options.budget.is_zero()) {
        say(&gpu.name);
    }
    let start = Instant::now();
    let mut left = options.budget;
    for product in products {
        if left.is_zero() || start.elapsed() > options.budget * PATIENCE {
            break;
        }
        match best((gpu, form), &product.shape, &mut left, progress) {
            Ok(entry) => {
                found.insert(product.key.clone(), entry);
            }
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            // The device may be lost, or just too full for this.
            Err(e) => {
                gpu.check()?;
                notes.push(format!("{} is not tuned: {e}", product.key));
            }
        }
        gpu.clear()?;
    }
    Ok(found)
}

/// The fastest knobs of a product. `left` is what there is of the time to measure; compiling does not
/// count.
fn best(
    (gpu, form): (&Gpu, Form),
    shape: &Shape,
    left: &mut Duration,
    progress: Progress<'_>,
) -> Result<Entry> {
    let case = Case::new(gpu, form, shape, 1)?;
    let mut seen = HashSet::new();
    let mut variants: Vec<Variant> = Vec::new();
    for knobs in candidates(&case) {
        // Nothing is done of what progress is about, but an interruption is timely.
        if progress(0, 0).is_break() {
            return Err(Error::Interrupted);
        }
        match case.compile(&[knobs], &mut seen) {
            Ok(made) => variants.extend(made),
            // A driver may refuse what it has no registers for; the built-in one is needed.
            Err(e) if variants.is_empty() => return Err(e),
            Err(_) => gpu.check()?,
        }
    }
    let start = Instant::now();
    let result = race(gpu, &case, &variants, start + *left);
    *left = left.saturating_sub(start.elapsed());
    result
}

/// Variants around the built-in one, which is the first.
fn candidates(case: &Case<'_>) -> Vec<Knobs> {
    let own = case.own();
    let Knobs { threads, tiles, unroll, teams } = own;
    let half = |n: usize| (n / 2).next_multiple_of(64 * teams);
    let unrolled: Vec<usize> = [1, 2, 4].into_iter().filter(|n| *n != unroll).collect();
    let mut all = vec![
        own,
        Knobs { threads: half(threads), ..own },
        Knobs { threads: 2 * threads, ..own },
        Knobs { threads: half(half(threads)), ..own },
        Knobs { tiles: 2 * tiles, unroll: 1, ..own },
        Knobs { threads: half(threads), tiles: 2 * tiles, unroll: 1, teams },
    ];
    if case.form.overlapped {
        all.push(Knobs { threads: 2 * threads, teams: 2 * teams, ..own });
        all.push(Knobs { threads: threads / 2, teams: teams / 2, ..own });
    }
    all.extend(unrolled.into_iter().map(|unroll| Knobs { unroll, ..own }));
    // Lanes without a step of their own would only wait.
    let most = |teams| teams * (TILE * loops::steps_of(&case.parts[0].layout)).next_multiple_of(64);
    all.retain(|knobs| *knobs == own || (knobs.threads <= most(knobs.teams) && case.allows(*knobs)));
    all
}

/// The fastest of the variants that are right, of which the first is the built-in one.
fn race(gpu: &Gpu, case: &Case<'_>, variants: &[Variant], end: Instant) -> Result<Entry> {
    let errors = variants.iter().map(|v| case.error(v)).collect::<Result<Vec<f64>>>()?;
    let right = |i: &usize| !case.is_wrong(errors[*i]) || errors[*i] <= AS_RIGHT * errors[0];
    let watch = Watch::new(gpu)?;
    let once = |i: usize| watch.once(|pass| case.pass(pass, &variants[i]));
    let start = Instant::now();
    once(0)?;
    while !gpu.software && start.elapsed() < WARM_UP {
        once(0)?;
    }
    let (taken, medians) = turns((0..variants.len()).filter(|i| *i == 0 || right(i)).collect(), end, once)?;
    let us = |i: usize| medians[&i] / case.copies() as f64;
    Ok(Entry::new(variants[taken].knobs, us(taken), us(0)))
}

/// Runs what is `racing` in turns; what is far behind leaves, but for 0. Gives the one to take, which is
/// 0 unless another is clearly faster, and the median time of each.
fn turns(
    mut racing: Vec<usize>,
    end: Instant,
    once: impl Fn(usize) -> Result<f64>,
) -> Result<(usize, HashMap<usize, f64>)> {
    let mut times: HashMap<usize, Vec<f64>> = HashMap::new();
    let mut medians: HashMap<usize, f64> = HashMap::new();
    for turn in 1..=TURNS {
        for i in &racing {
            let times = times.entry(*i).or_default();
            times.push(once(*i)?);
            medians.insert(*i, median(times.clone()));
        }
        let fastest = racing.iter().map(|i| medians[i]).fold(f64::INFINITY, f64::min);
        racing.retain(|i| *i == 0 || medians[i] <= LOST * fastest);
        if racing.len() == 1 || (turn >= LEAST && Instant::now() >= end) {
            break;
        }
    }
    let fastest = racing.into_iter().min_by(|a, b| medians[a].total_cmp(&medians[b])).unwrap_or(0);
    let taken = if medians[&fastest] <= MARGIN * medians[&0] { fastest } else { 0 };
    Ok((taken, medians))
}
