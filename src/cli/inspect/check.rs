//! `--check`: numbers that no sound file has, and a hash to tell files apart.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::gguf::{File, Tensor};
use crate::quant::Type;
use crate::{Result, threads};

/// The SHA-256 of each file, and a line per tensor with numbers that are not finite.
///
/// # Errors
/// [`crate::Error::Device`] where no threads can be had.
pub(super) fn check(file: &File) -> Result<(Vec<String>, Vec<String>)> {
    let hash = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    let pool = threads::pool(threads::cores())?;
    Ok(pool.join(
        || file.parts().par_iter().map(|part| hash(part.bytes())).collect(),
        || file.tensors().par_iter().filter_map(|t| problem(file, t)).collect(),
    ))
}

fn problem(file: &File, tensor: &Tensor) -> Option<String> {
    let size = tensor.ty.block_bytes();
    // Pieces of whole blocks, so that one large matrix is not one thread's work.
    let bad: usize = file
        .data(tensor)
        .par_chunks(size * 4096)
        .map(|piece| piece.chunks_exact(size).filter(|block| !is_finite(tensor.ty, block)).count())
        .sum();
    let all = tensor.elements() / tensor.ty.block_elements() as u64;
    let what = if tensor.ty.block_elements() == 1 { "elements" } else { "blocks have scales that" };
    (bad > 0).then(|| format!("tensor {}: {bad} of {all} {what} are NaN or infinite", tensor.name))
}

/// Whether a block's numbers are: what is not stored as a float cannot be anything else.
fn is_finite(ty: Type, block: &[u8]) -> bool {
    match ty {
        Type::F32 => finite32(block),
        Type::F16 => finite16(block),
        Type::BF16 => block.first_chunk().is_none_or(|b| u16::from_le_bytes(*b) & 0x7f80 != 0x7f80),
        Type::F64 => block.first_chunk().is_none_or(|b| f64::from_le_bytes(*b).is_finite()),
        // The scale's four nibbles stand at the top of four words, sign and exponent in the last.
        Type::IQ1_M => block.last_chunk::<2>().is_none_or(|[_, top]| {
            let third = block[block.len() - 3];
            top & 0x70 != 0x70 || third & 0xc0 != 0xc0
        }),
        Type::MXFP4 => block.first() != Some(&0xff),
        // Four scales of E4M3 without a sign.
        Type::NVFP4 => block.first_chunk::<4>().is_none_or(|s| s.iter().all(|s| s & 0x7f != 0x7f)),
        ty => {
            let mut at = 0;
            ty.fields().iter().all(|(name, bytes)| {
                let field = block.get(at..at + bytes).unwrap_or(&[]);
                at += bytes;
                match (*name, bytes) {
                    ("d" | "dmin" | "m", 2) => finite16(field),
                    ("d" | "s", 4) => finite32(field),
                    _ => true,
                }
            })
        }
    }
}

fn finite16(bytes: &[u8]) -> bool {
    bytes.first_chunk().is_none_or(|b| u16::from_le_bytes(*b) & 0x7c00 != 0x7c00)
}

fn finite32(bytes: &[u8]) -> bool {
    bytes.first_chunk().is_none_or(|b| f32::from_le_bytes(*b).is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_infinite_scale_is_found_wherever_it_stands() {
        for ty in [Type::Q4_0, Type::Q4_1, Type::Q4_K, Type::Q6_K, Type::Q2_K, Type::TQ2_0] {
            let mut at = 0;
            for (name, bytes) in ty.fields() {
                let mut block = vec![0x3b; ty.block_bytes()];
                assert!(is_finite(ty, &block), "{ty}");
                block[at..at + bytes].fill(0x7c);
                let is_scale = matches!(*name, "d" | "dmin" | "m");
                assert_eq!(is_finite(ty, &block), !is_scale, "{ty} {name}");
                at += bytes;
            }
        }
        assert!(!is_finite(Type::F32, &f32::NAN.to_le_bytes()));
        assert!(!is_finite(Type::Q8_K, &[0xff; 292]));
        assert!(is_finite(Type::I8, &[0xff]));
    }
}
