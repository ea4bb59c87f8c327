//! A batch of tokens on its way through the stages, each of them a kernel's twin.

use std::ops::Range;

use rayon::prelude::*;

use super::CpuEngine;
use crate::engine::stage::{Stage, stream};
use crate::kernels::activation::{capped, sigmoid};
use crate::kernels::gemv::dot;
use crate::kernels::vector::Activations;
use crate::kernels::{Math, embed, padded};
use crate::model::{Branch, Feed, Matrix};
use crate::quant::dequantize;
use crate::{Error, Result};

/// Rows of a task.
const ROWS: usize = 16;

/// Which logits a batch gives.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    None,
    Last,
    All,
}

/// What one token has.
#[derive(Clone, Default)]
struct Token {
    x: Vec<f32>,
    read: Activations,
    raw: Vec<f32>,
    attended: Activations,
    /// Experts with their weights.
    chosen: Vec<(usize, f32)>,
    /// The shared expert's gate.
    gate: f32,
    /// Of a feed-forward layer; of each of the chosen experts.
    hidden: Vec<Activations>,
    shared: Activations,
    logits: Vec<f32>,
}

/// The state of a batch.
pub(super) struct Pass<'a> {
    engine: &'a mut CpuEngine,
    position: usize,
    tokens: Vec<Token>,
}

