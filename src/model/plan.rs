//! A model as a list of logical operations over named tensors.
//!
//! The operations act on a residual stream `x` and on vectors beside it: what the branches read
//! (the stream, normed or as it is), and what each has made. How they are fused into stages is the
//! engine's matter (`lower`).

use std::collections::HashSet;

use super::rope::{self, Factors};
use super::spec::{HeadNorms, Spec};
use super::weights::{Matrix, Vector, Weights, scale_of};
use crate::{Error, Result};

/// Which feed-forward layer, where there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// The one that every token takes.
    Dense,
    /// The experts that the router has chosen for the token.
    Chosen,
    /// The expert that every token takes beside them, times the sigmoid of its gate if there is one.
    Shared {
        /// The router's product has a row for the gate.
        gated: bool,
    },
}

/// What a branch adds to the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    /// What attention has made.
    Attention,
    /// What a feed-forward layer has made between its matrices.
    Hidden(Feed),
}

/// A logical operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `x` = the token's row of the table, scaled.
    Embed {
        /// `(vocab, width)`.
        table: Matrix,
    },
    /// What the operations read up to the next change of `x` is its norm, times the weight, plus
    /// the bias. Without this it is `x` itself.
    Norm {
        /// `(width)`.
        weight: Vector,
        /// `(width)`.
        bias: Option<Vector>,
    },
    /// Raw query, key and value rows.
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
        /// Weights of the norms of queries and keys: of a head or of all, as the spec says.
        norms: Option<[Vector; 2]>,
        /// `(heads)`: the score of each head's sink.
        sinks: Option<Vector>,
    },
    /// The scores of the experts, and the gate of the shared one.
    Route {
        /// `(experts, width)`.
        router: Matrix,
        /// `(experts)`.
        bias: Option<Vector>,
        /// `(1, width)`.
        gate: Option<Matrix>,
    },
    /// activation(gate · read + bias) * (up · read + bias); without a gate activation(up · read + bias).
    Gated {
        /// `(ffn, width)`, of each expert if there are several.
        gate: Option<Matrix>,
        /// The same.
        up: Matrix,
        /// `(ffn)` each, of each expert; absent ones are zero.
        bias: [Option<Vector>; 2],
        /// Which layer it is.
        feed: Feed,
    },
    /// `x` += norm(weight · made + bias), scaled. Of experts the weighted sum.
    Residual {
        /// `(width, ...)`, of each expert if there are several.
        weight: Matrix,
        /// `(width)`, of each expert.
        bias: Option<Vector>,
        /// The weight of the norm, if there is one: `(width)`.
        norm: Option<Vector>,
        /// What was made.
        branch: Branch,
    },
    /// logits = weight · read, scaled and capped.
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
    /// RoPE's divisors per pair.
    pub factors: Factors,
}

/// Tensors of one layer by the names that converters give them.
struct Of<'a> {
    weights: &'a Weights,
    layer: usize,
    spec: &'a Spec,
}

