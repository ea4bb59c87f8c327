//! Lowering: a plan's operations, fused into the stages that kernels run.
//!
//! What needs one row is the epilogue of its producer; what needs the whole vector belongs to
//! its consumer. So an RMS norm disappears: its weight goes to the stage that makes the residual
//! stream, its factor to the stages that read it. Per layer five stages remain. Norms behind
//! branches and norms that take the mean off need the whole stream before anyone may read it: a stage
//! of their own settles it.

use crate::kernels::attention::{Attention, Knobs, whole_vectors};
use crate::kernels::padded;
use crate::kernels::route::{Route, Routing};
use crate::kernels::settle::{Added, Reads, Settle, Vectors};
use crate::model::{Branch, Feed, Matrix, Norm, Op, Pairing, Plan, Spec, Vector, Weights};
use crate::quant::TILE;

/// A fused stage. Activations pass through buffers: what is read of the stream, attention's output,
/// what a feed-forward layer makes between its matrices.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// Token → residual stream and its activations.
    Embed {
        /// `(vocab, width)`.
        table: Matrix,
        /// The weight of the norm that follows, if consumers read a norm.
        norm: Option<Vector>,
    },
    /// Stream → raw query, key and value rows.
    Qkv {
        /// Three matrices over one input.
        matrices: [Matrix; 3],
        /// The factor of the norm is missing in the input.
        normed: bool,
    },
    /// Raw rows → attention's output; keys and values are stored.
    Attention(Attends),
    /// A branch's input → added to the residual stream.
    Residual {
        /// `(width, ...)`.
        weight: Matrix,
        /// As for the embedding.
        norm: Option<Vector>,
        /// Added as well.
        bias: Option<Vector>,
        /// What the input is.
        branch: Branch,
    },
    /// A branch's input → its rows, which are settled into the stream.
    Output {
        /// `(width, ...)`.
        weight: Matrix,
        /// What the input is.
        branch: Branch,
        /// How.
        settling: Settling,
    },
    /// The stream is made ready for its consumers.
    Settle(Settling),
    /// Stream → the experts' scores, and the gate of the shared one.
    Route {
        /// One or two matrices over one input.
        matrices: Vec<Matrix>,
        /// Of the scores.
        bias: Option<Vector>,
        /// As for the rows.
        normed: bool,
    },
    /// Stream → what lies between a feed-forward layer's matrices.
    Gated {
        /// Gate, if there is one, and up.
        matrices: Vec<Matrix>,
        /// Of gate and up.
        bias: [Option<Vector>; 2],
        /// Which layer it is.
        feed: Feed,
        /// As for the rows.
        normed: bool,
    },
    /// Stream → logits.
    Logits {
        /// `(vocab, width)`.
        weight: Matrix,
        /// As for the rows.
        normed: bool,
    },
}

/// What is done to the stream when it is whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Settling {
    /// Of the branch that is added, if one is.
    pub bias: Option<Vector>,
    /// The weight of the branch's norm.
    pub after: Option<Vector>,
    /// Weight and bias of the stream's norm, if consumers read a norm.
    pub norm: Option<(Vector, Option<Vector>)>,
}

/// A layer's attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Attends {
    /// Names the cache.
    pub layer: usize,
    /// Of queries, keys and values.
    pub bias: [Option<Vector>; 3],
    /// Of queries and keys.
    pub norms: Option<[Vector; 2]>,
    /// Of the heads.
    pub sinks: Option<Vector>,
}

impl Attends {
    /// There are biases.
    pub fn is_biased(&self) -> bool {
        self.bias.iter().any(Option::is_some)
    }
}

