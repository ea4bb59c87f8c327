//! Attention over the key/value cache, with RoPE and the cache's writing in its prologue.

mod twin;

use std::fmt;

use serde::Serialize;

use super::source::Source;
use super::{Form, KV_BLOCK, Kv, Shader, groups, u32};
use crate::quant::GROUP;

pub use twin::Cache;

/// Which elements of a head RoPE turns together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Neighbours: (2i, 2i + 1). The converter has permuted Q and K rows for it.
    Neighbours,
    /// (i, i + dims / 2), as models are trained.
    Halves,
}

/// The RMS norms of queries and keys, before they are turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadNorms {
    /// None.
    None,
    /// Of each head by itself, with one weight for all.
    Each,
    /// Of all heads together.
    Whole,
}

/// Queries grow by the logarithm of the number of whole spans that lie behind them: times
/// `1 + scale · ln(1 + ⌊position / span⌋)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    /// How much.
    pub scale: f32,
    /// Positions of a span.
    pub span: usize,
}

impl Temperature {
    fn of(self, position: usize) -> f32 {
        1.0 + self.scale * (1.0 + (position / self.span) as f32).ln()
    }
}

/// The shape of attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Leading elements that RoPE turns.
    pub rotated: usize,
    /// Which of them it turns together.
    pub pairing: Pairing,
    /// Multiplies scores.
    pub scale: f32,
    /// There are biases.
    pub bias: bool,
    /// The norms of queries and keys.
    pub norms: HeadNorms,
    /// Their epsilon.
    pub epsilon: f32,
    /// There are sinks: a score for each query head that takes its share of the softmax and has no
    /// value.
    pub sinks: bool,
    /// Scores go through `cap · tanh(score / cap)`.
    pub cap: Option<f32>,
    /// Queries grow with their position.
    pub temperature: Option<Temperature>,
    /// The newest keys that a position sees, its own among them, if not all.
    pub window: Option<usize>,
    /// Positions in the cache.
    pub context: usize,
    /// There are fewer of them than a text may have: the cache is a ring, position `p` stands at
    /// `p` modulo [`Attention::positions`].
    pub ring: bool,
    /// Where queries, keys, values and the end stand in a token's raw rows.
    pub rows: [usize; 4],
    /// The most splits of a token's keys.
    pub max_splits: usize,
    /// One token, whose key and value the kernel stores itself.
    pub decode: bool,
    /// What may be chosen without changing what is computed.
    pub knobs: Knobs,
}

/// What may be chosen about attention without changing what it computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Knobs {
    /// Query heads of a workgroup, which share the keys that it reads: a power of two.
    pub heads: usize,
    /// Lanes of a workgroup, at least: a power of two from 64 on, and 16 times the heads.
    pub threads: usize,
    /// Keys of a lane in a tile: a power of two.
    pub keys: usize,
    /// The most units of a key that a lane asks for at once.
    pub units: usize,
    /// Values that a lane asks for at once.
    pub values: usize,
    /// Lanes of all workgroups up to which keys are split, if there are enough of them.
    pub lanes: usize,
}

impl Knobs {
    /// What the lab (`cargo bench --bench kernels -- --attention 16384`) found best on an H200, for so
    /// many heads a workgroup of so many elements. With one head there are few keys: everything is
    /// asked for at once. With several, registers and workgroup memory decide how many workgroups
    /// run at once, and that decides the speed.
    pub fn of(heads: usize, head_dim: usize) -> Knobs {
        let (threads, keys, units, values) = match heads {
            1 if head_dim < 128 => (128, 2, 8, 8),
            1 => (256, 1, 16, 8),
            _ if head_dim < 128 => (256, 2, 4, 4),
            _ => (128, 2, 4, 4),
        };
        Knobs { heads, threads, keys, units, values, lanes: 1 << 16 }
    }

    /// The same where keys and values are stored so. A lane that owns a unit of bytes sums sixteen
    /// elements for each head: it takes more registers, fewer workgroups run at once, and more of
    /// them than do is a second round.
    pub fn stored_as(self, kv: Kv) -> Knobs {
        match kv {
            Kv::Q8_0 if self.heads > 1 => Knobs { threads: 128, keys: 4, lanes: self.lanes / 2, ..self },
            _ => self,
        }
    }
}

impl fmt::Display for Knobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}/{}/{}/{}", self.heads, self.threads, self.keys, self.units, self.values))
    }
}

/// The immediates of `attention.wgsl` and `attention_merge.wgsl`; `kv_write.wgsl` takes the first
/// two.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Args {
    /// Tokens in the batch.
    pub tokens: u32,
    /// Position of the first one.
    pub position: u32,
    /// Splits of each token's keys.
    pub splits: u32,
}