impl Of<'_> {
    fn name(&self, part: &str) -> String {
        format!("blk.{}.{part}", self.layer)
    }

    /// Whether a tensor is there that may be absent: if it is, it is in all layers.
    fn has(&self, part: &str) -> Result<bool> {
        let has = |layer: usize| self.weights.tensor(&format!("blk.{layer}.{part}")).is_some();
        let here = has(self.layer);
        let wanted = self.spec.always.contains(&part);
        if !here && (wanted || has(0)) {
            return Err(Error::Unsupported(format!("tensor {} is missing", self.name(part))));
        }
        if here && !has(0) {
            return Err(Error::Unsupported(format!("tensor blk.0.{part} is missing, other layers have it")));
        }
        Ok(here)
    }

    fn matrix(&self, part: &str, rows: usize, cols: usize) -> Result<Matrix> {
        self.weights.matrix(&self.name(part), rows, cols)
    }

    fn vector(&self, part: &str, len: usize) -> Result<Vector> {
        self.weights.vector(&self.name(part), len)
    }

    /// Whether the architecture knows a tensor that others do without, and it is there. What is not
    /// known is left alone here, and refused by [`Plan::uses_all`].
    fn known(&self, part: &str) -> Result<bool> {
        Ok(self.spec.knows(part) && self.has(part)?)
    }

    /// A bias or the like.
    fn maybe(&self, part: &str, len: usize) -> Result<Option<Vector>> {
        if self.known(part)? { self.vector(part, len).map(Some) } else { Ok(None) }
    }

    /// A bias of each expert.
    fn of_experts(&self, part: &str, len: usize, experts: usize) -> Result<Option<Vector>> {
        match self.known(part)? {
            true => self.weights.vector_of(&self.name(part), &[len, experts]).map(Some),
            false => Ok(None),
        }
    }

    fn norm(&self, part: &str, width: usize) -> Result<Op> {
        let weight = self.vector(&format!("{part}.weight"), width)?;
        Ok(Op::Norm { weight, bias: self.maybe(&format!("{part}.bias"), width)? })
    }

    /// Query, key and value rows with their biases, from tensors of their own or from one of all.
    fn qkv(&self, spec: &Spec) -> Result<([Matrix; 3], [Option<Vector>; 3])> {
        let [q, kv] = spec.head_rows();
        if !self.has("attn_qkv.weight")? {
            let matrix = |part: &str, rows| self.matrix(&format!("{part}.weight"), rows, spec.width);
            let bias = |part: &str, rows| self.maybe(&format!("{part}.bias"), rows);
            let names = ["attn_q", "attn_k", "attn_v"];
            let biases = [bias(names[0], q)?, bias(names[1], kv)?, bias(names[2], kv)?];
            if biases.iter().any(Option::is_some)
                && let Some(i) = biases.iter().position(Option::is_none)
            {
                let name = self.name(&format!("{}.bias", names[i]));
                return Err(Error::Unsupported(format!("tensor {name} is missing, the other rows have one")));
            }
            let matrices = [matrix(names[0], q)?, matrix(names[1], kv)?, matrix(names[2], kv)?];
            return Ok((matrices, biases));
        }
        let all = q + 2 * kv;
        let ranges = [0..q, q..q + kv, q + kv..all];
        let name = self.name("attn_qkv.weight");
        let part = |i: usize| self.weights.part(&name, ranges[i].clone(), all, spec.width);
        let whole = self.maybe("attn_qkv.bias", all)?;
        let bias = |i: usize| {
            whole.clone().map(|bias| Vector { first: ranges[i].start, len: ranges[i].len(), ..bias })
        };
        Ok(([part(0)?, part(1)?, part(2)?], [bias(0), bias(1), bias(2)]))
    }

    fn attention(&self, spec: &Spec, ops: &mut Vec<Op>) -> Result<()> {
        let [q_rows, kv_rows] = spec.head_rows();
        let ([q, k, v], bias) = self.qkv(spec)?;
        ops.push(Op::Qkv { q, k, v });
        let norms = |q: usize, k: usize| -> Result<_> {
            Ok(Some([self.vector("attn_q_norm.weight", q)?, self.vector("attn_k_norm.weight", k)?]))
        };
        let norms = match spec.head_norms {
            HeadNorms::None => None,
            HeadNorms::Each => norms(spec.head_dim, spec.head_dim)?,
            HeadNorms::Whole => norms(q_rows, kv_rows)?,
        };
        let sinks = match spec.sinks {
            true => Some(self.vector("attn_sinks.weight", spec.heads)?),
            false => None,
        };
        ops.push(Op::Attend { layer: self.layer, bias, norms, sinks });
        Ok(())
    }

    /// The products of attention's output.
    fn output(&self, spec: &Spec) -> Result<Op> {
        Ok(Op::Residual {
            weight: self.matrix("attn_output.weight", spec.width, spec.head_rows()[0])?,
            bias: self.maybe("attn_output.bias", spec.width)?,
            norm: self.after(spec, "post_attention_norm.weight")?,
            branch: Branch::Attention,
        })
    }

    /// The norm behind a branch, where the spec has them.
    fn after(&self, spec: &Spec, part: &str) -> Result<Option<Vector>> {
        if spec.block.after { self.vector(part, spec.width).map(Some) } else { Ok(None) }
    }

    /// Gate and up of a feed-forward layer without experts; `end` is what its tensors' names end
    /// with. Both may be one tensor.
    fn gated(&self, spec: &Spec, end: &str, ffn: usize, feed: Feed) -> Result<Op> {
        let (gate_name, up_name) = (format!("ffn_gate{end}"), format!("ffn_up{end}"));
        let (gate_weight, up_weight) = (format!("{gate_name}.weight"), format!("{up_name}.weight"));
        let biases = |gate: Option<Vector>, up: Option<Vector>| [gate, up];
        if !spec.gated {
            let bias = biases(None, self.maybe(&format!("{up_name}.bias"), ffn)?);
            return Ok(Op::Gated { gate: None, up: self.matrix(&up_weight, ffn, spec.width)?, bias, feed });
        }
        if self.has(&gate_weight)? {
            let bias = |name: &str| self.maybe(&format!("{name}.bias"), ffn);
            return Ok(Op::Gated {
                gate: Some(self.matrix(&gate_weight, ffn, spec.width)?),
                up: self.matrix(&up_weight, ffn, spec.width)?,
                bias: biases(bias(&gate_name)?, bias(&up_name)?),
                feed,
            });
        }
        let name = self.name(&up_weight);
        let part = |rows| self.weights.part(&name, rows, 2 * ffn, spec.width);
        let whole = self.maybe(&format!("{up_name}.bias"), 2 * ffn)?;
        let bias = |first| whole.clone().map(|bias| Vector { first, len: ffn, ..bias });
        Ok(Op::Gated {
            gate: Some(part(0..ffn)?),
            up: part(ffn..2 * ffn)?,
            bias: biases(bias(0), bias(ffn)),
            feed,
        })
    }

    /// The operations that make what lies between the feed-forward branch's matrices, and those that
    /// add what comes of it to the stream.
    fn feed_forward(&self, spec: &Spec) -> Result<(Vec<Op>, Vec<Op>)> {
        let width = spec.width;
        let norm = self.after(spec, "post_ffw_norm.weight")?;
        let Some(experts) = spec.experts else {
            let weight = self.matrix("ffn_down.weight", width, spec.ffn)?;
            let bias = self.maybe("ffn_down.bias", width)?;
            let branch = Branch::Hidden(Feed::Dense);
            return Ok((
                vec![self.gated(spec, "", spec.ffn, Feed::Dense)?],
                vec![Op::Residual { weight, bias, norm, branch }],
            ));
        };
        if norm.is_some() {
            return Err(Error::Unsupported(format!(
                "architecture {}: a norm behind experts is not supported",
                spec.architecture
            )));
        }
        let gate = match experts.shared.is_some() && self.has("ffn_gate_inp_shexp.weight")? {
            true => Some(self.matrix("ffn_gate_inp_shexp.weight", 1, width)?),
            false => None,
        };
        let gated = gate.is_some();
        let count = experts.count;
        let matrix = |part: &str, rows, cols| self.weights.experts(&self.name(part), count, rows, cols);
        let bias = |part: &str, len| self.of_experts(part, len, count);
        let mut makes = vec![
            Op::Route {
                router: self.matrix("ffn_gate_inp.weight", count, width)?,
                bias: self.maybe("ffn_gate_inp.bias", count)?,
                gate,
            },
            Op::Gated {
                gate: Some(matrix("ffn_gate_exps.weight", experts.ffn, width)?),
                up: matrix("ffn_up_exps.weight", experts.ffn, width)?,
                bias: [bias("ffn_gate_exps.bias", experts.ffn)?, bias("ffn_up_exps.bias", experts.ffn)?],
                feed: Feed::Chosen,
            },
        ];
        let mut adds = vec![Op::Residual {
            weight: matrix("ffn_down_exps.weight", width, experts.ffn)?,
            bias: bias("ffn_down_exps.bias", width)?,
            norm: None,
            branch: Branch::Hidden(Feed::Chosen),
        }];
        if let Some(ffn) = experts.shared {
            let feed = Feed::Shared { gated };
            makes.push(self.gated(spec, "_shexp", ffn, feed)?);
            let weight = self.matrix("ffn_down_shexp.weight", width, ffn)?;
            adds.push(Op::Residual { weight, bias: None, norm: None, branch: Branch::Hidden(feed) });
        }
        Ok((makes, adds))
    }

    /// The whole layer.
    fn layer(&self, spec: &Spec, ops: &mut Vec<Op>) -> Result<()> {
        let block = spec.block;
        if block.parallel || block.before.is_some() {
            ops.push(self.norm("attn_norm", spec.width)?);
        }
        self.attention(spec, ops)?;
        let (makes, adds) = self.feed_forward(spec)?;
        let output = self.output(spec)?;
        if block.parallel {
            // What reads the norm comes before what changes the stream.
            ops.extend(makes);
            ops.push(output);
        } else {
            ops.push(output);
            if let Some(name) = block.before {
                ops.push(self.norm(name, spec.width)?);
            }
            ops.extend(makes);
        }
        ops.extend(adds);
        Ok(())
    }
}

