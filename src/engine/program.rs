//! A model's dispatches: built once, recorded for every step with its immediates.

use std::sync::Arc;

use super::device::{Gpu, Pipeline, Range};
use super::gpu::BATCH;
use super::stage::{Stage, attention, lower, raw_bias, raw_rows, stream};
use super::upload::{Combine, Store};
use crate::Result;
use crate::kernels::attention::{self as attention_kernel, Attention};
use crate::kernels::gemv::{self, Epilogue, Gemv};
use crate::kernels::sample::{self, Sampling};
use crate::kernels::select::Select;
use crate::kernels::{embed, groups, padded};
use crate::model::{Matrix, Model, Plan, Spec, rope};
use crate::quant::TILE;

/// What may differ between adapters without changing results.
#[derive(Clone, Copy)]
struct Tuning {
    /// Lanes of a matrix product's workgroup.
    threads: usize,
    /// Tokens of a workgroup in a batch.
    batch_tokens: usize,
}

impl Tuning {
    fn of(gpu: &Gpu) -> Tuning {
        // A software adapter compiles for as long as the code is: twice the tokens, twice the time.
        Tuning { threads: 256, batch_tokens: if gpu.software { 4 } else { 8 } }
    }
}

/// The tokens that a recording is for.
pub(super) struct Step {
    tokens: u32,
    position: u32,
    /// Which draw the selection after it is.
    draw: u32,
}

impl Step {
    pub(super) fn batch(position: usize, tokens: usize) -> Step {
        Step { tokens: tokens as u32, position: position as u32, draw: 0 }
    }

    pub(super) fn decode(position: usize, draw: u32) -> Step {
        Step { tokens: 1, position: position as u32, draw }
    }
}

/// How a dispatch's grid and immediates follow from a step.
enum Kind {
    Embed(embed::Embed),
    Gemv(Gemv),
    KvWrite(Attention),
    Attention(Attention),
    Merge(Attention),
    /// Logits of the batch's last token.
    LastLogits(Gemv),
    Select,
    Sample,
}

struct Dispatch {
    pipeline: Arc<Pipeline>,
    group: wgpu::BindGroup,
    kind: Kind,
}

/// A plan lowered to stages whose matrices have places.
pub(super) struct Program {
    stages: Vec<(Stage, usize)>,
}

/// Stands for "no matrix" in a program.
const NONE: usize = usize::MAX;

impl Program {
    /// Lowers a plan and plans the places of its weights. Every matrix has one place: a tied
    /// output matrix is the embedding's.
    pub(super) fn plan(plan: &Plan, store: &mut Store, gpu: &Gpu) -> Result<Program> {
        let limit = gpu.weight_binding;
        let mut stages = Vec::new();
        let mut table: Option<(Matrix, usize)> = None;
        for stage in lower(plan)? {
            let place = match &stage {
                Stage::Embed { table: t, .. } => {
                    let place = store.place(&[t], Combine::Rows, limit)?;
                    table = Some((t.clone(), place));
                    place
                }
                Stage::Logits { weight } => match &table {
                    Some((t, place)) if t.name == weight.name => *place,
                    _ => store.place(&[weight], Combine::Rows, limit)?,
                },
                Stage::Qkv { matrices: [q, k, v] } => store.place(&[q, k, v], Combine::Rows, limit)?,
                Stage::Gated { matrices: [gate, up] } => store.place(&[gate, up], Combine::Pairs, limit)?,
                Stage::Residual { weight, .. } => store.place(&[weight], Combine::Rows, limit)?,
                Stage::Attention { .. } => NONE,
            };
            stages.push((stage, place));
        }
        Ok(Program { stages })
    }
}

/// Activations in device memory.
struct Acts {
    numbers: wgpu::Buffer,
    records: wgpu::Buffer,
}

/// Everything that is recorded, and the buffers it works on.
pub(super) struct Programs {
    /// The token at each position.
    pub(super) ids: wgpu::Buffer,
    pub(super) weight_bytes: u64,
    pub(super) kv_bytes: u64,
    pub(super) scratch_bytes: u64,
    decode: Vec<Dispatch>,
    batch: Vec<Dispatch>,
    last_logits: Vec<Dispatch>,
    select: Dispatch,
    sample: Option<Dispatch>,
    all_logits: Option<(Vec<Dispatch>, wgpu::Buffer)>,
    store: Store,
    head: (Matrix, usize),
    spec: Spec,
    normed: Acts,
    logits: wgpu::Buffer,
    best: wgpu::Buffer,
}

