//! The kernel lab: the product's matrix-vector kernels on one device, alone, at a model's shapes,
//! in the form that the engine would take and in others.
//!
//! A shape's matrices lie on the device several times ([`Case`]), together far larger than its
//! caches, and a measured pass goes over all of them: each dispatch reads weights that no cache
//! holds, and waits for the one before, because both write the same outputs. That is what decoding
//! does. Before it is timed, every variant's outputs are compared with the kernel's twin.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;

use super::builder::{Acts, STORAGE, acts, upload_floats};
use super::device::{Gpu, Pipeline, Range, choose};
use super::profile::{self, Limits, MANY};
use super::stage::{Stage, lower};
use super::tuning::Tuning;
use super::upload::spread;
use super::{DeviceChoice, Options};
use crate::kernels::gemv::{self, Epilogue, Gemv, Knobs, Part, Tail, Take, row_product};
use crate::kernels::vector::Activations;
use crate::kernels::{Kv, Math, Shader, loops, padded};
use crate::model::{Matrix, Model, Random, random_rows};
use crate::quant::{Layout, TILE};
use crate::{Error, Result};

/// A product of a model: its matrices and what follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// What becomes of the products.
    pub epilogue: Epilogue,
    /// One, two or three matrices over the same input.
    pub matrices: Vec<Matrix>,
}

impl Shape {
    /// A model's products, each distinct one once; not those of experts, of which every token takes
    /// others.
    pub fn of(model: &Model) -> Vec<Shape> {
        let activation = model.plan.spec.activation;
        let mut shapes: Vec<Shape> = Vec::new();
        for stage in lower(&model.plan) {
            let (epilogue, matrices) = match stage {
                Stage::Qkv { matrices, .. } => (Epilogue::Raw, matrices.to_vec()),
                Stage::Route { matrices, .. } => (Epilogue::Raw, matrices),
                Stage::Gated { matrices, .. } => (Epilogue::Gated(activation), matrices),
                Stage::Residual { weight, .. } => (Epilogue::Residual { scale: 1.0 }, vec![weight]),
                Stage::Output { weight, .. } => (Epilogue::Raw, vec![weight]),
                Stage::Logits { weight, .. } => {
                    (Epilogue::Logits { vocab: weight.rows, scale: 1.0, cap: None }, vec![weight])
                }
                Stage::Embed { .. } | Stage::Attention(_) | Stage::Settle(_) => continue,
            };
            if matrices.iter().any(|m| m.experts > 1) {
                continue;
            }
            let shape = Shape { epilogue, matrices };
            if !shapes.iter().any(|s| s.is_like(&shape)) {
                shapes.push(shape);
            }
        }
        shapes
    }

    /// The same kernel computes both: they differ in names at most.
    pub fn is_like(&self, other: &Shape) -> bool {
        let parts = |s: &Shape| s.matrices.iter().map(|m| (m.ty, m.rows, m.cols)).collect::<Vec<_>>();
        self.epilogue == other.epilogue && parts(self) == parts(other)
    }

    /// For people: `gated 16384x2048 Q4_K`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a type without kernels.
    pub fn label(&self) -> Result<String> {
        let knobs = Knobs { threads: 64, tiles: 1, unroll: 1 };
        Ok(kernel(&self.epilogue, &self.parts()?.0, knobs).label())
    }

    /// The matrices side by side, as they are bound, and their bytes.
    fn parts(&self) -> Result<(Vec<Part>, u64)> {
        let made = self.matrices.iter().map(|m| Ok((m.layout(m.rows)?, m.scale)));
        let (parts, bytes) = gemv::side_by_side(made.collect::<Result<Vec<_>>>()?);
        Ok((parts, bytes as u64))
    }
}

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

