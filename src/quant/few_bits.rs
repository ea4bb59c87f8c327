//! Types of one or two bits without a codebook, and the 4-bit floats. Sources of the layouts:
//! gguf-py's `quants.py`; for `Q1_0` and `Q2_0` ggml's own decoder.

use super::{Block, f16_at};

/// Five values of 0 to 2 in a byte, as fractions in base 3: value `n` is the digit behind the
/// point of `byte * 3^n / 256`.
fn trit(byte: u8, n: u32) -> i8 {
    let fraction = byte.wrapping_mul(3u8.wrapping_pow(n));
    ((u16::from(fraction) * 3) >> 8) as i8 - 1
}

/// 160 elements in 32 bytes, 80 in 16, 16 in 4: digit `n` of all bytes, then digit `n + 1`.
pub(super) fn tq1_0(b: &[u8], out: &mut Block) {
    let runs = [(&b[..32], 0..160), (&b[32..48], 160..240), (&b[48..52], 240..256)];
    for (bytes, elements) in runs {
        for (n, levels) in (0..).zip(out.levels[elements].chunks_exact_mut(bytes.len())) {
            for (level, byte) in levels.iter_mut().zip(bytes) {
                *level = trit(*byte, n);
            }
        }
    }
    out.set(0..16, f16_at(b, 52), 0.0);
}

/// Two runs of 32 bytes: bits `2 n` of all bytes, then bits `2 n + 2`.
pub(super) fn tq2_0(b: &[u8], out: &mut Block) {
    super::k_quants::two_bits(&b[..64], &mut out.levels);
    out.levels.iter_mut().for_each(|level| *level -= 1);
    out.set(0..16, f16_at(b, 64), 0.0);
}

/// A bit an element: the scale, or its negative.
pub(super) fn q1_0(b: &[u8], out: &mut Block) {
    for (i, level) in out.levels.iter_mut().enumerate().take(128) {
        *level = 2 * (b[2 + i / 8] >> (i % 8) & 1).cast_signed() - 1;
    }
    out.set(0..8, f16_at(b, 0), 0.0);
}

/// Four elements a byte, from -1 to 2.
pub(super) fn q2_0(b: &[u8], out: &mut Block) {
    for (i, level) in out.levels.iter_mut().enumerate().take(64) {
        *level = (b[2 + i / 4] >> (2 * (i % 4)) & 3).cast_signed() - 1;
    }
    out.set(0..4, f16_at(b, 0), 0.0);
}

/// The numbers of a sign, two bits of exponent and one of mantissa, doubled: they are whole.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// A scale that is a power of two: 2^(e - 127), halved here because the levels are doubled.
pub(super) fn mxfp4(b: &[u8], out: &mut Block) {
    for (i, q) in b[1..17].iter().enumerate() {
        out.levels[i] = E2M1[usize::from(q & 15)];
        out.levels[i + 16] = E2M1[usize::from(q >> 4)];
    }
    let e = u32::from(b[0]);
    let bits = match e {
        0..2 => 0x0020_0000 << e,
        // By the standard of these formats (OCP MX 1.0, 5.4.1) this one is no number.
        255 => 0x7fc0_0000,
        _ => (e - 1) << 23,
    };
    out.set(0..2, f32::from_bits(bits), 0.0);
}

/// Four groups of 8 bytes, low nibbles first, with scales of 4 bits of exponent and 3 of mantissa.
pub(super) fn nvfp4(b: &[u8], out: &mut Block) {
    for g in 0..4 {
        for (i, q) in b[4 + 8 * g..12 + 8 * g].iter().enumerate() {
            out.levels[16 * g + i] = E2M1[usize::from(q & 15)];
            out.levels[16 * g + i + 8] = E2M1[usize::from(q >> 4)];
        }
        out.set(g..g + 1, half_e4m3(b[g]), 0.0);
    }
}

/// Half of an E4M3 number without its sign; its one NaN is read as 0.
fn half_e4m3(byte: u8) -> f32 {
    let (e, m) = (u32::from(byte >> 3 & 15), u32::from(byte & 7));
    match (e, byte) {
        (_, 0x7f) => 0.0,
        (0, _) => m as f32 / 1024.0,
        _ => f32::from_bits((e + 119) << 23 | m << 20),
    }
}
