//! The embedding lookup: a token's row, and the activations of the first norm's consumers.

use super::gemv::Part;
use super::loops::steps;
use super::source::{Source, wgsl_name};
use super::vector::Activations;
use super::{Form, Math, Shader, padded, squares, u32};
use crate::quant::{CHUNK, Layout, dequantize};

/// The lookup in one part of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Embed {
    /// The part.
    pub table: Part,
    /// The first row of the part.
    pub first_row: usize,
    /// Rows of the whole table.
    pub vocab: usize,
    /// Multiplies elements.
    pub scale: f32,
}

/// The immediates of `embed.wgsl`.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Args {
    /// Tokens in the batch.
    pub tokens: u32,
    /// Position of the first one.
    pub position: u32,
}

impl Embed {
    /// The shader of a form.
    pub fn shader(&self, form: Form) -> Shader {
        let Layout { ty, rows, .. } = self.table.layout;
        let steps = steps(ty);
        let mut source = Source::new(form);
        source
            .set("CHUNKS", self.table.layout.chunks())
            .set("M0", self.table.constant())
            .set("TYPE0", wgsl_name(ty))
            .set("VOCAB", self.vocab)
            .set("ROW0", self.first_row)
            .set("ROWS", rows)
            .set_f32("EMBEDDING_SCALE", self.scale)
            .flag("EMBEDDING_SCALED", self.scale != 1.0)
            .set("LEVEL_BIAS", format_args!("{:.1}", f64::from(ty.levels().bias)))
            .set("STEP_CHUNKS", steps.chunks)
            .set("STEP_PARTS", steps.parts)
            .set("OUT_SQUARES", squares(self.table.layout.cols))
            .flag("LEVELS", !ty.is_float())
            .set_blocks(&[ty], false);
        Shader {
            name: "embed",
            source: source.build("embed.wgsl"),
            bindings: [false, false, false, false, true, true, true, true]
                .into_iter()
                .enumerate()
                .map(|(i, w)| (u32(i), w))
                .collect(),
            immediates: 8,
        }
    }

    /// The grid for so many tokens.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [u32((8 * self.table.layout.chunks()).div_ceil(64)), tokens, 1]
    }
}

/// The twin: `row` is the token's row as in the file. Gives the residual stream, padded, and the
/// activations.
pub fn twin(math: Math, layout: &Layout, row: &[u8], scale: f32, norm: &[f32]) -> (Vec<f32>, Activations) {
    let mut x = vec![0.0; padded(layout.cols).max(CHUNK)];
    dequantize(layout.ty, row, &mut x[..layout.cols]);
    x.iter_mut().for_each(|v| *v *= scale);
    let activations = Activations::from_residual(math, &x[..layout.cols], norm);
    (x, activations)
}