/// Bytes of weights that a pass reads at least: more than any cache holds.
pub(super) const FAR: u64 = 256 << 20;
/// Copies of a kernel: a layer has as many kernels.
const CODES: usize = 5;
/// Copies of the matrices at least.
const SLOTS: u64 = 3;
/// Bytes of a buffer of weights, unless a copy is larger.
const BUFFER: u64 = 1 << 30;
/// Bytes of random rows of a matrix; they are repeated to its end.
const ROWS: usize = 4 << 20;
/// Every device allows bindings at multiples of this.
const ALIGN: u64 = 256;
/// The norm's epsilon.
const EPSILON: f32 = 1e-5;
/// Leading tiles that are compared with the twin.
const CHECKED: usize = 4;
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

    /// Puts a shape's matrices onto the device, with random valid blocks.
    ///
    /// # Errors
    /// [`Error::Device`] where memory does not suffice or the matrices exceed a binding.
    pub fn case(&self, shape: &Shape) -> Result<Case<'_>> {
        let gpu = &self.gpu;
        let (parts, bytes) = shape.parts()?;
        if bytes > gpu.weight_binding {
            return Err(Error::Device(format!("{}: {bytes} bytes exceed a binding", shape.label()?)));
        }
        let own = Tuning::of(gpu).knobs(&parts, &shape.epilogue, &Take::Whole, 1);

        let mut random = Random::new("activations", 0);
        let (rows, cols) = (shape.matrices[0].rows, shape.matrices[0].cols);
        let mut numbers = |n: usize| (0..n).map(|_| random.number()).collect::<Vec<f32>>();
        let x = Activations::from_residual(gpu.form.math, &numbers(cols), &numbers(cols));
        let input = acts(gpu, 1, cols)?;
        gpu.queue.write_buffer(&input.numbers, 0, &x.stored(gpu.form.math));
        gpu.queue.write_buffer(&input.records, 0, bytemuck::cast_slice(&x.stored_records()));
        let squares: Vec<f32> = x.records.iter().map(|r| r.squares).collect();
        gpu.queue.write_buffer(&input.squares, 0, bytemuck::cast_slice(&squares));

        let floats = |n: usize| gpu.buffer("outputs", 4 * n as u64, STORAGE);
        let into_acts = |a: Acts| [a.numbers, a.records, a.squares];
        let outputs = match shape.epilogue {
            Epilogue::Raw => vec![floats(kernel(&shape.epilogue, &parts, own).stride)?],
            Epilogue::Logits { vocab, .. } => vec![floats(vocab)?, floats(2 * vocab.div_ceil(TILE))?],
            Epilogue::Gated(_) => into_acts(acts(gpu, 1, rows)?)[..2].to_vec(),
            Epilogue::Residual { .. } => {
                let norm = upload_floats(gpu, "norms", &vec![1.0; padded(rows)])?;
                [vec![floats(padded(rows))?], into_acts(acts(gpu, 1, rows)?).to_vec(), vec![norm]].concat()
            }
        };
        let want = want(shape, gpu.form.math, &x);
        let buffers = self.slots(shape, &parts, bytes)?;
        let pipeline = gpu.pipeline(&kernel(&shape.epilogue, &parts, own).shader(gpu.form))?;
        let slot = |(buffer, offset): &(wgpu::Buffer, u64)| {
            let w = Range { buffer, offset: *offset, bytes: Some(bytes) };
            let mut ranges = vec![w, w, (&input.numbers).into(), (&input.records).into()];
            ranges.extend(outputs.iter().map(Range::from));
            if normed(&shape.epilogue) {
                ranges.push((&input.squares).into());
            }
            gpu.bind(&pipeline, &ranges)
        };
        let slots = buffers.iter().map(slot).collect();
        Ok(Case { lab: self, epilogue: shape.epilogue.clone(), parts, bytes, own, slots, outputs, want })
    }

    /// Copies of the matrices: buffers, and where in them.
    fn slots(&self, shape: &Shape, parts: &[Part], bytes: u64) -> Result<Vec<(wgpu::Buffer, u64)>> {
        let gpu = &self.gpu;
        let pitch = bytes.next_multiple_of(ALIGN);
        let count = if gpu.software { 1 } else { SLOTS.max(FAR / pitch + 1) };
        let per_buffer = (BUFFER.min(gpu.limits.max_buffer_size) / pitch).clamp(1, count);
        let mut places = Vec::new();
        for first in (0..count).step_by(per_buffer as usize) {
            let here = per_buffer.min(count - first);
            let buffer = gpu.buffer("weights", here * pitch, STORAGE)?;
            places.extend((0..here).map(|i| (buffer.clone(), i * pitch)));
        }
        let books = gemv::book_words(parts.iter().map(|p| p.layout.ty));
        for (buffer, offset) in places.iter().filter(|_| !books.is_empty()) {
            gpu.queue.write_buffer(buffer, *offset, bytemuck::cast_slice(&books));
        }
        for (matrix, part) in shape.matrices.iter().zip(parts) {
            let tiles = random_tiles(matrix, &part.layout);
            let rows = (tiles * TILE).min(matrix.rows);
            let layout = matrix.layout(rows)?;
            let packed = crate::quant::pack(&layout, &random_rows(matrix, 0..rows, 0));
            let staged = gpu.buffer("staging", layout.bytes as u64, STORAGE)?;
            gpu.queue.write_buffer(&staged, 0, &packed);
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            for (buffer, offset) in &places {
                let to = offset + part.offset as u64;
                let to = (buffer, to, &part.layout);
                spread(&mut encoder, (&staged, &layout), to, 0..(matrix.rows / TILE).max(1));
            }
            let index = gpu.queue.submit([encoder.finish()]);
            gpu.wait(&index)?;
        }
        Ok(places)
    }
}

