//! Models of random weights: for benchmarks, since zeros would run faster than data, and for files
//! at shapes that nobody has to download.

use std::ops::Range;

use super::ftype::Ftype;
use super::random::{Blocks, Random};
use super::spec::{HeadNorms, Norm, Spec};
use super::weights::{Matrix, Vector};
use crate::gguf::File;
use crate::gguf::writer::Writer;
use crate::quant::Type;
use crate::{Error, Result};

/// A model without a file.
pub struct Synthetic {
    /// Hyper-parameters, read from its keys.
    pub spec: Spec,
    /// Rows of the embedding.
    pub vocab: usize,
    /// The output matrix is the embedding.
    pub tied: bool,
    /// The type of each matrix, as llama-quantize would choose it.
    pub ftype: Ftype,
    /// Other numbers, other weights.
    pub seed: u64,
    keys: Vec<(String, Key)>,
}

/// The value of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Key {
    /// A u32.
    Count(u32),
    /// An f32.
    Number(f32),
    /// A string.
    Text(String),
}

/// The tensors of a layer as converters name them, in order; not every architecture has all.
const LAYER: [&str; 35] = [
    "attn_norm.weight",
    "attn_norm.bias",
    "attn_qkv.weight",
    "attn_q.weight",
    "attn_q.bias",
    "attn_k.weight",
    "attn_k.bias",
    "attn_v.weight",
    "attn_v.bias",
    "attn_q_norm.weight",
    "attn_k_norm.weight",
    "attn_sinks.weight",
    "attn_output.weight",
    "attn_output.bias",
    "post_attention_norm.weight",
    "ffn_norm.weight",
    "ffn_norm.bias",
    "ffn_gate_inp.weight",
    "ffn_gate_inp.bias",
    "ffn_gate_exps.weight",
    "ffn_gate_exps.bias",
    "ffn_up_exps.weight",
    "ffn_up_exps.bias",
    "ffn_down_exps.weight",
    "ffn_down_exps.bias",
    "ffn_gate_inp_shexp.weight",
    "ffn_gate_shexp.weight",
    "ffn_up_shexp.weight",
    "ffn_down_shexp.weight",
    "ffn_gate.weight",
    "ffn_up.weight",
    "ffn_up.bias",
    "ffn_down.weight",
    "ffn_down.bias",
    "post_ffw_norm.weight",
];

/// What a logit's deviation is to be, about.
const LOGITS: f32 = 2.5;

impl Synthetic {
    /// A model by its architecture's name and the keys that a file of it would have, without the
    /// name before them.
    ///
    /// # Errors
    /// As for a file: an architecture that is not known, keys that are missing or not sensible.
    pub fn new(
        architecture: &str,
        keys: Vec<(String, Key)>,
        (vocab, tied): (usize, bool),
        ftype: Ftype,
    ) -> Result<Synthetic> {
        let mut header = Writer::new();
        write_keys(architecture, &keys, &mut header);
        let file = File::parse(header.finish()).map_err(|e| Error::Other(format!("a file's header: {e}")))?;
        let spec = super::arch::spec(&file)?;
        Ok(Synthetic { spec, vocab, tied, ftype, seed: 0, keys })
    }

    /// What converters do with an architecture's tensors beside what its keys say: biases of query,
    /// key and value rows, of everything, and one tensor in the place of several.
    fn habits(&self) -> (bool, bool, bool, bool) {
        let name = self.spec.architecture;
        let everywhere = matches!(name, "starcoder2" | "gpt-oss");
        let rows = everywhere || matches!(name, "qwen2" | "qwen2moe" | "glm4");
        (rows, everywhere, name == "phi3", matches!(name, "phi3" | "glm4"))
    }

