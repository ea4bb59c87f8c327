//! The packed layout of a matrix on the GPU: the file's bytes, rearranged.
//!
//! Rows stand in tiles of 16, padded with rows of zero bytes. A block's bytes are cut into
//! units (see [`Plane`]), and unit `u` of block `b` of the 16 rows of a tile lies side by side,
//! so that lanes which own a row each read one contiguous piece of memory. No bit is added or
//! dropped: [`unpack_block`] gives every block back.

use super::{Plane, TILE, Type};

/// Where everything of a packed matrix lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The blocks' type.
    pub ty: Type,
    /// Rows, without padding.
    pub rows: usize,
    /// Elements of a row.
    pub cols: usize,
    /// Packed blocks of a row.
    pub blocks: usize,
    /// The planes, each with the byte at which it begins.
    pub planes: Vec<(Plane, usize)>,
    /// All bytes: a multiple of 16.
    pub bytes: usize,
}

impl Layout {
    /// The layout of `rows` rows of `cols` elements; `None` for a type without kernels.
    pub fn new(ty: Type, rows: usize, cols: usize) -> Option<Layout> {
        let blocks = cols.div_ceil(ty.packed_block_elements());
        let mut bytes = 0;
        let planes = ty.planes()?.iter().map(|plane| {
            let start = bytes;
            bytes += rows.div_ceil(TILE) * TILE * blocks * plane.count * plane.width;
            (*plane, start)
        });
        let planes = planes.collect();
        Some(Layout { ty, rows, cols, blocks, planes, bytes })
    }

    /// Tiles of 16 rows.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE)
    }

    /// Bytes of a row in the file.
    pub fn row_bytes(&self) -> usize {
        self.cols / self.ty.block_elements() * self.ty.block_bytes()
    }

    /// Chunks of 32 elements in a row, padding included.
    pub fn chunks(&self) -> usize {
        self.blocks * self.ty.packed_block_elements() / super::CHUNK
    }

    /// The first byte of unit `unit` of block `block` in row `row` of a plane.
    fn unit(&self, plane: usize, row: usize, block: usize, unit: usize) -> usize {
        let (p, start) = self.planes[plane];
        let index = ((row / TILE * self.blocks + block) * p.count + unit) * TILE + row % TILE;
        start + index * p.width
    }
}

/// Packs rows as the shader `pack.wgsl` does: its twin. `file` is the matrix as in the file.
pub fn pack(layout: &Layout, file: &[u8]) -> Vec<u8> {
    let mut out = vec![0; layout.bytes];
    let block_bytes = layout.ty.packed_block_bytes();
    for (row, bytes) in file.chunks_exact(layout.row_bytes()).enumerate() {
        for (block, bytes) in bytes.chunks(block_bytes).enumerate() {
            for (p, (plane, _)) in layout.planes.iter().enumerate() {
                for unit in 0..plane.count {
                    // The last chunk of a float row may be short: the rest stays zero.
                    let from = (plane.offset + unit * plane.width).min(bytes.len());
                    let unit_bytes = &bytes[from..(from + plane.width).min(bytes.len())];
                    let to = layout.unit(p, row, block, unit);
                    out[to..to + unit_bytes.len()].copy_from_slice(unit_bytes);
                }
            }
        }
    }
    out
}

/// Puts a block together again from a packed matrix. `out` is a packed block's bytes.
pub fn unpack_block(layout: &Layout, packed: &[u8], row: usize, block: usize, out: &mut [u8]) {
    for (p, (plane, _)) in layout.planes.iter().enumerate() {
        for unit in 0..plane.count {
            let from = layout.unit(p, row, block, unit);
            let to = plane.offset + unit * plane.width;
            out[to..to + plane.width].copy_from_slice(&packed[from..from + plane.width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_is_a_bijection() {
        for ty in Type::ALL.iter().copied().filter(|t| t.is_supported()) {
            for (rows, blocks) in [(1, 1), (17, 3), (32, 2), (5, 1)] {
                let cols = blocks * ty.packed_block_elements();
                let layout = Layout::new(ty, rows, cols).unwrap();
                let file: Vec<u8> = (0..rows * layout.row_bytes()).map(|i| (i * 7 + i / 251) as u8).collect();
                let packed = pack(&layout, &file);
                let mut back = vec![0; file.len()];
                for (i, out) in back.chunks_exact_mut(ty.packed_block_bytes()).enumerate() {
                    unpack_block(&layout, &packed, i / blocks, i % blocks, out);
                }
                assert!(back == file, "{ty} {rows}x{cols}");
                assert!(packed.len() >= file.len() && packed.len().is_multiple_of(16));
            }
        }
    }

    #[test]
    fn short_float_rows_are_padded_with_zeros() {
        let layout = Layout::new(Type::F32, 1, 5).unwrap();
        let packed = pack(&layout, &[0xff; 20]);
        let mut block = vec![0; 128];
        unpack_block(&layout, &packed, 0, 0, &mut block);
        assert_eq!(block[..20], [0xff; 20]);
        assert_eq!(block[20..], [0; 108]);
    }
}
