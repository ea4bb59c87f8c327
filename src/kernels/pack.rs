//! Packing a staged piece of a matrix on the GPU. Its twin is [`crate::quant::pack`].

use super::source::Source;
use super::{Form, Shader, u32};
use crate::quant::{Layout, TILE};

/// The immediates of `pack.wgsl`, for one plane of one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Args {
    offset: u32,
    width: u32,
    count: u32,
    block_bytes: u32,
    row_bytes: u32,
    blocks: u32,
    rows: u32,
    /// Words that the piece fills.
    pub words: u32,
    first: u32,
}

impl Args {
    /// The grid: workgroups of 256 words, folded into two dimensions.
    pub fn grid(&self) -> [u32; 3] {
        let groups = self.words.div_ceil(256);
        [groups.min(32768), groups.div_ceil(32768), 1]
    }
}

/// One dispatch per plane for the `rows` rows from `first_row` on, a multiple of 16. Word offsets
/// count from `base` words into the binding.
pub fn args(layout: &Layout, first_row: usize, rows: usize, base: usize) -> Vec<Args> {
    let tile_blocks = layout.blocks * TILE;
    layout
        .planes
        .iter()
        .map(|(plane, start)| {
            let tile_bytes = tile_blocks * plane.count * plane.width;
            Args {
                offset: u32(plane.offset),
                width: u32(plane.width),
                count: u32(plane.count),
                block_bytes: u32(layout.ty.packed_block_bytes()),
                row_bytes: u32(layout.row_bytes()),
                blocks: u32(layout.blocks),
                rows: u32(rows),
                words: u32(rows.div_ceil(TILE) * tile_bytes / 4),
                first: u32(base + (start + first_row / TILE * tile_bytes) / 4),
            }
        })
        .collect()
}

/// The shader.
pub fn shader(form: Form) -> Shader {
    Shader {
        name: "pack",
        source: Source::new(form).build("pack.wgsl"),
        bindings: vec![(0, false), (1, true)],
        immediates: 36,
    }
}
