//! Matrices times vectors, with what surrounds them: the norm before, and after it nothing, the
//! residual stream, the gated activation, or the logits' best.

use std::fmt;

use serde::Serialize;

use super::source::{Source, wgsl_name};
use super::vector::Activations;
use super::{Form, Math, Shader, groups, squares, u32};
use crate::quant::{Block, GROUP, Layout, TILE, Type, dequantize};

/// Chunks that a turn of the loop has, over all rows of a lane, where nothing else is asked for.
const UNROLL: usize = 8;

/// A packed matrix, or a part of its rows, within a bound range of a weight buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its layout.
    pub layout: Layout,
    /// Where it begins in the bound range, in bytes: a multiple of 16.
    pub offset: usize,
}

impl Part {
    /// The arguments of the WGSL constructor `Matrix`.
    pub fn constant(&self) -> String {
        let word =
            |plane: usize| self.layout.planes.get(plane).map_or(0, |(_, start)| (self.offset + start) / 4);
        format!("{}u, {}u, {}u, {}u", word(0) / 4, word(1), word(2), self.layout.blocks)
    }
}

/// What becomes of the rows' products.
#[derive(Clone, Debug, PartialEq)]
pub enum Epilogue {
    /// Written as they are, one matrix after another, each padded to tiles.
    Raw,
    /// Added to the residual stream, whose activations for the next norm are made.
    Residual,
    /// silu(first matrix) * second matrix, as activations.
    Gated,
    /// Logits, and the best of each tile where T is 1.
    Logits {
        /// Rows of the whole matrix.
        vocab: usize,
    },
}

/// A product of one to three matrices over the same input with a batch of vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Gemv {
    /// One matrix; three (Q, K, V) for `Raw`; two of equal shape for `Gated`.
    pub parts: Vec<Part>,
    /// What follows.
    pub epilogue: Epilogue,
    /// The first tile of the output that this dispatch computes: not 0 in the later dispatches of
    /// matrices that are split by rows.
    pub first_tile: usize,
    /// Elements of a token's output, over all dispatches.
    pub stride: usize,
    /// The width and the epsilon of the norm before, if there is one.
    pub norm: Option<(usize, f32)>,
    /// A bias is added: for `Residual` it stands behind the norm's weight, for `Gated` gate's and
    /// up's are a binding of their own, each padded to the stride.
    pub bias: bool,
    /// Tokens of a workgroup: 1 to decode, a power of two up to 16 in a batch.
    pub tokens: usize,
    /// What may be chosen without changing what is computed.
    pub knobs: Knobs,
}

/// What may be chosen about a product without changing what it computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Knobs {
    /// Lanes of a workgroup: a multiple of 64, and at least 16 for each sum of 16 rows.
    pub threads: usize,
    /// Tiles that a workgroup computes at once: 1, or more of one token, not for three matrices.
    pub tiles: usize,
    /// Steps of the first matrix's type that are written out in a turn of the loop; for a matrix
    /// of other steps it has as many chunks. [`Gemv::default_unroll`] knows a good number.
    pub unroll: usize,
}

impl fmt::Display for Knobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}/{}", self.threads, self.tiles, self.unroll))
    }
}

/// A row of a lane: its matrix, and the WGSL expression of its tile.
struct Lane {
    matrix: usize,
    tile: String,
}

/// How a type's snippet walks a row: `parts` steps a packed block, each of `chunks` chunks of 32.
/// Types whose steps are equal cover the same chunks in each.
#[derive(PartialEq)]
pub(super) struct Steps {
    pub(super) parts: usize,
    pub(super) chunks: usize,
    /// Chunks of a step are neighbours.
    neighbours: bool,
}

/// Steps of a row.
pub fn steps_of(layout: &Layout) -> usize {
    layout.chunks() / steps(layout.ty).chunks
}