impl Plan {
    /// Plans a decoder over its tensors, all of which are found and checked here.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape, or of a type without kernels.
    pub fn new(mut spec: Spec, weights: &Weights) -> Result<Plan> {
        let table = embedding(&spec, weights)?;
        spec.vocab = table.rows;
        let mut ops = vec![Op::Embed { table: table.clone() }];
        for layer in 0..spec.layers.len() {
            Of { weights, layer, spec: &spec }.layer(&spec, &mut ops)?;
        }
        let bias = match spec.knows("output_norm.bias") {
            true => Some(weights.vector("output_norm.bias", spec.width)?),
            false => None,
        };
        ops.push(Op::Norm { weight: weights.vector("output_norm.weight", spec.width)?, bias });
        let head = match weights.tensor("output.weight") {
            Some(_) => weights.matrix("output.weight", table.rows, spec.width)?,
            None => table,
        };
        ops.push(Op::Logits { weight: head });
        let factors = Factors::of(&spec, weights)?;
        Ok(Plan { spec, ops, factors })
    }

    /// RoPE's tables of a context's positions, for a text of so many tokens: one for each of the
    /// spec's ropes.
    pub fn turns(&self, context: usize, tokens: usize) -> Vec<Vec<[f32; 2]>> {
        let factors = self.factors.of_length(tokens);
        self.spec.ropes.iter().map(|rope| rope::table(rope, factors, context)).collect()
    }