/// Tiles of a matrix that have rows of their own; the others repeat them.
fn random_tiles(matrix: &Matrix, layout: &Layout) -> usize {
    (ROWS / (TILE * matrix.row_bytes()).max(1)).clamp(2 * CHECKED, layout.tiles().max(2 * CHECKED))
}

/// Some of the outputs by the twin: places and values, of whole tiles at the beginning and at the
/// end of each matrix.
fn want(shape: &Shape, math: Math, x: &Activations) -> Vec<(usize, f32)> {
    let cols = shape.matrices[0].cols;
    let factor = if normed(&shape.epilogue) { x.norm_factor(cols, EPSILON) } else { 1.0 };
    let mut scratch = vec![0.0; cols];
    let mut products = |matrix: &Matrix| -> Vec<(usize, f32)> {
        let Some(layout) = Layout::new(matrix.ty, matrix.rows, cols) else { return vec![] };
        let period = random_tiles(matrix, &layout);
        let few = random_rows(matrix, 0..(period * TILE).min(matrix.rows), 0);
        let whole = matrix.rows / TILE;
        let tiles = (0..CHECKED.min(whole)).chain(CHECKED.max(whole.saturating_sub(1))..whole);
        let rows = tiles.flat_map(|tile| (0..TILE).map(move |row| (tile, row)));
        rows.map(|(tile, row)| {
            let file = few.chunks_exact(matrix.row_bytes()).nth(tile % period * TILE + row).unwrap_or(&[]);
            (tile * TILE + row, factor * row_product(math, matrix.ty, file, x, &mut scratch))
        })
        .collect()
    };
    if let Epilogue::Gated(activation) = shape.epilogue {
        let gate = products(&shape.matrices[0]);
        let gated: Vec<f32> = match shape.matrices.get(1).map(products) {
            Some(up) => gate.iter().zip(&up).map(|(g, u)| activation.gate(g.1, u.1)).collect(),
            None => gate.iter().map(|g| activation.of(g.1)).collect(),
        };
        let values = Activations::from_values(math, &gated).values();
        return gate.iter().map(|g| g.0).zip(values).collect();
    }
    let mut out = Vec::new();
    let mut first = 0;
    for matrix in &shape.matrices {
        out.extend(products(matrix).into_iter().map(|(row, v)| (first + row, v)));
        first += matrix.rows.next_multiple_of(TILE);
    }
    out
}

/// A shader, several times, each of its own code: between two runs of a kernel a token runs others,
/// which leave little of it in the caches for instructions.
fn copies(shader: &Shader, count: usize) -> impl Iterator<Item = Shader> + use<'_> {
    (0..count).map(|i| {
        let mut copy = shader.clone();
        if i > 0 {
            // Never so, but the compiler does not know.
            let marked = format!("let row = lid & 15u;\n  if wg.z == {i}u {{ return; }}");
            copy.source = copy.source.replacen("let row = lid & 15u;", &marked, 1);
        }
        copy
    })
}

/// The input is normed: the product takes the factor.
fn normed(epilogue: &Epilogue) -> bool {
    !matches!(epilogue, Epilogue::Residual { .. })
}

/// The kernel of a product for one token.
fn kernel(epilogue: &Epilogue, parts: &[Part], knobs: Knobs) -> Gemv {
    let layout = &parts[0].layout;
    let stride = match epilogue {
        Epilogue::Raw => parts.iter().map(|p| p.layout.tiles() * TILE).sum(),
        Epilogue::Logits { vocab, .. } => *vocab,
        Epilogue::Residual { .. } | Epilogue::Gated(_) => padded(layout.rows),
    };
    Gemv {
        parts: parts.to_vec(),
        epilogue: epilogue.clone(),
        take: Take::Whole,
        tail: Tail::None,
        splits: 1,
        first_tile: 0,
        stride,
        norm: normed(epilogue).then_some((layout.cols, EPSILON)),
        bias: false,
        tokens: 1,
        knobs,
    }
}

/// A shape on the device, ready to be timed.
pub struct Case<'a> {
    lab: &'a Lab,
    epilogue: Epilogue,
    parts: Vec<Part>,
    /// Of one copy of the matrices.
    bytes: u64,
    own: Knobs,
    /// Every variant's pipeline has the same bindings: one group each serves them all.
    slots: Vec<wgpu::BindGroup>,
    outputs: Vec<wgpu::Buffer>,
    want: Vec<(usize, f32)>,
}

