//! The CPU engine: the kernels' twins in F32, rows spread over threads. It is the oracle of the
//! GPU's tests, and runs the same models.

use std::sync::Arc;

use rayon::prelude::*;

use super::stage::{Stage, attention, attention_vectors, gated_bias, lower, stream};
use super::{Counters, Engine, Info, Options, Progress};
use crate::kernels::attention::{Attention, Cache};
use crate::kernels::gemv::{dot, silu_gate};
use crate::kernels::sample::{self, Sampling};
use crate::kernels::select::FAILED;
use crate::kernels::vector::Activations;
use crate::kernels::{Kv, Math, embed, padded};
use crate::model::{Matrix, Model, rope};
use crate::quant::dequantize;
use crate::{Error, Result};

/// Tokens that are computed together: a row is decoded once for all of them.
const BATCH: usize = 32;
/// Rows of a task.
const ROWS: usize = 16;

/// See the module's documentation.
pub struct CpuEngine {
    model: Arc<Model>,
    stages: Vec<Stage>,
    info: Info,
    pool: rayon::ThreadPool,
    kv: Kv,
    attention: Attention,
    turns: Vec<[f32; 2]>,
    /// Per stage: what it adds to its rows; in attention the weights of the heads' norms follow.
    biases: Vec<Option<Vec<f32>>>,
    norms: Vec<Vec<f32>>,
    caches: Vec<Cache>,
    /// The token at each position that is computed, and the newest after them.
    ids: Vec<u32>,
    run: Option<Run>,
    counters: Counters,
}

