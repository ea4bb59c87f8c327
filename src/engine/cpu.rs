//! The CPU engine: the kernels' twins in F32, rows spread over threads. It is the oracle of the
//! GPU's tests, and runs the same models.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

mod pass;

use pass::{Pass, Wanted};

use super::kept::Kept;
use super::stage::{
    Stage, attention, attention_vectors, cached, gated_bias, lower, routing, settle, settle_vectors, strided,
};
use super::{Counters, Engine, Info, Options, Progress};
use crate::kernels::attention::{Attention, Cache};
use crate::kernels::route::Routing;
use crate::kernels::sample::{self, Sampling};
use crate::kernels::select::FAILED;
use crate::kernels::settle::{Settle, Vectors};
use crate::kernels::{Kv, Math, padded};
use crate::model::{Matrix, Model, Op, Spec, Vector, Weights};
use crate::{Error, Result, threads};

/// Tokens that are computed together: a row is decoded once for all of them.
const BATCH: usize = 32;

/// See the module's documentation.
pub struct CpuEngine {
    model: Arc<Model>,
    stages: Vec<Stage>,
    info: Info,
    pool: rayon::ThreadPool,
    stop: Option<Arc<AtomicBool>>,
    kv: Kv,
    /// Per layer.
    attention: Vec<Attention>,
    routing: Option<Routing>,
    /// Per rope.
    turns: Vec<Vec<[f32; 2]>>,
    /// Per stage.
    vectors: Vec<StageVectors>,
    caches: Vec<Cache>,
    kept: Kept,
    /// The token at each position that is computed, and the newest after them.
    ids: Vec<u32>,
    run: Option<Run>,
    counters: Counters,
}

/// The vectors that a stage reads beside its matrices; those it has.
#[derive(Default)]
struct StageVectors {
    /// Of the norm that follows.
    norm: Vec<f32>,
    /// Biases as the kernel has them; attention's other vectors follow.
    bias: Vec<f32>,
    settle: Option<(Settle, Vectors)>,
}

impl StageVectors {
    fn of(stage: &Stage, spec: &Spec, weights: &Weights) -> StageVectors {
        let floats = |vector: &Option<Vector>| vector.as_ref().map(|v| weights.floats(v));
        let norm = |norm: &Option<Vector>| floats(norm).unwrap_or_else(|| vec![1.0; spec.width]);
        let none = StageVectors::default();
        match stage {
            Stage::Embed { norm: weight, .. } => StageVectors { norm: norm(weight), ..none },
            Stage::Attention(of) => StageVectors { bias: attention_vectors(spec, weights, of), ..none },
            Stage::Gated { matrices, bias, .. } => {
                StageVectors { bias: gated_bias(weights, matrices, bias).unwrap_or_default(), ..none }
            }
            Stage::Route { bias, .. } => StageVectors { bias: floats(bias).unwrap_or_default(), ..none },
            Stage::Residual { norm: weight, bias, .. } => {
                let bias = floats(bias).unwrap_or_default();
                let bias = strided(&bias, spec.width, padded(spec.width));
                StageVectors { norm: norm(weight), bias, ..none }
            }
            Stage::Output { settling, .. } | Stage::Settle(settling) => {
                let branch = matches!(stage, Stage::Output { .. });
                let kernel = settle(spec, settling, branch);
                StageVectors { settle: Some((kernel, settle_vectors(weights, settling))), ..none }
            }
            Stage::Qkv { .. } | Stage::Logits { .. } => none,
        }
    }
}

/// A generation under way.
struct Run {
    sampling: Sampling,
    /// Draws so far.
    step: u32,
    /// After the newest token, where it is computed already.
    logits: Option<Vec<f32>>,
}

impl CpuEngine {
    pub(super) fn open(model: Arc<Model>, options: &Options, mut notes: Vec<String>) -> Result<CpuEngine> {
        let plan = &model.plan;
        let spec = &plan.spec;
        if let Some(math) = options.math
            && math != Math::F32
        {
            return Err(Error::Usage(format!("--math {math} is for GPUs: the CPU computes in f32")));
        }
        let threads = options.threads.unwrap_or_else(threads::cores);
        let pool = threads::pool(threads)?;
        let kv = options.kv.unwrap_or(Kv::F32);
        let weight_bytes = plan.matrices().iter().map(|m| m.bytes()).sum();
        let scratch_bytes = (BATCH * (spec.vocab + 4 * spec.width + 3 * spec.ffn) * 4) as u64;
        let row_bytes = (2 * spec.head_rows()[1] * 4) as u64;
        let need = super::memory::Need::of(spec, weight_bytes + scratch_bytes, row_bytes);
        let (context, note) = need.context(spec, options, options.memory)?;
        notes.extend(note);
        // Weights are mapped, the rest is taken from the heap.
        super::memory::can_be_had(need.bytes(context).saturating_sub(weight_bytes), context)?;
        let stages = lower(plan);
        let vectors = stages.iter().map(|stage| StageVectors::of(stage, spec, &model.weights)).collect();
        let mut layers: Vec<Attention> =
            (0..spec.layers.len()).map(|layer| attention(spec, layer, 1, context, true, 1)).collect();
        for stage in &stages {
            if let Stage::Attention(of) = stage {
                layers[of.layer].bias = of.is_biased();
            }
        }
        let positions: usize = (0..spec.layers.len()).map(|layer| cached(spec, layer, context)).sum();
        let kv_bytes = positions as u64 * row_bytes;
        let info = Info {
            device: format!("CPU, {threads} thread{}", if threads == 1 { "" } else { "s" }),
            driver: String::new(),
            math: Math::F32,
            kv,
            knobs: None,
            context,
            weight_bytes,
            kv_bytes,
            scratch_bytes,
            notes,
        };
        Ok(CpuEngine {
            turns: plan.turns(context, 0),
            routing: routing(spec),
            caches: vec![Cache::default(); spec.layers.len()],
            kept: Kept::new(plan, context),
            model: model.clone(),
            stages,
            info,
            pool,
            stop: options.stop.clone(),
            kv,
            attention: layers,
            vectors,
            ids: Vec::new(),
            run: None,
            counters: Counters::default(),
        })
    }