impl Case<'_> {
    /// What the engine would take.
    pub fn own(&self) -> Knobs {
        self.own
    }

    /// Bytes of weights that a dispatch reads.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies of the matrices on the device.
    pub fn copies(&self) -> usize {
        self.slots.len()
    }

    /// Copies of a kernel that take turns: no more than there are dispatches.
    fn codes(&self) -> usize {
        CODES.min(self.slots.len())
    }

    /// What a dispatch takes at least by the device's limits, in µs.
    pub fn floor_us(&self) -> f64 {
        let Limits { read_gb_per_s, dispatch_us, .. } = self.lab.limits;
        dispatch_us + self.bytes as f64 / read_gb_per_s / 1e3
    }

    /// The lanes and tiles that the device can run, the engine's first, each with the unrolling that
    /// the engine would take.
    fn plain_variants(&self) -> Vec<Knobs> {
        let gpu = &self.lab.gpu;
        let slices = loops::steps_of(&self.parts[0].layout).next_multiple_of(4);
        let most = Tuning::of(gpu).most_threads.min(slices * TILE);
        let single = self.parts.len() == 1 || matches!(self.epilogue, Epilogue::Gated(_));
        let shared = gpu.limits.max_compute_workgroup_storage_size as usize;
        let mut made = vec![self.own];
        for threads in [self.own.threads, 128, 256, 512, 1024] {
            for tiles in if single { vec![1, 2, 4] } else { vec![1] } {
                let unroll = Gemv::default_unroll(&self.parts, &self.epilogue, tiles);
                let knobs = Knobs { threads, tiles, unroll };
                let bytes = kernel(&self.epilogue, &self.parts, knobs).shared_bytes();
                if (TILE * tiles..=most).contains(&threads) && bytes <= shared {
                    made.push(knobs);
                }
            }
        }
        made
    }

    /// Compiles and times those variants whose code is not among `seen`.
    fn try_all(&self, variants: Vec<Knobs>, seen: &mut HashSet<String>) -> Result<Vec<Timing>> {
        let gpu = &self.lab.gpu;
        let shader = |knobs| (knobs, kernel(&self.epilogue, &self.parts, knobs).shader(gpu.form));
        let (variants, shaders): (Vec<Knobs>, Vec<Shader>) =
            variants.into_iter().map(shader).filter(|(_, s)| seen.insert(s.source.clone())).unzip();
        gpu.compile_ahead(&shaders.iter().flat_map(|s| copies(s, self.codes())).collect::<Vec<_>>())?;
        variants.into_iter().map(|v| self.time(v, FEW)).collect()
    }

    /// Checks and times a variant: the median of so many runs.
    ///
    /// # Errors
    /// The device's.
    pub fn time(&self, knobs: Knobs, runs: usize) -> Result<Timing> {
        let gpu = &self.lab.gpu;
        let kernel = kernel(&self.epilogue, &self.parts, knobs);
        let shader = kernel.shader(gpu.form);
        let shaders: Vec<Shader> = copies(&shader, self.codes()).collect();
        gpu.compile_ahead(&shaders)?;
        let pipelines = shaders.iter().map(|s| gpu.pipeline(s)).collect::<Result<Vec<_>>>()?;
        let error = self.error(&kernel, &pipelines[..1])?;
        let bound = bound(gpu, matches!(self.epilogue, Epilogue::Gated(_)));
        let pass = profile::time(gpu, runs, |pass| self.record(pass, &kernel, &pipelines, &self.slots))?;
        let us = pass / self.slots.len() as f64;
        let reading = (us - self.lab.limits.dispatch_us).max(1e-3);
        Ok(Timing {
            knobs,
            us,
            gb_per_s: self.bytes as f64 / reading / 1e3,
            of_floor: self.floor_us() / us,
            error,
            // NaN is wrong as well.
            wrong: error.partial_cmp(&bound) != Some(std::cmp::Ordering::Less),
        })
    }

    /// Times the engine's variant alone.
    ///
    /// # Errors
    /// The device's.
    pub fn quick(&self) -> Result<Sweep> {
        let own = self.time(self.own, MANY)?;
        Ok(Sweep { own, best: own, all: vec![own] })
    }

    /// Times the variants with a few runs each, and the fastest again with many: all numbers of
    /// lanes and tiles, and other unrollings of the fastest of those, or of all if `full`.
    ///
    /// # Errors
    /// The device's.
    pub fn sweep(&self, full: bool) -> Result<Sweep> {
        let mut seen = HashSet::new();
        let plain = self.plain_variants();
        let mut all = self.try_all(plain.clone(), &mut seen)?;
        all.sort_by(|a, b| a.us.total_cmp(&b.us));
        let fastest = all.iter().map(|t| t.knobs).take(UNROLLED);
        let bases = if full { plain } else { fastest.collect() };
        let unrolled = |base: Knobs| [1, 2, 4].map(|unroll| Knobs { unroll, ..base });
        all.extend(self.try_all(bases.into_iter().flat_map(unrolled).collect(), &mut seen)?);
        all.sort_by(|a, b| a.us.total_cmp(&b.us));
        let own = self.time(self.own, MANY)?;
        let mut best = own;
        for timing in all.iter_mut().filter(|t| !t.wrong && t.knobs != own.knobs).take(FINALISTS) {
            *timing = self.time(timing.knobs, MANY)?;
            if timing.us < best.us {
                best = *timing;
            }
        }
        for timing in all.iter_mut().filter(|t| t.knobs == own.knobs) {
            *timing = own;
        }
        Ok(Sweep { own, best, all })
    }

    fn record(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        kernel: &Gemv,
        pipelines: &[Arc<Pipeline>],
        slots: &[wgpu::BindGroup],
    ) {
        let [x, y, z] = kernel.grid(1);
        for (slot, pipeline) in slots.iter().zip(pipelines.iter().cycle()) {
            pass.set_pipeline(&pipeline.pipeline);
            if kernel.has_args() {
                pass.set_immediates(0, bytemuck::bytes_of(&gemv::Args { tokens: 1, first: 0 }));
            }
            pass.set_bind_group(0, slot, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
    }

    /// How far a dispatch's outputs are from the twin's: the root mean square of the difference
    /// over that of what is wanted.
    fn error(&self, kernel: &Gemv, pipelines: &[Arc<Pipeline>]) -> Result<f64> {
        let gpu = &self.lab.gpu;
        // The last output of a residual product is the next norm's weight: an input.
        let written = self.outputs.len() - usize::from(!normed(&self.epilogue));
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.outputs[..written].iter().for_each(|b| encoder.clear_buffer(b, 0, None));
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            self.record(&mut pass, kernel, pipelines, &self.slots[..1]);
        }
        gpu.queue.submit([encoder.finish()]);
        let got: Vec<f32> = match self.epilogue {
            Epilogue::Gated(_) => {
                let records: Vec<[f32; 2]> = read(gpu, &self.outputs[1])?;
                Activations::values_of(gpu.form.math, &read(gpu, &self.outputs[0])?, &records)
            }
            _ => read(gpu, &self.outputs[0])?,
        };
        let (mut error, mut size) = (0.0, 0.0);
        for (at, want) in &self.want {
            let got = got.get(*at).copied().unwrap_or(f32::NAN);
            error += f64::from(got - want).powi(2);
            size += f64::from(*want).powi(2);
        }
        Ok((error / size.max(1e-30)).sqrt())
    }
}

