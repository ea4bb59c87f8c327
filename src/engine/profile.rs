//! Where a step's time goes, and what the device could do at most.
//!
//! A kernel costs what a step without it is faster by. (Stamps between dispatches would tell less:
//! each drains the device, so that they take longer than many kernels do, and not evenly.)

use std::time::{Duration, Instant};

use serde::Serialize;

use super::device::Gpu;
use super::dispatch::{Dispatch, Step};
use super::program::Programs;
use crate::kernels::probe;
use crate::kernels::sample::Sampling;
use crate::{Error, Result};

/// What a device can do at most.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Limits {
    /// Reading more than its caches hold, in 10⁹ bytes a second.
    pub read_gb_per_s: f64,
    /// What a dispatch costs that waits for the one before and does next to nothing, in µs.
    pub dispatch_us: f64,
}

/// A kernel's part in a step.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The kernel and its shape.
    pub kernel: String,
    /// Its dispatches in a step.
    pub calls: usize,
    /// What all of them add to the step, their starts included, in µs.
    pub us: f64,
    /// Bytes of weights, keys and values that they read.
    pub bytes: u64,
}

/// Where a step's time goes.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// Per kernel, in the order of the first call.
    pub rows: Vec<Row>,
    /// The whole step on the device in µs, with barriers between its stages. The rows' sum differs from it
    /// by what kernels share or keep each other from.
    pub gpu_us: f64,
    /// What the step is faster by because its stages overlap, in µs; 0 where they do not.
    pub overlap_us: f64,
}

/// Times passes on the device.
pub(super) struct Clock {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    landing: wgpu::Buffer,
    /// ns of a tick.
    period: f64,
}

impl Clock {
    pub(super) fn new(gpu: &Gpu) -> Result<Clock> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let resolve = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        Ok(Clock {
            queries: gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            }),
            resolved: gpu.buffer("time stamps", 16, resolve)?,
            landing: gpu.buffer("time stamps", 16, usage)?,
            period: f64::from(gpu.queue.get_timestamp_period()),
        })
    }

    /// Runs a pass; gives its time in µs.
    pub(super) fn run(&self, gpu: &Gpu, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) -> Result<f64> {
        self.stamped(gpu, |encoder, stamps| {
            let timestamp_writes = Some(stamps);
            let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
            record(&mut encoder.begin_compute_pass(&descriptor));
        })
    }

    /// Runs a pass that `record` begins with these stamps; gives its time in µs.
    fn stamped(
        &self,
        gpu: &Gpu,
        record: impl FnOnce(&mut wgpu::CommandEncoder, wgpu::ComputePassTimestampWrites<'_>),
    ) -> Result<f64> {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let stamps = wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        };
        record(&mut encoder, stamps);
        encoder.resolve_query_set(&self.queries, 0..2, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.landing, 0, 16);
        let index = gpu.queue.submit([encoder.finish()]);
        let slice = self.landing.slice(..16);
        slice.map_async(wgpu::MapMode::Read, |_| ());
        gpu.wait(&index)?;
        let view = slice
            .get_mapped_range()
            .map_err(|_| Error::Device(format!("{}: time stamps could not be read back", gpu.name)))?;
        let stamps = bytemuck::pod_collect_to_vec::<u8, u64>(&view);
        drop(view);
        self.landing.unmap();
        Ok(stamps[1].saturating_sub(stamps[0]) as f64 * self.period / 1e3)
    }
}

/// The middle of some numbers; 0 of none.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let at = |i: usize| numbers.get(i).copied().unwrap_or(0.0);
    (at(numbers.len().saturating_sub(1) / 2) + at(numbers.len() / 2)) / 2.0
}

/// Runs of a step in each form, and steps of a run.
const RUNS: usize = 15;
const STEPS: usize = 8;

