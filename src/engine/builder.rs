//! Building a program's dispatches: pipelines of the stages' kernels, bound to their buffers.

use super::device::{Gpu, Range};
use super::gpu::BATCH;
use super::program::{Dispatch, Few, Kind};
use super::stage::{Attends, Stage, attention, raw_rows, route, routing, score_stride, settle, stream};
use super::tuning::Tuning;
use super::upload::Store;
use crate::Result;
use crate::kernels::attention::{self as attention_kernel, Attention};
use crate::kernels::gemv::{Epilogue, Gemv, Knobs, Tail, Take};
use crate::kernels::route::Route;
use crate::kernels::settle::Settle;
use crate::kernels::{Shader, embed, groups, padded, squares};
use crate::model::{Branch, Feed, Matrix, Model, Spec};
use crate::quant::{GROUP, TILE};

/// Activations in device memory.
pub(super) struct Acts {
    pub(super) numbers: wgpu::Buffer,
    pub(super) records: wgpu::Buffer,
    /// Sums of squares, where a norm follows.
    pub(super) squares: wgpu::Buffer,
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

/// What building the dispatches needs at hand.
pub(super) struct Builder<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) model: &'a Model,
    pub(super) store: &'a Store,
    pub(super) context: usize,
    pub(super) max_splits: usize,
    pub(super) x: wgpu::Buffer,
    pub(super) raw: wgpu::Buffer,
    pub(super) parts: wgpu::Buffer,
    pub(super) arrived: wgpu::Buffer,
    /// Per rope.
    pub(super) turns: Vec<wgpu::Buffer>,
    pub(super) ids: wgpu::Buffer,
    pub(super) normed: Acts,
    pub(super) attended: Acts,
    /// Of a feed-forward layer, or of each of a token's experts.
    pub(super) hidden: Acts,
    /// Of the expert that every token takes.
    pub(super) shared: Acts,
    /// The raw rows of a branch that is yet to be settled.
    pub(super) branch: wgpu::Buffer,
    /// The experts' scores, and the gate of the shared one.
    pub(super) scores: wgpu::Buffer,
    /// Each token's experts, and their weights.
    pub(super) picks: wgpu::Buffer,
    /// Workgroups that have arrived at their tail.
    pub(super) tails: wgpu::Buffer,
    pub(super) logits: wgpu::Buffer,
    pub(super) best: wgpu::Buffer,
    pub(super) caches: Vec<KvBuffers>,
    /// Per stage: the weight of the norm after it, or the bias.
    pub(super) vectors: Vec<Option<wgpu::Buffer>>,
}

pub(super) fn upload_floats(gpu: &Gpu, what: &str, floats: &[f32]) -> Result<wgpu::Buffer> {
    let buffer = gpu.buffer(what, 4 * floats.len() as u64, STORAGE)?;
    gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(floats));
    Ok(buffer)
}

/// Activations of so many vectors of a token.
pub(super) fn acts(gpu: &Gpu, vectors: usize, elements: usize) -> Result<Acts> {
    let bytes = |of_a_group: usize| (BATCH * vectors * groups(elements) * of_a_group) as u64;
    Ok(Acts {
        numbers: gpu.buffer("activations", bytes(16 * 4), STORAGE)?,
        records: gpu.buffer("activations", bytes(8), STORAGE)?,
        squares: gpu.buffer("activations", (BATCH * squares(elements) * 4) as u64, STORAGE)?,
    })
}

/// The kernel, with fewer tokens or lanes where its workgroup memory exceeds the device's: codebooks
/// take some.
pub(super) fn fitting(gpu: &Gpu, mut kernel: Gemv) -> Gemv {
    let most = gpu.limits.max_compute_workgroup_storage_size as usize;
    while kernel.shared_bytes() > most {
        match (kernel.tokens, kernel.knobs.threads) {
            (3.., _) => kernel.tokens /= 2,
            (_, 128..) => kernel.knobs.threads = (kernel.knobs.threads / 2).next_multiple_of(64),
            _ => break,
        }
    }
    kernel
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
    gpu: &Gpu,
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
    for slice in store.slices(place) {
        let tuning = Tuning::of(gpu);
        let mut knobs = tuning.knobs(&slice.parts, &shape.epilogue, &shape.take, tokens);
        let (slices, splits) = tuning.cut(&slice.parts, &shape.tail);
        if splits > 1 {
            knobs = Knobs { threads: slices * TILE, tiles: 1, unroll: 1 };
        }
        let kernel = fitting(
            gpu,
            gpu.table.put(Gemv {
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
            }),
        );
        let pipeline = gpu.pipeline(&kernel.shader(gpu.form))?;
        let w = store.range(slice);
        let mut ranges = vec![w, w, (&input.numbers).into(), (&input.records).into()];
        ranges.extend(out);
        if shape.norm.is_some() {
            ranges.push((&input.squares).into());
        }
        ranges.extend(more);
        let group = gpu.bind(&pipeline, &ranges);
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
    gpu: &Gpu,
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
            products(gpu, &slices, &shape, 1, around, Kind::LastLogits)
        }
        _ => {
            let around = Around { input: read, out: &out[..1], more: &[] };
            products(gpu, &slices, &shape, tokens, around, Kind::Gemv)
        }
    }
}

