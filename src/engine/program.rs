//! A model's dispatches: built once, recorded for every step with its immediates.

use std::cell::Cell;

use super::builder::{
    Buffers, Builder, Flow, KvBuffers, Overlap, STORAGE, Wiring, acts, logits, upload_floats,
};
use super::device::{Gpu, Range};
use super::dispatch::{Dispatch, Kind, Step, record};
use super::gpu::BATCH;
use super::overlap::{self, Arena, Names};
use super::stage::{
    MAX_SPLITS, Stage, attention, attention_vectors, gated_bias, lower, raw_rows, score_stride,
    settle_vectors, stream, strided,
};
use super::tuning::Tuning;
use super::upload::{Combine, Store};
use crate::Result;
use crate::kernels::attention::Attention;
use crate::kernels::sample::{self, Sampling};
use crate::kernels::select::Select;
use crate::kernels::{Form, Kv, groups};
use crate::model::{Matrix, Model, Plan, Spec, Vector};
use crate::quant::TILE;

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
        for stage in lower(plan) {
            let place = match &stage {
                Stage::Embed { table: t, .. } => {
                    let place = store.place(&[t], Combine::Rows, limit)?;
                    table = Some((t.clone(), place));
                    place
                }
                Stage::Logits { weight, .. } => match &table {
                    Some((t, place)) if t.name == weight.name => *place,
                    _ => store.place(&[weight], Combine::Rows, limit)?,
                },
                Stage::Qkv { matrices: [q, k, v], .. } => store.place(&[q, k, v], Combine::Rows, limit)?,
                Stage::Gated { matrices, .. } => {
                    store.place(&matrices.iter().collect::<Vec<_>>(), Combine::Pairs, limit)?
                }
                Stage::Route { matrices, .. } => {
                    store.place(&matrices.iter().collect::<Vec<_>>(), Combine::Rows, limit)?
                }
                Stage::Residual { weight, .. } | Stage::Output { weight, .. } => {
                    store.place(&[weight], Combine::Rows, limit)?
                }
                Stage::Attention(_) | Stage::Settle(_) => NONE,
            };
            stages.push((stage, place));
        }
        Ok(Program { stages })
    }

    /// The stages, and the places of their matrices.
    pub(super) fn stages(&self) -> impl Iterator<Item = (&Stage, usize)> {
        self.stages.iter().map(|(stage, place)| (stage, *place))
    }

    /// The form of a step's kernels: its stages overlap where all of them can.
    pub(super) fn step_form(&self, store: &Store, gpu: &Gpu, spec: &Spec) -> Result<Form> {
        let fits = |(stage, place): &(Stage, usize)| match stage {
            Stage::Embed { .. } | Stage::Attention(_) | Stage::Settle(_) => true,
            _ => store.slices(*place).iter().all(|slice| overlap::fits(gpu, &slice.parts)),
        };
        let suits = overlap::suits(self.stages.iter().map(|s| &s.0), spec) && self.stages.iter().all(fits);
        Ok(Form { overlapped: suits && gpu.overlaps()?, ..gpu.form })
    }
}

/// Everything that is recorded, and the buffers it works on. (Names of buffers go before the buffers.)
pub(super) struct Programs {
    pub(super) weight_bytes: u64,
    pub(super) kv_bytes: u64,
    pub(super) scratch_bytes: u64,
    steps: Steps,
    batch: Vec<Dispatch>,
    last_logits: Vec<Dispatch>,
    select: Dispatch,
    sample: Option<Dispatch>,
    all_logits: Option<(Vec<Dispatch>, wgpu::Buffer)>,
    arenas: Option<[Arena; 2]>,
    pub(super) buffers: Buffers,
    of_batch: Flow,
    program: Program,
    store: Store,
    /// The output matrix, whether the norm's factor is missing in its input, and its place.
    head: (Matrix, bool, usize),
    spec: Spec,
    context: usize,
    max_splits: usize,
}

/// The dispatches of steps of one token.
struct Steps {
    /// Of one whose stages overlap, on each of two memories, which take turns.
    overlapping: Option<[Vec<Dispatch>; 2]>,
    /// Which of them is next.
    turn: Cell<usize>,
    /// Of one whose stages do not, where it was asked for.
    apart: Option<Vec<Dispatch>>,
}

