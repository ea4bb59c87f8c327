//! Models of random weights: for benchmarks, since zeros would run faster than data, and for files
//! at shapes that nobody has to download.

use std::ops::Range;

use super::ftype::Ftype;
use super::random::{Blocks, Random};
use super::spec::Spec;
use super::weights::{Matrix, Vector};
use crate::gguf::writer::Writer;
use crate::quant::Type;

/// A model without a file.
pub struct Synthetic {
    /// Hyper-parameters.
    pub spec: Spec,
    /// Rows of the embedding.
    pub vocab: usize,
    /// The output matrix is the embedding.
    pub tied: bool,
    /// The type of each matrix, as llama-quantize would choose it.
    pub ftype: Ftype,
    /// Other numbers, other weights.
    pub seed: u64,
}

/// The tensors of a layer as converters name them, in order; not every architecture has all.
const LAYER: [&str; 14] = [
    "attn_norm.weight",
    "attn_q.weight",
    "attn_q.bias",
    "attn_k.weight",
    "attn_k.bias",
    "attn_v.weight",
    "attn_v.bias",
    "attn_q_norm.weight",
    "attn_k_norm.weight",
    "attn_output.weight",
    "ffn_norm.weight",
    "ffn_gate.weight",
    "ffn_up.weight",
    "ffn_down.weight",
];

/// What a logit's deviation is to be, about.
const LOGITS: f32 = 2.5;

impl Synthetic {
    pub(super) fn tensor(&self, name: &str) -> Option<(Type, Vec<u64>)> {
        let s = &self.spec;
        let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
        let (layer, part) = match name.strip_prefix("blk.") {
            Some(rest) => {
                let (layer, part) = rest.split_once('.')?;
                (layer.parse().ok().filter(|layer| *layer < s.layers)?, part)
            }
            None => (0, name),
        };
        let biases = s.architecture == "qwen2";
        let vector = |len: usize| Some((Type::F32, vec![len as u64]));
        let (rows, cols) = match part {
            "attn_norm.weight" | "ffn_norm.weight" | "output_norm.weight" => return vector(s.width),
            "attn_q_norm.weight" | "attn_k_norm.weight" if s.head_norms => return vector(s.head_dim),
            "attn_q.bias" if biases => return vector(q),
            "attn_k.bias" | "attn_v.bias" if biases => return vector(kv),
            "token_embd.weight" => (self.vocab, s.width),
            "output.weight" if !self.tied => (self.vocab, s.width),
            "attn_q.weight" => (q, s.width),
            "attn_k.weight" | "attn_v.weight" => (kv, s.width),
            "attn_output.weight" => (s.width, q),
            "ffn_gate.weight" | "ffn_up.weight" => (s.ffn, s.width),
            "ffn_down.weight" => (s.width, s.ffn),
            _ => return None,
        };
        let head = part == "output.weight" || (part == "token_embd.weight" && self.tied);
        Some((self.ftype.ty(part, head, layer, s.layers, cols), vec![cols as u64, rows as u64]))
    }

    /// All tensors in a file's order. A vector is a matrix of one row.
    pub fn tensors(&self) -> Vec<Matrix> {
        let layers = (0..self.spec.layers).flat_map(|i| LAYER.map(|part| format!("blk.{i}.{part}")));
        let last = ["output_norm.weight", "output.weight"].map(str::to_owned);
        let names = ["token_embd.weight".to_owned()].into_iter().chain(layers).chain(last);
        names
            .filter_map(|name| {
                let (ty, dims) = self.tensor(&name)?;
                let size = |i: usize| dims.get(i).map_or(1, |d| *d as usize);
                Some(Matrix { ty, rows: size(1), cols: size(0), scale: 1.0, name })
            })
            .collect()
    }

    /// Fills whole rows of one of [`Synthetic::tensors`], from row `first` on, as a file would have
    /// them: the same ones however the matrix is cut.
    pub fn fill(&self, tensor: &Matrix, first: usize, out: &mut [u8]) {
        if tensor.is_vector() {
            let mut values = vec![0.0; tensor.cols];
            self.floats(&Vector { name: tensor.name.clone(), len: tensor.cols }, &mut values);
            out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(o, v)| *o = v.to_le_bytes());
        } else {
            fill_rows(tensor, first, self.seed, out);
        }
    }

    pub(super) fn rows(&self, matrix: &Matrix, rows: Range<usize>) -> Vec<u8> {
        random_rows(matrix, rows, self.seed)
    }

    /// Norms are about 1, biases about 0.
    pub(super) fn floats(&self, vector: &Vector, out: &mut [f32]) {
        let mut random = Random::new(&vector.name, self.seed);
        let middle = if vector.name.ends_with(".bias") { 0.0 } else { 1.0 };
        out.fill_with(|| middle + 0.1 * random.number());
    }

    /// Writes the keys from which [`super::arch::spec`] reads the hyper-parameters again, as
    /// converters write them, and the general ones. RoPE is without scaling.
    pub fn describe(&self, name: &str, to: &mut Writer) {
        let s = &self.spec;
        let key = |suffix: &str| format!("{}.{suffix}", s.architecture);
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        to.str("general.architecture", s.architecture).str("general.type", "model").str("general.name", name);
        for (suffix, value) in [
            ("block_count", s.layers),
            ("context_length", s.context),
            ("embedding_length", s.width),
            ("feed_forward_length", s.ffn),
            ("attention.head_count", s.heads),
            ("attention.head_count_kv", s.kv_heads),
            ("vocab_size", self.vocab),
            ("rope.dimension_count", s.rope.dims),
        ] {
            to.u32(&key(suffix), number(value));
        }
        if s.heads * s.head_dim != s.width {
            to.u32(&key("attention.key_length"), number(s.head_dim));
            to.u32(&key("attention.value_length"), number(s.head_dim));
        }
        to.f32(&key("attention.layer_norm_rms_epsilon"), s.norm_eps);
        to.f32(&key("rope.freq_base"), s.rope.base);
        to.u32("general.quantization_version", 2);
        if let Some(id) = self.ftype.id() {
            to.u32("general.file_type", id);
        }
    }
}

/// Random valid blocks for rows of a matrix.
pub(crate) fn random_rows(matrix: &Matrix, rows: Range<usize>, seed: u64) -> Vec<u8> {
    let mut out = vec![0; rows.len() * matrix.row_bytes()];
    fill_rows(matrix, rows.start, seed, &mut out);
    out
}

/// Weights that keep a vector's size: logits alone are larger.
fn fill_rows(matrix: &Matrix, first: usize, seed: u64, out: &mut [u8]) {
    let head = matches!(matrix.name.as_str(), "output.weight" | "token_embd.weight");
    let deviation = if head { LOGITS } else { 1.0 } / (matrix.cols as f32).sqrt();
    let all = Random::new(&matrix.name, seed);
    let blocks = Blocks::new(matrix.ty, deviation);
    for (row, out) in (first as u64..).zip(out.chunks_exact_mut(matrix.row_bytes().max(1))) {
        blocks.fill(&mut all.fork(row), out);
    }
}
