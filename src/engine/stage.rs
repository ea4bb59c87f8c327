//! Lowering: a plan's operations, fused into the stages that kernels run.
//!
//! What needs one row is the epilogue of its producer; what needs the whole vector belongs to
//! its consumer. So a norm disappears: its weight goes to the stage that makes the residual
//! stream, its factor to the stages that read it. Per layer five stages remain.

use crate::kernels::attention::{Attention, Knobs, norm_row};
use crate::kernels::padded;
use crate::model::{Matrix, Op, Plan, Spec, Vector, Weights};
use crate::quant::TILE;
use crate::{Error, Result};

/// A fused stage. Activations pass through one of three buffers: the normed residual stream,
/// attention's output, the gated hidden vector.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// Token → residual stream and its activations.
    Embed {
        /// `(vocab, width)`.
        table: Matrix,
        /// The weight of the norm that follows.
        norm: Vector,
    },
    /// Normed stream → raw query, key and value rows.
    Qkv {
        /// Three matrices over one input.
        matrices: [Matrix; 3],
    },
    /// Raw rows → attention's output; keys and values are stored.
    Attention {
        /// Names the cache.
        layer: usize,
        /// Of queries, keys and values.
        bias: [Option<Vector>; 3],
        /// Of query and key heads.
        norms: Option<[Vector; 2]>,
    },
    /// Attention's output or the hidden vector → added to the residual stream.
    Residual {
        /// `(width, ...)`.
        weight: Matrix,
        /// The weight of the norm that follows.
        norm: Vector,
        /// Added as well.
        bias: Option<Vector>,
        /// The input is the hidden vector, not attention's output.
        hidden: bool,
    },
    /// Normed stream → hidden vector.
    Gated {
        /// Gate and up.
        matrices: [Matrix; 2],
        /// Of both.
        bias: [Option<Vector>; 2],
    },
    /// Normed stream → logits.
    Logits {
        /// `(vocab, width)`.
        weight: Matrix,
    },
}

/// Fuses a plan's operations.
///
/// # Errors
/// [`Error::Unsupported`] for an order of operations that no kernel has.
pub fn lower(plan: &Plan) -> Result<Vec<Stage>> {
    let mut stages = Vec::new();
    let mut hidden = false;
    for (i, op) in plan.ops.iter().enumerate() {
        let next_norm = || match plan.ops.get(i + 1) {
            Some(Op::Norm { weight }) => Ok(weight.clone()),
            _ => Err(Error::Unsupported(format!("operation {i} of the plan is not followed by a norm"))),
        };
        match op {
            Op::Embed { table } => stages.push(Stage::Embed { table: table.clone(), norm: next_norm()? }),
            Op::Norm { .. } => {}
            Op::Qkv { q, k, v } => stages.push(Stage::Qkv { matrices: [q.clone(), k.clone(), v.clone()] }),
            Op::Attend { layer, bias, norms } => {
                hidden = false;
                stages.push(Stage::Attention { layer: *layer, bias: bias.clone(), norms: norms.clone() });
            }
            Op::Residual { weight, bias } => {
                let (weight, bias) = (weight.clone(), bias.clone());
                stages.push(Stage::Residual { weight, norm: next_norm()?, bias, hidden });
            }
            Op::Gated { gate, up, bias } => {
                hidden = true;
                stages.push(Stage::Gated { matrices: [gate.clone(), up.clone()], bias: bias.clone() });
            }
            Op::Logits { weight } => stages.push(Stage::Logits { weight: weight.clone() }),
        }
    }
    Ok(stages)
}

/// Where queries, keys, values and the end stand among a token's raw rows: each matrix is padded
/// to whole tiles.
pub fn raw_rows(spec: &Spec) -> [usize; 4] {
    let q = (spec.heads * spec.head_dim).next_multiple_of(TILE);
    let kv = (spec.kv_heads * spec.head_dim).next_multiple_of(TILE);
    [0, q, q + kv, q + 2 * kv]
}

/// Attention's shape without biases of its rows; `block` query heads a workgroup.
pub fn attention(spec: &Spec, block: usize, context: usize, decode: bool, max_splits: usize) -> Attention {
    Attention {
        heads: spec.heads,
        kv_heads: spec.kv_heads,
        head_dim: spec.head_dim,
        rotated: spec.rope.dims,
        pairing: spec.rope.pairing,
        scale: 1.0 / (spec.head_dim as f32).sqrt(),
        bias: false,
        head_norms: spec.head_norms.then_some(spec.norm_eps),
        context,
        rows: raw_rows(spec),
        max_splits,
        decode,
        knobs: Knobs::of(block, spec.head_dim),
    }
}

/// The most parts into which a token's keys are split.
pub const MAX_SPLITS: usize = 64;

/// Attention's vectors: the biases of queries, keys and values as they stand beside the raw rows,
/// if there are any, then the weights of the heads' norms.
pub fn attention_vectors(
    spec: &Spec,
    weights: &Weights,
    bias: &[Option<Vector>; 3],
    norms: Option<&[Vector; 2]>,
) -> Vec<f32> {
    let rows = raw_rows(spec);
    let mut out = side_by_side(weights, bias, rows[3], |i| rows[i]).unwrap_or_default();
    for norm in norms.into_iter().flatten() {
        let end = out.len() + norm_row(norm.len);
        out.extend(weights.floats(norm));
        out.resize(end, 0.0);
    }
    out
}

/// The biases of gate and up, each padded, one after the other, if there are any.
pub fn gated_bias(spec: &Spec, weights: &Weights, bias: &[Option<Vector>; 2]) -> Option<Vec<f32>> {
    side_by_side(weights, bias, 2 * padded(spec.ffn), |i| i * padded(spec.ffn))
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

/// Elements of a residual stream's buffer.
pub fn stream(spec: &Spec) -> usize {
    padded(spec.width)
}
