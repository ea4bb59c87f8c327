//! Weights on the device: where each packed matrix stands, and getting it there.
//!
//! The file is read once, in its own order, in pieces of bounded size; a compute shader puts each
//! piece into its place.

use std::ops::Range;

use super::Progress;
use super::builder::STORAGE;
use super::device::{self, Gpu};
use crate::kernels::gemv::{self, Part};
use crate::kernels::pack;
use crate::model::{Matrix, Weights};
use crate::quant::{Layout, TILE};
use crate::{Error, Result};

/// Bytes of a staged piece, unless one tile of rows is larger.
const PIECE: usize = 16 << 20;
/// Bytes of a weight buffer, unless one slice is larger.
const BUFFER: u64 = 1 << 30;
/// Workgroups of a dispatch in one dimension, on every device.
const MOST_TILES: usize = 65_535;

/// Rows of one to three matrices that a dispatch reads through one binding.
pub(super) struct Slice {
    /// The matrices' parts, offsets relative to the binding.
    pub(super) parts: Vec<Part>,
    /// The first tile of the stage's output that it computes.
    pub(super) first_tile: usize,
    buffer: usize,
    offset: u64,
    bytes: u64,
    /// For each part: the matrix, and its rows, of each expert.
    from: Rows,
}

/// Neighbouring rows of a file that stand together on the device too.
struct Run<'a> {
    slice: &'a Slice,
    part: usize,
    /// The matrix's first row, experts one after the other.
    first: usize,
    rows: usize,
    /// Where they stand in the part.
    to: usize,
}

impl Slice {
    fn runs(&self) -> Vec<Run<'_>> {
        let mut runs = Vec::new();
        for (part, (matrix, rows)) in self.from.iter().enumerate() {
            if rows.len() == matrix.rows && matrix.packed_rows(rows.len()) == matrix.all_rows() {
                runs.push(Run { slice: self, part, first: 0, rows: matrix.all_rows(), to: 0 });
                continue;
            }
            let stride = rows.len().next_multiple_of(TILE);
            runs.extend((0..matrix.experts).map(|expert| Run {
                slice: self,
                part,
                first: expert * matrix.rows + rows.start,
                rows: rows.len(),
                to: expert * stride,
            }));
        }
        runs
    }
}

/// Ranges of matrices' rows.
type Rows = Vec<(Matrix, Range<usize>)>;

/// How a stage combines its matrices.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Combine {
    /// One after another.
    Rows,
    /// Row by row.
    Pairs,
}

/// All weights of a model.
#[derive(Default)]
pub(super) struct Store {
    buffers: Vec<wgpu::Buffer>,
    sizes: Vec<u64>,
    stages: Vec<Vec<Slice>>,
}

impl Store {
    /// Plans a place for a stage's matrices, split by rows where `limit` (bytes of a binding)
    /// asks for it. Gives the number by which [`Store::slices`] knows them.
    pub(super) fn place(&mut self, matrices: &[&Matrix], combine: Combine, limit: u64) -> Result<usize> {
        let whole: Rows = matrices.iter().map(|m| ((*m).clone(), 0..m.rows)).collect();
        // The first tile of the output, and what the slice holds.
        let mut groups: Vec<(usize, Rows)> = Vec::new();
        let tiles: usize = matrices.iter().map(|m| m.rows.div_ceil(TILE)).sum();
        if side_by_side(&whole)?.1 <= limit && tiles <= MOST_TILES {
            groups.push((0, whole));
        } else {
            let mut first_tile = 0;
            let sets: Vec<Vec<&Matrix>> = match combine {
                Combine::Rows => matrices.iter().map(|m| vec![*m]).collect(),
                Combine::Pairs => vec![matrices.to_vec()],
            };
            for set in sets {
                let rows = set[0].rows;
                let tile: Vec<_> = set.iter().map(|m| ((*m).clone(), 0..TILE.min(m.rows))).collect();
                let (parts, bytes) = side_by_side(&tile)?;
                let books = parts[0].offset as u64;
                let tiles = ((limit.saturating_sub(books) / (bytes - books)) as usize).min(MOST_TILES);
                if tiles == 0 {
                    return Err(Error::Device(format!(
                        "tensor {}: 16 of its rows are larger than the device's largest binding of {limit} bytes",
                        set[0].name
                    )));
                }
                for start in (0..rows).step_by(tiles * TILE) {
                    let range = start..(start + tiles * TILE).min(rows);
                    let group = set.iter().map(|m| ((*m).clone(), range.clone())).collect();
                    groups.push((first_tile + start / TILE, group));
                }
                first_tile += rows.div_ceil(TILE);
            }
        }
        let mut slices = Vec::new();
        for (first_tile, from) in groups {
            let (parts, bytes) = side_by_side(&from)?;
            let (buffer, offset) = self.allocate(bytes);
            slices.push(Slice { parts, first_tile, buffer, offset, bytes, from });
        }
        self.stages.push(slices);
        Ok(self.stages.len() - 1)
    }

