//! The types with codebooks. Source of the layouts: gguf-py's `quants.py`.

use super::codebook::{
    IQ2_LEVELS, IQ4_LEVELS, iq3_s as magnitudes_iq3_s, iq3_xxs as magnitudes_iq3_xxs, value,
};
use super::{Block, GROUP, f16_at, points, u16_at, u32_at};

/// Eight signs in seven bits: there is an even number of them.
fn even_signs(seven: u32) -> u8 {
    (seven & 127 | ((seven & 127).count_ones() % 2) << 7) as u8
}

/// Writes magnitudes as levels; bit `i` of `signs` turns the `i`-th.
fn signed(levels: &mut [i8], magnitudes: impl IntoIterator<Item = u8>, signs: u8) {
    for (i, (level, m)) in levels.iter_mut().zip(magnitudes).enumerate() {
        *level = if signs >> i & 1 == 1 { -m.cast_signed() } else { m.cast_signed() };
    }
}

/// The magnitudes of a point of the IQ2 types.
fn eight(point: u16) -> impl Iterator<Item = u8> {
    (0..8).map(move |i| IQ2_LEVELS[usize::from(value(point, i))])
}

/// 16 bytes of nibbles: the low ones are elements 0–15, the high ones 16–31.
fn nibbles(levels: &mut [i8], qs: &[u8]) {
    for (i, q) in qs.iter().enumerate() {
        levels[i] = IQ4_LEVELS[usize::from(q & 15)];
        levels[i + 16] = IQ4_LEVELS[usize::from(q >> 4)];
    }
}

pub(super) fn iq4_nl(b: &[u8], out: &mut Block) {
    nibbles(&mut out.levels[..32], &b[2..18]);
    out.set(0..2, f16_at(b, 0), 0.0);
}

/// Eight runs of 32 elements, each with a scale of six bits: four in `scales_l`, two in `scales_h`.
pub(super) fn iq4_xs(b: &[u8], out: &mut Block) {
    let (d, high, low) = (f16_at(b, 0), u32::from(u16_at(b, 2)), u32_at(b, 4));
    for k in 0..8 {
        nibbles(&mut out.levels[32 * k..32 * k + 32], &b[8 + 16 * k..24 + 16 * k]);
        let scale = (low >> (4 * k) & 15 | (high >> (2 * k) & 3) << 4) as i32 - 32;
        out.set(2 * k..2 * k + 2, d * scale as f32, 0.0);
    }
}

/// Eight runs of 32: four bytes of indices, then four times seven signs and a scale of four bits.
pub(super) fn iq2_xxs(b: &[u8], out: &mut Block) {
    let d = f16_at(b, 0);
    for k in 0..8 {
        let signs = u32_at(b, 6 + 8 * k);
        for i in 0..4 {
            let point = points::IQ2_XXS[usize::from(b[2 + 8 * k + i])];
            signed(&mut out.levels[32 * k + 8 * i..][..8], eight(point), even_signs(signs >> (7 * i)));
        }
        out.set(2 * k..2 * k + 2, d * (0.5 + (signs >> 28) as f32) * 0.25, 0.0);
    }
}

/// 32 numbers of nine bits of index and seven of signs; a scale of four bits for each group.
pub(super) fn iq2_xs(b: &[u8], out: &mut Block) {
    for (i, levels) in out.levels.chunks_exact_mut(8).enumerate() {
        let q = u16_at(b, 2 + 2 * i);
        signed(levels, eight(points::IQ2_XS[usize::from(q & 511)]), even_signs(u32::from(q >> 9)));
    }
    group_scales(b, 66, out);
}

/// As IQ2_XS, with ten bits of index, two of them in `qh`, and all signs.
pub(super) fn iq2_s(b: &[u8], out: &mut Block) {
    for (i, levels) in out.levels.chunks_exact_mut(8).enumerate() {
        let index = usize::from(b[2 + i]) | usize::from(b[66 + i / 4] >> (2 * (i % 4)) & 3) << 8;
        signed(levels, eight(points::IQ2_S[index]), b[34 + i]);
    }
    group_scales(b, 74, out);
}

