//! What needs the whole residual stream and cannot wait for its consumers: a branch's norm before
//! it is added, and norms that take the mean off. The last workgroup of the branch's product does it
//! where workgroups can see each other's writes, else a dispatch of its own.

use super::source::Source;
use super::vector::{Activations, norm_factor};
use super::{Form, Math, Shader, groups, padded, squares, u32};

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

    /// Says what `settle_body.wgsl` needs to know, for so many lanes.
    pub(super) fn set(&self, source: &mut Source, threads: usize) {
        let branch = self.branch.unwrap_or(Added { bias: false, normed: false, scale: 1.0 });
        let normed = self.norm != Reads::Stream;
        let (layer, biased) = match self.norm {
            Reads::Stream => (false, false),
            Reads::Normed { mean, bias } => (mean, bias),
        };
        let mut at = 0;
        let mut place = |there: bool| {
            let here = at;
            at += if there { padded(self.width) / 4 } else { 0 };
            here
        };
        source
            .set("BRANCH_BIAS", place(branch.bias))
            .set("BRANCH_NORM", place(branch.normed))
            .set("STREAM_NORM", place(normed))
            .set("STREAM_BIAS", place(biased))
            .set("SETTLE_GROUPS", groups(self.width))
            .set("SETTLE_FOURTHS", threads / 4)
            .set("SETTLE_TURNS", (groups(self.width) * 4).div_ceil(threads))
            .set("SETTLE_SQUARES", squares(self.width))
            .set("SETTLE_ELEMENTS", self.width)
            .set_f32("SETTLE_WIDTH", self.width as f32)
            .set_f32("SETTLE_EPS", self.epsilon)
            .set_f32("BRANCH_SCALE", branch.scale)
            .flag("BRANCH", self.branch.is_some())
            .flag("BRANCH_BIASED", branch.bias)
            .flag("BRANCH_NORMED", branch.normed)
            .flag("RMS", self.defers())
            .flag("LAYER", layer)
            .flag("NORMED", normed)
            .flag("NORM_BIASED", biased)
            .flag("VECTORS", self.has_vectors());
    }

    /// The norm's factor is left to the consumers.
    pub fn defers(&self) -> bool {
        self.norm == Reads::Normed { mean: false, bias: false }
    }

    /// Bytes of workgroup memory for so many lanes.
    pub(super) fn shared_bytes(threads: usize) -> usize {
        20 * threads + 64
    }

    /// The shader of a form.
    pub fn shader(&self, form: Form) -> Shader {
        let mut source = Source::new(form);
        source.set("THREADS", THREADS);
        self.set(&mut source, THREADS);
        let mut bindings = vec![(0, true), (1, false), (2, true), (3, true), (4, true)];
        if self.has_vectors() {
            bindings.push((5, false));
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
                let factor = norm_factor(squares, self.width, self.epsilon);
                branch.iter_mut().zip(&vectors.branch_norm).for_each(|(v, w)| *v *= factor * w);
            }
            x.iter_mut().zip(&branch).for_each(|(x, v)| *x += added.scale * v);
        }
        let (mean, bias) = match self.norm {
            Reads::Stream => return Activations::from_values(math, x),
            Reads::Normed { .. } if self.defers() => {
                return Activations::from_residual(math, x, &vectors.norm);
            }
            Reads::Normed { mean, .. } => {
                (if mean { x.iter().sum::<f32>() / width } else { 0.0 }, &vectors.norm_bias)
            }
        };
        let squares: f32 = x.iter().map(|v| (v - mean) * (v - mean)).sum();
        let factor = norm_factor(squares, self.width, self.epsilon);
        let bias = |i: usize| bias.get(i).copied().unwrap_or(0.0);
        let normed = x.iter().zip(&vectors.norm).enumerate();
        let read: Vec<f32> = normed.map(|(i, (v, w))| (v - mean) * factor * w + bias(i)).collect();
        Activations::from_values(math, &read)
    }
}