/// A generation under way.
struct Run {
    sampling: Sampling,
    step: u32,
    /// After the newest computed token.
    logits: Vec<f32>,
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
        let threads =
            options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| Error::Device(format!("cannot start {threads} threads: {e}")))?;
        let kv = options.kv.unwrap_or(Kv::F32);
        let weight_bytes = plan.matrices().iter().map(|m| (m.rows * m.row_bytes()) as u64).sum();
        let scratch_bytes = (BATCH * (spec.vocab + 4 * spec.width + 3 * spec.ffn) * 4) as u64;
        let need = super::memory::Need {
            fixed: weight_bytes + scratch_bytes,
            per_token: (2 * spec.layers * spec.kv_heads * spec.head_dim * 4 + 4 * spec.rope.dims) as u64,
        };
        let (context, note) = need.context(spec, options, options.memory)?;
        notes.extend(note);
        let stages = lower(plan)?;
        let mut biases = Vec::new();
        let mut norms = Vec::new();
        for stage in &stages {
            if let Stage::Embed { norm, .. } | Stage::Residual { norm, .. } = stage {
                norms.push(model.weights.floats(norm));
            }
            biases.push(match stage {
                Stage::Attention { bias, norms, .. } => {
                    Some(attention_vectors(spec, &model.weights, bias, norms.as_ref()))
                }
                Stage::Gated { bias, .. } => gated_bias(spec, &model.weights, bias),
                Stage::Residual { bias, .. } => bias.as_ref().map(|b| model.weights.floats(b)),
                _ => None,
            });
        }
        let attention = attention(spec, 1, context, true, 1);
        let kv_bytes = (2 * spec.layers * context * spec.kv_heads * spec.head_dim * 4) as u64;
        let info = Info {
            device: format!("CPU, {threads} thread{}", if threads == 1 { "" } else { "s" }),
            driver: String::new(),
            math: Math::F32,
            kv,
            context,
            weight_bytes,
            kv_bytes,
            scratch_bytes,
            notes,
        };
        Ok(CpuEngine {
            turns: rope::table(&spec.rope, plan.rope_factors.as_deref(), context),
            caches: vec![Cache::default(); spec.layers],
            model: model.clone(),
            stages,
            info,
            pool,
            kv,
            attention,
            biases,
            norms,
            ids: Vec::new(),
            run: None,
            counters: Counters::default(),
        })
    }

    /// Drops what the caches hold from a position on.
    fn rewind(&mut self, position: usize) {
        self.ids.truncate(position);
        let len = position * self.model.plan.spec.kv_heads * self.model.plan.spec.head_dim;
        for cache in &mut self.caches {
            cache.keys.truncate(len);
            cache.values.truncate(len);
        }
    }

    /// Computes tokens at a position; gives logits after each of them, or after the last.
    fn forward(&mut self, position: usize, ids: &[u32], wanted: Wanted) -> Result<Vec<Vec<f32>>> {
        let spec = &self.model.plan.spec;
        let weights = &self.model.weights;
        let turns_len = spec.rope.dims / 2;
        let mut x: Vec<Vec<f32>> = vec![vec![0.0; stream(spec)]; ids.len()];
        let mut normed: Vec<Activations> = Vec::new();
        let mut raw: Vec<Vec<f32>> = Vec::new();
        let mut attended: Vec<Activations> = Vec::new();
        let mut hidden: Vec<Activations> = Vec::new();
        let mut logits = Vec::new();
        let mut norm = 0;
        for (stage, bias) in self.stages.iter().zip(&self.biases) {
            match stage {
                Stage::Embed { table, .. } => {
                    let layout = table.layout(table.rows)?;
                    for (id, x) in ids.iter().zip(&mut x) {
                        let row = weights.rows(table, *id as usize..*id as usize + 1);
                        let (stream, activations) = embed::twin(Math::F32, &layout, &row, &self.norms[norm]);
                        *x = stream;
                        normed.push(activations);
                    }
                    norm += 1;
                }
                Stage::Qkv { matrices } => {
                    let factors = self.factors(&normed);
                    raw = vec![vec![0.0; self.attention.rows[3]]; ids.len()];
                    for (matrix, at) in matrices.iter().zip(self.attention.rows) {
                        let products = self.products(matrix, &normed);
                        for (t, raw) in raw.iter_mut().enumerate() {
                            for row in 0..matrix.rows {
                                raw[at + row] = products[row * ids.len() + t] * factors[t];
                            }
                        }
                    }
                }
                Stage::Attention { layer, bias: of_rows, .. } => {
                    let bias_of_rows = of_rows.iter().any(Option::is_some);
                    let attention = Attention { bias: bias_of_rows, ..self.attention.clone() };
                    let vectors = bias.as_deref().unwrap_or_default();
                    for (t, raw) in raw.iter_mut().enumerate() {
                        let turns = &self.turns[(position + t) * turns_len..(position + t + 1) * turns_len];
                        attention.twin_prologue(self.kv, raw, vectors, turns, &mut self.caches[*layer]);
                    }
                    let cache = &self.caches[*layer];
                    attended = self.pool.install(|| {
                        let tokens = raw.par_iter().enumerate();
                        tokens
                            .map(|(t, raw)| self.attention.twin(Math::F32, raw, cache, position + t + 1))
                            .collect()
                    });
                }
                Stage::Residual { weight, hidden: from_hidden, .. } => {
                    let input = if *from_hidden { &hidden } else { &attended };
                    let products = self.products(weight, input);
                    for (t, x) in x.iter_mut().enumerate() {
                        for row in 0..weight.rows {
                            x[row] += products[row * ids.len() + t] + bias.as_ref().map_or(0.0, |b| b[row]);
                        }
                        normed[t] =
                            Activations::from_residual(Math::F32, &x[..spec.width], &self.norms[norm]);
                    }
                    norm += 1;
                }
                Stage::Gated { matrices, .. } => {
                    let bias = |i: usize| bias.as_ref().map_or(0.0, |b| b[i]);
                    let up_at = padded(spec.ffn);
                    let factors = self.factors(&normed);
                    let [gate, up] = [0, 1].map(|i| self.products(&matrices[i], &normed));
                    hidden = (0..ids.len())
                        .map(|t| {
                            let values: Vec<f32> = (0..matrices[0].rows)
                                .map(|row| {
                                    let i = row * ids.len() + t;
                                    silu_gate(
                                        gate[i] * factors[t] + bias(row),
                                        up[i] * factors[t] + bias(up_at + row),
                                    )
                                })
                                .collect();
                            Activations::from_values(Math::F32, &values)
                        })
                        .collect();
                }
                Stage::Logits { weight } => {
                    let from = match wanted {
                        Wanted::None => continue,
                        Wanted::Last => ids.len() - 1,
                        Wanted::All => 0,
                    };
                    let factors = self.factors(&normed[from..]);
                    let n = ids.len() - from;
                    let products = self.products(weight, &normed[from..]);
                    logits = (0..n)
                        .map(|t| (0..weight.rows).map(|r| products[r * n + t] * factors[t]).collect())
                        .collect();
                }
            }
        }
        Ok(logits)
    }

    fn factors(&self, normed: &[Activations]) -> Vec<f32> {
        let spec = &self.model.plan.spec;
        normed.iter().map(|a| a.norm_factor(spec.width, spec.norm_eps)).collect()
    }

    /// Every row of a matrix times every vector: `(rows, vectors)`.
    fn products(&self, matrix: &Matrix, inputs: &[Activations]) -> Vec<f32> {
        let mut out = vec![0.0; matrix.rows * inputs.len()];
        let size = matrix.row_bytes();
        self.pool.install(|| {
            out.par_chunks_mut(ROWS * inputs.len()).enumerate().for_each_init(
                || vec![0.0; matrix.cols],
                |scratch, (task, out)| {
                    let first = task * ROWS;
                    let bytes = self.model.weights.rows(matrix, first..first + out.len() / inputs.len());
                    for (row, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(inputs.len())) {
                        dequantize(matrix.ty, row, scratch);
                        for (out, x) in out.iter_mut().zip(inputs) {
                            *out = matrix.scale * dot(scratch, &x.numbers[..scratch.len()]);
                        }
                    }
                },
            );
        });
        out
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
        super::check_context(position + ids.len(), self.info.context)?;
        self.rewind(position);
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
            let rows = self.forward(position + done, batch, wanted)?;
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

/// Which logits a batch gives.
#[derive(Clone, Copy)]
enum Wanted {
    None,
    Last,
    All,
}

impl Engine for CpuEngine {
    fn info(&self) -> &Info {
        &self.info
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
        self.run = Some(Run { sampling: *sampling, step: 0, logits });
        Ok(())
    }

    fn next(&mut self) -> Result<u32> {
        let Some(mut run) = self.run.take() else {
            return Err(Error::Other("no generation has begun".to_owned()));
        };
        if run.step > 0 {
            let newest = self.ids.len() - 1;
            let logits = self.forward(newest, &[self.ids[newest]], Wanted::Last)?;
            self.model.weights.intact()?;
            run.logits = logits.into_iter().next().unwrap_or_default();
            self.counters.steps += 1;
        }
        let id = sample::twin(&mut run.logits, &self.ids, &run.sampling, run.step);
        if id == FAILED {
            return Err(super::not_finite());
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

    fn counters(&self) -> Counters {
        self.counters
    }
}
