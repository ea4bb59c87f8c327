//! Building a program's dispatches: pipelines of the stages' kernels, bound to their buffers.

use super::device::{Gpu, Pipeline, Range};
use super::dispatch::{Dispatch, Few, Kind};
use super::gpu::BATCH;
use super::overlap::{Arena, Names};
use super::program::Program;
use super::stage::{Attends, Stage, attention, raw_rows, route, routing, score_stride, settle, stream};
use super::tuning::Tuning;
use super::upload::Store;
use crate::Result;
use crate::kernels::attention::{self as attention_kernel, Attention};
use crate::kernels::gemv::{Epilogue, Gemv, Knobs, Tail, Take};
use crate::kernels::route::Route;
use crate::kernels::settle::Settle;
use crate::kernels::{Form, Shader, embed, groups, padded, squares};
use crate::model::{Branch, Feed, Matrix, Model, Spec};
use crate::quant::{GROUP, TILE};

/// A part of a buffer; all from its offset on without `bytes`.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) buffer: wgpu::Buffer,
    pub(super) offset: u64,
    pub(super) bytes: Option<u64>,
}

impl From<wgpu::Buffer> for Place {
    fn from(buffer: wgpu::Buffer) -> Place {
        Place { buffer, offset: 0, bytes: None }
    }
}

impl<'a> From<&'a Place> for Range<'a> {
    fn from(place: &'a Place) -> Range<'a> {
        Range { buffer: &place.buffer, offset: place.offset, bytes: place.bytes }
    }
}

/// Activations in device memory.
#[derive(Clone)]
pub(super) struct Acts {
    pub(super) numbers: Place,
    pub(super) records: Place,
    /// Sums of squares, where a norm follows.
    pub(super) squares: Place,
}

/// What stages hand on: in a batch always the same memory.
#[derive(Clone)]
pub(super) struct Flow {
    /// The residual stream.
    pub(super) x: Place,
    /// Raw query, key and value rows.
    pub(super) raw: Place,
    /// Workgroups of attention that have left their part.
    pub(super) arrived: Place,
    pub(super) normed: Acts,
    pub(super) attended: Acts,
    /// Of a feed-forward layer, or of each of a token's experts.
    pub(super) hidden: Acts,
    /// Of the expert that every token takes.
    pub(super) shared: Acts,
}

/// A layer's keys and values in device memory.
pub(super) struct KvBuffers {
    pub(super) units: wgpu::Buffer,
    /// Where blocks of numbers have scales.
    pub(super) scales: Option<wgpu::Buffer>,
}

impl KvBuffers {
    pub(super) fn of(gpu: &Gpu, shape: &Attention) -> Result<KvBuffers> {
        let kv = gpu.form.kv;
        let buffer = |bytes| gpu.buffer("keys and values", bytes as u64, STORAGE);
        let scales = shape.scale_bytes(kv);
        Ok(KvBuffers {
            units: buffer(shape.unit_bytes(kv))?,
            scales: if scales > 0 { Some(buffer(scales)?) } else { None },
        })
    }
}

pub(super) const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_DST).union(wgpu::BufferUsages::COPY_SRC);

/// What a stage says of its product, beside the matrices.
struct Product {
    epilogue: Epilogue,
    take: Take,
    tail: Tail,
    stride: usize,
    norm: Option<(usize, f32)>,
    bias: bool,
}

/// The buffers of a model's dispatches, beside weights and what stages hand on.
pub(super) struct Buffers {
    /// What attention's splits leave to be merged.
    pub(super) parts: wgpu::Buffer,
    /// RoPE's tables, per rope.
    pub(super) turns: Vec<wgpu::Buffer>,
    /// The token at each position.
    pub(super) ids: wgpu::Buffer,
    /// The raw rows of a branch that is yet to be settled.
    pub(super) branch: wgpu::Buffer,
    /// The experts' scores, and the gate of the shared one.
    pub(super) scores: wgpu::Buffer,
    /// Each token's experts, and their weights.
    pub(super) picks: wgpu::Buffer,
    /// Workgroups that have arrived at their tail.
    pub(super) tails: wgpu::Buffer,
    /// Of the last token.
    pub(super) logits: wgpu::Buffer,
    /// The best of each tile of logits.
    pub(super) best: wgpu::Buffer,
    pub(super) caches: Vec<KvBuffers>,
    /// Per stage: the weight of the norm after it, or the bias.
    pub(super) vectors: Vec<Option<wgpu::Buffer>>,
}