/// Bytes of buffers beside weights, keys and values, but for what grows with the context.
pub fn scratch_bytes(spec: &Spec) -> u64 {
    let shape = attention(spec, false, 1, true);
    let acts = |n: usize| groups(n) * (16 * 4 + 16);
    let per_token = 4 * stream(spec)
        + acts(spec.width)
        + acts(spec.heads * spec.head_dim)
        + acts(spec.ffn)
        + 4 * raw_rows(spec)[3]
        + 4 * shape.part_len();
    (BATCH * per_token + 4 * spec.vocab + 8 * spec.vocab.div_ceil(TILE)) as u64
}

const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_DST).union(wgpu::BufferUsages::COPY_SRC);

/// What building the dispatches needs at hand.
struct Builder<'a> {
    gpu: &'a Gpu,
    model: &'a Model,
    store: &'a Store,
    context: usize,
    x: wgpu::Buffer,
    raw: wgpu::Buffer,
    parts: wgpu::Buffer,
    arrived: wgpu::Buffer,
    turns: wgpu::Buffer,
    ids: wgpu::Buffer,
    normed: Acts,
    attended: Acts,
    hidden: Acts,
    logits: wgpu::Buffer,
    best: wgpu::Buffer,
    caches: Vec<wgpu::Buffer>,
    /// Per stage: the weight of the norm after it, or the bias.
    vectors: Vec<Option<wgpu::Buffer>>,
}

fn upload_floats(gpu: &Gpu, what: &str, floats: &[f32]) -> Result<wgpu::Buffer> {
    let buffer = gpu.buffer(what, 4 * floats.len() as u64, STORAGE)?;
    gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(floats));
    Ok(buffer)
}

fn acts(gpu: &Gpu, elements: usize) -> Result<Acts> {
    let bytes = (BATCH * groups(elements) * 16 * 4) as u64;
    Ok(Acts {
        numbers: gpu.buffer("activations", bytes, STORAGE)?,
        records: gpu.buffer("activations", bytes / 4, STORAGE)?,
    })
}

impl Programs {
    pub(super) fn build(
        program: Program,
        model: &Model,
        store: Store,
        gpu: &Gpu,
        context: usize,
    ) -> Result<Programs> {
        let spec = &model.plan.spec;
        let shape = attention(spec, false, context, true);
        let tuning = Tuning::of(gpu);
        let vectors = program
            .stages
            .iter()
            .map(|(stage, _)| match stage {
                Stage::Embed { norm, .. } | Stage::Residual { norm, .. } => {
                    let mut floats = model.weights.floats(norm);
                    floats.resize(padded(norm.len), 0.0);
                    upload_floats(gpu, "norms", &floats).map(Some)
                }
                Stage::Attention { bias: Some(bias), .. } => {
                    let floats = [0, 1, 2].map(|i| model.weights.floats(&bias[i]));
                    upload_floats(gpu, "biases", &raw_bias(spec, floats)).map(Some)
                }
                _ => Ok(None),
            })
            .collect::<Result<Vec<_>>>()?;
        let turns = rope::table(&spec.rope, model.plan.rope_factors.as_deref(), context);
        let caches = (0..spec.layers)
            .map(|_| gpu.buffer("keys and values", shape.cache_bytes(gpu.form.kv) as u64, STORAGE))
            .collect::<Result<Vec<_>>>()?;
        let mut builder = Builder {
            context,
            x: gpu.buffer("residual stream", (BATCH * stream(spec) * 4) as u64, STORAGE)?,
            raw: gpu.buffer("raw rows", (BATCH * raw_rows(spec)[3] * 4) as u64, STORAGE)?,
            parts: gpu.buffer("attention", (BATCH * shape.part_len() * 4) as u64, STORAGE)?,
            arrived: gpu.buffer("attention", (BATCH * shape.blocks() * 4) as u64, STORAGE)?,
            turns: upload_floats(gpu, "RoPE's table", bytemuck::cast_slice(&turns))?,
            ids: gpu.buffer("ids", 4 * (context as u64 + 1), STORAGE)?,
            normed: acts(gpu, spec.width)?,
            attended: acts(gpu, spec.heads * spec.head_dim)?,
            hidden: acts(gpu, spec.ffn)?,
            logits: gpu.buffer("logits", 4 * spec.vocab as u64, STORAGE)?,
            best: gpu.buffer("logits", 8 * spec.vocab.div_ceil(TILE) as u64, STORAGE)?,
            caches,
            vectors,
            gpu,
            model,
            store: &store,
        };
        let (mut decode, mut batch, mut last_logits) = (vec![], vec![], vec![]);
        let mut head = None;
        for (i, (stage, place)) in program.stages.iter().enumerate() {
            if let Stage::Logits { weight } = stage {
                head = Some((weight.clone(), *place));
                let logits = builder.logits.clone();
                last_logits.extend(builder.logits(*place, weight, 1, &logits)?);
            } else {
                decode.extend(builder.stage(i, stage, *place, 1)?);
                batch.extend(builder.stage(i, stage, *place, tuning.batch_tokens)?);
            }
        }
        let pipeline = builder.gpu.pipeline(&Select { vocab: spec.vocab }.shader(builder.gpu.form))?;
        let group = builder.gpu.bind(&pipeline, &[(&builder.best).into(), (&builder.ids).into()]);
        let select = Dispatch { pipeline, group, kind: Kind::Select };
        let kv_bytes = (spec.layers * shape.cache_bytes(builder.gpu.form.kv)) as u64;
        let Builder { ids, normed, logits, best, .. } = builder;
        Ok(Programs {
            ids,
            weight_bytes: store.bytes(),
            kv_bytes,
            scratch_bytes: scratch_bytes(spec) + (turns.len() * 8 + 4 * context) as u64,
            decode,
            batch,
            last_logits,
            select,
            sample: None,
            all_logits: None,
            head: head.ok_or_else(|| crate::Error::Unsupported("the plan has no logits".to_owned()))?,
            spec: spec.clone(),
            store,
            normed,
            logits,
            best,
        })
    }

