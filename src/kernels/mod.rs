//! The kernels: one file each, with its arguments, its grid and its CPU twin; the shader stands
//! under the same name in `shaders/`.
//!
//! A kernel knows shapes and types, no architecture. Its twin is the same computation in plain
//! Rust over slices, with the rounding of the arithmetic that it is asked for; `--device cpu` is
//! the set of twins.

pub mod activation;
pub mod attention;
pub mod embed;
pub mod gemv;
pub mod loops;
pub mod overlap;
pub mod pack;
pub mod probe;
pub mod route;
pub mod sample;
pub mod select;
pub mod settle;
mod source;
pub mod vector;

use std::fmt;

/// The arithmetic of products of weights and activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Math {
    /// Weights and activations F16, products F16, sums F32.
    F16,
    /// F32 throughout.
    F32,
    /// Activations as integers of about 15 bits, in two 8-bit limbs, products and sums of a group
    /// exact, F32 from group to group.
    Int16,
    /// The same with 8 bits.
    Int8,
}

impl Math {
    /// The largest integer of an activation's number, for the integer arithmetics.
    pub fn steps(self) -> f32 {
        match self {
            Math::Int16 => 16256.0, // 127 * 128: both limbs stay within 8 bits
            _ => 127.0,
        }
    }
}

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kv {
    /// Two bytes a number.
    F16,
    /// Four bytes a number.
    F32,
    /// A byte a number, and two for the scale of each block of 32 along a head.
    Q8_0,
}

impl Kv {
    /// Bytes of a number, without its share of a scale.
    pub fn bytes(self) -> usize {
        match self {
            Kv::Q8_0 => 1,
            Kv::F16 => 2,
            Kv::F32 => 4,
        }
    }

    /// Makes a head what the cache gives back.
    pub fn round(self, head: &mut [f32]) {
        match self {
            Kv::F16 => head.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32()),
            Kv::F32 => {}
            Kv::Q8_0 => head.chunks_mut(KV_BLOCK).for_each(round_block),
        }
    }
}

/// Numbers that share a scale in a cache of [`Kv::Q8_0`]; a head's last ones may be fewer.
pub const KV_BLOCK: usize = 32;

/// The twin of `block_scale` and `quantised` in `kv_block.wgsl`.
fn round_block(block: &mut [f32]) {
    // Magnitudes are ordered as their bits are, with what is no number above all: it must not get lost.
    let most = block.iter().map(|v| v.to_bits() & 0x7fff_ffff).max().unwrap_or(0).min(0x7fc0_0000);
    let scale = half::f16::from_f32(f32::from_bits(most) * (1.0 / 127.0)).to_f32();
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    for v in block {
        *v = (*v * inverse).round_ties_even().clamp(-127.0, 127.0) * scale;
    }
}

impl fmt::Display for Math {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Math::F16 => "f16",
            Math::F32 => "f32",
            Math::Int16 => "int16",
            Math::Int8 => "int8",
        })
    }
}

impl fmt::Display for Kv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kv::F16 => "f16",
            Kv::F32 => "f32",
            Kv::Q8_0 => "q8_0",
        })
    }
}

/// Which of a kernel's forms: the arithmetic, and what the adapter offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Form {
    /// The arithmetic.
    pub math: Math,
    /// How keys and values are stored.
    pub kv: Kv,
    /// Subgroup operations may be used.
    pub subgroups: bool,
    /// F16 arithmetic may be used; without it F16 numbers are stored and computed with as F32,
    /// rounded to the same values.
    pub native_f16: bool,
    /// Workgroups of a dispatch can see each other's writes: attention merges its own splits.
    pub inline_merge: bool,
    /// A stage's workgroups may run before the stage before has ended, and take what it makes as it
    /// comes: of one token, in integers.
    pub overlapped: bool,
    /// A compiler may write a vector whole where one component is meant: what several lanes write is
    /// numbers.
    pub whole_vectors: bool,
    /// How often a lane looks for a word of the stage before until it gives up: [`POLLS`], or fewer to
    /// see what becomes of that.
    pub polls: u32,
}

/// Looking so often for a word takes about half a second.
pub const POLLS: u32 = 1 << 19;

/// A shader of one form, ready for a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shader {
    /// The kernel's name.
    pub name: &'static str,
    /// WGSL.
    pub source: String,
    /// For each binding of group 0: its number, and whether it is written.
    pub bindings: Vec<(u32, bool)>,
    /// Bytes of immediates.
    pub immediates: u32,
}

/// Groups of 16 in the ready-made activations of a vector: whole chunks of 32.
pub fn groups(elements: usize) -> usize {
    elements.div_ceil(crate::quant::CHUNK) * (crate::quant::CHUNK / crate::quant::GROUP)
}

/// Elements of a vector's buffer: whole chunks of 32.
pub fn padded(elements: usize) -> usize {
    elements.next_multiple_of(crate::quant::CHUNK)
}

/// Sums of squares of a vector, one per group, as a buffer has them: whole vectors of four.
pub fn squares(elements: usize) -> usize {
    groups(elements).next_multiple_of(4)
}

fn u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_keeps_its_numbers_to_half_a_step() {
        for scale in [1e-3f32, 1.0, 6e4] {
            // A head that ends within a block.
            let head: Vec<f32> = (0..40).map(|i| scale * ((i * 29 % 81) as f32 / 40.0 - 1.0)).collect();
            let mut got = head.clone();
            Kv::Q8_0.round(&mut got);
            for (block, got) in head.chunks(KV_BLOCK).zip(got.chunks(KV_BLOCK)) {
                let step = block.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
                // A scale in F16 is off by 2^-11, which the largest numbers have 127 times.
                let worst = block.iter().zip(got).fold(0.0f32, |m, (v, g)| m.max((v - g).abs()));
                assert!(worst <= 0.57 * step, "{worst} of {step}");
            }
        }
    }

    #[test]
    fn blocks_of_nothing_and_of_no_numbers_stay_so() {
        let mut head = vec![0.0, -0.0, 1e-12];
        Kv::Q8_0.round(&mut head);
        assert!(head.iter().all(|v| *v == 0.0), "{head:?}");
        for bad in [f32::NAN, f32::INFINITY, f32::from_bits(u32::MAX), f32::from_bits(0x7f80_0001)] {
            let mut head = vec![1.0, bad, 2.0];
            Kv::Q8_0.round(&mut head);
            assert!(head.iter().any(|v| !v.is_finite()), "{bad}: {head:?}");
        }
    }
}