/// Bytes of buffers beside weights, keys and values, but for what grows with the context.
pub fn scratch_bytes(spec: &Spec) -> u64 {
    let shape = attention(spec, 0, 1, 1, true, MAX_SPLITS);
    let acts = |n: usize| groups(n) * (16 * 4 + 8 + 4);
    let [hidden, shared] = hidden(spec);
    let per_token = 2 * 4 * stream(spec)
        + acts(spec.width)
        + acts(spec.heads * spec.head_dim)
        + hidden[0] * acts(hidden[1])
        + shared[0] * acts(shared[1])
        + 4 * score_stride(spec)
        + 8 * picks(spec)
        + 4 * raw_rows(spec)[3]
        + shape.part_bytes(Kv::F32);
    let batch = (BATCH * per_token + 4 * spec.vocab + 8 * spec.vocab.div_ceil(TILE)) as u64;
    batch + 2 * overlap::bytes(spec)
}

/// Experts of a token, and one more.
fn picks(spec: &Spec) -> usize {
    spec.experts.map_or(0, |experts| experts.used + 1)
}

/// Vectors of a token between the feed-forward layer's matrices, and their elements; the same of the
/// expert that every token takes.
fn hidden(spec: &Spec) -> [[usize; 2]; 2] {
    match spec.experts {
        Some(experts) => [[experts.used, experts.ffn], [1, experts.shared.unwrap_or(0)]],
        None => [[1, spec.ffn], [1, 0]],
    }
}

/// The vectors that a stage reads, beside its matrices, in a buffer: weights of norms, biases.
fn vectors(gpu: &Gpu, model: &Model, stage: &Stage) -> Result<Option<wgpu::Buffer>> {
    let (spec, weights) = (&model.plan.spec, &model.weights);
    let stride = stream(spec);
    let norm = |norm: &Option<Vector>| match norm {
        Some(norm) => strided(&weights.floats(norm), spec.width, stride),
        None => vec![1.0; stride],
    };
    let (what, floats) = match stage {
        Stage::Embed { norm: weight, .. } => ("norms", norm(weight)),
        Stage::Residual { norm: weight, bias, .. } => {
            let mut floats = norm(weight);
            if let Some(bias) = bias {
                floats.extend(strided(&weights.floats(bias), spec.width, stride));
            }
            ("norms", floats)
        }
        Stage::Attention(of) => ("vectors", attention_vectors(spec, weights, of)),
        Stage::Gated { matrices, bias, .. } => {
            ("biases", gated_bias(weights, matrices, bias).unwrap_or_default())
        }
        Stage::Route { bias: Some(bias), .. } => {
            let mut floats = weights.floats(bias);
            floats.resize(score_stride(spec), 0.0);
            ("biases", floats)
        }
        Stage::Output { settling, .. } | Stage::Settle(settling) => {
            ("norms", settle_vectors(weights, settling).side_by_side(spec.width))
        }
        _ => return Ok(None),
    };
    if floats.is_empty() { Ok(None) } else { upload_floats(gpu, what, &floats).map(Some) }
}

/// The buffers of a model's dispatches.
fn buffers(
    gpu: &Gpu,
    model: &Model,
    program: &Program,
    shapes: &[Attention],
    context: usize,
) -> Result<Buffers> {
    let spec = &model.plan.spec;
    let of_batch = |what: &str, bytes: usize| gpu.buffer(what, (BATCH * bytes) as u64, STORAGE);
    let upload_turns = |t: &Vec<[f32; 2]>| upload_floats(gpu, "RoPE's table", bytemuck::cast_slice(t));
    Ok(Buffers {
        parts: of_batch("attention", shapes[0].part_bytes(gpu.form.kv))?,
        turns: model.plan.turns(context, 0).iter().map(upload_turns).collect::<Result<_>>()?,
        ids: gpu.buffer("ids", 4 * (context as u64 + 1), STORAGE)?,
        branch: of_batch("branch", 4 * stream(spec))?,
        scores: of_batch("scores", 4 * score_stride(spec))?,
        picks: of_batch("picks", 8 * picks(spec))?,
        tails: gpu.buffer("tails", 4, STORAGE)?,
        logits: gpu.buffer("logits", 4 * spec.vocab as u64, STORAGE)?,
        best: gpu.buffer("logits", 8 * spec.vocab.div_ceil(TILE) as u64, STORAGE)?,
        caches: shapes.iter().map(|shape| KvBuffers::of(gpu, shape)).collect::<Result<_>>()?,
        vectors: program.stages().map(|(stage, _)| vectors(gpu, model, stage)).collect::<Result<_>>()?,
    })
}