/// What building the dispatches needs at hand.
pub(super) struct Builder<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) model: &'a Model,
    pub(super) store: &'a Store,
    pub(super) context: usize,
    pub(super) max_splits: usize,
    pub(super) buffers: &'a Buffers,
}

pub(super) fn upload_floats(gpu: &Gpu, what: &str, floats: &[f32]) -> Result<wgpu::Buffer> {
    let buffer = gpu.buffer(what, 4 * floats.len() as u64, STORAGE)?;
    gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(floats));
    Ok(buffer)
}

/// Activations of so many vectors of a token.
pub(super) fn acts(gpu: &Gpu, vectors: usize, elements: usize) -> Result<Acts> {
    let [numbers, records, squares] = words_of(elements);
    let buffer = |words: usize| gpu.buffer("activations", (BATCH * words * 4) as u64, STORAGE);
    Ok(Acts {
        numbers: buffer(vectors * numbers)?.into(),
        records: buffer(vectors * records)?.into(),
        squares: buffer(squares)?.into(),
    })
}

/// Words of a vector's activations: at most 16 of a group, two of its record, a sum of squares.
pub(super) fn words_of(elements: usize) -> [usize; 3] {
    [groups(elements) * 16, groups(elements) * 2, squares(elements)]
}

/// The kernel, with fewer tokens or lanes where its workgroup memory exceeds the device's: codebooks
/// take some.
pub(super) fn fitting(gpu: &Gpu, form: Form, mut kernel: Gemv) -> Gemv {
    let most = gpu.limits.max_compute_workgroup_storage_size as usize;
    while kernel.shared_bytes(form) > most {
        match (kernel.tokens, kernel.knobs.threads) {
            _ if kernel.knobs.teams > 1 => {
                kernel.knobs.teams /= 2;
                kernel.knobs.threads /= 2;
            }
            (3.., _) => kernel.tokens /= 2,
            (_, 128..) => kernel.knobs.threads = (kernel.knobs.threads / 2).next_multiple_of(64),
            _ => break,
        }
    }
    kernel
}

/// How the stages of a step overlap: the memory of the step, and the names of its buffers.
#[derive(Clone, Copy)]
pub(super) struct Overlap<'a> {
    pub(super) arena: &'a Arena,
    pub(super) names: &'a Names,
}

/// How a stage's dispatches get their pipelines and their buffers: between the device's barriers, or
/// overlapping.
#[derive(Clone, Copy)]
pub(super) struct Wiring<'a> {
    pub(super) gpu: &'a Gpu,
    /// Where stages overlap: their names, and the stage's number.
    pub(super) overlap: Option<(&'a Names, usize)>,
    /// Buffers that are bound under their own name all the same.
    pub(super) common: [Option<&'a wgpu::Buffer>; 2],
}

impl Wiring<'_> {
    /// The form of the kernels.
    fn form(&self) -> Form {
        Form { overlapped: self.overlap.is_some(), ..self.gpu.form }
    }

    /// Binds the stage's `n`-th dispatch. Of two forms, of which a step takes one, both are the same.
    fn bind(&self, n: usize, pipeline: &Pipeline, ranges: &[Range<'_>]) -> wgpu::BindGroup {
        match self.overlap {
            Some((names, stage)) => {
                let common: Vec<_> = self.common.into_iter().flatten().collect();
                names.bind(self.gpu, (stage, n), pipeline, ranges, &common)
            }
            None => self.gpu.bind(pipeline, ranges),
        }
    }
}

/// What a product reads and writes beside its matrices.
#[derive(Clone, Copy)]
struct Around<'a> {
    input: &'a Acts,
    /// What its epilogue binds.
    out: &'a [Range<'a>],
    /// What choosing, or its tail, binds.
    more: &'a [Range<'a>],
}

