//! What must hold for any shape, file and text, tried on random ones.

use std::ops::Range;

use infer::gguf::writer::Writer;
use infer::gguf::{File, Json};
use infer::quant::{Layout, TILE, Type, dequantize, pack, unpack_block};
use proptest::prelude::*;

mod common;

fn settings(cases: u32) -> ProptestConfig {
    let cases = if common::full() { cases * 20 } else { cases };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// A supported type, rows, and columns that its rows can have: whole blocks, and of floats any number.
fn shape() -> impl Strategy<Value = (Type, usize, usize)> {
    let supported: Vec<Type> = Type::ALL.iter().copied().filter(|t| t.is_supported()).collect();
    (prop::sample::select(supported), 1..40usize, 1..80usize).prop_map(|(ty, rows, n)| {
        let blocks = if ty.is_float() { n } else { 1 + n % 3 };
        (ty, rows, blocks * ty.block_elements())
    })
}

/// Bytes without a zero, so that none is taken for padding.
fn filled(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8 | 1
    };
    (0..len).map(next).collect()
}

#[test]
fn packing_is_undone_at_any_shape() {
    proptest!(settings(2000), |((ty, rows, cols) in shape(), seed in any::<u64>())| {
        let layout = Layout::new(ty, rows, cols).unwrap();
        let file = filled(rows * layout.row_bytes(), seed);
        let packed = pack(&layout, &file);
        prop_assert_eq!(packed.len(), layout.bytes);
        // Nothing is there twice, and what is added is zero.
        prop_assert_eq!(packed.iter().filter(|b| **b != 0).count(), file.len());
        let mut back = vec![0xee; ty.packed_block_bytes()];
        for row in 0..layout.tiles() * TILE {
            let mut bytes = Vec::new();
            for block in 0..layout.blocks {
                unpack_block(&layout, &packed, row, block, &mut back);
                bytes.extend(&back);
            }
            let own = file.chunks_exact(layout.row_bytes()).nth(row).unwrap_or(&[]);
            prop_assert!(bytes.starts_with(own), "{} {}x{}, row {}", ty, rows, cols, row);
            prop_assert!(bytes[own.len()..].iter().all(|b| *b == 0), "{} {}x{}, row {}", ty, rows, cols, row);
        }
    });
}

#[test]
fn planes_stand_side_by_side() {
    proptest!(settings(2000), |((ty, rows, cols) in shape())| {
        let layout = Layout::new(ty, rows, cols).unwrap();
        let units = |count: usize| layout.tiles() * TILE * layout.blocks * count;
        let ranges: Vec<Range<usize>> =
            layout.planes.iter().map(|(p, start)| *start..start + units(p.count) * p.width).collect();
        prop_assert_eq!(ranges.first().map(|r| r.start), Some(0));
        prop_assert_eq!(ranges.last().map(|r| r.end), Some(layout.bytes));
        prop_assert!(ranges.windows(2).all(|w| w[0].end == w[1].start));
        prop_assert!(layout.planes.iter().all(|(p, start)| start.is_multiple_of(p.width)));
        prop_assert!(layout.bytes.is_multiple_of(16));
        prop_assert_eq!(layout.chunks() * 32, layout.blocks * ty.packed_block_elements());
        prop_assert!(layout.chunks() * 32 >= cols);
    });
}

#[test]
fn a_row_decodes_as_its_blocks_do() {
    proptest!(settings(2000), |((ty, _, cols) in shape(), seed in any::<u64>())| {
        let elements = ty.block_elements();
        let bytes = filled(cols / elements * ty.block_bytes(), seed);
        let (mut whole, mut block) = (vec![0.0; cols], vec![0.0; elements]);
        dequantize(ty, &bytes, &mut whole);
        for (bytes, whole) in bytes.chunks_exact(ty.block_bytes()).zip(whole.chunks_exact(elements)) {
            dequantize(ty, bytes, &mut block);
            // Not every bit of a NaN is anybody's.
            let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
            prop_assert!(whole.iter().zip(&block).all(same), "{}: {:?} and {:?}", ty, whole, block);
        }
    });
}

