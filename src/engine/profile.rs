//! Where a step's time goes, and what the device could do at most.
//!
//! The device writes the time at which each dispatch has ended. Writing it costs time itself, so
//! the same step is also timed as a whole, and what the stamps have added is taken off evenly.

use serde::Serialize;

use super::device::Gpu;
use super::program::{Dispatch, Programs, Step};
use crate::kernels::probe::Probe;
use crate::kernels::sample::Sampling;
use crate::{Error, Result};

/// What a device can do at most.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Limits {
    /// Reading more than its caches hold, in 10⁹ bytes a second.
    pub read_gb_per_s: f64,
    /// Multiplying matrices; not measured yet.
    pub matrix_tflops: Option<f64>,
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
    /// Time of all of them, from the end of the dispatch before, in µs.
    pub us: f64,
    /// Bytes of weights, keys and values that they read.
    pub bytes: u64,
}

/// Where a step's time goes.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// Per kernel, in the order of the first call.
    pub rows: Vec<Row>,
    /// The whole step on the device, without stamps, in µs: the rows' sum.
    pub gpu_us: f64,
    /// What a stamp has added to a dispatch and has been taken off, in µs.
    pub stamp_us: f64,
}

/// Times a pass of dispatches on the device, as often as asked; medians in µs. With `stamps` there
/// is one figure per dispatch, else one for all.
pub(super) struct Clock {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    landing: wgpu::Buffer,
    count: u32,
    /// ns of a tick.
    period: f64,
}

impl Clock {
    pub(super) fn new(gpu: &Gpu, count: u32) -> Result<Clock> {
        let bytes = 8 * u64::from(count);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let resolve = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        Ok(Clock {
            queries: gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count,
            }),
            resolved: gpu.buffer("time stamps", bytes, resolve)?,
            landing: gpu.buffer("time stamps", bytes, usage)?,
            count,
            period: f64::from(gpu.queue.get_timestamp_period()),
        })
    }

    /// Runs a pass that writes all stamps; gives the times between them in µs.
    pub(super) fn run(
        &self,
        gpu: &Gpu,
        record: impl FnOnce(&mut wgpu::ComputePass<'_>, &wgpu::QuerySet),
    ) -> Result<Vec<f64>> {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            record(&mut pass, &self.queries);
        }
        let bytes = 8 * u64::from(self.count);
        encoder.resolve_query_set(&self.queries, 0..self.count, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.landing, 0, bytes);
        let index = gpu.queue.submit([encoder.finish()]);
        let slice = self.landing.slice(..bytes);
        slice.map_async(wgpu::MapMode::Read, |_| ());
        gpu.wait(&index)?;
        let view = slice
            .get_mapped_range()
            .map_err(|_| Error::Device(format!("{}: time stamps could not be read back", gpu.name)))?;
        let stamps = bytemuck::pod_collect_to_vec::<u8, u64>(&view);
        drop(view);
        self.landing.unmap();
        let us = |pair: &[u64]| pair[1].saturating_sub(pair[0]) as f64 * self.period / 1e3;
        Ok(stamps.windows(2).map(us).collect())
    }
}

/// The middle of some numbers; 0 of none.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let at = |i: usize| numbers.get(i).copied().unwrap_or(0.0);
    (at(numbers.len().saturating_sub(1) / 2) + at(numbers.len() / 2)) / 2.0
}

/// Runs of a whole step, and of a step with stamps.
const RUNS: usize = 24;
/// Steps of a whole run.
const STEPS: u32 = 8;

pub(super) fn profile(gpu: &Gpu, programs: &Programs, position: usize) -> Result<Option<Profile>> {
    if !gpu.clock {
        return Ok(None);
    }
    let dispatches: Vec<&Dispatch> = programs.decode_dispatches().collect();
    let step = Step::decode(position, 0);
    let greedy = Sampling::greedy();
    let whole = Clock::new(gpu, 2)?;
    let each = Clock::new(gpu, dispatches.len() as u32 + 1)?;
    let mut wholes = Vec::new();
    let mut eaches: Vec<Vec<f64>> = vec![Vec::new(); dispatches.len()];
    for run in 0..2 * RUNS {
        let time = whole.run(gpu, |pass, queries| {
            pass.write_timestamp(queries, 0);
            for _ in 0..STEPS {
                dispatches.iter().for_each(|d| d.record(pass, &step, &greedy));
            }
            pass.write_timestamp(queries, 1);
        })?;
        let times = each.run(gpu, |pass, queries| {
            pass.write_timestamp(queries, 0);
            for (i, d) in (1..).zip(&dispatches) {
                d.record(pass, &step, &greedy);
                pass.write_timestamp(queries, i);
            }
        })?;
        // The first half warms up.
        if run >= RUNS {
            wholes.push(time[0] / f64::from(STEPS));
            eaches.iter_mut().zip(times).for_each(|(all, time)| all.push(time));
        }
    }
    let gpu_us = median(wholes);
    let times: Vec<f64> = eaches.into_iter().map(median).collect();
    let stamp_us = (times.iter().sum::<f64>() - gpu_us) / times.len() as f64;
    let mut rows: Vec<Row> = Vec::new();
    for (d, time) in dispatches.iter().zip(times) {
        let kernel = d.label();
        let bytes = d.bytes(position, gpu.form.kv);
        let us = time - stamp_us;
        match rows.iter_mut().find(|r| r.kernel == kernel) {
            Some(row) => {
                row.calls += 1;
                row.us += us;
                row.bytes += bytes;
            }
            None => rows.push(Row { kernel, calls: 1, us, bytes }),
        }
    }
    Ok(Some(Profile { rows, gpu_us, stamp_us }))
}

/// Bytes that are read to measure bandwidth: far more than caches hold.
const READ: u64 = 1 << 30;
/// Workgroups that read.
const READERS: u32 = 1056;

/// Measures reading and dispatching.
pub(super) fn limits(gpu: &Gpu) -> Result<Limits> {
    let probe = gpu.pipeline(&Probe::shader())?;
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
    Ok(Limits { read_gb_per_s: f64::from(count) * 16.0 / read_us / 1e3, matrix_tflops: None, dispatch_us })
}

/// Runs of a measurement. A software adapter's figures mean little: there one has to do.
pub(super) const MANY: usize = 9;

/// The median time of `runs` passes in µs, once two have agreed: the device's where it has a clock,
/// the host's elsewhere.
pub(super) fn time(gpu: &Gpu, runs: usize, record: impl Fn(&mut wgpu::ComputePass<'_>)) -> Result<f64> {
    let clock = if gpu.clock { Some(Clock::new(gpu, 2)?) } else { None };
    let once = || -> Result<f64> {
        match &clock {
            Some(clock) => Ok(clock.run(gpu, |pass, queries| {
                pass.write_timestamp(queries, 0);
                record(pass);
                pass.write_timestamp(queries, 1);
            })?[0]),
            None => {
                let start = std::time::Instant::now();
                let mut encoder =
                    gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
                let index = gpu.queue.submit([encoder.finish()]);
                gpu.wait(&index)?;
                Ok(start.elapsed().as_secs_f64() * 1e6)
            }
        }
    };
    let (runs, most) = if gpu.software { (1, 1) } else { (runs, 40) };
    let mut last = once()?;
    for _ in 0..most {
        let now = once()?;
        let agree = (now - last).abs() < 0.01 * now;
        last = now;
        if agree {
            break;
        }
    }
    Ok(median((0..runs).map(|_| once()).collect::<Result<Vec<_>>>()?))
}
