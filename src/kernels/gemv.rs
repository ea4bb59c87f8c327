//! Matrices times vectors, with what surrounds them: the norm before, and after it nothing, the
//! residual stream, the gated activation, or the logits' best.

use std::fmt;

use serde::Serialize;

use super::activation::Activation;
use super::loops::steps;
use super::route::Route;
use super::settle::Settle;
use super::source::{Source, book_bytes};
use super::vector::Activations;
use super::{Form, Math, Shader, groups, squares, u32};
use crate::quant::{Block, GROUP, Layout, TILE, Type, books, dequantize};

/// Chunks that a turn of the loop has, over all rows of a lane, where nothing else is asked for.
const UNROLL: usize = 8;

/// A packed matrix, or a part of its rows, within a bound range of a weight buffer, which begins
/// with the codebooks of its matrices' types.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its layout.
    pub layout: Layout,
    /// Where it begins in the bound range, in bytes: a multiple of 16.
    pub offset: usize,
    /// A factor of all its products.
    pub scale: f32,
}

impl Part {
    /// The arguments of the WGSL constructor `Matrix`.
    pub fn constant(&self) -> String {
        let word =
            |plane: usize| self.layout.planes.get(plane).map_or(0, |(_, start)| (self.offset + start) / 4);
        format!("{}u, {}u, {}u, {}u", word(0) / 4, word(1), word(2), self.layout.blocks)
    }
}

/// Matrices, each with the factor of its products, side by side behind their codebooks, as a
/// dispatch binds them; and the bytes of all.
pub fn side_by_side(matrices: impl IntoIterator<Item = (Layout, f32)>) -> (Vec<Part>, usize) {
    let matrices: Vec<(Layout, f32)> = matrices.into_iter().collect();
    let mut bytes = 4 * books(matrices.iter().map(|m| m.0.ty)).1;
    let parts = matrices.into_iter().map(|(layout, scale)| {
        let offset = bytes;
        bytes += layout.bytes;
        Part { layout, offset, scale }
    });
    (parts.collect(), bytes)
}

/// The words of a bound range before its first matrix: the codebooks of the types.
pub fn book_words(types: impl IntoIterator<Item = Type>) -> Vec<u32> {
    books(types).0.into_iter().flat_map(|(book, _)| book.words()).collect()
}

/// What becomes of the rows' products.
#[derive(Clone, Debug, PartialEq)]
pub enum Epilogue {
    /// Written as they are, one matrix after another, each padded to tiles.
    Raw,
    /// Added to the residual stream, times a factor; the stream's activations for its consumers are
    /// made.
    Residual {
        /// The factor.
        scale: f32,
    },
    /// The function of the first matrix times the second one; of one matrix alone. As activations.
    Gated(Activation),
    /// Logits, and the best of each tile where T is 1.
    Logits {
        /// Rows of the whole matrix.
        vocab: usize,
        /// Multiplies them.
        scale: f32,
        /// They go through `cap · tanh(logit / cap)` then.
        cap: Option<f32>,
    },
}

/// Which of several matrices, and what multiplies the product besides. Picks are `(tokens, used + 1)`
/// experts with their weights, bound as [`PICKS`]: see [`Route`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// The only one.
    Whole,
    /// Those of the token's experts; the experts' matrices stand one after the other in a part. A gated
    /// product is made of each, times the expert's weight; `Residual` is of their sum, over what is
    /// weighted already.
    Chosen {
        /// Experts there are.
        count: usize,
        /// Experts a token takes.
        used: usize,
    },
    /// The only one, times the last pick's weight.
    Share {
        /// Experts a token takes beside it.
        used: usize,
    },
}

/// What the last workgroup to arrive does with the rows of one token that all have written, where
/// they can see each other's writes.
#[derive(Clone, Debug, PartialEq)]
pub enum Tail {
    /// Nothing.
    None,
    /// Rows of a branch: the stream is settled.
    Settle(Settle),
    /// Scores: the token is routed.
    Route(Route),
}