impl Steps {
    /// The WGSL expression of the number of chunk c of a step, whose block and part are those of
    /// turn s.
    fn chunk(&self, s: usize, c: usize) -> String {
        match self {
            Steps { parts: 1, .. } => format!("block{s}"),
            Steps { neighbours: true, .. } => format!("8u * block{s} + 2u * part{s} + {c}u"),
            _ => format!("8u * block{s} + 4u * (part{s} >> 1u) + (part{s} & 1u) + {}u", 2 * c),
        }
    }
}

pub(super) fn steps(ty: Type) -> Steps {
    match ty {
        Type::Q6_K => Steps { parts: 4, chunks: 2, neighbours: false },
        _ if ty.packed_block_elements() == 256 => Steps { parts: 4, chunks: 2, neighbours: true },
        _ => Steps { parts: 1, chunks: 1, neighbours: true },
    }
}

/// The immediates of `gemv.wgsl`.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Args {
    /// Tokens in the batch.
    pub tokens: u32,
    /// The first token of the input to use.
    pub first: u32,
}

impl Gemv {
    /// What it computes, for people: `gated 16384x2048 Q4_K`.
    pub fn label(&self) -> String {
        let what = match self.epilogue {
            Epilogue::Raw => "qkv",
            Epilogue::Residual => "residual",
            Epilogue::Gated => "gated",
            Epilogue::Logits { .. } => "logits",
        };
        let rows: usize = self.parts.iter().map(|p| p.layout.rows).sum();
        let mut types: Vec<Type> = self.parts.iter().map(|p| p.layout.ty).collect();
        types.dedup();
        let types: Vec<&str> = types.into_iter().map(Type::name).collect();
        format!("{what} {rows}x{} {}", self.cols(), types.join("+"))
    }

    fn cols(&self) -> usize {
        self.parts[0].layout.cols
    }

    /// Tiles of rows that a dispatch makes.
    fn output_tiles(&self) -> usize {
        match self.epilogue {
            Epilogue::Gated => self.parts[0].layout.tiles(),
            _ => self.parts.iter().map(|p| p.layout.tiles()).sum(),
        }
    }

    /// Rows of a lane, one in each of as many tiles.
    fn lane_rows(&self) -> usize {
        if self.epilogue == Epilogue::Gated { 2 * self.knobs.tiles } else { self.knobs.tiles }
    }

    /// Sums that a workgroup finishes, each of 16 rows.
    fn outs(&self) -> usize {
        self.knobs.tiles * self.tokens
    }

    /// Steps of the first matrix that a turn of the loop should have: enough loads under way at
    /// once, over the rows that share it, and no more registers than that takes.
    pub fn default_unroll(parts: &[Part], epilogue: &Epilogue, tiles: usize) -> usize {
        let shape = steps(parts[0].layout.ty);
        let pairs = *epilogue == Epilogue::Gated && shape == steps(parts[1].layout.ty);
        let rows = if pairs { 2 * tiles } else { tiles };
        (UNROLL / (rows * shape.chunks)).max(1)
    }

    /// The kernel takes immediates: one token's step needs none.
    pub fn has_args(&self) -> bool {
        self.tokens > 1 || matches!(self.epilogue, Epilogue::Logits { .. })
    }

    /// Bytes of workgroup memory.
    pub fn shared_bytes(&self) -> usize {
        let sums = self.lane_rows() * self.tokens;
        16 * (sums * 16 * (self.knobs.threads / TILE / 4 + 1) + 12 * sums)
    }

