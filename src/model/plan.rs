//! A model as a list of logical operations over named tensors.
//!
//! The operations act on a residual stream `x` and on a current vector, which each of them
//! reads and replaces. How they are fused into stages is the engine's matter (`lower`).

use std::collections::HashSet;

use super::spec::Spec;
use super::weights::{Matrix, Vector, Weights, scale_of};
use crate::{Error, Result};

/// A logical operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `x` = the token's row of the table.
    Embed {
        /// `(vocab, width)`.
        table: Matrix,
    },
    /// current = RMS norm of `x`, times the weight.
    Norm {
        /// `(width)`.
        weight: Vector,
    },
    /// current = raw query, key and value rows, one after another.
    Qkv {
        /// `(heads * head_dim, width)`.
        q: Matrix,
        /// `(kv_heads * head_dim, width)`.
        k: Matrix,
        /// `(kv_heads * head_dim, width)`.
        v: Matrix,
    },
    /// Adds biases, norms and turns queries and keys, stores keys and values, attends.
    Attend {
        /// The layer, which names the cache.
        layer: usize,
        /// Biases of queries, keys and values; absent ones are zero.
        bias: [Option<Vector>; 3],
        /// Weights of the norms of query and key heads, `(head_dim)` each.
        norms: Option<[Vector; 2]>,
    },
    /// `x` += weight · current + bias.
    Residual {
        /// `(width, ...)`.
        weight: Matrix,
        /// `(width)`.
        bias: Option<Vector>,
    },
    /// current = activation(gate · current + bias) * (up · current + bias).
    Gated {
        /// `(ffn, width)`.
        gate: Matrix,
        /// `(ffn, width)`.
        up: Matrix,
        /// `(ffn)` each; absent ones are zero.
        bias: [Option<Vector>; 2],
    },
    /// logits = weight · current.
    Logits {
        /// `(vocab, width)`.
        weight: Matrix,
    },
}

/// A model's operations, and what they share.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Hyper-parameters.
    pub spec: Spec,
    /// The operations of a step, in order.
    pub ops: Vec<Op>,
    /// RoPE's divisor per pair, where the model has one (Llama 3).
    pub rope_factors: Option<Vec<f32>>,
}

impl Plan {
    /// Plans a decoder over its tensors, all of which are found and checked here.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape, or of a type without kernels.
    pub fn new(mut spec: Spec, weights: &Weights) -> Result<Plan> {
        let table = embedding(&spec, weights)?;
        spec.vocab = table.rows;
        let (width, ffn) = (spec.width, spec.ffn);
        let (q_rows, kv_rows) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let mut ops = vec![Op::Embed { table: table.clone() }];
        for layer in 0..spec.layers {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let matrix = |part: &str, rows, cols| weights.matrix(&name(part), rows, cols);
            let vector = |part: &str, len| weights.vector(&name(part), len);
            ops.push(Op::Norm { weight: vector("attn_norm.weight", width)? });
            ops.push(Op::Qkv {
                q: matrix("attn_q.weight", q_rows, width)?,
                k: matrix("attn_k.weight", kv_rows, width)?,
                v: matrix("attn_v.weight", kv_rows, width)?,
            });
            let bias = |part: &str, len| match weights.tensor(&name(part)) {
                Some(_) => vector(part, len).map(Some),
                None => Ok(None),
            };
            let of_rows =
                [bias("attn_q.bias", q_rows)?, bias("attn_k.bias", kv_rows)?, bias("attn_v.bias", kv_rows)?];
            let norm = |part: &str| vector(part, spec.head_dim);
            let norms = match spec.head_norms {
                true => Some([norm("attn_q_norm.weight")?, norm("attn_k_norm.weight")?]),
                false => None,
            };
            ops.push(Op::Attend { layer, bias: of_rows, norms });
            ops.push(Op::Residual {
                weight: matrix("attn_output.weight", width, q_rows)?,
                bias: bias("attn_output.bias", width)?,
            });
            ops.push(Op::Norm { weight: vector("ffn_norm.weight", width)? });
            ops.push(Op::Gated {
                gate: matrix("ffn_gate.weight", ffn, width)?,
                up: matrix("ffn_up.weight", ffn, width)?,
                bias: [bias("ffn_gate.bias", ffn)?, bias("ffn_up.bias", ffn)?],
            });
            ops.push(Op::Residual {
                weight: matrix("ffn_down.weight", width, ffn)?,
                bias: bias("ffn_down.bias", width)?,
            });
        }
        ops.push(Op::Norm { weight: weights.vector("output_norm.weight", width)? });
        let head = match weights.tensor("output.weight") {
            Some(_) => weights.matrix("output.weight", table.rows, width)?,
            None => table,
        };
        ops.push(Op::Logits { weight: head });
        let rope_factors = match weights.tensor("rope_freqs.weight") {
            Some(_) => Some(weights.floats(&weights.vector("rope_freqs.weight", spec.rope.dims / 2)?)),
            None => None,
        };
        Ok(Plan { spec, ops, rope_factors })
    }