impl Attention {
    /// The most query heads of a workgroup that are of use, with so much workgroup memory.
    pub fn widest_block(heads: usize, kv_heads: usize, head_dim: usize, shared: usize) -> usize {
        let mut block = (heads / kv_heads).next_power_of_two().min(4);
        // What does not grow with a head is less than this; with short heads there are more lanes.
        let rest = if head_dim < 128 { 21_500 } else { 18_000 };
        // Queries, the new key and value.
        while block > 1 && 4 * (block + 2) * head_dim + rest > shared {
            block /= 2;
        }
        block
    }

    /// Numbers of a unit of 16 bytes.
    fn unit(kv: Kv) -> usize {
        16 / kv.bytes()
    }

    /// Units of a head.
    fn units(&self, kv: Kv) -> usize {
        self.head_dim.div_ceil(Self::unit(kv))
    }

    /// Words with the scales of a head: two blocks each.
    fn scale_words(&self, kv: Kv) -> usize {
        if kv == Kv::Q8_0 { self.head_dim.div_ceil(2 * KV_BLOCK) } else { 0 }
    }

    /// There is a buffer of vectors: biases beside the raw rows, then the weights of the queries'
    /// and of the keys' norm, then the sinks, each padded to whole vectors of four.
    pub fn has_vectors(&self) -> bool {
        self.bias || self.norms != HeadNorms::None || self.sinks
    }

    /// Elements of the norms' weights, of queries and of keys.
    fn norm_lens(&self) -> [usize; 2] {
        match self.norms {
            HeadNorms::None => [0, 0],
            HeadNorms::Each => [self.head_dim; 2],
            HeadNorms::Whole => [self.heads * self.head_dim, self.kv_heads * self.head_dim],
        }
    }

    /// Where among the vectors the norms' weights, of queries and of keys, and the sinks begin.
    fn vector_starts(&self) -> [usize; 3] {
        let q = if self.bias { self.rows[3] } else { 0 };
        let [q_len, k_len] = self.norm_lens().map(whole_vectors);
        [q, q + q_len, q + q_len + k_len]
    }

    /// Elements of the vectors.
    pub fn vectors(&self) -> usize {
        self.vector_starts()[2] + if self.sinks { whole_vectors(self.heads) } else { 0 }
    }