/// The dispatches of a product: one for each slice of its matrices.
fn products(
    wiring: Wiring<'_>,
    slices: &Slices<'_>,
    shape: &Product,
    tokens: usize,
    Around { input, out, more }: Around<'_>,
    kind: impl Fn(Gemv) -> Kind,
) -> Result<Vec<Dispatch>> {
    // Each token has its own experts.
    let tokens = if matches!(shape.take, Take::Chosen { .. }) { 1 } else { tokens };
    let Slices { store, place } = *slices;
    let mut made = Vec::new();
    for (n, slice) in store.slices(place).iter().enumerate() {
        let tuning = Tuning::of(wiring.gpu);
        let mut knobs = tuning.knobs(wiring.form(), &slice.parts, &shape.epilogue, &shape.take, tokens);
        let (slices, splits) = tuning.cut(&slice.parts, &shape.tail);
        if splits > 1 {
            knobs = Knobs { threads: slices * TILE, tiles: 1, unroll: 1, teams: 1 };
        }
        let kernel = fitting(
            wiring.gpu,
            wiring.form(),
            wiring.gpu.table.put(
                wiring.form(),
                Gemv {
                    parts: slice.parts.clone(),
                    epilogue: shape.epilogue.clone(),
                    take: shape.take,
                    tail: shape.tail.clone(),
                    splits,
                    first_tile: slice.first_tile,
                    stride: shape.stride,
                    norm: shape.norm,
                    bias: shape.bias,
                    tokens,
                    knobs,
                },
            ),
        );
        let pipeline = wiring.gpu.pipeline(&kernel.shader(wiring.form()))?;
        let w = store.range(slice);
        let mut ranges = vec![w, w, (&input.numbers).into(), (&input.records).into()];
        ranges.extend(out);
        if shape.norm.is_some() {
            ranges.push((&input.squares).into());
        }
        ranges.extend(more);
        let group = wiring.bind(n, &pipeline, &ranges);
        made.push(Dispatch { pipeline, group, kind: kind(kernel) });
    }
    Ok(made)
}

/// A stage's matrices in the store.
#[derive(Clone, Copy)]
struct Slices<'a> {
    store: &'a Store,
    place: usize,
}

/// The dispatches of the output matrix: of the last token, or of a batch.
pub(super) fn logits(
    wiring: Wiring<'_>,
    store: &Store,
    spec: &Spec,
    place: usize,
    (weight, normed): (&Matrix, bool),
    tokens: usize,
    (read, out, best): (&Acts, &wgpu::Buffer, &wgpu::Buffer),
) -> Result<Vec<Dispatch>> {
    let epilogue = Epilogue::Logits { vocab: weight.rows, scale: spec.logit_scale, cap: spec.logit_cap };
    let norm = normed.then_some((spec.width, spec.norm_eps));
    let shape =
        Product { epilogue, take: Take::Whole, tail: Tail::None, stride: weight.rows, norm, bias: false };
    let slices = Slices { store, place };
    let out = [Range::from(out), best.into()];
    match tokens {
        1 => {
            let around = Around { input: read, out: &out, more: &[] };
            products(wiring, &slices, &shape, 1, around, Kind::LastLogits)
        }
        _ => {
            let around = Around { input: read, out: &out[..1], more: &[] };
            products(wiring, &slices, &shape, tokens, around, Kind::Gemv)
        }
    }
}

impl Flow {
    /// What a branch has made between its matrices.
    fn made(&self, branch: Branch) -> &Acts {
        match branch {
            Branch::Attention => &self.attended,
            Branch::Hidden(Feed::Shared { .. }) => &self.shared,
            Branch::Hidden(Feed::Dense | Feed::Chosen) => &self.hidden,
        }
    }
}