/// The writer knows one alignment; here the table is moved to others, with gaps between tensors.
#[test]
fn any_alignment_is_read() {
    let tensors = prop::collection::vec((1..100usize, 0..3u64), 0..6);
    proptest!(settings(1000), |(power in 3..13u32, tensors in tensors, seed in any::<u64>())| {
        let alignment = 1u32 << power;
        let step = u64::from(alignment);
        let mut writer = Writer::new();
        writer.u32("general.alignment", alignment);
        let mut header = writer.header();
        // Magic, version, counts, key, type, value: the table stands directly behind.
        header.truncate(24 + 8 + 17 + 4 + 4);
        header[8..16].copy_from_slice(&(tensors.len() as u64).to_le_bytes());
        let (mut data, mut expected) = (Vec::new(), Vec::new());
        for (i, (len, gap)) in tensors.iter().enumerate() {
            data.resize(data.len().next_multiple_of(alignment as usize) + (gap * step) as usize, 0);
            header.extend(2u64.to_le_bytes());
            header.extend(format!("t{i}").as_bytes());
            header.extend(1u32.to_le_bytes());
            header.extend((*len as u64).to_le_bytes());
            header.extend((Type::I8 as u32).to_le_bytes());
            header.extend((data.len() as u64).to_le_bytes());
            expected.push(filled(*len, seed ^ i as u64));
            data.extend(expected.last().unwrap());
        }
        header.resize(header.len().next_multiple_of(alignment as usize), 0);
        let file = File::parse([header, data].concat()).unwrap();
        prop_assert_eq!(file.alignment(), alignment);
        prop_assert_eq!(file.tensors().len(), expected.len());
        for (i, expected) in expected.iter().enumerate() {
            let tensor = file.tensor(&format!("t{i}")).unwrap();
            prop_assert_eq!(file.data(tensor), &expected[..]);
            prop_assert!(tensor.offset.is_multiple_of(step));
        }
    });
}

/// However tensors lie in the parts of a model, any part's path opens them all.
#[test]
fn split_models_are_whole() {
    let tensors = prop::collection::vec((0..8usize, 1..50usize), 0..8);
    proptest!(settings(60), |(parts in 2..6u16, given in any::<prop::sample::Index>(), tensors in tensors)| {
        let directory = tempfile::tempdir().unwrap();
        let path = |part: u16| directory.path().join(format!("m-{:05}-of-{parts:05}.gguf", part + 1));
        for part in 0..parts {
            let mut writer = Writer::new();
            writer.u16("split.no", part).u16("split.count", parts);
            writer.i32("split.tensors.count", tensors.len().try_into().unwrap()).u32("part", part.into());
            for (i, (_, len)) in tensors.iter().enumerate().filter(|(_, t)| t.0 % usize::from(parts) == usize::from(part)) {
                writer.tensor(&format!("t{i}"), Type::I8, &[*len as u64], &filled(*len, i as u64));
            }
            std::fs::write(path(part), writer.finish()).unwrap();
        }
        let file = File::open(&path(given.index(parts.into()) as u16)).unwrap();
        prop_assert_eq!(file.parts().len(), usize::from(parts));
        prop_assert_eq!(file.get("part").and_then(|v| v.as_u64()), Some(0));
        prop_assert_eq!(file.tensors().len(), tensors.len());
        for (i, (part, len)) in tensors.iter().enumerate() {
            let tensor = file.tensor(&format!("t{i}")).unwrap();
            prop_assert_eq!(tensor.part, part % usize::from(parts));
            prop_assert_eq!(file.data(tensor), filled(*len, i as u64));
        }
    });
}

/// Metadata of any bytes are JSON, from which the same text is read.
#[test]
fn metadata_survive_json() {
    let text = || prop_oneof![any::<String>(), "[\"\\\\/\u{0}-\u{1f}\u{7f}\u{2028}\u{feff}é\u{1f600}]{0,12}"];
    let keys =
        prop::collection::btree_map(text().prop_filter("no key is empty", |k| !k.is_empty()), text(), 0..6);
    let lists = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..6);
    let numbers = prop::collection::vec(any::<f32>(), 0..6);
    proptest!(settings(1000), |(keys in keys, lists in lists, numbers in numbers)| {
        let mut writer = Writer::new();
        for (key, value) in &keys {
            writer.str(&format!("k{key}"), value);
        }
        writer.strings("list", &lists).f32s("numbers", &numbers);
        let file = File::parse(writer.finish()).unwrap();
        let json = serde_json::to_string_pretty(&Json(&file)).unwrap();
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(read.as_object().unwrap().len(), keys.len() + 2);
        for (key, value) in &keys {
            prop_assert_eq!(read[format!("k{key}")].as_str(), Some(value.as_str()));
        }
        for (list, read) in lists.iter().zip(read["list"].as_array().unwrap()) {
            prop_assert_eq!(read.as_str(), Some(&*String::from_utf8_lossy(list)));
        }
        for (number, read) in numbers.iter().zip(read["numbers"].as_array().unwrap()) {
            match read.as_f64() {
                Some(x) => prop_assert_eq!(x as f32, *number),
                None => prop_assert!(!number.is_finite() && read.is_string()),
            }
        }
    });
}