    /// The first key that a position sees.
    pub fn first_key(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Lanes of a workgroup.
    fn threads(&self, kv: Kv) -> usize {
        self.units(kv).next_power_of_two().max(self.knobs.threads)
    }

    /// Workgroups per token and split.
    pub fn blocks(&self) -> usize {
        self.kv_heads * (self.heads / self.kv_heads).div_ceil(self.knobs.heads)
    }

    /// Positions of the cache: whole tiles.
    pub fn positions(&self) -> usize {
        self.context.next_multiple_of(CACHE_TILE)
    }

    /// Bytes of a layer's cache.
    pub fn cache_bytes(&self, kv: Kv) -> usize {
        self.unit_bytes(kv) + self.scale_bytes(kv)
    }

    /// Bytes of its numbers.
    pub fn unit_bytes(&self, kv: Kv) -> usize {
        2 * self.kv_heads * self.positions() * self.units(kv) * 16
    }

    /// Bytes of its scales, which are a buffer of their own; 0 if numbers have none.
    pub fn scale_bytes(&self, kv: Kv) -> usize {
        2 * self.kv_heads * self.positions() * self.scale_words(kv) * 4
    }

    /// Bytes that the splits of a token leave to be merged.
    pub fn part_bytes(&self, kv: Kv) -> usize {
        16 * self.heads * self.max_splits * (self.units(kv) * Self::unit(kv) / 4 + 1)
    }

    /// Elements of a token's output that a merge takes at once.
    fn merge(&self, form: Form) -> usize {
        match self.head_dim {
            d if form.inline_merge && d.is_multiple_of(GROUP) => self.knobs.heads * d,
            d if d >= 8 => 64,
            _ => 16,
        }
    }

    fn source(&self, form: Form) -> Source {
        let mut source = Source::new(form);
        let (unit, units, threads) = (Self::unit(form.kv), self.units(form.kv), self.threads(form.kv));
        let (vectors, block) = (unit / 4, self.knobs.heads);
        let keys = self.knobs.keys;
        let merge = self.merge(form);
        let whole_groups = self.head_dim.is_multiple_of(GROUP);
        // As many loads at once as registers hold without cost.
        let ahead = (1..=self.knobs.units).rev().find(|n| units.is_multiple_of(*n)).unwrap_or(1);
        // Merged elements may begin and end within a head.
        let own = whole_groups && form.inline_merge;
        let ends = self.max_splits * if own { self.knobs.heads } else { merge / self.head_dim + 2 };
        let words = self.scale_words(form.kv);
        let scaled = words > 0;
        // Scales of so many units next to each other stand in one word.
        let share_word = if ahead.is_multiple_of(UNITS_OF_WORD) || UNITS_OF_WORD.is_multiple_of(ahead) {
            UNITS_OF_WORD
        } else {
            1
        };
        // The new key and value in full, before they are blocks.
        let fresh = if scaled && self.decode { 2 * words * WORD_VECTORS } else { 0 };
        let weights = block * (keys * threads + self.knobs.values * (threads / units));
        let sums = threads / units * units * vectors;
        let mergers = if form.inline_merge { threads } else { MERGERS };
        let wide = mergers.min(merge / 4);
        let share = mergers / wide;
        let shares = share * merge / 4 * 5 / 4 + 1;
        let aligned = match self.pairing {
            Pairing::Neighbours => self.rotated.is_multiple_of(4),
            Pairing::Halves => self.rotated.is_multiple_of(8),
        } && self.head_dim.is_multiple_of(unit.max(8));
        let starts = self.vector_starts();
        // They are read before the pool is needed, unless what is made of them goes there.
        let rows_apart = scaled || !aligned;
        let rows_at_hand = (block + 2) * self.head_dim / if aligned { 4 } else { 1 };
        let pooled = if form.overlapped && !rows_apart { rows_at_hand } else { 0 };
        // There is never anything to merge.
        let alone = self.max_splits == 1 && form.inline_merge && whole_groups;
        source
            .set("D", self.head_dim)
            .set("UE", unit)
            .set("DU", units)
            .set("DV", units * vectors)
            .set("HEADS", self.heads)
            .set("KV_HEADS", self.kv_heads)
            .set("CONTEXT", self.positions())
            .set("ROTATED", self.rotated)
            .set("STRIDE", self.rows[3])
            .set("K_AT", self.rows[1])
            .set("V_AT", self.rows[2])
            .set("THREADS", threads)
            .set("HB", block)
            .set("BU", ahead)
            .set("KPL", keys)
            .set("AHEAD", self.knobs.values)
            .set("UV", vectors)
            .set("Q_NORM", starts[0])
            .set("K_NORM", starts[1])
            .set("SINKS_AT", starts[2])
            .set("HEAD_SQUARES", 2 * (block + 1))
            .set_f32("HEAD_EPS", self.epsilon)
            .set_f32("CAP", self.cap.unwrap_or(1.0))
            .set_f32("GROWTH", self.temperature.map_or(0.0, |t| t.scale))
            .set("SPAN", self.temperature.map_or(1, |t| t.span))
            .set("WINDOW", self.window.unwrap_or(0))
            .flag("HEAD_NORMS", self.norms != HeadNorms::None)
            .flag("WHOLE_NORMS", self.norms == HeadNorms::Whole)
            .flag("CAPPED", self.cap.is_some())
            .flag("SINKS", self.sinks)
            .flag("TEMPERED", self.temperature.is_some())
            .flag("RING", self.ring)
            .flag("WINDOWED", self.window.is_some())
            // A step never has the first position: its key is a batch's.
            .flag("LONE", self.window == Some(1))
            .flag("TURNED", self.rotated > 0)
            .flag("VECTORS", self.has_vectors())
            .set("Q_VECTORS", (block * units * vectors).max(merge / 4))
            .set("POOL", weights.div_ceil(4).max(sums).max(shares).max(fresh).max(pooled))
            .set("WORDS", words)
            .set("PER_WORD", share_word)
            .set("KEY_WORDS", ahead.div_ceil(share_word))
            .set("EIGHTHS", 2 * block)
            .set("LANES", (block * threads).max(3 * ends))
            .set("SIXTEENTHS", 4 * block)
            .set("ACC", block * vectors)
            .set("SPLITS", self.max_splits)
            .set("OUT_GROUPS", groups(self.heads * self.head_dim))
            .set("MERGE", merge)
            .set("MERGED_VECTORS", merge / 4)
            .set("MERGERS", MERGERS)
            .set("WIDE", wide)
            .set("SHARE", share)
            .set("MERGED_ENDS", ends)
            .set_f32("SCALE", self.scale)
            .set("COHERENT", if form.inline_merge { "@coherent" } else { "" })
            .flag("KV_F16", form.kv == Kv::F16)
            .flag("KV_Q8_0", form.kv == Kv::Q8_0)
            .flag("SCALED", scaled)
            .flag("BIAS", self.bias)
            .flag("NEIGHBOURS", self.pairing == Pairing::Neighbours)
            .flag("DECODE", self.decode)
            .flag("INLINE", form.inline_merge)
            .flag("WHOLE_GROUPS", whole_groups)
            .flag("EARLY", block == 1)
            .flag("ALIGNED", aligned)
            .set("ROW", if aligned { "vec4<f32>" } else { "f32" })
            .set("ROW_WORD", if aligned { "vec4<u32>" } else { "u32" })
            .set("ROW_SIZE", if aligned { 4 } else { 1 })
            .set("ROWS_AT_HAND", rows_at_hand)
            .set("ROWS", if rows_apart { "rows" } else { "pool" })
            .flag("ROWS_APART", rows_apart)
            .set("RECEIVED", if aligned { "received4" } else { "received" })
            .set("TURNS", if aligned { "vec4<f32>" } else { "vec2<f32>" })
            .flag("ALONE", alone);
        source
    }

    /// The shader of a form.
    pub fn shader(&self, form: Form) -> Shader {
        let mut source = self.source(form);
        source.flag("MERGES", form.inline_merge).set("MERGED", "q");
        let mut bindings = vec![(0, form.overlapped), (1, false), (2, true), (3, true)];
        if form.inline_merge {
            bindings.extend([(4, true), (5, true), (6, true)]);
        }
        if self.has_vectors() {
            bindings.push((7, false));
        }
        if form.kv == Kv::Q8_0 {
            bindings.push((8, true));
        }
        Shader { name: "attention", source: source.build("attention.wgsl"), bindings, immediates: 12 }
    }

    /// The grid.
    pub fn grid(&self, tokens: u32, splits: u32) -> [u32; 3] {
        [u32(self.blocks()), splits, tokens]
    }

    /// The shader that stores a batch's keys and values.
    pub fn write_shader(&self, form: Form) -> Shader {
        let mut bindings = vec![(0, false), (1, false), (2, true)];
        if self.has_vectors() {
            bindings.push((3, false));
        }
        if form.kv == Kv::Q8_0 {
            bindings.push((4, true));
        }
        let source = self.source(form).build("kv_write.wgsl");
        Shader { name: "kv_write", source, bindings, immediates: 8 }
    }

    /// Its grid.
    pub fn write_grid(&self, tokens: u32, kv: Kv) -> [u32; 3] {
        let lanes = match kv {
            Kv::F16 | Kv::F32 => self.units(kv),
            Kv::Q8_0 => self.scale_words(kv) * WORD_VECTORS,
        };
        [u32((self.kv_heads * lanes).div_ceil(64)), tokens, 1]
    }

    /// The shader that merges splits where attention cannot.
    pub fn merge_shader(&self, form: Form) -> Shader {
        let mut source = self.source(form);
        source.flag("MERGES", true).set("MERGED", "merged");
        let source = source.build("attention_merge.wgsl");
        Shader {
            name: "attention_merge",
            source,
            bindings: vec![(0, false), (1, true), (2, true)],
            immediates: 12,
        }
    }

    /// Its grid.
    pub fn merge_grid(&self, tokens: u32, form: Form) -> [u32; 3] {
        [u32((self.heads * self.head_dim).div_ceil(self.merge(form))), tokens, 1]
    }

    /// How many splits for the keys of the last of the batch's tokens: enough workgroups to fill a
    /// device, none with few keys.
    pub fn splits(&self, tokens: usize, keys: usize) -> usize {
        let wanted = self.knobs.lanes.div_ceil(self.knobs.threads * self.blocks() * tokens);
        let keys = self.window.map_or(keys, |window| keys.min(window));
        wanted.min(keys.div_ceil(FEW_KEYS)).clamp(1, self.max_splits)
    }
}

/// Elements of a vector as it is stored.
pub fn whole_vectors(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// Vectors of four, and units of 16 bytes, whose blocks have their scales in one word.
const WORD_VECTORS: usize = 2 * KV_BLOCK / 4;
const UNITS_OF_WORD: usize = 2 * KV_BLOCK / 16;
/// Lanes of a workgroup of `attention_merge.wgsl`.
const MERGERS: usize = 64;
/// Positions that the cache keeps side by side.
pub const CACHE_TILE: usize = 32;
/// A split has no fewer keys than this, unless there are no more.
const FEW_KEYS: usize = 128;
