//! The kernel lab: the product's matrix-vector kernels on one device, alone, at a model's shapes,
//! in the form that the engine would take and in others (`case.rs`). Before it is timed, every
//! variant's outputs are compared with the kernel's twin.

use std::collections::HashSet;

use serde::Serialize;

use super::case::Variant;
pub use super::case::{Case, Shape};
use super::device::{Gpu, choose};
use super::profile::{self, Limits, MANY};
use super::{DeviceChoice, Options};
use crate::kernels::gemv::{Gemv, Knobs};
use crate::kernels::{Form, Kv, Math, loops};
use crate::quant::TILE;
use crate::{Error, Result};

/// How fast a variant is, and whether it is right.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Timing {
    /// The variant.
    pub knobs: Knobs,
    /// A dispatch, from the end of the one before, in µs.
    pub us: f64,
    /// Weights read, in 10⁹ bytes a second of what a dispatch takes beyond doing nothing.
    pub gb_per_s: f64,
    /// What the device's limits leave at least, over what it took: 1 is the best.
    pub of_floor: f64,
    /// The relative error against the twin.
    pub error: f64,
    /// The error is larger than rounding explains.
    pub wrong: bool,
}

/// The variants of a shape.
#[derive(Clone, Debug, Serialize)]
pub struct Sweep {
    /// The one that the engine takes.
    pub own: Timing,
    /// The fastest of those that are right: the engine's where none is faster.
    pub best: Timing,
    /// All that were tried.
    pub all: Vec<Timing>,
}

/// A device with an arithmetic.
pub struct Lab {
    pub(super) gpu: Gpu,
    limits: Limits,
}

/// Copies of the matrices at least.
const SLOTS: u64 = 3;
/// Runs that tell which variants are worth [`MANY`], and how many of them are.
const FEW: usize = 3;
const FINALISTS: usize = 3;
/// Variants that are tried with other unrollings.
const UNROLLED: usize = 2;

impl Lab {
    /// Opens a device and measures its limits.
    ///
    /// # Errors
    /// [`Error::Device`] where there is no such device.
    pub fn open(device: &DeviceChoice, math: Math, kv: Option<Kv>) -> Result<Lab> {
        let adapter = choose(device)?
            .ok_or_else(|| Error::Device("no GPU to measure: --device gpu takes software too".to_owned()))?;
        let gpu = Gpu::open(&adapter, &Options { math: Some(math), kv, ..Options::default() })?;
        let limits = profile::limits(&gpu)?;
        Ok(Lab { gpu, limits })
    }

    /// What the device can do at most.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The device's name and driver.
    pub fn device(&self) -> (&str, &str) {
        (&self.gpu.name, &self.gpu.driver)
    }

    /// Puts a shape's matrices onto the device, with random valid blocks; the kernels are those of stages
    /// that overlap, if the device has such.
    ///
    /// # Errors
    /// [`Error::Device`] where memory does not suffice or the matrices exceed a binding.
    pub fn case(&self, shape: &Shape) -> Result<Case<'_>> {
        let (parts, _) = shape.parts()?;
        let overlapped = super::overlap::fits(&self.gpu, &parts) && self.gpu.overlaps()?;
        Case::new(&self.gpu, Form { overlapped, ..self.gpu.form }, shape, SLOTS)
    }

    /// What a dispatch takes at least by the device's limits, in µs.
    pub fn floor_us(&self, case: &Case<'_>) -> f64 {
        let Limits { read_gb_per_s, dispatch_us, .. } = self.limits;
        dispatch_us + case.bytes() as f64 / read_gb_per_s / 1e3
    }

    /// Times the engine's variant alone.
    ///
    /// # Errors
    /// The device's.
    pub fn quick(&self, case: &Case<'_>) -> Result<Sweep> {
        let own = self.own(case)?;
        Ok(Sweep { own, best: own, all: vec![own] })
    }

    fn own(&self, case: &Case<'_>) -> Result<Timing> {
        let compiled = case.compile(&[case.own()], &mut HashSet::new())?;
        self.time(case, &compiled[0], MANY)
    }

    /// Times the variants with a few runs each, and the fastest again with many: all numbers of
    /// lanes and tiles, and other unrollings of the fastest of those, or of all if `full`.
    ///
    /// # Errors
    /// The device's.
    pub fn sweep(&self, case: &Case<'_>, full: bool) -> Result<Sweep> {
        let mut seen = HashSet::new();
        let plain = plain_variants(case);
        let mut all = self.try_all(case, &plain, &mut seen)?;
        all.sort_by(|a, b| a.us.total_cmp(&b.us));
        let fastest = all.iter().map(|t| t.knobs).take(UNROLLED);
        let bases = if full { plain } else { fastest.collect() };
        let unrolled = bases.into_iter().flat_map(|base| [1, 2, 4].map(|unroll| Knobs { unroll, ..base }));
        all.extend(self.try_all(case, &unrolled.collect::<Vec<_>>(), &mut seen)?);
        all.sort_by(|a, b| a.us.total_cmp(&b.us));
        let own = self.own(case)?;
        let mut best = own;
        for timing in all.iter_mut().filter(|t| !t.wrong && t.knobs != own.knobs).take(FINALISTS) {
            let compiled = case.compile(&[timing.knobs], &mut HashSet::new())?;
            *timing = self.time(case, &compiled[0], MANY)?;
            if timing.us < best.us {
                best = *timing;
            }
        }
        for timing in all.iter_mut().filter(|t| t.knobs == own.knobs) {
            *timing = own;
        }
        Ok(Sweep { own, best, all })
    }

    /// Compiles and times those variants whose code is not among `seen`.
    fn try_all(
        &self,
        case: &Case<'_>,
        variants: &[Knobs],
        seen: &mut HashSet<String>,
    ) -> Result<Vec<Timing>> {
        case.compile(variants, seen)?.iter().map(|v| self.time(case, v, FEW)).collect()
    }

    /// Checks and times a variant: the median of so many runs.
    fn time(&self, case: &Case<'_>, variant: &Variant, runs: usize) -> Result<Timing> {
        let error = case.error(variant)?;
        let pass = profile::time(&self.gpu, runs, |pass| case.pass(pass, variant))?;
        let us = pass / case.copies() as f64;
        let reading = (us - self.limits.dispatch_us).max(1e-3);
        Ok(Timing {
            knobs: variant.knobs,
            us,
            gb_per_s: case.bytes() as f64 / reading / 1e3,
            of_floor: self.floor_us(case) / us,
            error,
            wrong: case.is_wrong(error),
        })
    }
}

/// Tiles of a lane, and teams of a workgroup.
fn shares(case: &Case<'_>) -> Vec<(usize, usize)> {
    let teams: &[usize] = if case.form.overlapped { &[1, 2, 4, 8] } else { &[1] };
    teams.iter().flat_map(|teams| [1, 2, 4].map(|tiles| (tiles, *teams))).collect()
}

/// The lanes and tiles that the device can run, the engine's first, each with the unrolling that
/// is good for most shapes.
fn plain_variants(case: &Case<'_>) -> Vec<Knobs> {
    let slices = loops::steps_of(&case.parts[0].layout).next_multiple_of(4);
    let mut made = vec![case.own()];
    for threads in [case.own().threads / case.own().teams, 128, 256, 512, 1024] {
        for (tiles, teams) in shares(case) {
            let unroll = Gemv::default_unroll(&case.parts, &case.epilogue, tiles);
            let knobs = Knobs { threads: threads * teams, tiles, unroll, teams };
            if knobs.threads <= teams * slices * TILE && case.allows(knobs) {
                made.push(knobs);
            }
        }
    }
    made
}
