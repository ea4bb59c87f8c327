//! A plan computed as its operations say, one token after the other, in plain F32: nothing is fused, split
//! or rounded. What is finite here, and what is not, is what every engine has to say.

use crate::kernels::Kv;
use crate::model::{Activation, Branch, Feed, HeadNorms, Matrix, Model, Norm, Op, Pairing, Spec, Vector};
use crate::quant::dequantize;

/// What the text so far has left in a layer.
#[derive(Clone, Default)]
struct Cache {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

/// A model and a text under way.
pub(super) struct Reference<'a> {
    model: &'a Model,
    turns: Vec<Vec<[f32; 2]>>,
    caches: Vec<Cache>,
    /// The largest magnitude of a key or value.
    pub(super) largest: f32,
}

/// What a token has made on its way.
#[derive(Default)]
struct Token {
    x: Vec<f32>,
    /// What branches read; the stream itself where there is no norm.
    read: Option<Vec<f32>>,
    rows: [Vec<f32>; 3],
    attended: Vec<f32>,
    /// Experts with their weights, and the weight of the one that every token takes.
    chosen: Vec<(usize, f32)>,
    gate: f32,
    hidden: Vec<Vec<f32>>,
    shared: Vec<f32>,
    logits: Vec<f32>,
}

fn norm(v: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let mean = v.iter().map(|v| v * v).sum::<f32>() / v.len() as f32;
    // 1 / sqrt(infinity) would be 0: a sum that overflows is no number on anybody's way.
    let factor = if mean.is_finite() { 1.0 / (mean + epsilon).sqrt() } else { f32::NAN };
    v.iter().zip(weight).map(|(v, w)| v * factor * w).collect()
}

fn activated(activation: Activation, gate: f32) -> f32 {
    match activation {
        Activation::Silu => gate / (1.0 + (-gate).exp()),
        Activation::Gelu => {
            let inner = 0.797_884_6 * (gate + 0.044_715 * gate * gate * gate);
            0.5 * gate * (1.0 + inner.tanh())
        }
        Activation::ClampedSwish => gate / (1.0 + (-1.702 * gate).exp()),
    }
}

fn gated(activation: Activation, gate: f32, up: f32) -> f32 {
    match activation {
        Activation::ClampedSwish => {
            // Comparisons with what is no number are false: it stays.
            let gate = if gate > 7.0 { 7.0 } else { gate };
            let up = if up > 7.0 { 7.0 } else { up };
            activated(activation, gate) * (if up < -7.0 { -7.0 } else { up } + 1.0)
        }
        _ => activated(activation, gate) * up,
    }
}

fn softmax(scores: &[f32]) -> Vec<f32> {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shares: Vec<f32> = scores.iter().map(|s| (s - top).exp()).collect();
    let sum: f32 = shares.iter().sum();
    shares.into_iter().map(|s| s / sum).collect()
}

fn capped(v: f32, cap: Option<f32>) -> f32 {
    cap.map_or(v, |cap| cap * (v / cap).tanh())
}

