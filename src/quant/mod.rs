//! Block formats: what the bytes of a tensor mean, and how they lie on the GPU.
//!
//! Every quantised type is read in one way: a block is whole numbers ("levels", -128 to 127) in
//! groups of 16, each group with a scale and a minimum, both F32, and an element is
//! `scale * level - min`. That is exact: it is the order of operations of the reference
//! decoders, so values agree with them bit for bit. CPU decoding, the packed layout, the shader
//! snippets and every arithmetic of the kernels are made from this one view.

mod codebook;
mod few_bits;
mod iq;
mod k_quants;
mod layout;
mod legacy;
mod points;
mod types;

pub use codebook::{Book, books};
pub use layout::{Layout, pack, unpack_block};
pub use types::*;

use half::{bf16, f16};

/// Elements of the largest block.
pub const MAX_BLOCK: usize = 256;

/// A decoded block: levels in element order, and a scale and a minimum for each group of 16.
#[derive(Clone, Debug)]
pub struct Block {
    /// Element `i` is `scale[i / 16] * levels[i] - min[i / 16]`.
    pub levels: [i8; MAX_BLOCK],
    /// One factor per group.
    pub scale: [f32; MAX_BLOCK / GROUP],
    /// What is taken away, per group; 0 in types without minima.
    pub min: [f32; MAX_BLOCK / GROUP],
}

impl Default for Block {
    fn default() -> Block {
        Block { levels: [0; MAX_BLOCK], scale: [0.0; MAX_BLOCK / GROUP], min: [0.0; MAX_BLOCK / GROUP] }
    }
}

impl Block {
    /// Decodes a block of a quantised type. `bytes` is one block; other types leave zeros.
    pub fn decode(&mut self, ty: Type, bytes: &[u8]) {
        match ty {
            Type::Q4_0 => legacy::q4_0(bytes, self),
            Type::Q4_1 => legacy::q4_1(bytes, self),
            Type::Q5_0 => legacy::q5_0(bytes, self),
            Type::Q5_1 => legacy::q5_1(bytes, self),
            Type::Q8_0 => legacy::q8_0(bytes, self),
            Type::Q2_K => k_quants::q2_k(bytes, self),
            Type::Q3_K => k_quants::q3_k(bytes, self),
            Type::Q4_K => k_quants::q4_k(bytes, self),
            Type::Q5_K => k_quants::q5_k(bytes, self),
            Type::Q6_K => k_quants::q6_k(bytes, self),
            Type::Q8_K => k_quants::q8_k(bytes, self),
            Type::IQ1_S => iq::iq1_s(bytes, self),
            Type::IQ1_M => iq::iq1_m(bytes, self),
            Type::IQ2_XXS => iq::iq2_xxs(bytes, self),
            Type::IQ2_XS => iq::iq2_xs(bytes, self),
            Type::IQ2_S => iq::iq2_s(bytes, self),
            Type::IQ3_XXS => iq::iq3_xxs(bytes, self),
            Type::IQ3_S => iq::iq3_s(bytes, self),
            Type::IQ4_NL => iq::iq4_nl(bytes, self),
            Type::IQ4_XS => iq::iq4_xs(bytes, self),
            Type::TQ1_0 => few_bits::tq1_0(bytes, self),
            Type::TQ2_0 => few_bits::tq2_0(bytes, self),
            Type::Q1_0 => few_bits::q1_0(bytes, self),
            Type::Q2_0 => few_bits::q2_0(bytes, self),
            Type::MXFP4 => few_bits::mxfp4(bytes, self),
            Type::NVFP4 => few_bits::nvfp4(bytes, self),
            _ => *self = Block::default(),
        }
    }

    /// Sets the scale and the minimum of all groups from `first` on to `last`, exclusive.
    fn set(&mut self, groups: std::ops::Range<usize>, scale: f32, min: f32) {
        self.scale[groups.clone()].fill(scale);
        self.min[groups].fill(min);
    }
}

/// Decodes whole blocks to F32. `out` has `bytes / block bytes * block elements` elements.
pub fn dequantize(ty: Type, bytes: &[u8], out: &mut [f32]) {
    match ty {
        Type::F32 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *o = f32::from_le_bytes(*b);
            }
        }
        Type::F16 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *o = f16::from_le_bytes(*b).to_f32();
            }
        }
        Type::BF16 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *o = bf16::from_le_bytes(*b).to_f32();
            }
        }
        _ => {
            let mut block = Block::default();
            let blocks = bytes.chunks_exact(ty.block_bytes());
            for (o, b) in out.chunks_exact_mut(ty.block_elements()).zip(blocks) {
                block.decode(ty, b);
                for (g, o) in o.chunks_exact_mut(GROUP).enumerate() {
                    let levels = &block.levels[g * GROUP..(g + 1) * GROUP];
                    for (o, level) in o.iter_mut().zip(levels) {
                        *o = block.scale[g] * f32::from(*level) - block.min[g];
                    }
                }
            }
        }
    }
}

/// The F16 at a byte offset of a block.
fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_bits(u16_at(bytes, at)).to_f32()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
