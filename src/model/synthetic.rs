//! Random valid blocks at a model's shapes, for benchmarks: zeros would run faster than data.

use std::ops::Range;

use super::spec::Spec;
use super::weights::{Matrix, Vector};
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
}

/// A mixture of types, by llama-quantize's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are llama-quantize's")]
pub enum Ftype {
    F16,
    Q8_0,
    Q4_0,
    Q4KM,
}

impl Ftype {
    /// By name, in any case.
    pub fn parse(name: &str) -> Option<Ftype> {
        Some(match name.to_ascii_uppercase().as_str() {
            "F16" => Ftype::F16,
            "Q8_0" => Ftype::Q8_0,
            "Q4_0" => Ftype::Q4_0,
            "Q4_K_M" => Ftype::Q4KM,
            _ => return None,
        })
    }
}

impl Synthetic {
    pub(super) fn tensor(&self, name: &str) -> Option<(Type, Vec<u64>)> {
        let s = &self.spec;
        let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
        let part = match name.strip_prefix("blk.") {
            Some(rest) => rest.split_once('.')?.1,
            None => name,
        };
        let (rows, cols) = match part {
            "attn_norm.weight" | "ffn_norm.weight" | "output_norm.weight" => {
                return Some((Type::F32, vec![s.width as u64]));
            }
            "token_embd.weight" => (self.vocab, s.width),
            "output.weight" if !self.tied => (self.vocab, s.width),
            "attn_q.weight" => (q, s.width),
            "attn_k.weight" | "attn_v.weight" => (kv, s.width),
            "attn_output.weight" => (s.width, q),
            "ffn_gate.weight" | "ffn_up.weight" => (s.ffn, s.width),
            "ffn_down.weight" => (s.width, s.ffn),
            _ => return None,
        };
        Some((self.ty(name, part, cols), vec![cols as u64, rows as u64]))
    }

    /// The type that llama-quantize gives a matrix.
    fn ty(&self, name: &str, part: &str, cols: usize) -> Type {
        let head = part == "output.weight" || (part == "token_embd.weight" && self.tied);
        match self.ftype {
            Ftype::F16 => Type::F16,
            Ftype::Q8_0 => Type::Q8_0,
            Ftype::Q4_0 if head && cols.is_multiple_of(256) => Type::Q6_K,
            Ftype::Q4_0 => Type::Q4_0,
            Ftype::Q4KM => {
                let layer = name.split('.').nth(1).and_then(|l| l.parse().ok()).unwrap_or(0);
                let more =
                    matches!(part, "attn_v.weight" | "ffn_down.weight") && more_bits(layer, self.spec.layers);
                match (head || more, cols.is_multiple_of(256)) {
                    (true, true) => Type::Q6_K,
                    (true, false) => Type::Q8_0,
                    (false, true) => Type::Q4_K,
                    (false, false) => Type::Q5_0,
                }
            }
        }
    }

    pub(super) fn floats(&self, _vector: &Vector, out: &mut [f32]) {
        out.fill(1.0);
    }
}

/// Random valid blocks for rows of a matrix, as a file would have them: the same ones for a name
/// and a first row.
pub(crate) fn random_rows(matrix: &Matrix, rows: Range<usize>) -> Vec<u8> {
    let mut random = Random::new(&matrix.name, rows.start as u64);
    let mut out = vec![0; rows.len() * matrix.row_bytes()];
    for word in out.chunks_mut(8) {
        word.copy_from_slice(&random.next().to_le_bytes()[..word.len()]);
    }
    // Small scales, so that nothing overflows: the fields called d, m and dmin are F16, and
    // so are the elements of F16 matrices.
    let small = [0x00, 0x1c]; // 2^-8
    for block in out.chunks_exact_mut(matrix.ty.block_bytes()) {
        let mut at = 0;
        for (field, bytes) in matrix.ty.fields() {
            match *field {
                "d" | "m" | "dmin" if *bytes == 2 => block[at..at + 2].copy_from_slice(&small),
                "value" => block[at + 1] = block[at + 1] & 0x83 | 0x24, // |w| < 2^-5
                _ => {}
            }
            at += bytes;
        }
    }
    out
}

/// The layers whose `attn_v` and `ffn_down` llama-quantize gives more bits: the first and the
/// last eighth, and every third between.
fn more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// SplitMix64, seeded by a name: cheap, and good enough for weights that mean nothing.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(name: &str, offset: u64) -> Random {
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Random(hash ^ offset.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// A number from -1 to 1.
    pub(crate) fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}