    fn allocate(&mut self, bytes: u64) -> (usize, u64) {
        let needed = bytes.next_multiple_of(device::ALIGN);
        match self.sizes.last_mut() {
            Some(size) if *size + needed <= BUFFER => {
                let offset = *size;
                *size += needed;
                (self.sizes.len() - 1, offset)
            }
            _ => {
                self.sizes.push(needed);
                (self.sizes.len() - 1, 0)
            }
        }
    }

    /// The slices of a placed stage.
    pub(super) fn slices(&self, id: usize) -> &[Slice] {
        &self.stages[id]
    }

    /// The range that a slice's dispatch binds.
    pub(super) fn range(&self, slice: &Slice) -> device::Range<'_> {
        device::Range { buffer: &self.buffers[slice.buffer], offset: slice.offset, bytes: Some(slice.bytes) }
    }

    /// Bytes of all buffers.
    pub(super) fn bytes(&self) -> u64 {
        self.sizes.iter().sum()
    }

    /// Allocates the buffers and fills them.
    pub(super) fn upload(&mut self, gpu: &Gpu, weights: &Weights, progress: Progress<'_>) -> Result<()> {
        for size in &self.sizes {
            self.buffers.push(gpu.buffer("weights", *size, STORAGE)?);
        }
        for slice in self.stages.iter().flatten() {
            let books = gemv::book_words(slice.parts.iter().map(|p| p.layout.ty));
            if !books.is_empty() {
                gpu.queue.write_buffer(
                    &self.buffers[slice.buffer],
                    slice.offset,
                    bytemuck::cast_slice(&books),
                );
            }
        }
        let Weights::File(file) = weights else { return self.make_up(gpu, weights, progress) };
        let mut runs: Vec<Run<'_>> = self.stages.iter().flatten().flat_map(Slice::runs).collect();
        // In the files' order, so that they are read as they lie on the disk.
        runs.sort_by_key(|run| {
            let matrix = &run.slice.from[run.part].0;
            (file.tensor(&matrix.name).map(|t| (t.part, t.offset)), matrix.first + run.first)
        });
        let row_bytes = |run: &Run<'_>| run.slice.from[run.part].0.row_bytes();
        let total: usize = runs.iter().map(|run| row_bytes(run) * run.rows).sum();
        let piece = runs.iter().map(|run| TILE * row_bytes(run)).max().unwrap_or(0).max(PIECE);
        let staging_usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let staging = [
            gpu.buffer("staging", piece as u64 + 16, staging_usage)?,
            gpu.buffer("staging", piece as u64 + 16, staging_usage)?,
        ];
        let pipeline = gpu.pipeline(&pack::shader(gpu.form))?;
        let mut submitted: Vec<wgpu::SubmissionIndex> = Vec::new();
        let mut done = 0;
        for Run { slice, part, first, rows, to } in runs {
            let matrix = &slice.from[part].0;
            let part = &slice.parts[part];
            let step = piece / (TILE * matrix.row_bytes()).max(1) * TILE;
            for start in (0..rows).step_by(step) {
                if progress(done, total).is_break() {
                    return Err(Error::Interrupted);
                }
                let n = step.min(rows - start);
                let bytes = weights.rows(matrix, first + start..first + start + n);
                let turn = submitted.len();
                let staged = &staging[turn % 2];
                if turn >= 2 {
                    // Bounds what the queue holds, not only our two buffers.
                    gpu.wait(&submitted[turn - 2])?;
                }
                gpu.queue.write_buffer(staged, 0, &bytes[..bytes.len() / 4 * 4]);
                let rest = &bytes[bytes.len() / 4 * 4..];
                if !rest.is_empty() {
                    let mut last = [0; 4];
                    last[..rest.len()].copy_from_slice(rest);
                    gpu.queue.write_buffer(staged, (bytes.len() / 4 * 4) as u64, &last);
                }
                let group = gpu.bind(&pipeline, &[staged.into(), self.range(slice)]);
                let mut encoder =
                    gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                    pass.set_pipeline(&pipeline.pipeline);
                    pass.set_bind_group(0, &group, &[]);
                    for args in pack::args(&part.layout, to + start, n, part.offset / 4) {
                        pass.set_immediates(0, bytemuck::bytes_of(&args));
                        let [x, y, z] = args.grid();
                        pass.dispatch_workgroups(x, y, z);
                    }
                }
                submitted.push(gpu.queue.submit([encoder.finish()]));
                done += bytes.len();
            }
        }
        if let Some(last) = submitted.last() {
            gpu.wait(last)?;
        }
        let _ = progress(done, total);
        Ok(())
    }
}

