//! The 256-element K types. Source of the layouts: gguf-py's `quants.py`.

use super::{Block, f16_at};

/// The eight 6-bit scales and minima that Q4_K and Q5_K keep in 12 bytes.
fn scale_min(b: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (b[j] & 63, b[j + 4] & 63)
    } else {
        ((b[j + 4] & 15) | (b[j - 4] >> 6) << 4, (b[j + 4] >> 4) | (b[j] >> 6) << 4)
    }
}

fn scales(b: &[u8], out: &mut Block) {
    let (d, dmin) = (f16_at(b, 0), f16_at(b, 2));
    for j in 0..8 {
        let (scale, min) = scale_min(&b[4..16], j);
        out.set(2 * j..2 * j + 2, d * f32::from(scale), dmin * f32::from(min));
    }
}

/// Runs of 32 bytes, each of 128 elements of two bits: the lowest bits of all bytes come first.
pub(super) fn two_bits(qs: &[u8], levels: &mut [i8]) {
    for (levels, qs) in levels.chunks_exact_mut(128).zip(qs.chunks_exact(32)) {
        for (i, level) in levels.iter_mut().enumerate() {
            *level = (qs[i % 32] >> (2 * (i / 32)) & 3).cast_signed();
        }
    }
}

/// A nibble of scale and one of minimum for each group.
pub(super) fn q2_k(b: &[u8], out: &mut Block) {
    two_bits(&b[16..80], &mut out.levels);
    let (d, dmin) = (f16_at(b, 80), f16_at(b, 82));
    for (g, scale) in b[..16].iter().enumerate() {
        out.set(g..g + 1, d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
    }
}

/// Two bits as in Q2_K and a third: bit `r` of `hmask[i]` for element `i` of run `r` of 32. The
/// scales have six bits: a nibble, and two bits of the last four bytes.
pub(super) fn q3_k(b: &[u8], out: &mut Block) {
    two_bits(&b[32..96], &mut out.levels);
    for (i, level) in out.levels.iter_mut().enumerate() {
        *level += ((b[i % 32] >> (i / 32) & 1) << 2).cast_signed() - 4;
    }
    let (scales, d) = (&b[96..108], f16_at(b, 108));
    for g in 0..16 {
        let scale = scales[g % 8] >> (4 * (g / 8)) & 15 | (scales[8 + g % 4] >> (2 * (g / 4)) & 3) << 4;
        out.set(g..g + 1, d * f32::from(scale.cast_signed() - 32), 0.0);
    }
}

/// Each run of 32 bytes holds 64 elements: low nibbles first, then high ones.
pub(super) fn q4_k(b: &[u8], out: &mut Block) {
    scales(b, out);
    for (levels, qs) in out.levels.chunks_exact_mut(64).zip(b[16..].chunks_exact(32)) {
        for (i, q) in qs.iter().enumerate() {
            levels[i] = (q & 15) as i8;
            levels[i + 32] = (q >> 4) as i8;
        }
    }
}

/// As Q4_K, with a fifth bit: bit `2c` of `qh[i]` for the low and `2c + 1` for the high half of
/// run `c`.
pub(super) fn q5_k(b: &[u8], out: &mut Block) {
    scales(b, out);
    let qh = &b[16..48];
    for (c, (levels, qs)) in out.levels.chunks_exact_mut(64).zip(b[48..].chunks_exact(32)).enumerate() {
        for (i, q) in qs.iter().enumerate() {
            let high = qh[i] >> (2 * c);
            levels[i] = (q & 15 | (high & 1) << 4) as i8;
            levels[i + 32] = (q >> 4 | (high & 2) << 3) as i8;
        }
    }
}

/// Two halves of 128 elements: 64 bytes of low nibbles and 32 bytes of 2-bit highs each.
pub(super) fn q6_k(b: &[u8], out: &mut Block) {
    let d = f16_at(b, 208);
    for (g, scale) in b[192..208].iter().enumerate() {
        out.set(g..g + 1, d * f32::from(scale.cast_signed()), 0.0);
    }
    for (half, levels) in out.levels.chunks_exact_mut(128).enumerate() {
        let ql = &b[64 * half..64 * half + 64];
        let qh = &b[128 + 32 * half..128 + 32 * half + 32];
        for i in 0..32 {
            let high = |shift: u8| (qh[i] >> shift & 3) << 4;
            levels[i] = (ql[i] & 15 | high(0)) as i8 - 32;
            levels[i + 32] = (ql[i + 32] & 15 | high(2)) as i8 - 32;
            levels[i + 64] = (ql[i] >> 4 | high(4)) as i8 - 32;
            levels[i + 96] = (ql[i + 32] >> 4 | high(6)) as i8 - 32;
        }
    }
}

/// Bytes and one F32 scale; the sums of groups that follow are not needed to decode.
pub(super) fn q8_k(b: &[u8], out: &mut Block) {
    let d = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    for (level, q) in out.levels.iter_mut().zip(&b[4..260]) {
        *level = q.cast_signed();
    }
    out.set(0..16, d, 0.0);
}