    /// The dimensions of a tensor, fastest first, if there is one: one of a vector, two of a matrix,
    /// three of experts'. `part` is its name, without its layer.
    fn dims(&self, part: &str) -> Option<Vec<usize>> {
        let s = &self.spec;
        let ([q, kv], width) = (s.head_rows(), s.width);
        let (row_biases, biases, fused_rows, fused_gate) = self.habits();
        let block = s.block;
        let before = block.parallel || block.before.is_some();
        let dense = s.experts.is_none();
        let (e, shared) = match s.experts {
            Some(e) => (Some((e.count, e.ffn)), e.shared),
            None => (None, None),
        };
        let pairs = s.ropes.first().map_or(0, |rope| rope.dims / 2);
        let when = |there: bool, dims: &[usize]| there.then(|| dims.to_vec());
        match part {
            "attn_norm.weight" => when(before, &[width]),
            "attn_norm.bias" | "ffn_norm.bias" | "output_norm.bias" => {
                when(biases && block.norm == Norm::Layer, &[width])
            }
            "ffn_norm.weight" => when(block.before == Some("ffn_norm"), &[width]),
            "post_attention_norm.weight" => {
                when(block.after || block.before == Some("post_attention_norm"), &[width])
            }
            "post_ffw_norm.weight" => when(block.after, &[width]),
            "output_norm.weight" => when(true, &[width]),
            "attn_q_norm.weight" | "attn_k_norm.weight" => match s.head_norms {
                HeadNorms::None => None,
                HeadNorms::Each => Some(vec![s.head_dim]),
                HeadNorms::Whole => Some(vec![if part.starts_with("attn_q") { q } else { kv }]),
            },
            "attn_sinks.weight" => when(s.sinks, &[s.heads]),
            "attn_qkv.weight" => when(fused_rows, &[width, q + 2 * kv]),
            "attn_q.weight" => when(!fused_rows, &[width, q]),
            "attn_k.weight" | "attn_v.weight" => when(!fused_rows, &[width, kv]),
            "attn_q.bias" => when(row_biases, &[q]),
            "attn_k.bias" | "attn_v.bias" => when(row_biases, &[kv]),
            "attn_output.weight" => when(true, &[q, width]),
            "attn_output.bias" => when(biases, &[width]),
            "ffn_gate.weight" => when(dense && s.gated && !fused_gate, &[width, s.ffn]),
            "ffn_up.weight" if fused_gate => when(dense, &[width, 2 * s.ffn]),
            "ffn_up.weight" => when(dense, &[width, s.ffn]),
            "ffn_down.weight" => when(dense, &[s.ffn, width]),
            "ffn_up.bias" => when(dense && biases, &[s.ffn]),
            "ffn_down.bias" => when(dense && biases, &[width]),
            "ffn_gate_inp.weight" => e.map(|(count, _)| vec![width, count]),
            "ffn_gate_inp.bias" if biases => e.map(|(count, _)| vec![count]),
            "ffn_gate_exps.weight" | "ffn_up_exps.weight" => e.map(|(count, ffn)| vec![width, ffn, count]),
            "ffn_down_exps.weight" => e.map(|(count, ffn)| vec![ffn, width, count]),
            "ffn_gate_exps.bias" | "ffn_up_exps.bias" if biases => e.map(|(count, ffn)| vec![ffn, count]),
            "ffn_down_exps.bias" if biases => e.map(|(count, _)| vec![width, count]),
            "ffn_gate_inp_shexp.weight" => when(shared.is_some(), &[width]),
            "ffn_gate_shexp.weight" | "ffn_up_shexp.weight" => shared.map(|ffn| vec![width, ffn]),
            "ffn_down_shexp.weight" => shared.map(|ffn| vec![ffn, width]),
            "rope_factors_long.weight" | "rope_factors_short.weight" => {
                when(s.architecture == "phi3", &[pairs])
            }
            "token_embd.weight" => when(true, &[width, self.vocab]),
            "output.weight" => when(!self.tied, &[width, self.vocab]),
            _ => None,
        }
    }

    pub(super) fn tensor(&self, name: &str) -> Option<(Type, Vec<u64>)> {
        let layers = self.spec.layers.len();
        let (layer, part) = match name.strip_prefix("blk.") {
            Some(rest) => {
                let (layer, part) = rest.split_once('.')?;
                (layer.parse().ok().filter(|layer| *layer < layers)?, part)
            }
            None => (0, name),
        };
        let dims = self.dims(part)?;
        let head = part == "output.weight" || (part == "token_embd.weight" && self.tied);
        let ty = match is_plain(part) || dims.len() == 1 {
            true => Type::F32,
            false => self.ftype.ty(part, head, layer, layers, dims[0]),
        };
        Some((ty, dims.into_iter().map(|d| d as u64).collect()))
    }

    /// All tensors in a file's order. A vector is a matrix of one row.
    pub fn tensors(&self) -> Vec<Matrix> {
        let layers = (0..self.spec.layers.len()).flat_map(|i| LAYER.map(|part| format!("blk.{i}.{part}")));
        let first = ["token_embd.weight", "rope_factors_long.weight", "rope_factors_short.weight"];
        let last = ["output_norm.weight", "output_norm.bias", "output.weight"];
        let names = first.map(str::to_owned).into_iter().chain(layers).chain(last.map(str::to_owned));
        names
            .filter_map(|name| {
                let (ty, dims) = self.tensor(&name)?;
                let size = |i: usize| dims.get(i).map_or(1, |d| *d as usize);
                Some(Matrix { experts: size(2), ..Matrix::whole(&name, ty, size(1), size(0)) })
            })
            .collect()
    }