impl Reference<'_> {
    pub(super) fn new(model: &Model, tokens: usize) -> Reference<'_> {
        let plan = &model.plan;
        let caches = vec![Cache::default(); plan.spec.layers.len()];
        Reference { model, turns: plan.turns(tokens, tokens), caches, largest: 0.0 }
    }

    fn spec(&self) -> &Spec {
        &self.model.plan.spec
    }

    fn vector(&self, vector: &Vector) -> Vec<f32> {
        self.model.weights.floats(vector)
    }

    /// The bias of an expert, or nothing.
    fn bias(&self, bias: Option<&Vector>, expert: usize, len: usize) -> Vec<f32> {
        bias.map_or(vec![0.0; len], |bias| self.vector(bias)[expert * len..(expert + 1) * len].to_vec())
    }

    fn product(&self, matrix: &Matrix, expert: usize, x: &[f32]) -> Vec<f32> {
        let bytes = self.model.weights.rows(matrix, expert * matrix.rows..(expert + 1) * matrix.rows);
        let mut row = vec![0.0; matrix.cols];
        let products = bytes.chunks_exact(matrix.row_bytes()).map(|bytes| {
            dequantize(matrix.ty, bytes, &mut row);
            matrix.scale * row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>()
        });
        products.collect()
    }

    fn biased(&self, matrix: &Matrix, bias: Option<&Vector>, expert: usize, x: &[f32]) -> Vec<f32> {
        let bias = self.bias(bias, expert, matrix.rows);
        self.product(matrix, expert, x).iter().zip(bias).map(|(v, b)| v + b).collect()
    }

    /// The logits after the text's next token.
    pub(super) fn step(&mut self, id: u32) -> Vec<f32> {
        let mut t = Token::default();
        let position = self.caches[0].keys.len();
        for op in &self.model.plan.ops {
            self.operation(op, id, position, &mut t);
        }
        t.logits
    }

    fn operation(&mut self, op: &Op, id: u32, position: usize, t: &mut Token) {
        let spec = self.spec().clone();
        let read = t.read.as_ref().unwrap_or(&t.x).clone();
        match op {
            Op::Embed { table } => {
                let row = self.model.weights.rows(table, id as usize..id as usize + 1);
                t.x = vec![0.0; table.cols];
                dequantize(table.ty, &row, &mut t.x);
                t.x.iter_mut().for_each(|v| *v *= spec.embedding_scale);
            }
            Op::Norm { weight, bias } => t.read = Some(self.stream_norm(&t.x, weight, bias.as_ref())),
            Op::Qkv { q, k, v } => t.rows = [q, k, v].map(|matrix| self.product(matrix, 0, &read)),
            Op::Attend { layer, bias, norms, sinks } => {
                t.attended = self.attend(*layer, (bias, norms, sinks), position, &t.rows);
            }
            Op::Route { router, bias, gate } => {
                let scores = self.biased(router, bias.as_ref(), 0, &read);
                t.chosen = self.route(&scores);
                t.gate = gate.as_ref().map_or(0.0, |gate| self.product(gate, 0, &read)[0]);
            }
            Op::Gated { gate, up, bias, feed } => {
                let of = |expert| {
                    let up = self.biased(up, bias[1].as_ref(), expert, &read);
                    let Some(gate) = gate else {
                        return up.iter().map(|up| activated(spec.activation, *up)).collect();
                    };
                    let gate = self.biased(gate, bias[0].as_ref(), expert, &read);
                    gate.iter().zip(&up).map(|(g, u)| gated(spec.activation, *g, *u)).collect()
                };
                match feed {
                    Feed::Dense => t.hidden = vec![of(0)],
                    Feed::Chosen => t.hidden = t.chosen.iter().map(|(expert, _)| of(*expert)).collect(),
                    Feed::Shared { .. } => t.shared = of(0),
                }
            }
            Op::Residual { weight, bias, norm: after, branch } => {
                let mut made = self.branch(weight, bias.as_ref(), *branch, t);
                if let Some(weight) = after {
                    made = norm(&made, &self.vector(weight), spec.norm_eps);
                }
                t.x.iter_mut().zip(made).for_each(|(x, v)| *x += spec.residual_scale * v);
                t.read = None;
            }
            Op::Logits { weight } => {
                let scaled = |v| capped(v * spec.logit_scale, spec.logit_cap);
                t.logits = self.product(weight, 0, &read).into_iter().map(scaled).collect();
            }
        }
    }

    fn stream_norm(&self, x: &[f32], weight: &Vector, bias: Option<&Vector>) -> Vec<f32> {
        let spec = self.spec();
        let mean = match spec.block.norm {
            Norm::Layer => x.iter().sum::<f32>() / x.len() as f32,
            Norm::Rms => 0.0,
        };
        let x: Vec<f32> = x.iter().map(|v| v - mean).collect();
        let bias = self.bias(bias, 0, x.len());
        norm(&x, &self.vector(weight), spec.norm_eps).iter().zip(bias).map(|(v, b)| v + b).collect()
    }

    /// The experts of the highest scores with their weights; what is no number counts as the highest.
    fn route(&self, scores: &[f32]) -> Vec<(usize, f32)> {
        let Some(experts) = self.spec().experts else { return vec![] };
        let rank = |e: &usize| if scores[*e].is_nan() { f32::INFINITY } else { scores[*e] };
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
        let chosen = order[..experts.used].to_vec();
        let shares = match experts.normalised {
            true => softmax(&chosen.iter().map(|e| scores[*e]).collect::<Vec<_>>()),
            false => {
                let all = softmax(scores);
                chosen.iter().map(|e| all[*e]).collect()
            }
        };
        chosen.into_iter().zip(shares).map(|(e, share)| (e, experts.scale * share)).collect()
    }

    fn branch(&self, weight: &Matrix, bias: Option<&Vector>, branch: Branch, t: &Token) -> Vec<f32> {
        match branch {
            Branch::Attention => self.biased(weight, bias, 0, &t.attended),
            Branch::Hidden(Feed::Dense) => self.biased(weight, bias, 0, &t.hidden[0]),
            Branch::Hidden(Feed::Shared { gated }) => {
                let share = if gated { 1.0 / (1.0 + (-t.gate).exp()) } else { 1.0 };
                self.biased(weight, bias, 0, &t.shared).into_iter().map(|v| share * v).collect()
            }
            Branch::Hidden(Feed::Chosen) => {
                let mut sum = vec![0.0; weight.rows];
                for ((expert, share), hidden) in t.chosen.iter().zip(&t.hidden) {
                    let made = self.biased(weight, bias, *expert, hidden);
                    sum.iter_mut().zip(made).for_each(|(sum, v)| *sum += share * v);
                }
                sum
            }
        }
    }

    /// Queries or keys, normed and turned.
    fn turned(&self, rows: &[f32], norms: Option<&Vector>, layer: usize, position: usize) -> Vec<f32> {
        let spec = self.spec();
        let unit = if spec.head_norms == HeadNorms::Whole { rows.len() } else { spec.head_dim };
        let mut rows = match norms {
            Some(weight) => {
                let weight = self.vector(weight);
                rows.chunks(unit).flat_map(|unit| norm(unit, &weight, spec.norm_eps)).collect()
            }
            None => rows.to_vec(),
        };
        let Some(at) = spec.layers[layer].rope else { return rows };
        let pairs = spec.ropes[at].dims / 2;
        let turns = &self.turns[at][position * pairs..(position + 1) * pairs];
        for head in rows.chunks_mut(spec.head_dim) {
            for (i, [cos, sin]) in turns.iter().enumerate() {
                let (a, b) = match spec.ropes[at].pairing {
                    Pairing::Neighbours => (2 * i, 2 * i + 1),
                    Pairing::Halves => (i, i + pairs),
                };
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
            }
        }
        rows
    }

    #[allow(clippy::type_complexity, reason = "the fields of an operation")]
    fn attend(
        &mut self,
        layer: usize,
        (bias, norms, sinks): (&[Option<Vector>; 3], &Option<[Vector; 2]>, &Option<Vector>),
        position: usize,
        rows: &[Vec<f32>; 3],
    ) -> Vec<f32> {
        let spec = self.spec().clone();
        let with_bias = |i: usize| -> Vec<f32> {
            let bias = self.bias(bias[i].as_ref(), 0, rows[i].len());
            rows[i].iter().zip(bias).map(|(v, b)| v + b).collect()
        };
        let [q, k, v] = [with_bias(0), with_bias(1), with_bias(2)];
        let mut q = self.turned(&q, norms.as_ref().map(|n| &n[0]), layer, position);
        let k = self.turned(&k, norms.as_ref().map(|n| &n[1]), layer, position);
        if let Some(t) = spec.temperature {
            let growth = 1.0 + t.scale * (1.0 + (position / t.span) as f32).ln();
            q.iter_mut().for_each(|v| *v *= growth);
        }
        self.largest = k.iter().chain(&v).fold(self.largest, |most, v| most.max(v.abs()));
        self.caches[layer].keys.push(k);
        self.caches[layer].values.push(v);
        let sinks = sinks.as_ref().map(|sinks| self.vector(sinks));
        let cache = &self.caches[layer];
        let first = spec.layers[layer].window.map_or(0, |window| (position + 1).saturating_sub(window));
        let d = spec.head_dim;
        let mut out = Vec::new();
        for head in 0..spec.heads {
            let (own, of) = (head * d..(head + 1) * d, head / spec.group() * d);
            let score = |key: &Vec<f32>| {
                let dot: f32 = q[own.clone()].iter().zip(&key[of..of + d]).map(|(q, k)| q * k).sum();
                capped(dot * spec.attention_scale, spec.attention_cap)
            };
            let mut scores: Vec<f32> = cache.keys[first..].iter().map(score).collect();
            scores.extend(sinks.as_ref().map(|sinks| sinks[head]));
            let shares = softmax(&scores);
            let mut made = vec![0.0; d];
            for (share, value) in shares.iter().zip(&cache.values[first..]) {
                made.iter_mut().zip(&value[of..of + d]).for_each(|(made, v)| *made += share * v);
            }
            out.extend(made);
        }
        out
    }
}

/// Whether numbers of this size can be stored as keys and values: 16 bits end at 65,504, and the scale of
/// eight is a number of 16.
pub(super) fn holds(kv: Kv, largest: f32) -> bool {
    largest
        < match kv {
            Kv::F32 => f32::INFINITY,
            Kv::F16 => 65_504.0,
            Kv::Q8_0 => 127.0 * 65_504.0,
        }
}