impl Pass<'_> {
    /// Computes tokens at a position; gives logits after each of them, or after the last.
    pub(super) fn run(
        engine: &mut CpuEngine,
        position: usize,
        ids: &[u32],
        wanted: Wanted,
    ) -> Result<Vec<Vec<f32>>> {
        let stages = engine.stages.clone();
        let mut pass = Pass { engine, position, tokens: vec![Token::default(); ids.len()] };
        for (i, stage) in stages.iter().enumerate() {
            pass.stage(i, stage, ids, wanted)?;
            if pass.engine.is_stopped() {
                return Err(Error::Interrupted);
            }
        }
        let rows = pass.tokens.into_iter().map(|t| t.logits);
        Ok(rows.filter(|row| !row.is_empty()).collect())
    }

    fn stage(&mut self, i: usize, stage: &Stage, ids: &[u32], wanted: Wanted) -> Result<()> {
        match stage {
            Stage::Embed { table, .. } => self.embed(i, table, ids)?,
            Stage::Qkv { matrices, normed } => {
                let [_, k, v, end] = self.engine.attention[0].rows;
                let starts = [0, k, v];
                self.tokens.iter_mut().for_each(|t| t.raw = vec![0.0; end]);
                for (matrix, at) in matrices.iter().zip(starts) {
                    let products = self.of_stream(matrix, *normed, |_| true);
                    for (t, products) in self.tokens.iter_mut().zip(products) {
                        t.raw[at..at + matrix.rows].copy_from_slice(&products);
                    }
                }
            }
            Stage::Attention(of) => self.attend(i, of.layer),
            Stage::Residual { weight, branch, .. } => {
                let made = self.branch(i, weight, *branch);
                let engine = &*self.engine;
                let (norm, scale) = (&engine.vectors[i].norm, engine.model.plan.spec.residual_scale);
                let width = engine.model.plan.spec.width;
                for (t, made) in self.tokens.iter_mut().zip(made) {
                    t.x.iter_mut().zip(made).for_each(|(x, v)| *x += scale * v);
                    t.read = Activations::from_residual(Math::F32, &t.x[..width], norm);
                }
            }
            Stage::Output { weight, branch, .. } => {
                let made = self.branch(i, weight, *branch);
                self.settle(i, made);
            }
            Stage::Settle(_) => self.settle(i, vec![vec![]; self.tokens.len()]),
            Stage::Route { matrices, normed, .. } => {
                let scores = self.of_stream(&matrices[0], *normed, |_| true);
                let gates = matrices.get(1).map(|gate| self.of_stream(gate, *normed, |_| true));
                let bias = &self.engine.vectors[i].bias;
                let Some(routing) = self.engine.routing else { return Ok(()) };
                for (n, (t, mut scores)) in self.tokens.iter_mut().zip(scores).enumerate() {
                    scores.iter_mut().zip(bias).for_each(|(s, b)| *s += b);
                    t.chosen = routing.choose(&scores);
                    t.gate = gates.as_ref().map_or(0.0, |gates| gates[n][0]);
                }
            }
            Stage::Gated { matrices, feed, normed, .. } => self.gated(i, matrices, *feed, *normed),
            Stage::Logits { weight, normed } => {
                let from = match wanted {
                    Wanted::None => return Ok(()),
                    Wanted::Last => self.tokens.len() - 1,
                    Wanted::All => 0,
                };
                let made = self.of_stream(weight, *normed, |t| t >= from);
                let spec = &self.engine.model.plan.spec;
                for (t, mut made) in self.tokens[from..].iter_mut().zip(made) {
                    made.iter_mut().for_each(|v| *v = capped(*v * spec.logit_scale, spec.logit_cap));
                    t.logits = made;
                }
            }
        }
        Ok(())
    }

    fn embed(&mut self, i: usize, table: &Matrix, ids: &[u32]) -> Result<()> {
        let engine = &*self.engine;
        let layout = table.layout(table.rows)?;
        let scale = engine.model.plan.spec.embedding_scale;
        for (id, t) in ids.iter().zip(&mut self.tokens) {
            let row = engine.model.weights.rows(table, *id as usize..*id as usize + 1);
            (t.x, t.read) = embed::twin(Math::F32, &layout, &row, scale, &engine.vectors[i].norm);
            t.x.resize(stream(&engine.model.plan.spec), 0.0);
        }
        Ok(())
    }

    /// Adds what a branch has made, if it has, and makes what consumers read.
    fn settle(&mut self, i: usize, made: Vec<Vec<f32>>) {
        if let Some((kernel, vectors)) = &self.engine.vectors[i].settle {
            for (t, made) in self.tokens.iter_mut().zip(made) {
                t.read = kernel.twin(Math::F32, &mut t.x, &made, vectors);
            }
        }
    }

    fn attend(&mut self, i: usize, layer: usize) {
        let engine = &mut *self.engine;
        let (kv, position) = (engine.kv, self.position);
        let attention = &engine.attention[layer];
        let vectors = &engine.vectors[i].bias;
        let pairs = attention.rotated / 2;
        let turns = engine.model.plan.spec.layers[layer].rope.map_or(&[][..], |rope| &engine.turns[rope]);
        for (n, t) in self.tokens.iter_mut().enumerate() {
            let turns = &turns[(position + n) * pairs..(position + n + 1) * pairs];
            let cache = &mut engine.caches[layer];
            attention.twin_prologue(kv, &mut t.raw, vectors, turns, position + n, cache);
        }
        let engine = &*engine;
        let (attention, cache) = (&engine.attention[layer], &engine.caches[layer]);
        engine.pool.install(|| {
            self.tokens.par_iter_mut().enumerate().filter(|_| !engine.is_stopped()).for_each(|(n, t)| {
                t.attended = attention.twin(Math::F32, &t.raw, vectors, cache, position + n);
            });
        });
    }

    /// A matrix times what consumers read of the stream, with the norm's factor if it is missing
    /// there: for the tokens that are wanted.
    fn of_stream(&self, matrix: &Matrix, normed: bool, wanted: impl Fn(usize) -> bool) -> Vec<Vec<f32>> {
        let spec = &self.engine.model.plan.spec;
        let inputs: Vec<&Activations> =
            self.tokens.iter().enumerate().filter(|(n, _)| wanted(*n)).map(|(_, t)| &t.read).collect();
        let mut made = self.engine.products(matrix, 0..matrix.rows, &inputs);
        for (made, input) in made.iter_mut().zip(&inputs) {
            let factor = if normed { input.norm_factor(spec.width, spec.norm_eps) } else { 1.0 };
            made.iter_mut().for_each(|v| *v *= factor);
        }
        made
    }

    /// The tokens that have chosen each expert, and the place of the choice among theirs.
    fn takers(&self, experts: usize) -> Vec<Vec<(usize, usize)>> {
        let mut takers = vec![Vec::new(); experts];
        for (n, t) in self.tokens.iter().enumerate() {
            for (slot, (expert, _)) in t.chosen.iter().enumerate() {
                takers[*expert].push((n, slot));
            }
        }
        takers
    }

    fn gated(&mut self, i: usize, matrices: &[Matrix], feed: Feed, normed: bool) {
        let [.., up] = matrices else { return };
        let spec = &self.engine.model.plan.spec;
        let activation = spec.activation;
        let bias = &self.engine.vectors[i].bias;
        let stride = padded(up.rows);
        let finish = |mut of: Vec<Vec<f32>>, expert: usize, weight: f32| -> Activations {
            for (m, rows) in of.iter_mut().enumerate() {
                let first = (m * up.experts + expert) * stride;
                rows.iter_mut().zip(bias.iter().skip(first)).for_each(|(v, b)| *v += b);
            }
            let values: Vec<f32> = match &of[..] {
                [gate, up] => gate.iter().zip(up).map(|(g, u)| weight * activation.gate(*g, *u)).collect(),
                [up, ..] => up.iter().map(|u| weight * activation.of(*u)).collect(),
                [] => vec![],
            };
            Activations::from_values(Math::F32, &values)
        };
        if feed == Feed::Chosen {
            let used = self.tokens.first().map_or(0, |t| t.chosen.len());
            let mut hidden = vec![vec![Activations::default(); used]; self.tokens.len()];
            for (expert, takers) in self.takers(up.experts).iter().enumerate().filter(|(_, t)| !t.is_empty())
            {
                let inputs: Vec<&Activations> = takers.iter().map(|(n, _)| &self.tokens[*n].read).collect();
                let rows = expert * up.rows..(expert + 1) * up.rows;
                let of: Vec<Vec<Vec<f32>>> =
                    matrices.iter().map(|m| self.engine.products(m, rows.clone(), &inputs)).collect();
                for (k, (n, slot)) in takers.iter().enumerate() {
                    let factor = if normed { inputs[k].norm_factor(spec.width, spec.norm_eps) } else { 1.0 };
                    let of = of.iter().map(|m| m[k].iter().map(|v| v * factor).collect()).collect();
                    hidden[*n][*slot] = finish(of, expert, self.tokens[*n].chosen[*slot].1);
                }
            }
            self.tokens.iter_mut().zip(hidden).for_each(|(t, hidden)| t.hidden = hidden);
            return;
        }
        let of: Vec<Vec<Vec<f32>>> = matrices.iter().map(|m| self.of_stream(m, normed, |_| true)).collect();
        let made: Vec<Activations> = (0..self.tokens.len())
            .map(|n| {
                let weight = match feed {
                    Feed::Shared { gated: true } => sigmoid(self.tokens[n].gate),
                    _ => 1.0,
                };
                finish(of.iter().map(|m| m[n].clone()).collect(), 0, weight)
            })
            .collect();
        for (t, made) in self.tokens.iter_mut().zip(made) {
            match feed {
                Feed::Shared { .. } => t.shared = made,
                _ => t.hidden = vec![made],
            }
        }
    }

    /// What a branch makes of its input, with its bias if it is not settled later.
    fn branch(&self, i: usize, weight: &Matrix, branch: Branch) -> Vec<Vec<f32>> {
        let bias = &self.engine.vectors[i].bias;
        let stride = padded(weight.rows);
        if branch == Branch::Hidden(Feed::Chosen) {
            let mut made = vec![vec![0.0; weight.rows]; self.tokens.len()];
            for (expert, takers) in self.takers(weight.experts).iter().enumerate() {
                let inputs: Vec<&Activations> =
                    takers.iter().map(|(n, slot)| &self.tokens[*n].hidden[*slot]).collect();
                let rows = expert * weight.rows..(expert + 1) * weight.rows;
                let products = self.engine.products(weight, rows, &inputs);
                for ((n, slot), products) in takers.iter().zip(products) {
                    let share = self.tokens[*n].chosen[*slot].1;
                    made[*n].iter_mut().zip(products).for_each(|(m, v)| *m += v);
                    let bias = bias.iter().skip(expert * stride);
                    made[*n].iter_mut().zip(bias).for_each(|(m, b)| *m += share * b);
                }
            }
            return made;
        }
        let inputs: Vec<&Activations> = self
            .tokens
            .iter()
            .map(|t| match branch {
                Branch::Attention => &t.attended,
                Branch::Hidden(Feed::Shared { .. }) => &t.shared,
                Branch::Hidden(_) => &t.hidden[0],
            })
            .collect();
        let mut made = self.engine.products(weight, 0..weight.rows, &inputs);
        made.iter_mut().for_each(|made| made.iter_mut().zip(bias).for_each(|(m, b)| *m += b));
        made
    }
}

impl CpuEngine {
    /// Rows of a matrix times vectors: those of each vector.
    fn products(&self, matrix: &Matrix, rows: Range<usize>, inputs: &[&Activations]) -> Vec<Vec<f32>> {
        let count = inputs.len();
        if count == 0 {
            return vec![];
        }
        let mut out = vec![0.0; rows.len() * count];
        let size = matrix.row_bytes();
        self.pool.install(|| {
            out.par_chunks_mut(ROWS * count).enumerate().for_each_init(
                || vec![0.0; matrix.cols],
                |scratch, (task, out)| {
                    if self.is_stopped() {
                        return;
                    }
                    let first = rows.start + task * ROWS;
                    let bytes = self.model.weights.rows(matrix, first..first + out.len() / count);
                    for (row, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(count)) {
                        dequantize(matrix.ty, row, scratch);
                        for (out, x) in out.iter_mut().zip(inputs) {
                            *out = matrix.scale * dot(scratch, &x.numbers[..scratch.len()]);
                        }
                    }
                },
            );
        });
        (0..count).map(|n| out.iter().skip(n).step_by(count).copied().collect()).collect()
    }
}