    /// Fills whole rows of one of [`Synthetic::tensors`], from row `first` on, as a file would have
    /// them: the same ones however the matrix is cut.
    pub fn fill(&self, tensor: &Matrix, first: usize, out: &mut [u8]) {
        if is_vector(tensor) {
            let mut values = vec![0.0; tensor.all_rows() * tensor.cols];
            let all = Vector { name: tensor.name.clone(), first: 0, len: values.len() };
            self.floats(&all, &mut values);
            let values = values.iter().skip(first * tensor.cols);
            out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(o, v)| *o = v.to_le_bytes());
        } else {
            fill_rows(tensor, first, (self.seed, self.logits()), out);
        }
    }

    /// The deviation of products of the output matrix, which the model's own factor follows.
    fn logits(&self) -> f32 {
        LOGITS / self.spec.logit_scale
    }

    pub(super) fn rows(&self, matrix: &Matrix, rows: Range<usize>) -> Vec<u8> {
        let mut out = vec![0; rows.len() * matrix.row_bytes()];
        fill_rows(matrix, matrix.first + rows.start, (self.seed, self.logits()), &mut out);
        out
    }

    /// Norms are about 1, biases and sinks about 0.
    pub(super) fn floats(&self, vector: &Vector, out: &mut [f32]) {
        let mut random = Random::new(&vector.name, self.seed);
        let around_0 = vector.name.ends_with(".bias") || vector.name.ends_with("sinks.weight");
        let middle = if around_0 { 0.0 } else { 1.0 };
        out.fill_with(|| middle + 0.1 * random.number());
    }

    /// Writes the keys from which [`super::arch::spec`] reads the hyper-parameters again, and the
    /// general ones.
    pub fn describe(&self, name: &str, to: &mut Writer) {
        write_keys(self.spec.architecture, &self.keys, to);
        to.str("general.type", "model").str("general.name", name);
        let vocab = u32::try_from(self.vocab).unwrap_or(u32::MAX);
        to.u32(&format!("{}.vocab_size", self.spec.architecture), vocab);
        to.u32("general.quantization_version", 2);
        if let Some(id) = self.ftype.id() {
            to.u32("general.file_type", id);
        }
    }
}

fn write_keys(architecture: &str, keys: &[(String, Key)], to: &mut Writer) {
    to.str("general.architecture", architecture);
    for (suffix, value) in keys {
        let key = format!("{architecture}.{suffix}");
        match value {
            Key::Count(n) => to.u32(&key, *n),
            Key::Number(n) => to.f32(&key, *n),
            Key::Text(text) => to.str(&key, text),
        };
    }
}

/// Norms, biases and the like; but not the gate of a shared expert, which is a matrix of one row.
fn is_vector(tensor: &Matrix) -> bool {
    let part = tensor.name.rsplit('.').nth(1).unwrap_or_default();
    tensor.name.ends_with(".bias") || (tensor.is_vector() && !is_plain(part))
}

/// What quantizers leave as it is: vectors of experts, and routers.
fn is_plain(part: &str) -> bool {
    part.ends_with(".bias") || part.starts_with("ffn_gate_inp")
}

/// Random valid blocks for rows of a matrix.
pub(crate) fn random_rows(matrix: &Matrix, rows: Range<usize>, seed: u64) -> Vec<u8> {
    let mut out = vec![0; rows.len() * matrix.row_bytes()];
    fill_rows(matrix, rows.start, (seed, LOGITS), &mut out);
    out
}

/// Weights that keep a vector's size: what becomes logits alone is larger.
fn fill_rows(matrix: &Matrix, first: usize, (seed, logits): (u64, f32), out: &mut [u8]) {
    let head = matches!(matrix.name.as_str(), "output.weight" | "token_embd.weight");
    let deviation = if head { logits } else { 1.0 } / (matrix.cols as f32).sqrt();
    let all = Random::new(&matrix.name, seed);
    let blocks = Blocks::new(matrix.ty, deviation);
    for (row, out) in (first as u64..).zip(out.chunks_exact_mut(matrix.row_bytes().max(1))) {
        blocks.fill(&mut all.fork(row), out);
    }
}
