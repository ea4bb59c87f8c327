//! A type and bytes: blocks decode whatever they hold, and packing loses nothing.
#![no_main]

use infer::quant::{Block, GROUP, Layout, Type, dequantize, pack, unpack_block};
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((&[ty, blocks], data)) = data.split_first_chunk() else { return Corpus::Reject };
    let ty = Type::ALL[usize::from(ty) % Type::ALL.len()];
    if !ty.is_supported() {
        return Corpus::Reject;
    }
    let blocks = 1 + usize::from(blocks % 4);
    let (packed_bytes, cols) = (ty.packed_block_bytes(), blocks * ty.packed_block_elements());
    let rows = data.len() / (blocks * packed_bytes);
    if rows == 0 {
        return Corpus::Reject;
    }
    let data = &data[..rows * blocks * packed_bytes];

    let mut whole = vec![0.0; rows * cols];
    dequantize(ty, data, &mut whole);
    let mut one = vec![0.0; ty.block_elements()];
    let mut decoded = Block::default();
    for (block, values) in data.chunks_exact(ty.block_bytes()).zip(whole.chunks_exact(ty.block_elements())) {
        dequantize(ty, block, &mut one);
        assert!(one.iter().map(|v| v.to_bits()).eq(values.iter().map(|v| v.to_bits())), "{ty}");
        if !ty.is_float() {
            decoded.decode(ty, block);
            for (i, value) in values.iter().enumerate() {
                let (scale, min) = (decoded.scale[i / GROUP], decoded.min[i / GROUP]);
                let again = scale * f32::from(decoded.levels[i]) - min;
                assert_eq!(again.to_bits(), value.to_bits(), "{ty}, element {i}");
            }
        }
    }

    let layout = Layout::new(ty, rows, cols).expect("a layout of a supported type");
    let packed = pack(&layout, data);
    assert_eq!(packed.len(), layout.bytes);
    let mut back = vec![0; packed_bytes];
    for (i, block) in data.chunks_exact(packed_bytes).enumerate() {
        unpack_block(&layout, &packed, i / blocks, i % blocks, &mut back);
        assert_eq!(back, block, "{ty}, block {i}");
    }
    Corpus::Keep
});
