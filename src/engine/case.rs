//! A product on a device, alone: what the lab measures and what the tune chooses by.
//!
//! A shape's matrices lie on the device several times ([`Case`]), together far larger than its
//! caches, and a measured pass goes over all of them: each dispatch reads weights that no cache
//! holds, and waits for the one before, because both write the same outputs. That is what decoding
//! does. A variant's outputs can be compared with the kernel's twin.

use std::collections::HashSet;
use std::sync::Arc;

use super::builder::{Acts, Place, STORAGE, acts, fitting, upload_floats};
use super::device::{ALIGN, Gpu, Pipeline, Range};
use super::stage::{Stage, lower};
use super::tuning::Tuning;
use super::upload::spread;
use crate::kernels::activation::Activation;
use crate::kernels::gemv::{self, Epilogue, Gemv, Knobs, Part, Tail, Take, row_product};
use crate::kernels::vector::Activations;
use crate::kernels::{Form, Math, Shader, padded};
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
        distinct(lower(&model.plan).into_iter().filter_map(|stage| Shape::of_stage(stage, activation)))
    }

    /// A stage's product, if it is one and not of experts.
    pub(super) fn of_stage(stage: Stage, activation: Activation) -> Option<Shape> {
        let (epilogue, matrices) = match stage {
            Stage::Qkv { matrices, .. } => (Epilogue::Raw, matrices.to_vec()),
            Stage::Route { matrices, .. } => (Epilogue::Raw, matrices),
            Stage::Gated { matrices, .. } => (Epilogue::Gated(activation), matrices),
            Stage::Residual { weight, .. } => (Epilogue::Residual { scale: 1.0 }, vec![weight]),
            Stage::Output { weight, .. } => (Epilogue::Raw, vec![weight]),
            Stage::Logits { weight, .. } => {
                (Epilogue::Logits { vocab: weight.rows, scale: 1.0, cap: None }, vec![weight])
            }
            Stage::Embed { .. } | Stage::Attention(_) | Stage::Settle(_) => return None,
        };
        let dense = matrices.iter().all(|m| m.experts == 1);
        dense.then_some(Shape { epilogue, matrices })
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
        let knobs = Knobs { threads: 64, tiles: 1, unroll: 1, teams: 1 };
        Ok(kernel(&self.epilogue, &self.parts()?.0, knobs).label())
    }

    /// The matrices side by side, as they are bound, and their bytes.
    pub(super) fn parts(&self) -> Result<(Vec<Part>, u64)> {
        let made = self.matrices.iter().map(|m| Ok((m.layout(m.rows)?, m.scale)));
        let (parts, bytes) = gemv::side_by_side(made.collect::<Result<Vec<_>>>()?);
        Ok((parts, bytes as u64))
    }
}

/// The distinct ones of some products.
pub(super) fn distinct(products: impl Iterator<Item = Shape>) -> Vec<Shape> {
    let mut shapes: Vec<Shape> = Vec::new();
    for shape in products {
        if !shapes.iter().any(|s| s.is_like(&shape)) {
            shapes.push(shape);
        }
    }
    shapes
}

/// Bytes of weights that a pass reads at least: more than any cache holds.
pub(super) const FAR: u64 = 256 << 20;
/// Copies of a kernel: a layer has as many kernels.
const CODES: usize = 5;
/// Bytes of a buffer of weights, unless a copy is larger.
const BUFFER: u64 = 1 << 30;
/// Bytes of random rows of a matrix; they are repeated to its end.
const ROWS: usize = 4 << 20;
/// The norm's epsilon.
const EPSILON: f32 = 1e-5;
/// Leading tiles that are compared with the twin.
const CHECKED: usize = 4;

/// Copies of so many bytes of matrices, at least `least`.
pub(super) fn copies_of(gpu: &Gpu, bytes: u64, least: u64) -> u64 {
    if gpu.software { 1 } else { least.max(FAR / bytes.next_multiple_of(ALIGN).max(1) + 1) }
}

/// A shape on the device, ready to be timed.
pub struct Case<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) form: Form,
    pub(super) epilogue: Epilogue,
    pub(super) parts: Vec<Part>,
    /// Of one copy of the matrices.
    bytes: u64,
    own: Knobs,
    /// Every variant's pipeline has the same bindings: one group each serves them all.
    slots: Vec<wgpu::BindGroup>,
    outputs: Vec<wgpu::Buffer>,
    want: Vec<(usize, f32)>,
}

/// A kernel's form, compiled.
pub(super) struct Variant {
    pub(super) knobs: Knobs,
    kernel: Gemv,
    /// Of the copies of its code.
    pipelines: Vec<Arc<Pipeline>>,
}