    /// True where somebody has asked to stop. What is computed from then on means nothing.
    fn is_stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.load(Relaxed))
    }

    /// Computes a prompt in batches; `row` sees the wanted logits.
    fn prefill(
        &mut self,
        position: usize,
        ids: &[u32],
        all: bool,
        progress: Progress<'_>,
        row: &mut dyn FnMut(Vec<f32>) -> Result<()>,
    ) -> Result<()> {
        let tokens = position + ids.len();
        super::check_context(tokens, self.info.context)?;
        self.ids.truncate(position);
        if self.kept.begin(position, tokens)? {
            self.turns = self.model.plan.turns(self.info.context, tokens);
        }
        let mut done = 0;
        for batch in ids.chunks(BATCH) {
            if progress(done, ids.len()).is_break() {
                return Err(Error::Interrupted);
            }
            let last = done + batch.len() == ids.len();
            let wanted = match (all, last) {
                (true, _) => Wanted::All,
                (false, true) => Wanted::Last,
                (false, false) => Wanted::None,
            };
            // Rings are written over even where the batch is stopped half-way.
            self.kept.wrote(position + done + batch.len());
            let rows = Pass::run(self, position + done, batch, wanted)?;
            self.model.weights.intact()?;
            for logits in rows {
                row(logits)?;
            }
            self.ids.extend(batch);
            done += batch.len();
        }
        let _ = progress(done, ids.len());
        Ok(())
    }
}

impl CpuEngine {
    /// Computes the newest token; gives the logits after it.
    fn step(&mut self) -> Result<Vec<f32>> {
        let Some((newest, id)) = self.ids.len().checked_sub(1).map(|at| (at, self.ids[at])) else {
            return Err(super::not_begun());
        };
        self.kept.wrote(newest + 1);
        let rows = Pass::run(self, newest, &[id], Wanted::Last)?;
        self.model.weights.intact()?;
        self.counters.steps += 1;
        Ok(rows.into_iter().next().unwrap_or_default())
    }
}

impl Engine for CpuEngine {
    fn info(&self) -> &Info {
        &self.info
    }

    fn resume(&self, position: usize, tokens: usize) -> usize {
        self.kept.resume(position, tokens)
    }

    fn room(&self, tokens: usize) -> usize {
        self.kept.room(tokens)
    }

    fn begin(
        &mut self,
        position: usize,
        ids: &[u32],
        sampling: &Sampling,
        _limit: usize,
        progress: Progress<'_>,
    ) -> Result<()> {
        let mut logits = Vec::new();
        self.run = None;
        self.prefill(position, ids, false, progress, &mut |row| {
            logits = row;
            Ok(())
        })?;
        self.run = Some(Run { sampling: *sampling, step: 0, logits: Some(logits) });
        Ok(())
    }

    fn restart(&mut self, ids: &[u32], limit: usize, progress: Progress<'_>) -> Result<()> {
        let Some(Run { sampling, step, .. }) = self.run.take() else { return Err(super::not_begun()) };
        self.begin(0, ids, &sampling, limit, progress)?;
        if let Some(run) = &mut self.run {
            run.step = step;
        }
        Ok(())
    }

    fn next(&mut self) -> Result<u32> {
        let Some(mut run) = self.run.take() else { return Err(super::not_begun()) };
        let mut logits = match run.logits.take() {
            Some(logits) => logits,
            None => self.step()?,
        };
        let id = sample::twin(&mut logits, &self.ids, &run.sampling, run.step);
        if id == FAILED {
            return Err(super::not_finite(&self.info));
        }
        self.ids.push(id);
        run.step += 1;
        self.run = Some(run);
        Ok(id)
    }

    fn end(&mut self) {}

    fn logits(
        &mut self,
        ids: &[u32],
        all: bool,
        progress: Progress<'_>,
        row: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        self.run = None;
        self.prefill(0, ids, all, progress, &mut |logits| row(&logits))
    }

    fn step_bytes(&self, position: usize) -> u64 {
        let spec = &self.model.plan.spec;
        let of_matrix = |m: &Matrix| match (spec.experts, m.experts) {
            (Some(experts), 2..) => m.bytes() / m.experts as u64 * experts.used as u64,
            _ => m.bytes(),
        };
        // Of the embedding a row alone, unless it is the output matrix as well.
        let all: u64 = self.model.plan.matrices().into_iter().map(of_matrix).sum();
        let table = match (self.model.plan.ops.first(), self.model.plan.ops.last()) {
            (Some(Op::Embed { table }), Some(Op::Logits { weight })) if table != weight => table.bytes(),
            _ => 0,
        };
        let row = (2 * spec.head_rows()[1] * size_of::<f32>()) as u64;
        let seen = |a: &Attention| (position + 1 - a.first_key(position)) as u64;
        all - table + row * self.attention.iter().map(seen).sum::<u64>()
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}