    /// The shader of a form.
    pub fn shader(&self, form: Form) -> Shader {
        debug_assert!(
            self.knobs.threads >= 64
                && self.knobs.threads.is_multiple_of(64)
                && self.knobs.threads >= TILE * self.outs()
        );
        debug_assert!(
            self.knobs.tiles == 1
                || (self.tokens == 1 && (self.parts.len() == 1 || self.epilogue == Epilogue::Gated))
        );
        let mut source = Source::new(form);
        let matrix = |i: usize| self.parts.get(i).unwrap_or(&self.parts[0]);
        let (width, epsilon) = self.norm.unwrap_or((1, 0.0));
        let sums = self.lane_rows() * self.tokens;
        let (vocab, best) = match self.epilogue {
            Epilogue::Logits { vocab } => (vocab, self.tokens == 1),
            _ => (0, false),
        };
        let (residual, gated) = (self.epilogue == Epilogue::Residual, self.epilogue == Epilogue::Gated);
        source
            .set("THREADS", self.knobs.threads)
            .set("T", self.tokens)
            .set("R", self.lane_rows())
            .set("TILES_OF_A_GROUP", self.knobs.tiles)
            .set("TILES", self.output_tiles())
            .set("CHUNKS", self.parts[0].layout.chunks())
            .set("STRIDE", self.stride)
            .set("SQUARES", squares(self.cols()) / 4)
            .set("OUT_SQUARES", squares(self.stride))
            .set("M0", matrix(0).constant())
            .set("M1", matrix(1).constant())
            .set("M2", matrix(2).constant())
            .set("SUMS", sums)
            .set("OUTS", self.outs())
            .set("PARTIALS", sums * 16 * (self.knobs.threads / TILE / 4 + 1))
            .set("FOURS", 4 * sums)
            .set("LOOPS", self.loops())
            .set("TILE0", self.first_tile)
            .set("VOCAB", vocab)
            .set_f32("WIDTH", width as f32)
            .set_f32("EPS", epsilon)
            .flag("ARGS", self.has_args())
            .flag("BIAS", self.bias)
            .flag("NORM", self.norm.is_some())
            .flag("BEST", best)
            .flag("RAW", self.epilogue == Epilogue::Raw)
            .flag("RESIDUAL", residual)
            .flag("GATED", gated)
            .flag("LOGITS", matches!(self.epilogue, Epilogue::Logits { .. }))
            .flag("EMITS", residual || gated)
            .flag("GROUPED", residual || gated || best);
        let types: Vec<Type> = self.parts.iter().map(|p| p.layout.ty).collect();
        source.set_blocks(&types, true);
        let outputs: &[bool] = match self.epilogue {
            Epilogue::Raw => &[true],
            Epilogue::Logits { .. } if !best => &[true],
            Epilogue::Logits { .. } => &[true, true],
            Epilogue::Residual => &[true, true, true, true, false],
            Epilogue::Gated if self.bias => &[true, true, false],
            Epilogue::Gated => &[true, true],
        };
        let mut bindings: Vec<_> =
            [false; 4].iter().chain(outputs).enumerate().map(|(i, w)| (u32(i), *w)).collect();
        if self.norm.is_some() {
            bindings.push((9, false));
        }
        let immediates = if self.has_args() { 8 } else { 0 };
        Shader { name: "gemv", source: source.build("gemv.wgsl"), bindings, immediates }
    }

    /// The loops over a row's steps, for every matrix.
    fn loops(&self) -> String {
        let rows = self.lanes();
        match self.epilogue {
            Epilogue::Gated => {
                let (gate, up) = (self.parts[0].layout.ty, self.parts[1].layout.ty);
                let (gates, ups) = rows.split_at(self.knobs.tiles);
                // What covers the same elements in its steps shares the activations.
                match steps(gate) == steps(up) {
                    true => self.accumulate(&rows, 0),
                    false => self.accumulate(gates, 0) + &self.accumulate(ups, self.knobs.tiles),
                }
            }
            Epilogue::Raw if self.parts.len() == 3 => {
                let mut out = String::new();
                let mut first = 0;
                for (i, part) in self.parts.iter().enumerate() {
                    let end = first + part.layout.tiles();
                    let lane = Lane { matrix: i, tile: format!("tile - {first}u") };
                    let body = self.accumulate(&[lane], 0);
                    out +=
                        &format!("  {}if tile < {end}u {{\n{body}  }}\n", if i > 0 { "else " } else { "" });
                    first = end;
                }
                out
            }
            _ => self.accumulate(&rows, 0),
        }
    }