impl Case<'_> {
    /// Puts a shape's matrices onto the device, at least so many times, with random valid blocks, for
    /// kernels of a form.
    pub(super) fn new<'a>(gpu: &'a Gpu, form: Form, shape: &Shape, least: u64) -> Result<Case<'a>> {
        let (parts, bytes) = shape.parts()?;
        if bytes > gpu.weight_binding {
            return Err(Error::Device(format!("{}: {bytes} bytes exceed a binding", shape.label()?)));
        }
        let own = own(gpu, form, &shape.epilogue, &parts);

        let mut random = Random::new("activations", 0);
        let (rows, cols) = (shape.matrices[0].rows, shape.matrices[0].cols);
        let mut numbers = |n: usize| (0..n).map(|_| random.number()).collect::<Vec<f32>>();
        let x = Activations::from_residual(gpu.form.math, &numbers(cols), &numbers(cols));
        let input = acts(gpu, 1, cols)?;
        let write = |to: &Place, bytes: &[u8]| gpu.queue.write_buffer(&to.buffer, 0, bytes);
        write(&input.numbers, &sent(form, NUMBERS, &x.stored(form.math)));
        write(&input.records, &sent(form, FLOATS, bytemuck::cast_slice(&x.stored_records())));
        let squares: Vec<f32> = x.records.iter().map(|r| r.squares).collect();
        write(&input.squares, &sent(form, FLOATS, bytemuck::cast_slice(&squares)));

        let floats = |n: usize| gpu.buffer("outputs", 4 * n as u64, STORAGE);
        let into_acts = |a: Acts| [a.numbers.buffer, a.records.buffer, a.squares.buffer];
        let outputs = match shape.epilogue {
            Epilogue::Raw => vec![floats(kernel(&shape.epilogue, &parts, own).stride)?],
            Epilogue::Logits { vocab, .. } => vec![floats(vocab)?, floats(2 * vocab.div_ceil(TILE))?],
            Epilogue::Gated(_) => into_acts(acts(gpu, 1, rows)?)[..2].to_vec(),
            Epilogue::Residual { .. } => {
                let norm = upload_floats(gpu, "norms", &vec![1.0; padded(rows)])?;
                [vec![floats(padded(rows))?], into_acts(acts(gpu, 1, rows)?).to_vec(), vec![norm]].concat()
            }
        };
        // Where stages overlap, the stream before: zeros, as they are handed on.
        let stream = match shape.epilogue {
            Epilogue::Residual { .. } if form.overlapped => {
                let zeros = vec![f32::from_bits(u32::MAX); padded(rows)];
                Some(upload_floats(gpu, "residual stream", &zeros)?)
            }
            _ => None,
        };
        let want = want(shape, form.math, &x);
        let buffers = Case::slots(gpu, shape, (&parts, bytes), least)?;
        let pipeline = gpu.pipeline(&kernel(&shape.epilogue, &parts, own).shader(form))?;
        let slot = |(buffer, offset): &(wgpu::Buffer, u64)| {
            let w = Range { buffer, offset: *offset, bytes: Some(bytes) };
            let mut ranges = vec![w, w, (&input.numbers).into(), (&input.records).into()];
            ranges.extend(outputs.iter().map(Range::from));
            if normed(&shape.epilogue) {
                ranges.push((&input.squares).into());
            }
            ranges.extend(stream.as_ref().map(Range::from));
            gpu.bind(&pipeline, &ranges)
        };
        let slots = buffers.iter().map(slot).collect();
        Ok(Case { gpu, form, epilogue: shape.epilogue.clone(), parts, bytes, own, slots, outputs, want })
    }

    /// Copies of the matrices: buffers, and where in them.
    fn slots(
        gpu: &Gpu,
        shape: &Shape,
        (parts, bytes): (&[Part], u64),
        least: u64,
    ) -> Result<Vec<(wgpu::Buffer, u64)>> {
        let pitch = bytes.next_multiple_of(ALIGN);
        let count = copies_of(gpu, bytes, least);
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

    /// What the engine takes by its rules.
    pub fn own(&self) -> Knobs {
        self.own
    }

    /// Bytes of weights that a dispatch reads.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies of the matrices on the device: a pass has as many dispatches.
    pub fn copies(&self) -> usize {
        self.slots.len()
    }

    /// Copies of a kernel that take turns: no more than there are dispatches.
    fn codes(&self) -> usize {
        CODES.min(self.slots.len())
    }

    fn kernel(&self, knobs: Knobs) -> Gemv {
        kernel(&self.epilogue, &self.parts, knobs)
    }

    /// The device can run it.
    pub(super) fn allows(&self, knobs: Knobs) -> bool {
        allows(self.gpu, self.form, &self.kernel(knobs))
    }

    /// Compiles those variants whose code is not among `seen`, on all processors.
    pub(super) fn compile(&self, all: &[Knobs], seen: &mut HashSet<String>) -> Result<Vec<Variant>> {
        let made = all.iter().map(|knobs| (*knobs, self.kernel(*knobs).shader(self.form)));
        let new: Vec<(Knobs, Shader)> = made.filter(|(_, s)| seen.insert(s.source.clone())).collect();
        let shaders: Vec<Shader> = new.iter().flat_map(|(_, s)| copies(s, self.codes())).collect();
        self.gpu.compile_ahead(&shaders)?;
        let variant = |(knobs, shader): (Knobs, Shader)| {
            let pipelines = copies(&shader, self.codes()).map(|s| self.gpu.pipeline(&s));
            let pipelines = pipelines.collect::<Result<Vec<_>>>()?;
            Ok(Variant { knobs, kernel: self.kernel(knobs), pipelines })
        };
        new.into_iter().map(variant).collect()
    }

    /// Records a pass: a dispatch for each copy of the matrices.
    pub(super) fn pass(&self, pass: &mut wgpu::ComputePass<'_>, variant: &Variant) {
        self.record(pass, variant, &self.slots);
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>, variant: &Variant, slots: &[wgpu::BindGroup]) {
        let [x, y, z] = variant.kernel.grid(1);
        for (slot, pipeline) in slots.iter().zip(variant.pipelines.iter().cycle()) {
            pass.set_pipeline(&pipeline.pipeline);
            if variant.kernel.has_args() {
                pass.set_immediates(0, bytemuck::bytes_of(&gemv::Args { tokens: 1, first: 0 }));
            }
            pass.set_bind_group(0, slot, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
    }

    /// How far a dispatch's outputs are from the twin's: the root mean square of the difference
    /// over that of what is wanted.
    pub(super) fn error(&self, variant: &Variant) -> Result<f64> {
        let gpu = self.gpu;
        // The last output of a residual product is the next norm's weight: an input.
        let written = self.outputs.len() - usize::from(!normed(&self.epilogue));
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.outputs[..written].iter().for_each(|b| encoder.clear_buffer(b, 0, None));
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            self.record(&mut pass, variant, &self.slots[..1]);
        }
        gpu.queue.submit([encoder.finish()]);
        let got: Vec<f32> = match self.epilogue {
            Epilogue::Gated(_) => {
                let records: Vec<u8> = read(gpu, &self.outputs[1])?;
                let records = sent(self.form, FLOATS, &records);
                let records: Vec<[f32; 2]> = bytemuck::pod_collect_to_vec(&records);
                let numbers = sent(self.form, NUMBERS, &read::<u8>(gpu, &self.outputs[0])?);
                Activations::values_of(self.form.math, &bytemuck::pod_collect_to_vec(&numbers), &records)
            }
            Epilogue::Logits { .. } => read(gpu, &self.outputs[0])?,
            _ => bytemuck::pod_collect_to_vec(&sent(self.form, FLOATS, &read::<u8>(gpu, &self.outputs[0])?)),
        };
        let (mut error, mut size) = (0.0, 0.0);
        for (at, want) in &self.want {
            let got = got.get(*at).copied().unwrap_or(f32::NAN);
            error += f64::from(got - want).powi(2);
            size += f64::from(*want).powi(2);
        }
        Ok((error / size.max(1e-30)).sqrt())
    }

    /// An error is larger than rounding explains.
    pub(super) fn is_wrong(&self, error: f64) -> bool {
        let bound = bound(self.gpu, matches!(self.epilogue, Epilogue::Gated(_)));
        // NaN is wrong as well.
        error.partial_cmp(&bound) != Some(std::cmp::Ordering::Less)
    }
}

/// What the engine takes by its rules, for one token.
pub(super) fn own(gpu: &Gpu, form: Form, epilogue: &Epilogue, parts: &[Part]) -> Knobs {
    let knobs = Tuning::of(gpu).knobs(form, parts, epilogue, &Take::Whole, 1);
    fitting(gpu, form, kernel(epilogue, parts, knobs)).knobs
}

/// The device can run a kernel of one token that has no tail, whatever its knobs say: they may come
/// from a file.
pub(super) fn allows(gpu: &Gpu, form: Form, kernel: &Gemv) -> bool {
    let Knobs { threads, tiles, unroll, teams } = kernel.knobs;
    // Only rows that lie side by side are computed several tiles at a time.
    let single = kernel.parts.len() == 1 || matches!(kernel.epilogue, Epilogue::Gated(_));
    let most = Tuning::of(gpu).most_threads;
    (1..=MOST_UNROLLED).contains(&unroll)
        && (1..=if single { MOST_OF_A_GROUP } else { 1 }).contains(&tiles)
        && tiles.is_power_of_two()
        && (1..=MOST_TEAMS).contains(&teams)
        && (64.max(TILE * tiles * teams)..=most).contains(&threads)
        && threads.is_multiple_of(64 * teams)
        && kernel.shared_bytes(form) <= gpu.limits.max_compute_workgroup_storage_size as usize
}

/// More would be more code than any cache for instructions holds.
const MOST_UNROLLED: usize = 8;
const MOST_OF_A_GROUP: usize = 4;
const MOST_TEAMS: usize = 16;

/// What is turned over in words that stages which overlap hand on: see `shaders/overlap.wgsl`.
const NUMBERS: u8 = 0x80;
const FLOATS: u8 = 0xff;

/// Bytes as stages of a form hand them on, and back.
fn sent(form: Form, turned: u8, bytes: &[u8]) -> Vec<u8> {
    let turned = if form.overlapped { turned } else { 0 };
    bytes.iter().map(|byte| byte ^ turned).collect()
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
pub(super) fn kernel(epilogue: &Epilogue, parts: &[Part], knobs: Knobs) -> Gemv {
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