    /// Refuses a tensor that the plan leaves out though it must change the result: what stands in
    /// a layer, and biases and scales anywhere.
    pub(super) fn uses_all<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> Result<()> {
        let matrices = || self.matrices().into_iter().map(|m| m.name.as_str());
        let scales: HashSet<String> = matrices().filter_map(scale_of).collect();
        let used: HashSet<&str> = matrices().chain(self.vectors().map(|v| v.name.as_str())).collect();
        let matters = |name: &str| {
            // An old copy of RoPE's table; ranges for those who make activations four bits wide.
            let known = name.contains("rot_embd") || name.ends_with(".input_scale");
            !known && (name.starts_with("blk.") || name.ends_with(".bias") || name.ends_with("scale"))
        };
        match names.find(|name| matters(name) && !used.contains(name) && !scales.contains(*name)) {
            Some(name) => Err(Error::Unsupported(format!(
                "tensor {}: not known to architecture {}, and the result would be wrong without it",
                crate::gguf::shown(name.as_bytes()),
                self.spec.architecture
            ))),
            None => Ok(()),
        }
    }

    /// Every vector of the model.
    pub fn vectors(&self) -> impl Iterator<Item = &Vector> {
        self.ops.iter().flat_map(|op| -> Vec<&Vector> {
            match op {
                Op::Norm { weight } => vec![weight],
                Op::Attend { bias, norms, .. } => {
                    bias.iter().flatten().chain(norms.iter().flatten()).collect()
                }
                Op::Gated { bias, .. } => bias.iter().flatten().collect(),
                Op::Residual { bias, .. } => bias.iter().collect(),
                Op::Embed { .. } | Op::Qkv { .. } | Op::Logits { .. } => vec![],
            }
        })
    }

    /// Every matrix of the model, each once.
    pub fn matrices(&self) -> Vec<&Matrix> {
        let mut all: Vec<&Matrix> = Vec::new();
        for op in &self.ops {
            let used: Vec<&Matrix> = match op {
                Op::Embed { table } => vec![table],
                Op::Qkv { q, k, v } => vec![q, k, v],
                Op::Residual { weight, .. } | Op::Logits { weight } => vec![weight],
                Op::Gated { gate, up, .. } => vec![gate, up],
                Op::Norm { .. } | Op::Attend { .. } => vec![],
            };
            for m in used {
                if !matches!(op, Op::Logits { .. }) || all.first().is_none_or(|e| e.name != m.name) {
                    all.push(m);
                }
            }
        }
        all
    }
}

/// The embedding, whose rows say how large the vocabulary is.
fn embedding(spec: &Spec, weights: &Weights) -> Result<Matrix> {
    let name = "token_embd.weight";
    let (_, dims) =
        weights.tensor(name).ok_or_else(|| Error::Unsupported(format!("tensor {name} is missing")))?;
    let rows = dims.get(1).copied().unwrap_or(1);
    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
    weights.matrix(name, rows, spec.width)
}