/// A buffer's contents.
pub(super) fn read<T: bytemuck::Pod>(gpu: &Gpu, buffer: &wgpu::Buffer) -> Result<Vec<T>> {
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let landing = gpu.buffer("read back", buffer.size(), usage)?;
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &landing, 0, buffer.size());
    let index = gpu.queue.submit([encoder.finish()]);
    let slice = landing.slice(..);
    slice.map_async(wgpu::MapMode::Read, |_| ());
    gpu.wait(&index)?;
    let view = slice
        .get_mapped_range()
        .map_err(|_| Error::Device(format!("{}: outputs could not be read back", gpu.name)))?;
    Ok(bytemuck::pod_collect_to_vec(&view))
}

/// What twins may differ by. Where the result is rounded to F16, a sum that falls on the other
/// side of a rounding's edge moves it by 5e-4. Where WGSL leaves the rounding to the driver (F16
/// products may be kept wider, packing to F16 may round towards zero), a real GPU may differ from
/// the twin by as much as the rounding itself.
pub(super) fn bound(gpu: &Gpu, rounded: bool) -> f64 {
    match (gpu.form.math, gpu.software) {
        (Math::F32, _) => 1e-5,
        // Products of integers are exact everywhere; a rounding may fall on the other side.
        (Math::Int16 | Math::Int8, _) if !rounded => 1e-5,
        (Math::Int16, _) => 1e-4,
        (Math::Int8, _) => 4e-3,
        (Math::F16, true) if rounded => 2e-4,
        (Math::F16, true) => 1e-5,
        (Math::F16, false) => 1.2e-3,
    }
}