    /// The rows of a lane where they do not depend on the tile.
    fn lanes(&self) -> Vec<Lane> {
        // The last workgroup may have tiles too many: it computes the last one again.
        let last = self.output_tiles() - 1;
        let tile = |r: usize| match r {
            0 => "tile".to_owned(),
            _ => format!("min(tile + {r}u, {last}u)"),
        };
        let of = |matrix: usize| (0..self.knobs.tiles).map(move |r| Lane { matrix, tile: tile(r) });
        if self.epilogue == Epilogue::Gated { of(0).chain(of(1)).collect() } else { of(0).collect() }
    }

    /// The loop over the steps of rows that cover the same elements; their sums begin at sum
    /// `first` times T. With one token its turns are written out, so that their loads are all
    /// under way before the first is needed: naga leaves loops as they are, and a loop waits for
    /// the memory at every turn.
    fn accumulate(&self, rows: &[Lane], first: usize) -> String {
        let layout = &self.parts[rows[0].matrix].layout;
        let shape = steps(layout.ty);
        let count = layout.chunks() / shape.chunks;
        let slices = self.knobs.threads / TILE;
        let turns = |at: &[String]| self.turns(rows, first, at);
        if self.tokens > 1 {
            let body = turns(&["s".to_owned()]);
            return format!("  for (var s = slice; s < {count}u; s += SLICES) {{\n{body}  }}\n");
        }
        let (whole, rest) = (count / slices, count % slices);
        let mut out = String::new();
        let mut done = 0;
        let unroll = (self.knobs.unroll * steps(self.parts[0].layout.ty).chunks / shape.chunks).max(1);
        if whole > unroll {
            let times = whole / unroll;
            let at: Vec<String> = (0..unroll).map(|k| format!("s + {}u", k * slices)).collect();
            out += &format!(
                "  for (var k = 0u; k < {times}u; k++) {{\n  let s = slice + k * {}u;\n{}  }}\n",
                unroll * slices,
                turns(&at)
            );
            done = times * unroll;
        }
        let at: Vec<String> = (done..whole).map(|k| format!("slice + {}u", k * slices)).collect();
        if !at.is_empty() {
            out += &turns(&at);
        }
        if rest > 0 {
            let k = whole * slices;
            out += &format!("  if slice + {k}u < {count}u {{\n{}  }}\n", turns(&[format!("slice + {k}u")]));
        }
        out
    }

    /// Turns of the loop: steps `at` of each row, times the activations of every token. All weights
    /// are asked for before any of them is used.
    fn turns(&self, rows: &[Lane], first: usize, at: &[String]) -> String {
        let shape = steps(self.parts[rows[0].matrix].layout.ty);
        let mut out = String::from("  {\n");
        for (s, at) in at.iter().enumerate() {
            let (block, part) = self.place(&shape, at);
            out += &format!("    let block{s} = {block}; let part{s} = {part};\n");
            for (r, lane) in rows.iter().enumerate() {
                let name = wgsl_name(self.parts[lane.matrix].layout.ty);
                out += &format!(
                    "    let raw{s}_{r} = fetch_{name}(M{}, {}, row, block{s}, part{s});\n",
                    lane.matrix, lane.tile
                );
            }
        }
        for s in 0..at.len() {
            for (r, lane) in rows.iter().enumerate() {
                let ty = self.parts[lane.matrix].layout.ty;
                let name = wgsl_name(ty);
                let decoded = format!("decode_{name}(raw{s}_{r}, block{s}, part{s})");
                if ty.is_float() {
                    out += &format!("    let w{s}_{r}_0 = {decoded};\n");
                    continue;
                }
                out += &format!("    let l{s}_{r} = {decoded};\n");
                for c in 0..shape.chunks {
                    out += &format!("    let w{s}_{r}_{c} = ready_{name}(l{s}_{r}[{c}]);\n");
                }
            }
            for c in 0..shape.chunks {
                let chunk = shape.chunk(s, c);
                let sums = |sum: &dyn Fn(usize) -> String| -> String {
                    let add = |(r, lane): (usize, &Lane)| {
                        let name = wgsl_name(self.parts[lane.matrix].layout.ty);
                        format!(" acc[{}] += product_{name}(w{s}_{r}_{c}, x);", sum(first + r))
                    };
                    rows.iter().enumerate().map(add).collect()
                };
                out += &match self.tokens {
                    1 => format!("    {{ let x = load_x(token, {chunk});{} }}\n", sums(&|r| format!("{r}u"))),
                    t => format!(
                        "    for (var t = 0u; t < T; t++) {{ let x = load_x(token + t, {chunk});{} }}\n",
                        sums(&|r| format!("{}u + t", r * t))
                    ),
                };
            }
        }
        out + "  }\n"
    }