    /// Makes what a way of sampling needs.
    pub(super) fn prepare(&mut self, gpu: &Gpu, sampling: &Sampling) -> Result<()> {
        if self.sample.is_none() && !sampling.is_argmax() {
            let pipeline = gpu.pipeline(&sample::shader(self.spec.vocab, gpu.form))?;
            let group =
                gpu.bind(&pipeline, &[(&self.logits).into(), (&self.best).into(), (&self.ids).into()]);
            self.sample = Some(Dispatch { pipeline, group, kind: Kind::Sample });
        }
        Ok(())
    }

    /// Makes what logits of a whole batch need.
    pub(super) fn prepare_all_logits(&mut self, gpu: &Gpu) -> Result<()> {
        if self.all_logits.is_none() {
            let out = gpu.buffer("logits", (BATCH * self.spec.vocab * 4) as u64, STORAGE)?;
            let (weight, place) = &self.head;
            let buffers = (&self.normed, &out, &self.best);
            let made =
                logits(gpu, &self.store, &self.spec, *place, weight, Tuning::of(gpu).batch_tokens, buffers)?;
            self.all_logits = Some((made, out));
        }
        Ok(())
    }

    /// Records a batch up to the residual stream's last norm.
    pub(super) fn record_batch(&self, pass: &mut wgpu::ComputePass<'_>, step: &Step) {
        record(pass, &self.batch, step, &Sampling::greedy());
    }

    /// Records the choice of the token after a batch's last.
    pub(super) fn record_selection(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        step: &Step,
        sampling: &Sampling,
    ) -> u64 {
        let choice = match &self.sample {
            Some(sample) if !sampling.is_argmax() => sample,
            _ => &self.select,
        };
        record(pass, &self.last_logits, step, sampling)
            + record(pass, std::slice::from_ref(choice), step, sampling)
    }

    /// Records a step of one token; gives the number of dispatches.
    pub(super) fn record_decode(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        step: &Step,
        sampling: &Sampling,
    ) -> u64 {
        record(pass, &self.decode, step, sampling) + self.record_selection(pass, step, sampling)
    }

    /// Records the logits after a batch's tokens, all or the last; gives where they are.
    pub(super) fn record_logits(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        step: &Step,
        all: bool,
    ) -> &wgpu::Buffer {
        match &self.all_logits {
            Some((dispatches, out)) if all => {
                record(pass, dispatches, step, &Sampling::greedy());
                out
            }
            _ => {
                record(pass, &self.last_logits, step, &Sampling::greedy());
                &self.logits
            }
        }
    }
}

