//! Activations, ready-made by their producer for their consumers' arithmetic: the twin of
//! `emit.wgsl` and of what `product.wgsl` reads.

use half::f16;

use super::{Math, groups};
use crate::quant::GROUP;

/// What stands beside a group of 16 numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Record {
    /// An activation is its number times this.
    pub scale: f32,
    /// The sum of the group's activations, as rounded.
    pub sum: f32,
    /// The sum of squares of the residual stream, where a norm follows.
    pub squares: f32,
}

/// A vector of activations.
#[derive(Clone, Debug, Default)]
pub struct Activations {
    /// The numbers, padded to whole chunks.
    pub numbers: Vec<f32>,
    /// A record per group of 16.
    pub records: Vec<Record>,
}

impl Activations {
    /// Zeros for a vector of so many elements.
    pub fn zeros(elements: usize) -> Activations {
        let groups = groups(elements);
        Activations { numbers: vec![0.0; groups * GROUP], records: vec![Record::default(); groups] }
    }

    /// Writes group `g`. In F16 its scale is the power of two above the largest magnitude.
    pub fn emit(&mut self, math: Math, g: usize, values: &[f32; GROUP], squares: f32) {
        let numbers = &mut self.numbers[g * GROUP..(g + 1) * GROUP];
        // What integers, and F16 with certainty, cannot carry on, their scale does.
        let is_finite = values.iter().all(|v| v.is_finite());
        let (scale, sum) = match math {
            Math::F32 => {
                numbers.copy_from_slice(values);
                (1.0, values.iter().sum())
            }
            Math::Int16 | Math::Int8 => {
                let top = values.iter().fold(0f32, |m, v| m.max(v.abs()));
                let inverse = if top > 1e-30 { math.steps() / top } else { 0.0 };
                let mut sum = 0.0;
                for (n, v) in numbers.iter_mut().zip(values) {
                    *n = (v * inverse).round_ties_even();
                    sum += *n;
                }
                let scale = if is_finite { top / math.steps() } else { f32::NAN };
                (scale, sum * scale)
            }
            Math::F16 => {
                let top = values.iter().fold(0f32, |m, v| m.max(v.abs()));
                let exponent = ((top.to_bits() >> 23) + 1).clamp(1, 253);
                let scale = if is_finite { f32::from_bits(exponent << 23) } else { f32::NAN };
                let inverse = f32::from_bits((254 - exponent) << 23);
                let mut sum = 0.0;
                for (n, v) in numbers.iter_mut().zip(values) {
                    *n = f16::from_f32(v * inverse).to_f32();
                    sum += *n;
                }
                (scale, sum * scale)
            }
        };
        self.records[g] = Record { scale, sum, squares };
    }

    /// Makes activations of a residual stream, times the weight of the norm that follows.
    pub fn from_residual(math: Math, x: &[f32], norm: &[f32]) -> Activations {
        let mut out = Activations::zeros(x.len());
        for (g, chunk) in x.chunks(GROUP).enumerate() {
            let (mut values, mut squares) = ([0.0; GROUP], 0.0);
            for (i, v) in chunk.iter().enumerate() {
                squares += v * v;
                values[i] = v * norm[g * GROUP + i];
            }
            out.emit(math, g, &values, squares);
        }
        out
    }

    /// Makes activations of plain values.
    pub fn from_values(math: Math, values: &[f32]) -> Activations {
        let mut out = Activations::zeros(values.len());
        for (g, chunk) in values.chunks(GROUP).enumerate() {
            let mut group = [0.0; GROUP];
            group[..chunk.len()].copy_from_slice(chunk);
            out.emit(math, g, &group, 0.0);
        }
        out
    }

    /// The numbers' bytes on the device: as integers of two limbs, a group's high ones come first.
    pub fn stored(&self, math: Math) -> Vec<u8> {
        let numbers = self.numbers.iter();
        match math {
            Math::F32 => numbers.flat_map(|v| v.to_le_bytes()).collect(),
            Math::F16 => numbers.flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            Math::Int8 => numbers.map(|v| *v as i8 as u8).collect(),
            Math::Int16 => {
                let high = |v: f32| (v as i32 + 64) >> 7;
                let limbs = |group: &[f32]| -> Vec<u8> {
                    let low = group.iter().map(|v| *v as i32 - high(*v) * 128);
                    group.iter().map(|v| high(*v)).chain(low).map(|v| v as u8).collect()
                };
                self.numbers.chunks(GROUP).flat_map(limbs).collect()
            }
        }
    }

    /// The records on the device: scales and sums.
    pub fn stored_records(&self) -> Vec<[f32; 2]> {
        self.records.iter().map(|r| [r.scale, r.sum]).collect()
    }

    /// The numbers in bytes from the device: the way back from [`Activations::stored`].
    pub fn numbers_of(math: Math, bytes: &[u8]) -> Vec<f32> {
        match math {
            Math::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Math::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Math::Int8 => bytes.iter().map(|b| f32::from(*b as i8)).collect(),
            Math::Int16 => {
                let limb = |b: u8| f32::from(b as i8);
                let number = |limbs: &[u8], i: usize| 128.0 * limb(limbs[i]) + limb(limbs[i + GROUP]);
                let groups = bytes.chunks_exact(2 * GROUP);
                groups.flat_map(|limbs| (0..GROUP).map(move |i| number(limbs, i))).collect()
            }
        }
    }

    /// Activations from the bytes of their numbers and from their records, on the device.
    pub fn values_of(math: Math, bytes: &[u8], records: &[[f32; 2]]) -> Vec<f32> {
        let scale = |i: usize| records.get(i / GROUP).map_or(0.0, |r| r[0]);
        Activations::numbers_of(math, bytes).iter().zip(0..).map(|(n, i)| n * scale(i)).collect()
    }

    /// The activations themselves.
    pub fn values(&self) -> Vec<f32> {
        self.numbers.iter().zip(0..).map(|(n, i)| n * self.records[i / GROUP].scale).collect()
    }

    /// 1 / sqrt(mean square + epsilon) of the residual stream that these came from.
    pub fn norm_factor(&self, width: usize, epsilon: f32) -> f32 {
        norm_factor(self.records.iter().map(|r| r.squares).sum(), width, epsilon)
    }
}

/// 1 / sqrt(mean square + epsilon) of so many elements, by the sum of their squares. Where that overflows
/// the factor would be 0, and hide it: it is no number then.
pub fn norm_factor(squares: f32, elements: usize, epsilon: f32) -> f32 {
    let square = squares / elements as f32 + epsilon;
    if square.is_finite() { 1.0 / square.sqrt() } else { f32::NAN }
}
