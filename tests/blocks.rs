//! Every block type decodes bit for bit as the reference does.

use infer::quant::{Type, dequantize};
use safetensors::SafeTensors;

mod common;

fn types() -> impl Iterator<Item = Type> {
    Type::ALL.iter().copied().filter(|t| t.is_supported())
}

#[test]
fn blocks_decode_bit_for_bit() {
    let dir = common::fixtures().join("blocks");
    for ty in types() {
        let bytes = std::fs::read(dir.join(format!("{ty}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (raw, want) = (file.tensor("raw").unwrap(), file.tensor("f32").unwrap());
        let (rows, cols) = (want.shape()[0], want.shape()[1]);
        let mut got = vec![0f32; cols];
        for row in 0..rows {
            let size = raw.data().len() / rows;
            dequantize(ty, &raw.data()[row * size..(row + 1) * size], &mut got);
            let want = &want.data()[row * cols * 4..(row + 1) * cols * 4];
            for (i, (got, want)) in got.iter().zip(want.as_chunks::<4>().0).enumerate() {
                assert_eq!(got.to_le_bytes(), *want, "{ty} row {row} element {i}: {got}");
            }
        }
    }
}