pub(super) fn profile(gpu: &Gpu, programs: &Programs, position: usize) -> Result<Option<Profile>> {
    if !gpu.clock {
        return Ok(None);
    }
    let dispatches: Vec<&Dispatch> = programs.apart_dispatches().collect();
    let mut rows: Vec<Row> = Vec::new();
    let mut row_of = Vec::new();
    for d in &dispatches {
        let kernel = d.label();
        let at = rows.iter().position(|r| r.kernel == kernel).unwrap_or_else(|| {
            rows.push(Row { kernel, calls: 0, us: 0.0, bytes: 0 });
            rows.len() - 1
        });
        rows[at].calls += 1;
        rows[at].bytes += d.bytes(position, gpu.form.kv);
        row_of.push(at);
    }
    let step = Step::decode(position, 0);
    let greedy = Sampling::greedy();
    let clock = Clock::new(gpu)?;
    let once = |without: Option<usize>| -> Result<f64> {
        let us = clock.run(gpu, |pass| {
            for _ in 0..STEPS {
                let of_step = dispatches.iter().zip(&row_of).filter(|(_, row)| Some(**row) != without);
                of_step.for_each(|(d, _)| d.record(pass, &step, &greedy));
            }
        })?;
        Ok(us / STEPS as f64)
    };
    for _ in 0..RUNS {
        once(None)?;
    }
    // Turn and turn about, so that a clock that drifts drifts for all.
    let mut wholes = Vec::new();
    let mut withouts = vec![Vec::new(); rows.len()];
    for _ in 0..RUNS {
        wholes.push(once(None)?);
        for (i, all) in withouts.iter_mut().enumerate() {
            all.push(once(Some(i))?);
        }
    }
    let gpu_us = median(wholes);
    for (row, without) in rows.iter_mut().zip(withouts) {
        row.us = gpu_us - median(without);
    }
    let overlap_us = match programs.overlaps() {
        true => {
            let mut steps = Vec::new();
            for _ in 0..2 * RUNS {
                steps.push(clock.stamped(gpu, |encoder, stamps| {
                    programs.record_step(encoder, &step, &greedy, Some(stamps));
                })?);
            }
            gpu_us - median(steps.split_off(RUNS))
        }
        false => 0.0,
    };
    Ok(Some(Profile { rows, gpu_us, overlap_us }))
}

/// Bytes that are read to measure bandwidth: far more than caches hold.
const READ: u64 = 1 << 30;
/// Workgroups that read.
const READERS: u32 = 1056;

/// Measures reading and dispatching.
pub(super) fn limits(gpu: &Gpu) -> Result<Limits> {
    let probe = gpu.pipeline(&probe::shader(gpu.form))?;
    // A software adapter reads what the host's memory gives: less will do.
    let bytes = if gpu.software { 64 << 20 } else { READ.min(gpu.binding) };
    let slack = u64::from(4 * READERS * 256 * 16);
    let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
    let data = gpu.buffer("the measurement of bandwidth", bytes, storage)?;
    let out = gpu.buffer("the measurement of bandwidth", 16, storage)?;
    let group = gpu.bind(&probe, &[(&data).into(), (&out).into()]);
    let count = ((bytes - slack.min(bytes / 2)) / 16) as u32;
    let record = |pass: &mut wgpu::ComputePass<'_>, count: u32, groups: u32, times: u32| {
        pass.set_pipeline(&probe.pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.set_immediates(0, bytemuck::bytes_of(&count));
        (0..times).for_each(|_| pass.dispatch_workgroups(groups, 1, 1));
    };
    let (reads, starts) = (4, 256);
    let read_us = time(gpu, MANY, |pass| record(pass, count, READERS, reads))? / f64::from(reads);
    let dispatch_us = time(gpu, MANY, |pass| record(pass, 0, 128, starts))? / f64::from(starts);
    Ok(Limits { read_gb_per_s: f64::from(count) * 16.0 / read_us / 1e3, dispatch_us })
}

/// Runs of a measurement. A software adapter's figures mean little: there one has to do.
pub(super) const MANY: usize = 9;

/// How long a device is kept busy before it is measured.
const WARM_UP: Duration = Duration::from_millis(100);

/// Tells how long passes take: by the device's clock, by the host's where it has none.
pub(super) struct Watch<'a> {
    gpu: &'a Gpu,
    clock: Option<Clock>,
}

impl Watch<'_> {
    pub(super) fn new(gpu: &Gpu) -> Result<Watch<'_>> {
        Ok(Watch { gpu, clock: if gpu.clock { Some(Clock::new(gpu)?) } else { None } })
    }

    /// Runs a pass; gives its time in µs.
    pub(super) fn once(&self, record: impl Fn(&mut wgpu::ComputePass<'_>)) -> Result<f64> {
        let gpu = self.gpu;
        if let Some(clock) = &self.clock {
            return clock.run(gpu, &record);
        }
        let start = Instant::now();
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
        let index = gpu.queue.submit([encoder.finish()]);
        gpu.wait(&index)?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    }
}

/// The median time of `runs` passes in µs, once two have agreed.
pub(super) fn time(gpu: &Gpu, runs: usize, record: impl Fn(&mut wgpu::ComputePass<'_>)) -> Result<f64> {
    let watch = Watch::new(gpu)?;
    let (runs, least) = if gpu.software { (1, Duration::ZERO) } else { (runs, WARM_UP) };
    // A device that has been idle takes its time to reach its clock.
    let start = Instant::now();
    let mut last = watch.once(&record)?;
    for _ in 0..1000 {
        let now = watch.once(&record)?;
        let agree = (now - last).abs() < 0.01 * now;
        last = now;
        if agree && start.elapsed() >= least {
            break;
        }
    }
    Ok(median((0..runs).map(|_| watch.once(&record)).collect::<Result<Vec<_>>>()?))
}