impl Store {
    /// Random weights: some tiles of each matrix are made here and repeated on the device, so that a
    /// model of many gigabytes is there in seconds.
    fn make_up(&self, gpu: &Gpu, weights: &Weights, progress: Progress<'_>) -> Result<()> {
        let total = self.stages.iter().flatten().map(|s| s.bytes as usize).sum();
        let mut done = 0;
        for slice in self.stages.iter().flatten() {
            if progress(done, total).is_break() {
                return Err(Error::Interrupted);
            }
            done += slice.bytes as usize;
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            for ((matrix, rows), part) in slice.from.iter().zip(&slice.parts) {
                // The rows of the last tile's padding must stay zero: an incomplete tile stays empty.
                let tiles =
                    (MADE_UP / (TILE * matrix.row_bytes()).max(1)).clamp(1, (rows.len() / TILE).max(1));
                let few = rows.start..rows.start + (tiles * TILE).min(rows.len());
                let layout = matrix.layout(few.len())?;
                let packed = crate::quant::pack(&layout, &weights.rows(matrix, few));
                let staged = gpu.buffer("staging", layout.bytes as u64, STORAGE)?;
                gpu.queue.write_buffer(&staged, 0, &packed);
                let to = slice.offset + part.offset as u64;
                let stride = rows.len().div_ceil(TILE);
                for expert in 0..matrix.experts {
                    let tiles = expert * stride..expert * stride + (rows.len() / TILE).max(1);
                    let to = (&self.buffers[slice.buffer], to, &part.layout);
                    spread(&mut encoder, (&staged, &layout), to, tiles);
                }
            }
            let index = gpu.queue.submit([encoder.finish()]);
            gpu.wait(&index)?;
        }
        let _ = progress(done, total);
        Ok(())
    }
}

/// Bytes of a random matrix that are its own.
const MADE_UP: usize = 1 << 20;

/// Copies a packed matrix of few tiles into a range of the tiles of one of many, again and again.
/// A plane has its tiles one after another.
pub(super) fn spread(
    encoder: &mut wgpu::CommandEncoder,
    (from, few): (&wgpu::Buffer, &Layout),
    (to, offset, many): (&wgpu::Buffer, u64, &Layout),
    range: Range<usize>,
) {
    for ((plane, few_start), (_, many_start)) in few.planes.iter().zip(&many.planes) {
        let tile = (TILE * few.blocks * plane.count * plane.width) as u64;
        for first in range.clone().step_by(few.tiles()) {
            let tiles = few.tiles().min(range.end - first) as u64;
            let at = offset + *many_start as u64 + first as u64 * tile;
            encoder.copy_buffer_to_buffer(from, *few_start as u64, to, at, tiles * tile);
        }
    }
}

/// The parts of a slice, and its bytes.
fn side_by_side(from: &[(Matrix, Range<usize>)]) -> Result<(Vec<Part>, u64)> {
    let made = from.iter().map(|(m, rows)| Ok((m.layout(m.packed_rows(rows.len()))?, m.scale)));
    let (parts, bytes) = gemv::side_by_side(made.collect::<Result<Vec<_>>>()?);
    Ok((parts, bytes as u64))
}