fn record(
    pass: &mut wgpu::ComputePass<'_>,
    dispatches: &[Dispatch],
    step: &Step,
    sampling: &Sampling,
) -> u64 {
    let Step { tokens, position, draw } = *step;
    for d in dispatches {
        pass.set_pipeline(&d.pipeline.pipeline);
        pass.set_bind_group(0, &d.group, &[]);
        let mut set = |bytes: &[u8]| pass.set_immediates(0, bytes);
        let attend = |shape: &Attention| {
            let splits = shape.splits(tokens as usize, (position + tokens) as usize) as u32;
            attention_kernel::Args { tokens, position, splits }
        };
        let [x, y, z] = match &d.kind {
            Kind::Embed(k) => {
                set(bytemuck::bytes_of(&embed::Args { tokens, position }));
                k.grid(tokens)
            }
            Kind::Gemv(k) => {
                set(bytemuck::bytes_of(&gemv::Args { tokens, first: 0 }));
                k.grid(tokens)
            }
            Kind::LastLogits(k) => {
                set(bytemuck::bytes_of(&gemv::Args { tokens: 1, first: tokens - 1 }));
                k.grid(1)
            }
            Kind::KvWrite(k) => {
                set(bytemuck::bytes_of(&embed::Args { tokens, position }));
                k.write_grid(tokens)
            }
            Kind::Attention(k) => {
                let args = attend(k);
                set(bytemuck::bytes_of(&args));
                k.grid(tokens, args.splits)
            }
            Kind::Merge(k) => {
                set(bytemuck::bytes_of(&attend(k)));
                k.merge_grid(tokens)
            }
            Kind::Select => {
                set(bytemuck::bytes_of(&(position + tokens)));
                [1, 1, 1]
            }
            Kind::Sample => {
                set(bytemuck::bytes_of(&sampling.args(position + tokens, draw)));
                [1, 1, 1]
            }
        };
        pass.dispatch_workgroups(x, y, z);
    }
    dispatches.len() as u64
}

/// The dispatches of the output matrix.
fn logits(
    gpu: &Gpu,
    store: &Store,
    spec: &Spec,
    place: usize,
    weight: &Matrix,
    tokens: usize,
    (normed, out, best): (&Acts, &wgpu::Buffer, &wgpu::Buffer),
) -> Result<Vec<Dispatch>> {
    let mut made = Vec::new();
    for slice in store.slices(place) {
        let kernel = Gemv {
            parts: slice.parts.clone(),
            epilogue: Epilogue::Logits { vocab: weight.rows },
            first_tile: slice.first_tile,
            stride: weight.rows,
            norm: Some((spec.width, spec.norm_eps)),
            tokens,
            threads: Tuning::of(gpu).threads,
        };
        let pipeline = gpu.pipeline(&kernel.shader(gpu.form))?;
        let w = store.range(slice);
        let mut ranges: Vec<Range<'_>> =
            vec![w, w, (&normed.numbers).into(), (&normed.records).into(), out.into()];
        if tokens == 1 {
            ranges.push(best.into());
        }
        let group = gpu.bind(&pipeline, &ranges);
        let kind = if tokens == 1 { Kind::LastLogits(kernel) } else { Kind::Gemv(kernel) };
        made.push(Dispatch { pipeline, group, kind });
    }
    Ok(made)
}