/// Fuses a plan's operations.
pub fn lower(plan: &Plan) -> Vec<Stage> {
    let layer_norms = plan.spec.block.norm == Norm::Layer;
    // An RMS norm without bias leaves its factor to its consumers.
    let defers = |norm: &Option<(Vector, Option<Vector>)>| {
        norm.as_ref().is_some_and(|n| !layer_norms && n.1.is_none())
    };
    let mut stages = Vec::new();
    let mut normed = false;
    for (i, op) in plan.ops.iter().enumerate() {
        // The norm that what follows reads.
        let next = match plan.ops.get(i + 1) {
            Some(Op::Norm { weight, bias }) => Some((weight.clone(), bias.clone())),
            _ => None,
        };
        let settles = next.is_some() && !defers(&next);
        match op.clone() {
            Op::Embed { table } if settles => {
                stages.push(Stage::Embed { table, norm: None });
                stages.push(Stage::Settle(Settling { bias: None, after: None, norm: next }));
                normed = false;
            }
            Op::Embed { table } => {
                normed = next.is_some();
                stages.push(Stage::Embed { table, norm: next.map(|n| n.0) });
            }
            Op::Norm { .. } => {}
            Op::Qkv { q, k, v } => stages.push(Stage::Qkv { matrices: [q, k, v], normed }),
            Op::Attend { layer, bias, norms, sinks } => {
                stages.push(Stage::Attention(Attends { layer, bias, norms, sinks }));
            }
            Op::Residual { weight, bias, norm: after, branch } if settles || after.is_some() => {
                normed = defers(&next);
                stages.push(Stage::Output { weight, branch, settling: Settling { bias, after, norm: next } });
            }
            Op::Residual { weight, bias, branch, .. } => {
                normed = next.is_some();
                stages.push(Stage::Residual { weight, norm: next.map(|n| n.0), bias, branch });
            }
            Op::Route { router, bias, gate } => {
                let matrices = [router].into_iter().chain(gate).collect();
                stages.push(Stage::Route { matrices, bias, normed });
            }
            Op::Gated { gate, up, bias, feed } => {
                let matrices = gate.into_iter().chain([up]).collect();
                stages.push(Stage::Gated { matrices, bias, feed, normed });
            }
            Op::Logits { weight } => stages.push(Stage::Logits { weight, normed }),
        }
    }
    stages
}

/// Where queries, keys, values and the end stand among a token's raw rows: each matrix is padded
/// to whole tiles.
pub fn raw_rows(spec: &Spec) -> [usize; 4] {
    let [q, kv] = spec.head_rows().map(|rows| rows.next_multiple_of(TILE));
    [0, q, q + kv, q + 2 * kv]
}

/// Positions that a layer's cache has: what it sees, and room so that a batch of tokens, and steps
/// that turn out to be in vain, destroy nothing that is still needed.
pub fn cached(spec: &Spec, layer: usize, context: usize) -> usize {
    match spec.layers[layer].window {
        Some(window) => context.min(window + ROOM),
        None => context,
    }
}

/// Positions of a ring beyond its window: a batch, and as many again to go back.
pub const ROOM: usize = 128;

/// Attention's shape in a layer, without what depends on its tensors; `block` query heads a workgroup.
pub fn attention(
    spec: &Spec,
    layer: usize,
    block: usize,
    context: usize,
    decode: bool,
    max_splits: usize,
) -> Attention {
    let rope = spec.layers[layer].rope.map(|i| &spec.ropes[i]);
    Attention {
        heads: spec.heads,
        kv_heads: spec.kv_heads,
        head_dim: spec.head_dim,
        rotated: rope.map_or(0, |rope| rope.dims),
        pairing: rope.map_or(Pairing::Halves, |rope| rope.pairing),
        scale: spec.attention_scale,
        bias: false,
        norms: spec.head_norms,
        epsilon: spec.norm_eps,
        sinks: spec.sinks,
        cap: spec.attention_cap,
        temperature: spec.temperature,
        window: spec.layers[layer].window.filter(|window| *window < context),
        context: cached(spec, layer, context),
        ring: cached(spec, layer, context) < context,
        rows: raw_rows(spec),
        max_splits,
        decode,
        knobs: Knobs::of(block, spec.head_dim),
    }
}

/// The most parts into which a token's keys are split.
pub const MAX_SPLITS: usize = 64;

/// How tokens choose experts.
pub fn routing(spec: &Spec) -> Option<Routing> {
    spec.experts.map(|e| Routing { count: e.count, used: e.used, normalised: e.normalised, scale: e.scale })
}