impl Builder<'_> {
    /// The dispatches of a step of one token up to its logits, on memory of its own where its stages
    /// overlap.
    pub(super) fn step(
        &self,
        program: &Program,
        flow: &Flow,
        overlap: Option<Overlap<'_>>,
    ) -> Result<Vec<Dispatch>> {
        let mut flow = flow.clone();
        let mut made = Vec::new();
        for (i, (stage, place)) in program.stages().enumerate() {
            made.extend(match stage {
                Stage::Logits { weight, normed } => {
                    let wiring = overlap.map(|o| (o.names, i));
                    self.logits(place, (weight, *normed), &flow, wiring)?
                }
                _ => self.stage((i, stage, place), 1, &mut flow, overlap)?,
            });
        }
        Ok(made)
    }

    /// The dispatches of the output matrix after a step, or after the last token of a batch.
    pub(super) fn logits(
        &self,
        place: usize,
        head: (&Matrix, bool),
        flow: &Flow,
        overlap: Option<(&Names, usize)>,
    ) -> Result<Vec<Dispatch>> {
        let spec = &self.model.plan.spec;
        let Buffers { logits: out, best, .. } = self.buffers;
        let wiring = Wiring { gpu: self.gpu, overlap, common: [Some(out), Some(best)] };
        logits(wiring, self.store, spec, place, head, 1, (&flow.normed, out, best))
    }

    /// The dispatches of a stage, for so many tokens a workgroup. They may overlap with those of the stages
    /// around.
    pub(super) fn stage(
        &self,
        (index, stage, place): (usize, &Stage, usize),
        tokens: usize,
        flow: &mut Flow,
        overlap: Option<Overlap<'_>>,
    ) -> Result<Vec<Dispatch>> {
        let spec = &self.model.plan.spec;
        let buffers = self.buffers;
        let before = flow.clone();
        if let Some(Overlap { arena, .. }) = overlap {
            arena.renew(flow, stage, spec);
        }
        let common = match (stage, overlap) {
            (Stage::Embed { .. }, Some(Overlap { arena, .. })) => [Some(&buffers.ids), Some(&arena.buffer)],
            _ => [None; 2],
        };
        let wiring = Wiring { gpu: self.gpu, overlap: overlap.map(|o| (o.names, index)), common };
        let norm = |normed: bool| normed.then_some((spec.width, spec.norm_eps));
        let vector = buffers.vectors[index].as_ref();
        let Acts { numbers, records, squares } = &flow.normed;
        let read = [Range::from(numbers), records.into(), squares.into()];
        let slices = Slices { store: self.store, place };
        let gemv = |shape: Product, input: &Acts, out: &[Range<'_>], more: &[Range<'_>]| {
            products(wiring, &slices, &shape, tokens, Around { input, out, more }, Kind::Gemv)
        };
        match stage {
            Stage::Embed { table, .. } => {
                let mut made = Vec::new();
                for (n, slice) in self.store.slices(place).iter().enumerate() {
                    let kernel = embed::Embed {
                        table: slice.parts[0].clone(),
                        first_row: slice.first_tile * TILE,
                        vocab: table.rows,
                        scale: spec.embedding_scale,
                    };
                    let pipeline = self.gpu.pipeline(&kernel.shader(wiring.form()))?;
                    let w = self.store.range(slice);
                    let mut ranges = vec![w, w, (&buffers.ids).into()];
                    ranges.extend(vector.map(Range::from));
                    ranges.push((&flow.x).into());
                    ranges.extend(read);
                    let group = wiring.bind(n, &pipeline, &ranges);
                    made.push(Dispatch { pipeline, group, kind: Kind::Embed(kernel) });
                }
                Ok(made)
            }
            Stage::Qkv { normed, .. } => {
                let out = [Range::from(&flow.raw)];
                let shape = self.product(Epilogue::Raw, raw_rows(spec)[3], norm(*normed), false);
                gemv(shape, &before.normed, &out, &[])
            }
            Stage::Route { matrices, normed, .. } => {
                let mut out = vec![Range::from(&buffers.scores)];
                out.extend(vector.map(Range::from));
                let shape = self.product(Epilogue::Raw, score_stride(spec), norm(*normed), vector.is_some());
                let Some(route) = route(spec, matrices.len() > 1) else { return Ok(vec![]) };
                if self.has_tail(place, tokens) {
                    let shape = Product { tail: Tail::Route(route), ..shape };
                    let tail = [Range::from(&buffers.tails), (&buffers.picks).into()];
                    return gemv(shape, &before.normed, &out, &tail);
                }
                let mut made = gemv(shape, &before.normed, &out, &[])?;
                made.push(self.route(route)?);
                Ok(made)
            }
            Stage::Gated { matrices, feed, normed, .. } => {
                let Some(up) = matrices.last() else { return Ok(vec![]) };
                let to = if matches!(feed, Feed::Shared { .. }) { &flow.shared } else { &flow.hidden };
                let mut out = vec![Range::from(&to.numbers), (&to.records).into()];
                out.extend(vector.map(Range::from));
                let epilogue = Epilogue::Gated(spec.activation);
                let shape = self.product(epilogue, padded(up.rows), norm(*normed), vector.is_some());
                let shape = Product { take: self.take(*feed), ..shape };
                let picks = Range::from(&buffers.picks);
                let more = if shape.take == Take::Whole { &[][..] } else { &[picks] };
                gemv(shape, &before.normed, &out, more)
            }
            Stage::Residual { branch, bias, .. } => {
                let mut out = vec![Range::from(&flow.x)];
                out.extend(read);
                out.extend(vector.map(Range::from));
                let epilogue = Epilogue::Residual { scale: spec.residual_scale };
                let shape = self.product(epilogue, stream(spec), None, bias.is_some());
                // The shared expert's gate is in what it has made.
                let chosen = *branch == Branch::Hidden(Feed::Chosen);
                let take = if chosen { self.take(Feed::Chosen) } else { Take::Whole };
                let picks = Range::from(&buffers.picks);
                let stream = Range::from(&before.x);
                let more = [chosen.then_some(picks), overlap.map(|_| stream)];
                let more: Vec<_> = more.into_iter().flatten().collect();
                gemv(Product { take, ..shape }, before.made(*branch), &out, &more)
            }
            Stage::Output { branch, settling, .. } => {
                let shape = self.product(Epilogue::Raw, stream(spec), None, false);
                let (out, input) = (Range::from(&buffers.branch), before.made(*branch));
                let kernel = settle(spec, settling, true);
                if self.has_tail(place, tokens) {
                    let shape = Product { tail: Tail::Settle(kernel), ..shape };
                    let mut tail = vec![Range::from(&buffers.tails), (&flow.x).into()];
                    tail.extend(read);
                    tail.extend(vector.map(Range::from));
                    return gemv(shape, input, &[out], &tail);
                }
                let mut made = gemv(shape, input, &[out], &[])?;
                made.push(self.settle(kernel, vector, flow)?);
                Ok(made)
            }
            Stage::Settle(settling) => Ok(vec![self.settle(settle(spec, settling, false), vector, flow)?]),
            Stage::Attention(of) => self.attention(of, vector, tokens == 1, flow, wiring),
            Stage::Logits { .. } => Ok(vec![]),
        }
    }

    fn product(&self, epilogue: Epilogue, stride: usize, norm: Option<(usize, f32)>, bias: bool) -> Product {
        Product { epilogue, take: Take::Whole, tail: Tail::None, stride, norm, bias }
    }

    fn take(&self, feed: Feed) -> Take {
        let Some(routing) = routing(&self.model.plan.spec) else { return Take::Whole };
        match feed {
            Feed::Dense | Feed::Shared { gated: false } => Take::Whole,
            Feed::Chosen => Take::Chosen { count: routing.count, used: routing.used },
            Feed::Shared { gated: true } => Take::Share { used: routing.used },
        }
    }

    /// The last workgroup of a product can go on with all rows.
    fn has_tail(&self, place: usize, tokens: usize) -> bool {
        self.gpu.form.inline_merge && tokens == 1 && self.store.slices(place).len() == 1
    }

    fn route(&self, kernel: Route) -> Result<Dispatch> {
        let pipeline = self.gpu.pipeline(&kernel.shader(self.gpu.form))?;
        let group = self.gpu.bind(&pipeline, &[(&self.buffers.scores).into(), (&self.buffers.picks).into()]);
        Ok(Dispatch { pipeline, group, kind: Kind::Route(kernel) })
    }

    fn settle(&self, kernel: Settle, vectors: Option<&wgpu::Buffer>, flow: &Flow) -> Result<Dispatch> {
        let pipeline = self.gpu.pipeline(&kernel.shader(self.gpu.form))?;
        let Acts { numbers, records, squares } = &flow.normed;
        let mut ranges = vec![Range::from(&flow.x), (&self.buffers.branch).into()];
        ranges.extend([numbers, records, squares].map(Range::from));
        ranges.extend(vectors.map(Range::from));
        let group = self.gpu.bind(&pipeline, &ranges);
        Ok(Dispatch { pipeline, group, kind: Kind::Settle(kernel) })
    }

    fn attention(
        &self,
        of: &Attends,
        vectors: Option<&wgpu::Buffer>,
        decode: bool,
        flow: &Flow,
        wiring: Wiring<'_>,
    ) -> Result<Vec<Dispatch>> {
        let layer = of.layer;
        let spec = &self.model.plan.spec;
        let shared = self.gpu.limits.max_compute_workgroup_storage_size as usize;
        let block = Attention::widest_block(spec.heads, spec.kv_heads, spec.head_dim, shared);
        let mut shape = attention(spec, layer, block, self.context, decode, self.max_splits);
        shape.bias = of.is_biased();
        shape.knobs = shape.knobs.stored_as(self.gpu.form.kv);
        let turns = &self.buffers.turns[spec.layers[layer].rope.unwrap_or(0)];
        let form = wiring.form();
        let cache = &self.buffers.caches[layer];
        let (raw, turns, units) = (Range::from(&flow.raw), Range::from(turns), Range::from(&cache.units));
        let scales = cache.scales.as_ref().map(Range::from);
        let out = [Range::from(&flow.attended.numbers), (&flow.attended.records).into()];
        let parts = Range::from(&self.buffers.parts);
        let mut made = Vec::new();
        // Beside attention itself there is one more dispatch, if any.
        let bound = |shader: &Shader, ranges: &[Range<'_>]| -> Result<_> {
            let pipeline = self.gpu.pipeline(shader)?;
            let group = wiring.bind(1, &pipeline, ranges);
            Ok((pipeline, group))
        };
        if !decode {
            let mut ranges = vec![raw, turns, units];
            ranges.extend(vectors.map(Range::from));
            ranges.extend(scales);
            let (pipeline, group) = bound(&shape.write_shader(form), &ranges)?;
            made.push(Dispatch { pipeline, group, kind: Kind::KvWrite(shape.clone(), form.kv) });
        }
        let mut ranges = vec![raw, turns, units, parts];
        if form.inline_merge {
            ranges.push((&flow.arrived).into());
            ranges.extend(out);
        }
        ranges.extend(vectors.map(Range::from));
        ranges.extend(scales);
        let pipeline = self.gpu.pipeline(&shape.shader(form))?;
        let group = wiring.bind(0, &pipeline, &ranges);
        let few = match decode && form.inline_merge && spec.head_dim.is_multiple_of(GROUP) {
            true => {
                let knobs = attention_kernel::Knobs::of(1, spec.head_dim).stored_as(form.kv);
                let shape = Attention { knobs, max_splits: 1, ..shape.clone() };
                let pipeline = self.gpu.pipeline(&shape.shader(form))?;
                let group = wiring.bind(0, &pipeline, &ranges);
                Some(Few { pipeline, group, shape })
            }
            false => None,
        };
        made.push(Dispatch { pipeline, group, kind: Kind::Attention(shape.clone(), few) });
        if !form.inline_merge {
            let (pipeline, group) = bound(&shape.merge_shader(form), &[parts, out[0], out[1]])?;
            made.push(Dispatch { pipeline, group, kind: Kind::Merge(shape, form) });
        }
        Ok(made)
    }
}