/// The binding of the picks.
pub const PICKS: u32 = 10;
/// The binding of the stream before, where stages overlap.
const STREAM_IN: u32 = 11;

/// Vectors of four words that the numbers of a chunk are, of integers.
fn number_vectors(math: Math) -> usize {
    if math == Math::Int8 { 2 } else { 4 }
}

/// A product of one to three matrices over the same input with a batch of vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Gemv {
    /// One matrix; up to three for `Raw`; two of equal shape for `Gated`, or one without gate.
    pub parts: Vec<Part>,
    /// What follows.
    pub epilogue: Epilogue,
    /// Which of several matrices.
    pub take: Take,
    /// What follows `Raw`, for one token.
    pub tail: Tail,
    /// Workgroups that share the inner dimension of the same rows: 1, or more before a tail, which adds
    /// what they have written one after another.
    pub splits: usize,
    /// The first tile of the output that this dispatch computes: not 0 in the later dispatches of
    /// matrices that are split by rows.
    pub first_tile: usize,
    /// Elements of a token's output, over all dispatches; of an expert's.
    pub stride: usize,
    /// The width and the epsilon of the norm before, if its factor is missing in the input.
    pub norm: Option<(usize, f32)>,
    /// A bias is added: for `Residual` it stands behind the norm's weight, for the others it is a
    /// binding of its own, gate's and up's each padded to the stride. Each expert has its own.
    pub bias: bool,
    /// Tokens of a workgroup: 1 to decode, a power of two up to 16 in a batch; 1 with experts.
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
    /// Equal parts of a workgroup, each with tiles of its own: they share the activations where a
    /// workgroup brings them to its memory.
    pub teams: usize,
}

impl Knobs {
    /// Lanes that share a row.
    pub fn slices(self) -> usize {
        self.threads / TILE / self.teams
    }
}