impl Builder<'_> {
    fn logits(
        &mut self,
        place: usize,
        weight: &Matrix,
        tokens: usize,
        out: &wgpu::Buffer,
    ) -> Result<Vec<Dispatch>> {
        let spec = &self.model.plan.spec;
        logits(self.gpu, self.store, spec, place, weight, tokens, (&self.normed, out, &self.best))
    }

    /// The dispatches of a stage, for so many tokens a workgroup.
    fn stage(&mut self, index: usize, stage: &Stage, place: usize, tokens: usize) -> Result<Vec<Dispatch>> {
        let spec = &self.model.plan.spec;
        let norm = Some((spec.width, spec.norm_eps));
        let vector = self.vectors[index].as_ref();
        let normed = [Range::from(&self.normed.numbers), (&self.normed.records).into()];
        match stage {
            Stage::Embed { table, .. } => {
                let mut made = Vec::new();
                for slice in self.store.slices(place) {
                    let kernel = embed::Embed {
                        table: slice.parts[0].clone(),
                        first_row: slice.first_tile * TILE,
                        vocab: table.rows,
                    };
                    let pipeline = self.gpu.pipeline(&kernel.shader(self.gpu.form))?;
                    let w = self.store.range(slice);
                    let mut ranges = vec![w, w, (&self.ids).into()];
                    ranges.extend(vector.map(Range::from));
                    ranges.push((&self.x).into());
                    ranges.extend(normed);
                    let group = self.gpu.bind(&pipeline, &ranges);
                    made.push(Dispatch { pipeline, group, kind: Kind::Embed(kernel) });
                }
                Ok(made)
            }
            Stage::Qkv { .. } => {
                let out = [Range::from(&self.raw)];
                self.gemv(place, Epilogue::Raw, raw_rows(spec)[3], norm, tokens, &normed, &out)
            }
            Stage::Gated { .. } => {
                let out = [Range::from(&self.hidden.numbers), (&self.hidden.records).into()];
                self.gemv(place, Epilogue::Gated, padded(spec.ffn), norm, tokens, &normed, &out)
            }
            Stage::Residual { hidden, .. } => {
                let from = if *hidden { &self.hidden } else { &self.attended };
                let input = [Range::from(&from.numbers), (&from.records).into()];
                let mut out = vec![Range::from(&self.x)];
                out.extend(normed);
                out.extend(vector.map(Range::from));
                self.gemv(place, Epilogue::Residual, stream(spec), None, tokens, &input, &out)
            }
            Stage::Attention { layer, .. } => self.attention(*layer, vector, tokens == 1),
            Stage::Logits { .. } => Ok(vec![]),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one call per stage; a struct would name them twice")]
    fn gemv(
        &self,
        place: usize,
        epilogue: Epilogue,
        stride: usize,
        norm: Option<(usize, f32)>,
        tokens: usize,
        input: &[Range<'_>],
        out: &[Range<'_>],
    ) -> Result<Vec<Dispatch>> {
        let mut made = Vec::new();
        for slice in self.store.slices(place) {
            let kernel = Gemv {
                parts: slice.parts.clone(),
                epilogue: epilogue.clone(),
                first_tile: slice.first_tile,
                stride,
                norm,
                tokens,
                threads: Tuning::of(self.gpu).threads,
            };
            let pipeline = self.gpu.pipeline(&kernel.shader(self.gpu.form))?;
            let w = self.store.range(slice);
            let ranges: Vec<Range<'_>> = [&[w, w], input, out].concat();
            let group = self.gpu.bind(&pipeline, &ranges);
            made.push(Dispatch { pipeline, group, kind: Kind::Gemv(kernel) });
        }
        Ok(made)
    }

    fn attention(&self, layer: usize, bias: Option<&wgpu::Buffer>, decode: bool) -> Result<Vec<Dispatch>> {
        let shape = attention(&self.model.plan.spec, bias.is_some(), self.context, decode);
        let form = self.gpu.form;
        let (raw, turns, cache) =
            (Range::from(&self.raw), Range::from(&self.turns), Range::from(&self.caches[layer]));
        let out = [Range::from(&self.attended.numbers), (&self.attended.records).into()];
        let parts = Range::from(&self.parts);
        let mut made = Vec::new();
        let mut push = |shader, ranges: Vec<Range<'_>>, kind| -> Result<()> {
            let pipeline = self.gpu.pipeline(&shader)?;
            let group = self.gpu.bind(&pipeline, &ranges);
            made.push(Dispatch { pipeline, group, kind });
            Ok(())
        };
        if !decode {
            let mut ranges = vec![raw, turns, cache];
            ranges.extend(bias.map(Range::from));
            push(shape.write_shader(form), ranges, Kind::KvWrite(shape.clone()))?;
        }
        let mut ranges = vec![raw, turns, cache, parts];
        if form.inline_merge {
            ranges.push((&self.arrived).into());
            ranges.extend(out);
        }
        ranges.extend(bias.map(Range::from));
        push(shape.shader(form), ranges, Kind::Attention(shape.clone()))?;
        if !form.inline_merge {
            push(shape.merge_shader(form), vec![parts, out[0], out[1]], Kind::Merge(shape))?;
        }
        Ok(made)
    }
}