/// What the stages of a batch hand on, and those of a step that do not overlap.
fn flow(gpu: &Gpu, spec: &Spec, shape: &Attention) -> Result<Flow> {
    let of_batch = |what: &str, bytes: usize| gpu.buffer(what, (BATCH * bytes) as u64, STORAGE);
    let [[vectors, elements], [_, shared]] = hidden(spec);
    Ok(Flow {
        x: of_batch("residual stream", 4 * stream(spec))?.into(),
        raw: of_batch("raw rows", 4 * raw_rows(spec)[3])?.into(),
        arrived: of_batch("attention", 4 * shape.blocks())?.into(),
        normed: acts(gpu, 1, spec.width)?,
        attended: acts(gpu, 1, spec.heads * spec.head_dim)?,
        hidden: acts(gpu, vectors, elements)?,
        shared: acts(gpu, 1, shared)?,
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
        // What a batch's splits leave behind is one binding.
        let kv = gpu.form.kv;
        let one = BATCH * attention(spec, 0, 1, context, true, 1).part_bytes(kv);
        let max_splits = (gpu.binding as usize / one).clamp(1, MAX_SPLITS);
        let shapes: Vec<Attention> = (0..spec.layers.len())
            .map(|layer| attention(spec, layer, 1, context, true, max_splits))
            .collect();
        let buffers = buffers(gpu, model, &program, &shapes, context)?;
        let of_batch = flow(gpu, spec, &shapes[0])?;
        let builder = Builder { gpu, model, store: &store, context, max_splits, buffers: &buffers };

        let tuning = Tuning::of(gpu);
        let (mut batch, mut last_logits, mut head) = (vec![], vec![], None);
        let mut flow = of_batch.clone();
        for (i, (stage, place)) in program.stages().enumerate() {
            if let Stage::Logits { weight, normed } = stage {
                head = Some((weight.clone(), *normed, place));
                last_logits = builder.logits(place, (weight, *normed), &flow, None)?;
            } else {
                batch.extend(builder.stage((i, stage, place), tuning.batch_tokens, &mut flow, None)?);
            }
        }
        let (mut arenas, mut steps) = (None, Steps { overlapping: None, turn: Cell::new(0), apart: None });
        if program.step_form(&store, gpu, spec)?.overlapped {
            let names = Names::default();
            let both = arenas.insert([Arena::new(gpu, spec)?, Arena::new(gpu, spec)?]);
            let step = |arena| builder.step(&program, &of_batch, Some(Overlap { arena, names: &names }));
            steps.overlapping = Some([step(&both[0])?, step(&both[1])?]);
        } else {
            steps.apart = Some(builder.step(&program, &of_batch, None)?);
        }

        let select = Select { vocab: spec.vocab, threads: tuning.most_threads };
        let pipeline = gpu.pipeline(&select.shader(gpu.form))?;
        let group = gpu.bind(&pipeline, &[(&buffers.best).into(), (&buffers.ids).into()]);
        let of_context: usize = spec.ropes.iter().map(|rope| 4 * rope.dims).sum::<usize>() + 4;
        Ok(Programs {
            weight_bytes: store.bytes(),
            kv_bytes: shapes.iter().map(|shape| shape.cache_bytes(kv) as u64).sum(),
            scratch_bytes: scratch_bytes(spec) + (of_context * context) as u64,
            steps,
            batch,
            last_logits,
            select: Dispatch { pipeline, group, kind: Kind::Select },
            sample: None,
            all_logits: None,
            head: head.ok_or_else(|| crate::Error::Unsupported("the plan has no logits".to_owned()))?,
            spec: spec.clone(),
            arenas,
            buffers,
            of_batch,
            program,
            store,
            context,
            max_splits,
        })
    }

    /// Builds a step whose stages do not overlap, if there is none.
    pub(super) fn prepare_apart(&mut self, gpu: &Gpu, model: &Model) -> Result<()> {
        if self.steps.apart.is_none() {
            let Programs { store, context, max_splits, buffers, .. } = self;
            let builder = Builder { gpu, model, store, context: *context, max_splits: *max_splits, buffers };
            self.steps.apart = Some(builder.step(&self.program, &self.of_batch, None)?);
        }
        Ok(())
    }

    /// From now on no stages overlap: [`Programs::prepare_apart`] comes before. Nothing is under way.
    pub(super) fn stop_overlapping(&mut self) {
        self.steps.overlapping = None;
    }

    /// Takes other tables of RoPE for what is computed from now on.
    pub(super) fn turn(&self, gpu: &Gpu, tables: &[Vec<[f32; 2]>]) {
        for (buffer, table) in self.buffers.turns.iter().zip(tables) {
            gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(table));
        }
    }

    /// Makes what a way of sampling needs.
    pub(super) fn prepare(&mut self, gpu: &Gpu, sampling: &Sampling) -> Result<()> {
        if self.sample.is_none() && !sampling.is_argmax() {
            let pipeline = gpu.pipeline(&sample::shader(self.spec.vocab, gpu.form))?;
            let Buffers { logits, best, ids, .. } = &self.buffers;
            let group = gpu.bind(&pipeline, &[logits, best, ids].map(Range::from));
            self.sample = Some(Dispatch { pipeline, group, kind: Kind::Sample });
        }
        Ok(())
    }

    /// Makes what logits of `tokens` tokens at once need.
    pub(super) fn prepare_all_logits(&mut self, gpu: &Gpu, tokens: usize) -> Result<()> {
        if self.all_logits.is_none() {
            let out = gpu.buffer("logits", (tokens * self.spec.vocab * 4) as u64, STORAGE)?;
            let (weight, normed, place) = &self.head;
            let buffers = (&self.of_batch.normed, &out, &self.buffers.best);
            let made = logits(
                Wiring { gpu, overlap: None, common: [None; 2] },
                &self.store,
                &self.spec,
                *place,
                (weight, *normed),
                Tuning::of(gpu).batch_tokens,
                buffers,
            )?;
            self.all_logits = Some((made, out));
        }
        Ok(())
    }

    /// The dispatches of a batch up to the residual stream's last norm, in pieces of at most so many.
    pub(super) fn batch_pieces(&self, most: usize) -> std::slice::Chunks<'_, Dispatch> {
        self.batch.chunks(most)
    }

    /// Records some of a batch's dispatches.
    pub(super) fn record_batch(pass: &mut wgpu::ComputePass<'_>, piece: &[Dispatch], step: &Step) {
        record(pass, piece, step, &Sampling::greedy());
    }

    /// Records the choice of the token after a batch's last.
    pub(super) fn record_selection(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        step: &Step,
        sampling: &Sampling,
    ) -> u64 {
        record(pass, &self.last_logits, step, sampling)
            + record(pass, std::slice::from_ref(self.choice(sampling)), step, sampling)
    }

    /// The dispatch that chooses the next token.
    fn choice(&self, sampling: &Sampling) -> &Dispatch {
        match &self.sample {
            Some(sample) if !sampling.is_argmax() => sample,
            _ => &self.select,
        }
    }

    /// Records a step of one token; gives the number of dispatches. A step whose stages overlap should
    /// have an encoder of its own: in one encoder wgpu sees that steps write to the same names. Steps are
    /// submitted in the order in which they are recorded.
    pub(super) fn record_step(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        step: &Step,
        sampling: &Sampling,
        timestamp_writes: Option<wgpu::ComputePassTimestampWrites<'_>>,
    ) -> u64 {
        let turn = self.steps.turn.get();
        if let (Some(arenas), true) = (&self.arenas, self.overlaps()) {
            overlap::take_turns(encoder, &arenas[turn], &arenas[1 - turn]);
            self.steps.turn.set(1 - turn);
        }
        let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
        let mut pass = encoder.begin_compute_pass(&descriptor);
        let dispatches = match &self.steps.overlapping {
            Some(both) => &both[turn],
            None => self.apart(),
        };
        record(&mut pass, dispatches, step, sampling)
            + record(&mut pass, std::slice::from_ref(self.choice(sampling)), step, sampling)
    }

    /// Records a step whose stages do not overlap: [`Programs::prepare_apart`] comes before.
    pub(super) fn record_step_apart(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        step: &Step,
        sampling: &Sampling,
    ) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        record(&mut pass, self.apart(), step, sampling);
        record(&mut pass, std::slice::from_ref(self.choice(sampling)), step, sampling);
    }

    fn apart(&self) -> &[Dispatch] {
        self.steps.apart.as_deref().unwrap_or_default()
    }

    /// The dispatches of a greedy step of one token, in order.
    pub(super) fn decode_dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        let step = self.steps.overlapping.as_ref().map_or(self.apart(), |both| &both[0]);
        step.iter().chain([&self.select])
    }

    /// The same of a step whose stages do not overlap: none unless there is one.
    pub(super) fn apart_dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        self.apart().iter().chain([&self.select])
    }

    /// The memories on which overlapping stages hand words on.
    #[cfg(test)]
    pub(super) fn arenas(&self) -> Option<&[Arena; 2]> {
        self.arenas.as_ref()
    }

    /// The stages of a step overlap.
    pub(super) fn overlaps(&self) -> bool {
        self.steps.overlapping.is_some()
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
                &self.buffers.logits
            }
        }
    }
}