    /// Refuses a tensor that the plan leaves out though it must change the result: what stands in a
    /// layer, biases and scales, and what other architectures have besides.
    pub(super) fn uses_all<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> Result<()> {
        let matrices = || self.matrices().into_iter().map(|m| m.name.as_str());
        let vectors = self.vectors().map(|v| v.name.as_str());
        let scales: HashSet<String> = matrices().filter_map(scale_of).collect();
        let factors = self.factors.tensors().iter().copied();
        let used: HashSet<&str> = matrices().chain(vectors).chain(factors).collect();
        let left_out = |name: &str| matters(name) && !used.contains(name) && !scales.contains(name);
        match names.find(|name| left_out(name)) {
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
                Op::Norm { weight, bias } => [weight].into_iter().chain(bias).collect(),
                Op::Attend { bias, norms, sinks, .. } => {
                    bias.iter().flatten().chain(norms.iter().flatten()).chain(sinks).collect()
                }
                Op::Gated { bias, .. } => bias.iter().flatten().collect(),
                Op::Residual { bias, norm, .. } => bias.iter().chain(norm).collect(),
                Op::Route { bias, .. } => bias.iter().collect(),
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
                Op::Gated { gate, up, .. } => gate.iter().chain([up]).collect(),
                Op::Route { router, gate, .. } => [router].into_iter().chain(gate).collect(),
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

/// Whether a tensor's name says that it is part of what a model computes from text.
fn matters(name: &str) -> bool {
    // An old copy of RoPE's table; ranges for those who make activations four bits wide; what reads
    // pictures, in files that have that too.
    let known = name.contains("rot_embd")
        || name.ends_with(".input_scale")
        || name.starts_with("v.")
        || name.starts_with("mm.");
    let first = name.split('.').next().unwrap_or_default();
    let part = name.ends_with(".bias") || name.ends_with("scale");
    !known && (part || first == "blk" || OUTSIDE.contains(&first))
}

/// The first words of names outside of layers that converters give.
const OUTSIDE: &[&str] = &[
    "altup_proj",
    "altup_unembd_proj",
    "cls",
    "conv1d",
    "dec",
    "dense_2",
    "dense_3",
    "enc",
    "mtp",
    "nextn",
    "output",
    "output_norm",
    "per_layer_model_proj",
    "per_layer_proj_norm",
    "per_layer_token_embd",
    "position_embd",
    "rope_factors_long",
    "rope_factors_short",
    "rope_freqs",
    "token_embd",
    "token_embd_norm",
    "token_types",
];

/// The embedding, whose rows say how large the vocabulary is.
fn embedding(spec: &Spec, weights: &Weights) -> Result<Matrix> {
    let name = "token_embd.weight";
    let (_, dims) =
        weights.tensor(name).ok_or_else(|| Error::Unsupported(format!("tensor {name} is missing")))?;
    let rows = dims.get(1).copied().unwrap_or(1);
    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
    weights.matrix(name, rows, spec.width)
}