impl fmt::Display for Knobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Knobs { threads, tiles, unroll, teams } = self;
        match teams {
            1 => f.pad(&format!("{threads}/{tiles}/{unroll}")),
            _ => f.pad(&format!("{threads}/{tiles}/{unroll}/{teams}")),
        }
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
        let what = match (&self.epilogue, &self.tail) {
            (Epilogue::Raw, Tail::None) => "rows",
            (Epilogue::Raw, Tail::Settle(_)) => "settled",
            (Epilogue::Raw, Tail::Route(_)) => "router",
            (Epilogue::Residual { .. }, _) => "residual",
            (Epilogue::Gated(_), _) => "gated",
            (Epilogue::Logits { .. }, _) => "logits",
        };
        let of = self.chosen().map_or(String::new(), |(_, used)| format!("{used} of "));
        let rows: usize = self.parts.iter().map(|p| p.layout.rows).sum();
        let mut types: Vec<Type> = self.parts.iter().map(|p| p.layout.ty).collect();
        types.dedup();
        let types: Vec<&str> = types.into_iter().map(Type::name).collect();
        format!("{what} {of}{rows}x{} {}", self.cols(), types.join("+"))
    }

    /// Bytes of weights that a token reads.
    pub fn bytes(&self) -> usize {
        let all: usize = self.parts.iter().map(|p| p.layout.bytes).sum();
        self.chosen().map_or(all, |(count, used)| all / count * used)
    }

    fn cols(&self) -> usize {
        self.parts[0].layout.cols
    }

    /// Experts there are, and those that a token takes.
    pub(super) fn chosen(&self) -> Option<(usize, usize)> {
        match self.take {
            Take::Chosen { count, used } => Some((count, used)),
            _ => None,
        }
    }

    /// Tiles of a part that belong to one expert.
    pub(super) fn expert_tiles(&self, part: usize) -> usize {
        self.parts[part].layout.tiles() / self.chosen().map_or(1, |c| c.0)
    }

    pub(super) fn is_gated(&self) -> bool {
        matches!(self.epilogue, Epilogue::Gated(_))
    }

    fn is_residual(&self) -> bool {
        matches!(self.epilogue, Epilogue::Residual { .. })
    }

    /// What follows would make a number of an infinite product of a block whose scale is infinite.
    fn is_bounded(&self) -> bool {
        let bounds = match self.epilogue {
            Epilogue::Logits { cap, .. } => cap.is_some(),
            Epilogue::Gated(activation) => activation == Activation::ClampedSwish,
            Epilogue::Raw | Epilogue::Residual { .. } => false,
        };
        bounds && self.parts.iter().any(|p| !p.layout.ty.is_float())
    }

    /// Two matrices are combined row by row.
    pub(super) fn is_paired(&self) -> bool {
        self.is_gated() && self.parts.len() == 2
    }

    /// Tiles of rows that a dispatch makes, of an expert.
    pub(super) fn output_tiles(&self) -> usize {
        match self.is_gated() {
            true => self.expert_tiles(0),
            false => (0..self.parts.len()).map(|i| self.expert_tiles(i)).sum(),
        }
    }

    /// Rows of a lane, one in each of as many tiles.
    fn lane_rows(&self) -> usize {
        if self.is_paired() { 2 * self.knobs.tiles } else { self.knobs.tiles }
    }

    /// Sums that a workgroup finishes, each of 16 rows.
    fn outs(&self) -> usize {
        self.knobs.tiles * self.tokens * self.knobs.teams
    }

    /// Steps of the first matrix that a turn of the loop should have: enough loads under way at
    /// once, over the rows that share it, and no more registers than that takes.
    pub fn default_unroll(parts: &[Part], epilogue: &Epilogue, tiles: usize) -> usize {
        let shape = steps(parts[0].layout.ty);
        let pairs = matches!(epilogue, Epilogue::Gated(_))
            && parts.get(1).is_some_and(|p| shape == steps(p.layout.ty));
        let rows = if pairs { 2 * tiles } else { tiles };
        (UNROLL / (rows * shape.chunks)).max(1)
    }

    /// The kernel takes immediates: one token's step needs none.
    pub fn has_args(&self) -> bool {
        self.tokens > 1 || matches!(self.epilogue, Epilogue::Logits { .. })
    }

    /// Bytes of workgroup memory of a form.
    pub fn shared_bytes(&self, form: Form) -> usize {
        let chunks = self.parts[0].layout.chunks();
        let brought = if form.overlapped { 16 * chunks * (number_vectors(form.math) + 1) } else { 0 };
        let sums = self.lane_rows() * self.tokens;
        let types: Vec<Type> = self.parts.iter().map(|p| p.layout.ty).collect();
        let tail = match &self.tail {
            Tail::None => 0,
            Tail::Settle(_) => Settle::shared_bytes(self.knobs.threads),
            Tail::Route(route) => route.shared_bytes(),
        };
        let sums = sums * self.knobs.teams;
        brought + book_bytes(&types) + tail + 16 * (sums * 16 * (self.knobs.slices() / 4 + 1) + 12 * sums)
    }

    /// The shader of a form.
    pub fn shader(&self, form: Form) -> Shader {
        debug_assert!(
            self.knobs.threads >= 64
                && self.knobs.threads.is_multiple_of(64)
                && self.knobs.threads >= TILE * self.outs()
        );
        debug_assert!(
            self.knobs.tiles == 1 || (self.tokens == 1 && (self.parts.len() == 1 || self.is_paired()))
        );
        debug_assert!(self.tokens == 1 || self.chosen().is_none());
        debug_assert!(self.splits == 1 || self.tail != Tail::None);
        debug_assert!(self.tail == Tail::None || (self.tokens == 1 && self.epilogue == Epilogue::Raw));
        let mut source = Source::new(form);
        let matrix = |i: usize| self.parts.get(i).unwrap_or(&self.parts[0]);
        let (width, epsilon) = self.norm.unwrap_or((1, 0.0));
        let sums = self.lane_rows() * self.tokens;
        let (vocab, best, scale, cap) = match self.epilogue {
            Epilogue::Logits { vocab, scale, cap } => (vocab, self.tokens == 1, scale, cap),
            Epilogue::Residual { scale } => (0, false, scale, None),
            _ => (0, false, 1.0, None),
        };
        let (residual, gated) = (self.is_residual(), self.is_gated());
        let body = self.body();
        let numbers = self.parts[0].layout.chunks() * number_vectors(form.math);
        let made = self.cols().div_ceil(GROUP);
        let tiles = |i: usize| if i < self.parts.len() { self.expert_tiles(i) } else { 0 };
        source
            .set("VARIABLES", body.variables)
            .set("FETCHES", body.fetches)
            .set("PRODUCTS", body.products)
            .set("THREADS", self.knobs.threads)
            .set("T", self.tokens)
            .set("R", self.lane_rows())
            .set("TILES_OF_A_GROUP", self.knobs.tiles * self.knobs.teams)
            .set("TILES_OF_A_TEAM", self.knobs.tiles)
            .set("TEAMS", self.knobs.teams)
            .flag("TEAMED", self.knobs.teams > 1)
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
            .set("PARTIALS", self.knobs.teams * sums * 16 * (self.knobs.slices() / 4 + 1))
            .set("FOURS", 4 * sums * self.knobs.teams)
            .set("GROUPS", made)
            .flag("PADDED", made < 2 * self.parts[0].layout.chunks())
            .flag("SQUARES_PADDED", made < squares(self.cols()))
            .set("NUMBERS", numbers)
            .set("NUMBER_TURNS", numbers.div_ceil(self.knobs.threads))
            .set("RECORD_TURNS", self.parts[0].layout.chunks().div_ceil(self.knobs.threads))
            .set("SQUARE_TURNS", (squares(self.cols()) / 4).div_ceil(16))
            .set("TILE0", self.first_tile)
            .set("VOCAB", vocab)
            .set_f32("SCALE0", matrix(0).scale)
            .set_f32("SCALE1", matrix(1).scale)
            .set_f32("SCALE2", matrix(2).scale)
            .set("TILES0", tiles(0))
            .set("TILES01", tiles(0) + tiles(1))
            .set_f32("WIDTH", width as f32)
            .set_f32("EPS", epsilon)
            .set_f32("FACTOR", scale)
            .set_f32("CAP", cap.unwrap_or(1.0))
            .flag("FACTORED", scale != 1.0)
            .flag("CAPPED", cap.is_some())
            .flag("ARGS", self.has_args())
            .flag("BIAS", self.bias)
            .flag("NORM", self.norm.is_some())
            .flag("SCALED", self.parts.iter().any(|p| p.scale != 1.0))
            .flag("BOUNDED", self.is_bounded())
            .flag("BEST", best)
            .flag("RAW", self.epilogue == Epilogue::Raw)
            .flag("RESIDUAL", residual)
            .flag("GATED", gated)
            .flag("PAIRED_ROWS", self.is_paired())
            .flag("LOGITS", matches!(self.epilogue, Epilogue::Logits { .. }))
            .flag("EMITS", residual || gated || matches!(self.tail, Tail::Settle(_)))
            .flag("GROUPED", residual || gated || best);
        if let Epilogue::Gated(activation) = self.epilogue {
            source.flag(activation.flag(), true);
        }
        self.set_take(&mut source);
        let types: Vec<Type> = self.parts.iter().map(|p| p.layout.ty).collect();
        source.set_blocks(&types, true);
        let outputs: &[bool] = match self.epilogue {
            Epilogue::Raw if self.bias => &[true, false],
            Epilogue::Raw => &[true],
            Epilogue::Logits { .. } if !best => &[true],
            Epilogue::Logits { .. } => &[true, true],
            Epilogue::Residual { .. } => &[true, true, true, true, false],
            Epilogue::Gated(_) if self.bias => &[true, true, false],
            Epilogue::Gated(_) => &[true, true],
        };
        let mut bindings: Vec<_> =
            [false; 4].iter().chain(outputs).enumerate().map(|(i, w)| (u32(i), *w)).collect();
        if self.norm.is_some() {
            bindings.push((9, false));
        }
        if self.take != Take::Whole {
            bindings.push((PICKS, false));
        }
        match &self.tail {
            Tail::None => {}
            Tail::Settle(settle) => {
                bindings.extend([12, 13, 14, 15, 16].map(|i| (i, true)));
                bindings.extend(settle.has_vectors().then_some((17, false)));
            }
            Tail::Route(_) => bindings.extend([12, 18].map(|i| (i, true))),
        }
        if form.overlapped {
            // A loop that looks for a word must not look for it once: what waits is bound as written.
            bindings.iter_mut().for_each(|(i, written)| *written |= matches!(i, 2 | 3 | 9));
            bindings.extend(residual.then_some((STREAM_IN, true)));
        }
        let immediates = if self.has_args() { 8 } else { 0 };
        Shader { name: "gemv", source: source.build("gemv.wgsl"), bindings, immediates }
    }

    /// What the shader needs to know of experts and of its tail.
    fn set_take(&self, source: &mut Source) {
        let picks = match self.take {
            Take::Whole => 1,
            Take::Chosen { used, .. } | Take::Share { used } => used + 1,
        };
        source
            .set("EXPERT_TILES0", self.expert_tiles(0))
            .set("EXPERTS", self.chosen().map_or(1, |c| c.0))
            .set("PICKS", picks)
            .set("WORKGROUPS", self.grid(1)[0] * self.grid(1)[2])
            .set("SPLITS", self.splits)
            .flag("SPLIT", self.splits > 1)
            .flag("PICKED", self.take != Take::Whole)
            .flag("CHOSEN", self.chosen().is_some())
            .flag("CHOSEN_HIDDEN", self.chosen().is_some() && self.is_gated())
            .flag("SHARE", matches!(self.take, Take::Share { .. }))
            .flag("TAILED", self.tail != Tail::None)
            .flag("SETTLES", matches!(self.tail, Tail::Settle(_)))
            .flag("ROUTES", matches!(self.tail, Tail::Route(_)));
        match &self.tail {
            Tail::None => {}
            Tail::Settle(settle) => settle.set(source, self.knobs.threads),
            Tail::Route(route) => route.set(source, self.knobs.threads),
        }
    }

    /// The grid for so many tokens.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        let slots = match self.chosen() {
            Some((_, used)) if self.is_gated() => u32(used),
            _ => u32(self.splits),
        };
        [
            u32(self.output_tiles().div_ceil(self.knobs.tiles * self.knobs.teams)),
            tokens.div_ceil(u32(self.tokens)),
            slots,
        ]
    }

    /// Groups of a token's input.
    pub fn input_groups(&self) -> usize {
        groups(self.cols())
    }
}

/// Bytes of workgroup memory that a product of one token takes at least, without a tail.
pub fn least_shared_bytes(parts: &[Part], form: Form) -> usize {
    let knobs = Knobs { threads: 64, tiles: 1, unroll: 1, teams: 1 };
    let epilogue = if parts.len() == 2 { Epilogue::Gated(Activation::Silu) } else { Epilogue::Raw };
    let parts = parts.to_vec();
    let (take, tail) = (Take::Whole, Tail::None);
    let kernel = Gemv {
        parts,
        epilogue,
        take,
        tail,
        splits: 1,
        first_tile: 0,
        stride: 0,
        norm: None,
        bias: false,
        tokens: 1,
        knobs,
    };
    kernel.shared_bytes(form)
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