/// Attention's vectors: the biases of queries, keys and values as they stand beside the raw rows,
/// if there are any, then the weights of the norms, then the sinks.
pub fn attention_vectors(spec: &Spec, weights: &Weights, of: &Attends) -> Vec<f32> {
    let rows = raw_rows(spec);
    let mut out = side_by_side(weights, &of.bias, rows[3], |i| rows[i]).unwrap_or_default();
    for vector in of.norms.iter().flatten().chain(&of.sinks) {
        let end = out.len() + whole_vectors(vector.len);
        out.extend(weights.floats(vector));
        out.resize(end, 0.0);
    }
    out
}

/// The biases of gate and up, one after the other, or of up alone, if there are any: those of each
/// expert padded.
pub fn gated_bias(weights: &Weights, matrices: &[Matrix], bias: &[Option<Vector>; 2]) -> Option<Vec<f32>> {
    let up = matrices.last().filter(|_| bias.iter().any(Option::is_some))?;
    let stride = padded(up.rows);
    let mut out = Vec::new();
    for bias in &bias[2 - matrices.len()..] {
        match bias {
            Some(bias) => out.extend(strided(&weights.floats(bias), up.rows, stride)),
            None => out.resize(out.len() + up.experts * stride, 0.0),
        }
    }
    Some(out)
}

/// Rows of `len` elements, each padded.
pub fn strided(floats: &[f32], len: usize, stride: usize) -> Vec<f32> {
    let padding = vec![0.0; stride - len];
    floats.chunks(len).flat_map(|row| row.iter().chain(&padding).copied()).collect()
}

fn side_by_side(
    weights: &Weights,
    bias: &[Option<Vector>],
    len: usize,
    at: impl Fn(usize) -> usize,
) -> Option<Vec<f32>> {
    if bias.iter().all(Option::is_none) {
        return None;
    }
    let mut out = vec![0.0; len];
    for (i, vector) in bias.iter().enumerate() {
        if let Some(vector) = vector {
            out[at(i)..at(i) + vector.len].copy_from_slice(&weights.floats(vector));
        }
    }
    Some(out)
}

/// A settling's kernel; of a branch, or of the stream alone.
pub fn settle(spec: &Spec, of: &Settling, branch: bool) -> Settle {
    let added = Added { bias: of.bias.is_some(), normed: of.after.is_some(), scale: spec.residual_scale };
    let norm = match &of.norm {
        None => Reads::Stream,
        Some((_, bias)) => Reads::Normed { mean: spec.block.norm == Norm::Layer, bias: bias.is_some() },
    };
    Settle { width: spec.width, branch: branch.then_some(added), norm, epsilon: spec.norm_eps }
}

/// The vectors that it reads.
pub fn settle_vectors(weights: &Weights, of: &Settling) -> Vectors {
    let floats = |vector: Option<&Vector>| vector.map(|v| weights.floats(v)).unwrap_or_default();
    Vectors {
        branch_bias: floats(of.bias.as_ref()),
        branch_norm: floats(of.after.as_ref()),
        norm: floats(of.norm.as_ref().map(|n| &n.0)),
        norm_bias: floats(of.norm.as_ref().and_then(|n| n.1.as_ref())),
    }
}

/// Elements of a token's scores: those of the experts, then the gate of the shared one.
pub fn score_stride(spec: &Spec) -> usize {
    spec.experts.map_or(0, |e| e.count.next_multiple_of(TILE) + if e.shared.is_some() { TILE } else { 0 })
}

/// Routing's kernel; `gated` when the router's product has a row for the shared expert's gate.
pub fn route(spec: &Spec, gated: bool) -> Option<Route> {
    let routing = routing(spec)?;
    let gate = gated.then_some(routing.count.next_multiple_of(TILE));
    Some(Route { routing, stride: score_stride(spec), gate })
}

/// Elements of a residual stream's buffer.
pub fn stream(spec: &Spec) -> usize {
    padded(spec.width)
}