/// The scales of IQ2_XS and IQ2_S: a nibble for each group.
fn group_scales(b: &[u8], at: usize, out: &mut Block) {
    let d = f16_at(b, 0);
    for g in 0..16 {
        let scale = b[at + g / 2] >> (4 * (g % 2)) & 15;
        out.set(g..g + 1, d * (0.5 + f32::from(scale)) * 0.25, 0.0);
    }
}

/// Eight runs of 32: eight bytes of indices, and a word of signs and scale as in IQ2_XXS.
pub(super) fn iq3_xxs(b: &[u8], out: &mut Block) {
    let d = f16_at(b, 0);
    for k in 0..8 {
        let signs = u32_at(b, 66 + 4 * k);
        for i in 0..4 {
            let four = |j: usize| magnitudes_iq3_xxs(points::IQ3_XXS[usize::from(b[2 + 8 * k + 2 * i + j])]);
            let magnitudes = four(0).into_iter().chain(four(1));
            signed(&mut out.levels[32 * k + 8 * i..][..8], magnitudes, even_signs(signs >> (7 * i)));
        }
        out.set(2 * k..2 * k + 2, d * (0.5 + (signs >> 28) as f32) * 0.5, 0.0);
    }
}

/// As IQ3_XXS, with nine bits of index, one of them in `qh`, all signs, and scales of their own.
pub(super) fn iq3_s(b: &[u8], out: &mut Block) {
    for (i, levels) in out.levels.chunks_exact_mut(8).enumerate() {
        let four = |j: usize| {
            let i = 2 * i + j;
            let index = usize::from(b[2 + i]) | usize::from(b[66 + i / 8] >> (i % 8) & 1) << 8;
            magnitudes_iq3_s(points::IQ3_S[index])
        };
        signed(levels, four(0).into_iter().chain(four(1)), b[74 + i]);
    }
    let d = f16_at(b, 0);
    for k in 0..8 {
        let scale = b[106 + k / 2] >> (4 * (k % 2)) & 15;
        out.set(2 * k..2 * k + 2, d * f32::from(1 + 2 * scale), 0.0);
    }
}

/// Values from -1 to 1, all moved by an eighth: in eighths they are whole.
fn eighths(levels: &mut [i8], point: u16, down: bool) {
    for (i, level) in levels.iter_mut().enumerate() {
        *level = 8 * (value(point, i).cast_signed() - 1) + if down { -1 } else { 1 };
    }
}

/// Eight runs of 32: four indices of eleven bits, a scale of three and the direction of the move.
pub(super) fn iq1_s(b: &[u8], out: &mut Block) {
    let d = f16_at(b, 0);
    for k in 0..8 {
        let high = u16_at(b, 34 + 2 * k);
        for i in 0..4 {
            let index = usize::from(b[2 + 4 * k + i]) | usize::from(high >> (3 * i) & 7) << 8;
            eighths(&mut out.levels[32 * k + 8 * i..][..8], points::IQ1[index], high & 0x8000 != 0);
        }
        // An eighth is exact: F16 numbers are far from the smallest F32.
        out.set(2 * k..2 * k + 2, d * f32::from(2 * (high >> 12 & 7) + 1) * 0.125, 0.0);
    }
}

/// As IQ1_S, with a direction for every eight elements and a scale for each group. The F16 scale of
/// the block is spread over the highest nibbles of four words of scales.
pub(super) fn iq1_m(b: &[u8], out: &mut Block) {
    for (i, levels) in out.levels.chunks_exact_mut(8).enumerate() {
        let high = b[32 + i / 2] >> (4 * (i % 2));
        let index = usize::from(b[i]) | usize::from(high & 7) << 8;
        eighths(levels, points::IQ1[index], high & 8 != 0);
    }
    let scales: [u16; 4] = std::array::from_fn(|i| u16_at(b, 48 + 2 * i));
    let bits = scales.iter().rev().fold(0u16, |bits, s| bits << 4 | s >> 12);
    let d = half::f16::from_bits(bits).to_f32();
    for g in 0..256 / GROUP {
        let scale = scales[g / 4] >> (3 * (g % 4)) & 7;
        out.set(g..g + 1, d * f32::from(2 * scale + 1) * 0.125, 0.0);
    }
}
