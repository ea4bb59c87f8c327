//! The 32-element types. Source of the layouts: gguf-py's `quants.py`.

use super::{Block, f16_at, u32_at};

/// Nibbles of 16 bytes: the low ones are elements 0–15, the high ones 16–31; bit `i` of `high`
/// is the fifth bit of element `i`.
fn nibbles(qs: &[u8], high: u32, offset: i8, out: &mut Block) {
    for (i, q) in qs.iter().enumerate().take(16) {
        let fifth = |bit: usize| ((high >> bit & 1) as i8) << 4;
        out.levels[i] = (q & 15) as i8 + fifth(i) - offset;
        out.levels[i + 16] = (q >> 4) as i8 + fifth(i + 16) - offset;
    }
}

pub(super) fn q4_0(b: &[u8], out: &mut Block) {
    nibbles(&b[2..], 0, 8, out);
    out.set(0..2, f16_at(b, 0), 0.0);
}

pub(super) fn q4_1(b: &[u8], out: &mut Block) {
    nibbles(&b[4..], 0, 0, out);
    out.set(0..2, f16_at(b, 0), -f16_at(b, 2));
}

pub(super) fn q5_0(b: &[u8], out: &mut Block) {
    nibbles(&b[6..], u32_at(b, 2), 16, out);
    out.set(0..2, f16_at(b, 0), 0.0);
}

pub(super) fn q5_1(b: &[u8], out: &mut Block) {
    nibbles(&b[8..], u32_at(b, 4), 0, out);
    out.set(0..2, f16_at(b, 0), -f16_at(b, 2));
}

pub(super) fn q8_0(b: &[u8], out: &mut Block) {
    for (level, q) in out.levels.iter_mut().zip(&b[2..34]) {
        *level = q.cast_signed();
    }
    out.set(0..2, f16_at(b, 0), 0.0);
}