impl Builder<'_> {
    pub(super) fn logits(
        &mut self,
        place: usize,
        head: (&Matrix, bool),
        tokens: usize,
        out: &wgpu::Buffer,
    ) -> Result<Vec<Dispatch>> {
        let spec = &self.model.plan.spec;
        logits(self.gpu, self.store, spec, place, head, tokens, (&self.normed, out, &self.best))
    }

    /// The dispatches of a stage, for so many tokens a workgroup.
    pub(super) fn stage(
        &mut self,
        index: usize,
        stage: &Stage,
        place: usize,
        tokens: usize,
    ) -> Result<Vec<Dispatch>> {
        let spec = &self.model.plan.spec;
        let norm = |normed: bool| normed.then_some((spec.width, spec.norm_eps));
        let vector = self.vectors[index].as_ref();
        let Acts { numbers, records, squares } = &self.normed;
        let read = [Range::from(numbers), records.into(), squares.into()];
        match stage {
            Stage::Embed { table, .. } => {
                let mut made = Vec::new();
                for slice in self.store.slices(place) {
                    let kernel = embed::Embed {
                        table: slice.parts[0].clone(),
                        first_row: slice.first_tile * TILE,
                        vocab: table.rows,
                        scale: spec.embedding_scale,
                    };
                    let pipeline = self.gpu.pipeline(&kernel.shader(self.gpu.form))?;
                    let w = self.store.range(slice);
                    let mut ranges = vec![w, w, (&self.ids).into()];
                    ranges.extend(vector.map(Range::from));
                    ranges.push((&self.x).into());
                    ranges.extend(read);
                    let group = self.gpu.bind(&pipeline, &ranges);
                    made.push(Dispatch { pipeline, group, kind: Kind::Embed(kernel) });
                }
                Ok(made)
            }
            Stage::Qkv { normed, .. } => {
                let out = [Range::from(&self.raw)];
                let shape = self.product(Epilogue::Raw, raw_rows(spec)[3], norm(*normed), false);
                self.gemv(place, shape, tokens, &self.normed, &out, &[])
            }
            Stage::Route { matrices, normed, .. } => {
                let mut out = vec![Range::from(&self.scores)];
                out.extend(vector.map(Range::from));
                let shape = self.product(Epilogue::Raw, score_stride(spec), norm(*normed), vector.is_some());
                let Some(route) = route(spec, matrices.len() > 1) else { return Ok(vec![]) };
                if self.has_tail(place, tokens) {
                    let shape = Product { tail: Tail::Route(route), ..shape };
                    let tail = [Range::from(&self.tails), (&self.picks).into()];
                    return self.gemv(place, shape, tokens, &self.normed, &out, &tail);
                }
                let mut made = self.gemv(place, shape, tokens, &self.normed, &out, &[])?;
                made.push(self.route(route)?);
                Ok(made)
            }
            Stage::Gated { matrices, feed, normed, .. } => {
                let Some(up) = matrices.last() else { return Ok(vec![]) };
                let to = if matches!(feed, Feed::Shared { .. }) { &self.shared } else { &self.hidden };
                let mut out = vec![Range::from(&to.numbers), (&to.records).into()];
                out.extend(vector.map(Range::from));
                let epilogue = Epilogue::Gated(spec.activation);
                let shape = self.product(epilogue, padded(up.rows), norm(*normed), vector.is_some());
                let shape = Product { take: self.take(*feed), ..shape };
                let picks = Range::from(&self.picks);
                let more = if shape.take == Take::Whole { &[][..] } else { &[picks] };
                self.gemv(place, shape, tokens, &self.normed, &out, more)
            }
            Stage::Residual { branch, bias, .. } => {
                let mut out = vec![Range::from(&self.x)];
                out.extend(read);
                out.extend(vector.map(Range::from));
                let epilogue = Epilogue::Residual { scale: spec.residual_scale };
                let shape = self.product(epilogue, stream(spec), None, bias.is_some());
                // The shared expert's gate is in what it has made.
                let chosen = *branch == Branch::Hidden(Feed::Chosen);
                let take = if chosen { self.take(Feed::Chosen) } else { Take::Whole };
                let picks = Range::from(&self.picks);
                let more = if chosen { &[picks][..] } else { &[] };
                self.gemv(place, Product { take, ..shape }, tokens, self.made(*branch), &out, more)
            }
            Stage::Output { branch, settling, .. } => {
                let shape = self.product(Epilogue::Raw, stream(spec), None, false);
                let (out, input) = (Range::from(&self.branch), self.made(*branch));
                let kernel = settle(spec, settling, true);
                if self.has_tail(place, tokens) {
                    let shape = Product { tail: Tail::Settle(kernel), ..shape };
                    let mut tail = vec![Range::from(&self.tails), (&self.x).into()];
                    tail.extend(read);
                    tail.extend(vector.map(Range::from));
                    return self.gemv(place, shape, tokens, input, &[out], &tail);
                }
                let mut made = self.gemv(place, shape, tokens, input, &[out], &[])?;
                made.push(self.settle(kernel, vector)?);
                Ok(made)
            }
            Stage::Settle(settling) => Ok(vec![self.settle(settle(spec, settling, false), vector)?]),
            Stage::Attention(of) => self.attention(of, vector, tokens == 1),
            Stage::Logits { .. } => Ok(vec![]),
        }
    }

    fn product(&self, epilogue: Epilogue, stride: usize, norm: Option<(usize, f32)>, bias: bool) -> Product {
        Product { epilogue, take: Take::Whole, tail: Tail::None, stride, norm, bias }
    }

    /// What a branch has made between its matrices.
    fn made(&self, branch: Branch) -> &Acts {
        match branch {
            Branch::Attention => &self.attended,
            Branch::Hidden(Feed::Shared { .. }) => &self.shared,
            Branch::Hidden(Feed::Dense | Feed::Chosen) => &self.hidden,
        }
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
        let group = self.gpu.bind(&pipeline, &[(&self.scores).into(), (&self.picks).into()]);
        Ok(Dispatch { pipeline, group, kind: Kind::Route(kernel) })
    }

    fn settle(&self, kernel: Settle, vectors: Option<&wgpu::Buffer>) -> Result<Dispatch> {
        let pipeline = self.gpu.pipeline(&kernel.shader(self.gpu.form))?;
        let Acts { numbers, records, squares } = &self.normed;
        let mut ranges = vec![Range::from(&self.x), (&self.branch).into()];
        ranges.extend([numbers, records, squares].map(Range::from));
        ranges.extend(vectors.map(Range::from));
        let group = self.gpu.bind(&pipeline, &ranges);
        Ok(Dispatch { pipeline, group, kind: Kind::Settle(kernel) })
    }

    fn gemv(
        &self,
        place: usize,
        shape: Product,
        tokens: usize,
        input: &Acts,
        out: &[Range<'_>],
        more: &[Range<'_>],
    ) -> Result<Vec<Dispatch>> {
        let slices = Slices { store: self.store, place };
        products(self.gpu, &slices, &shape, tokens, Around { input, out, more }, Kind::Gemv)
    }

    fn attention(&self, of: &Attends, vectors: Option<&wgpu::Buffer>, decode: bool) -> Result<Vec<Dispatch>> {
        let layer = of.layer;
        let spec = &self.model.plan.spec;
        let shared = self.gpu.limits.max_compute_workgroup_storage_size as usize;
        let block = Attention::widest_block(spec.heads, spec.kv_heads, spec.head_dim, shared);
        let mut shape = attention(spec, layer, block, self.context, decode, self.max_splits);
        shape.bias = of.is_biased();
        shape.knobs = shape.knobs.stored_as(self.gpu.form.kv);
        let turns = &self.turns[spec.layers[layer].rope.unwrap_or(0)];
        let form = self.gpu.form;
        let cache = &self.caches[layer];
        let (raw, turns, units) = (Range::from(&self.raw), Range::from(turns), Range::from(&cache.units));
        let scales = cache.scales.as_ref().map(Range::from);
        let out = [Range::from(&self.attended.numbers), (&self.attended.records).into()];
        let parts = Range::from(&self.parts);
        let mut made = Vec::new();
        let bound = |shader: &Shader, ranges: &[Range<'_>]| -> Result<_> {
            let pipeline = self.gpu.pipeline(shader)?;
            let group = self.gpu.bind(&pipeline, ranges);
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
            ranges.push((&self.arrived).into());
            ranges.extend(out);
        }
        ranges.extend(vectors.map(Range::from));
        ranges.extend(scales);
        let (pipeline, group) = bound(&shape.shader(form), &ranges)?;
        let few = match decode && form.inline_merge && spec.head_dim.is_multiple_of(GROUP) {
            true => {
                let knobs = attention_kernel::Knobs::of(1, spec.head_dim).stored_as(form.kv);
                let shape = Attention { knobs, max_splits: 1, ..shape.clone() };
                let (pipeline, group) = bound(&shape.shader(form), &ranges)?;
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
