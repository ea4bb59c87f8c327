//! Matrices times vectors, with what surrounds them: the norm before, and after it nothing, the
//! residual stream, the gated activation, or the logits' best.

use super::source::{Source, wgsl_name};
use super::vector::Activations;
use super::{Form, Math, Shader, groups, u32};
use crate::quant::{Block, GROUP, Layout, TILE, Type, dequantize};

/// Steps of a loop that are written out.
const UNROLL: usize = 4;

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
    /// Lanes of a workgroup: a multiple of 16 times `tokens`.
    pub threads: usize,
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

    /// Tiles of a dispatch.
    fn tiles(&self) -> usize {
        match self.epilogue {
            Epilogue::Gated => self.parts[0].layout.tiles(),
            _ => self.parts.iter().map(|p| p.layout.tiles()).sum(),
        }
    }

    /// The shader of a form.
    pub fn shader(&self, form: Form) -> Shader {
        let mut source = Source::new(form);
        let matrix = |i: usize| self.parts.get(i).unwrap_or(&self.parts[0]);
        let ends: Vec<usize> = self
            .parts
            .iter()
            .scan(0, |sum, p| {
                *sum += p.layout.tiles();
                Some(*sum)
            })
            .collect();
        let (width, epsilon) = self.norm.unwrap_or((1, 0.0));
        let end = |i: usize| ends.get(i).copied().unwrap_or(ends[0]);
        let gated = self.epilogue == Epilogue::Gated;
        let sums = if gated { 2 } else { 1 };
        let slices = self.threads / TILE;
        // The first round needs a lane for each of its sums.
        let parts = if self.tokens == 1 && slices >= 16 { 8 } else { 1 };
        let second = match gated {
            true => self.accumulate(1, "tile", "up"),
            false => self.accumulate(1, &format!("tile - {}u", end(0)), "acc"),
        };
        let (vocab, best) = match self.epilogue {
            Epilogue::Logits { vocab } => (vocab, self.tokens == 1),
            _ => (0, false),
        };
        source
            .set("THREADS", self.threads)
            .set("T", self.tokens)
            .set("CHUNKS", self.parts[0].layout.chunks())
            .set("STRIDE", self.stride)
            .set("M0", matrix(0).constant())
            .set("M1", matrix(1).constant())
            .set("M2", matrix(2).constant())
            .set("END0", end(0))
            .set("END1", end(1))
            .set("PARTS", parts)
            .set("PARTIALS", sums * self.threads * self.tokens)
            .set("SECONDS", sums * 16 * self.tokens * parts)
            .set("FINALS", 16 * self.tokens)
            .set("LOOP0", self.accumulate(0, "tile", "acc"))
            .set("LOOP1", second)
            .set("LOOP2", self.accumulate(2, &format!("tile - {}u", end(1)), "acc"))
            .set("TILE0", self.first_tile)
            .set("VOCAB", vocab)
            .set_f32("WIDTH", width as f32)
            .set_f32("EPS", epsilon)
            .flag("BIAS", self.bias)
            .flag("NORM", self.norm.is_some())
            .flag("TWO", self.parts.len() == 3)
            .flag("BEST", best)
            .flag("RAW", self.epilogue == Epilogue::Raw)
            .flag("RESIDUAL", self.epilogue == Epilogue::Residual)
            .flag("GATED", self.epilogue == Epilogue::Gated)
            .flag("LOGITS", matches!(self.epilogue, Epilogue::Logits { .. }))
            .flag("EMITS", matches!(self.epilogue, Epilogue::Residual | Epilogue::Gated));
        let types: Vec<Type> = self.parts.iter().map(|p| p.layout.ty).collect();
        source.set_blocks(&types, true);
        let outputs: &[bool] = match self.epilogue {
            Epilogue::Raw => &[true],
            Epilogue::Logits { .. } if !best => &[true],
            Epilogue::Logits { .. } => &[true, true],
            Epilogue::Residual => &[true, true, true, false],
            Epilogue::Gated if self.bias => &[true, true, false],
            Epilogue::Gated => &[true, true],
        };
        let bindings = [false; 4].iter().chain(outputs);
        Shader {
            name: "gemv",
            source: source.build("gemv.wgsl"),
            bindings: bindings.enumerate().map(|(i, w)| (u32(i), *w)).collect(),
            immediates: 8,
        }
    }

    /// The loop over a row's chunks, for matrix `i`. With one token its steps are written out, so
    /// that their loads are all under way before the first is needed: naga leaves loops as they
    /// are, and a loop waits for the memory at every turn.
    fn accumulate(&self, i: usize, tile: &str, acc: &str) -> String {
        let part = self.parts.get(i).unwrap_or(&self.parts[0]);
        let name = wgsl_name(part.layout.ty);
        let (chunks, slices) = (part.layout.chunks(), self.threads / TILE);
        let step = |c: &str| format!("mac_{name}(M{i}, {tile}, row, {c}, token, &{acc});");
        let plain = |from: usize| {
            let body = step("c");
            format!("  for (var c = slice + {from}u; c < CHUNKS; c += SLICES) {{ {body} }}\n")
        };
        if self.tokens > 1 {
            return plain(0);
        }
        let (whole, rest) = (chunks / slices, chunks % slices);
        let mut out = String::new();
        let mut done = 0;
        if whole > UNROLL {
            let turns = whole / UNROLL;
            out += &format!(
                "  for (var t = 0u; t < {turns}u; t++) {{\n    let c = slice + t * {}u;\n",
                UNROLL * slices
            );
            for k in 0..UNROLL {
                out += &format!("    {}\n", step(&format!("c + {}u", k * slices)));
            }
            out += "  }\n";
            done = turns * UNROLL;
        }
        for k in done..whole {
            out += &format!("  {}\n", step(&format!("slice + {}u", k * slices)));
        }
        if rest > 0 {
            out += &plain(whole * slices);
        }
        out
    }

    /// The grid for so many tokens.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [u32(self.tiles()), tokens.div_ceil(u32(self.tokens)), 1]
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
