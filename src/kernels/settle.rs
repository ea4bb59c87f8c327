//! What needs the whole residual stream and cannot wait for its consumers: a branch's norm before
//! it is added, and norms that take the mean off.

use super::source::Source;
use super::vector::Activations;
use super::{Form, Math, Shader, groups, padded, squares, u32};
use crate::quant::GROUP;

/// What is done to the stream, in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct Settle {
    /// Elements of the stream.
    pub width: usize,
    /// A branch is added.
    pub branch: Option<Added>,
    /// What the activations are of.
    pub norm: Reads,
    /// Added to mean squares.
    pub epsilon: f32,
}

/// How a branch is added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Added {
    /// It has a bias.
    pub bias: bool,
    /// It is normed, with a weight.
    pub normed: bool,
    /// It is multiplied by this.
    pub scale: f32,
}

/// What consumers of the stream read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// The stream itself.
    Stream,
    /// Its norm.
    Normed {
        /// The mean is taken off.
        mean: bool,
        /// There is a bias.
        bias: bool,
    },
}

/// The vectors that a settling reads, in this order, each `padded(width)` long in the shader's
/// buffer; empty where there is none.
#[derive(Clone, Debug, Default)]
pub struct Vectors {
    /// The branch's bias.
    pub branch_bias: Vec<f32>,
    /// The weight of the branch's norm.
    pub branch_norm: Vec<f32>,
    /// The weight of the stream's norm.
    pub norm: Vec<f32>,
    /// Its bias.
    pub norm_bias: Vec<f32>,
}

impl Vectors {
    /// As the shader's buffer has them.
    pub fn side_by_side(&self, width: usize) -> Vec<f32> {
        let mut out = Vec::new();
        for vector in [&self.branch_bias, &self.branch_norm, &self.norm, &self.norm_bias] {
            if !vector.is_empty() {
                let end = out.len() + padded(width);
                out.extend(vector);
                out.resize(end, 0.0);
            }
        }
        out
    }
}

/// Lanes of a workgroup, which has a token.
const THREADS: usize = 256;

impl Settle {
    /// There is a buffer of vectors.
    pub fn has_vectors(&self) -> bool {
        self.branch.is_some_and(|b| b.bias || b.normed) || self.norm != Reads::Stream
    }

    /// The shader of a form.
    pub fn shader(&self, form: Form) -> Shader {
        let mut source = Source::new(form);
        let branch = self.branch.unwrap_or(Added { bias: false, normed: false, scale: 1.0 });
        let (normed, layer) = (self.norm != Reads::Stream, matches!(self.norm, Reads::Normed { mean: true, .. }));
        let biased = matches!(self.norm, Reads::Normed { bias: true, .. });
        let mut at = 0;
        let mut place = |there: bool| {
            let here = at;
            at += if there { padded(self.width) / 4 } else { 0 };
            here
        };
        source
            .set("BRANCH_BIAS", place(branch.bias))
            .set("BRANCH_NORM", place(branch.normed))
            .set("NORM", place(normed))
            .set("NORM_BIAS", place(biased))
            .set("THREADS", THREADS)
            .set("GROUPS", groups(self.width))
            .set("REAL", self.width.div_ceil(GROUP))
            .set("TAIL", self.width % GROUP)
            .set("OUT_SQUARES", squares(self.width))
            .set_f32("WIDTH", self.width as f32)
            .set_f32("EPS", self.epsilon)
            .set_f32("SCALE", branch.scale)
            .flag("BRANCH", self.branch.is_some())
            .flag("BRANCH_BIASED", branch.bias)
            .flag("BRANCH_NORMED", branch.normed)
            .flag("RMS", normed && !layer)
            .flag("LAYER", layer)
            .flag("TAILED", !self.width.is_multiple_of(GROUP))
            .flag("NORMED", normed)
            .flag("BIASED", biased)
            .flag("VECTORS", self.has_vectors());
        let mut bindings = vec![(0, true), (1, false), (2, true), (3, true)];
        if self.has_vectors() {
            bindings.push((4, false));
        }
        Shader { name: "settle", source: source.build("settle.wgsl"), bindings, immediates: 0 }
    }

    /// The grid.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [1, u32(tokens as usize), 1]
    }

    /// The twin, for a token: changes the stream, and gives what its consumers read.
    pub fn twin(&self, math: Math, x: &mut [f32], branch: &[f32], vectors: &Vectors) -> Activations {
        let width = self.width as f32;
        let x = &mut x[..self.width];
        if let Some(added) = self.branch {
            let mut branch = branch[..self.width].to_vec();
            if added.bias {
                branch.iter_mut().zip(&vectors.branch_bias).for_each(|(v, b)| *v += b);
            }
            if added.normed {
                let squares: f32 = branch.iter().map(|v| v * v).sum();
                let factor = 1.0 / (squares / width + self.epsilon).sqrt();
                branch.iter_mut().zip(&vectors.branch_norm).for_each(|(v, w)| *v *= factor * w);
            }
            x.iter_mut().zip(&branch).for_each(|(x, v)| *x += added.scale * v);
        }
        let mean = match self.norm {
            Reads::Normed { mean: true, .. } => x.iter().sum::<f32>() / width,
            _ => 0.0,
        };
        let squares: f32 = x.iter().map(|v| (v - mean) * (v - mean)).sum();
        let factor = 1.0 / (squares / width + self.epsilon).sqrt();
        let read: Vec<f32> = match self.norm {
            Reads::Stream => x.to_vec(),
            _ => {
                let bias = |i: usize| vectors.norm_bias.get(i).copied().unwrap_or(0.0);
                let normed = x.iter().zip(&vectors.norm).enumerate();
                normed.map(|(i, (v, w))| (v - mean) * factor * w + bias(i)).collect()
            }
        };
        Activations::from_values(math, &read)
    }
}