    /// The block and the part of it that is step `at` of a row.
    fn place(&self, shape: &Steps, at: &str) -> (String, String) {
        // Where the slices are whole blocks, a lane's part of its blocks is always the same.
        match shape.parts {
            1 => (at.to_owned(), "0u".to_owned()),
            p if (self.knobs.threads / TILE).is_multiple_of(p) => {
                (format!("({at}) / {p}u"), format!("slice % {p}u"))
            }
            p => (format!("({at}) / {p}u"), format!("({at}) % {p}u")),
        }
    }

    /// The grid for so many tokens.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [u32(self.output_tiles().div_ceil(self.knobs.tiles)), tokens.div_ceil(u32(self.tokens)), 1]
    }

    /// Groups of a token's input.
    pub fn input_groups(&self) -> usize {
        groups(self.cols())
    }
}

/// Twin of the shader's inner product: a row, as in the file, times activations. `scratch` has
/// the row's elements.
pub fn row_product(math: Math, ty: Type, row: &[u8], x: &Activations, scratch: &mut [f32]) -> f32 {
    match math {
        Math::F32 => {
            dequantize(ty, row, scratch);
            dot(scratch, &x.numbers[..scratch.len()])
        }
        _ if ty.is_float() => {
            dequantize(ty, row, scratch);
            let mut sum = 0.0;
            for (g, w) in scratch.chunks(GROUP).enumerate() {
                let numbers = &x.numbers[g * GROUP..];
                let halves = ty == Type::F16 && math == Math::F16;
                let round = |p: f32| if halves { half::f16::from_f32(p).to_f32() } else { p };
                let part: f32 = w.iter().zip(numbers).map(|(w, x)| round(w * x)).sum();
                sum += part * x.records[g].scale;
            }
            sum
        }
        _ => {
            let mut block = Block::default();
            let mut sum = 0.0;
            let per_block = ty.block_elements() / GROUP;
            for (b, bytes) in row.chunks_exact(ty.block_bytes()).enumerate() {
                block.decode(ty, bytes);
                for g in 0..per_block {
                    let at = b * per_block + g;
                    let levels = &block.levels[g * GROUP..(g + 1) * GROUP];
                    let numbers = &x.numbers[at * GROUP..(at + 1) * GROUP];
                    let products = levels.iter().zip(numbers);
                    let part: f32 = if math == Math::F16 {
                        products.map(|(l, n)| half::f16::from_f32(f32::from(*l) * n).to_f32()).sum()
                    } else {
                        products.map(|(l, n)| i32::from(*l) * *n as i32).sum::<i32>() as f32
                    };
                    let record = x.records[at];
                    sum += block.scale[g] * record.scale * part - block.min[g] * record.sum;
                }
            }
            sum
        }
    }
}

/// silu(gate) * up.
pub fn silu_gate(gate: f32, up: f32) -> f32 {
    gate / (1.0 + (-gate).exp()) * up
}

/// The dot product of two slices of equal length, in F32 with sixteen running sums.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the features were just seen on this processor.
        return unsafe { dot_avx2(a, b) };
    }
    dot_plain(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn dot_avx2(a: &[f32], b: &[f32]) -> f32 {
    dot_plain(a, b)
}

#[inline(always)]
fn dot_plain(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a16, a_rest) = a.as_chunks::<16>();
    let (b16, b_rest) = b.as_chunks::<16>();
    for (a, b) in a16.iter().zip(b16) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}
