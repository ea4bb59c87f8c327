//! Attention over the key/value cache, with RoPE and the cache's writing in its prologue.

use std::fmt;

use serde::Serialize;

use super::source::Source;
use super::vector::Activations;
use super::{Form, Kv, Math, Shader, groups, u32};
use crate::quant::GROUP;

/// Which elements of a head RoPE turns together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Neighbours: (2i, 2i + 1). The converter has permuted Q and K rows for it.
    Neighbours,
    /// (i, i + dims / 2), as models are trained.
    Halves,
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
    /// Query and key heads are normed before they are turned: the epsilon.
    pub head_norms: Option<f32>,
    /// Positions in the cache.
    pub context: usize,
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
}

impl Knobs {
    /// What the lab (`cargo bench --bench kernels -- --attention 16384`) found best on an H200, for so
    /// many heads a workgroup of so many elements. With one head there are few keys: everything is
    /// asked for at once. With several, registers and workgroup memory decide how many workgroups
    /// run at once, and that decides the speed.
    pub fn of(heads: usize, head_dim: usize) -> Knobs {
        match heads {
            1 if head_dim < 128 => Knobs { heads, threads: 128, keys: 2, units: 8, values: 8 },
            1 => Knobs { heads, threads: 256, keys: 1, units: 16, values: 8 },
            _ if head_dim < 128 => Knobs { heads, threads: 256, keys: 2, units: 4, values: 4 },
            _ => Knobs { heads, threads: 128, keys: 2, units: 4, values: 4 },
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
        // Queries, the new key and value; the rest is below 18,000 bytes.
        while block > 1 && 4 * (block + 2) * head_dim + 18_000 > shared {
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

    /// There is a buffer of vectors: biases beside the raw rows, then the weights of the queries'
    /// and of the keys' norm, each padded to [`norm_row`].
    pub fn has_vectors(&self) -> bool {
        self.bias || self.head_norms.is_some()
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
        2 * self.kv_heads * self.positions() * self.units(kv) * 16
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
        let weights = block * (keys * threads + self.knobs.values * (threads / units));
        let sums = threads / units * units * vectors;
        let mergers = if form.inline_merge { threads } else { MERGERS };
        let wide = mergers.min(merge / 4);
        let share = mergers / wide;
        let shares = share * merge / 4 * 5 / 4 + 1;
        let aligned = match self.pairing {
            Pairing::Neighbours => self.rotated.is_multiple_of(4),
            Pairing::Halves => self.rotated.is_multiple_of(8),
        } && self.rotated > 0
            && self.head_dim.is_multiple_of(8);
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
            .set("Q_NORM", if self.bias { self.rows[3] } else { 0 })
            .set("NORM_ROW", norm_row(self.head_dim))
            .set("HEAD_SQUARES", 2 * (block + 1))
            .set_f32("HEAD_EPS", self.head_norms.unwrap_or(0.0))
            .flag("HEAD_NORMS", self.head_norms.is_some())
            .flag("VECTORS", self.has_vectors())
            .set("Q_VECTORS", (block * units * vectors).max(merge / 4))
            .set("POOL", weights.div_ceil(4).max(sums).max(shares))
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
            .flag("BIAS", self.bias)
            .flag("NEIGHBOURS", self.pairing == Pairing::Neighbours)
            .flag("DECODE", self.decode)
            .flag("INLINE", form.inline_merge)
            .flag("WHOLE_GROUPS", whole_groups)
            .flag("EARLY", block == 1)
            .flag("ALIGNED", aligned)
            .set("ROW", if aligned { "vec4<f32>" } else { "f32" })
            .set("TURNS", if aligned { "vec4<f32>" } else { "vec2<f32>" })
            .flag("ALONE", alone);
        source
    }

    /// The shader of a form.
    pub fn shader(&self, form: Form) -> Shader {
        let mut source = self.source(form);
        source.flag("MERGES", form.inline_merge).set("MERGED", "q");
        let mut bindings = vec![(0, false), (1, false), (2, true), (3, true)];
        if form.inline_merge {
            bindings.extend([(4, true), (5, true), (6, true)]);
        }
        if self.has_vectors() {
            bindings.push((7, false));
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
        let source = self.source(form).build("kv_write.wgsl");
        Shader { name: "kv_write", source, bindings, immediates: 8 }
    }

    /// Its grid.
    pub fn write_grid(&self, tokens: u32, kv: Kv) -> [u32; 3] {
        [u32((self.kv_heads * self.units(kv)).div_ceil(64)), tokens, 1]
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
        let wanted = LANES.div_ceil(self.knobs.threads * self.blocks() * tokens);
        wanted.min(keys.div_ceil(FEW_KEYS)).clamp(1, self.max_splits)
    }
}

/// Elements of a head norm's weight as it is stored: whole vectors.
pub fn norm_row(head_dim: usize) -> usize {
    head_dim.next_multiple_of(4)
}

/// Lanes of a workgroup of `attention_merge.wgsl`.
const MERGERS: usize = 64;
/// Positions that the cache keeps side by side.
pub const CACHE_TILE: usize = 32;
/// Lanes that keep a large device busy.
const LANES: usize = 1 << 16;
/// A split has no fewer keys than this, unless there are no more.
const FEW_KEYS: usize = 128;

/// A layer's cache, on the host.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    /// `(positions, kv heads * head size)`.
    pub keys: Vec<f32>,
    /// The same.
    pub values: Vec<f32>,
}

/// Turns a head in place: the twin of `turned` in `kv.wgsl`. `turns` are the position's.
fn turn(head: &mut [f32], pairing: Pairing, turns: &[[f32; 2]]) {
    for (i, [cos, sin]) in turns.iter().enumerate() {
        let (a, b) = match pairing {
            Pairing::Neighbours => (2 * i, 2 * i + 1),
            Pairing::Halves => (i, i + turns.len()),
        };
        (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
    }
}

impl Attention {
    /// The first half of the twin: biases, norms and RoPE on a token's raw rows, in place, and its
    /// key and value to the end of the cache. `vectors` is empty where there are none.
    pub fn twin_prologue(
        &self,
        kv: Kv,
        qkv: &mut [f32],
        vectors: &[f32],
        turns: &[[f32; 2]],
        cache: &mut Cache,
    ) {
        let (biases, norms) = vectors.split_at(if self.bias { self.rows[3] } else { 0 });
        qkv.iter_mut().zip(biases).for_each(|(v, b)| *v += b);
        let d = self.head_dim;
        for (i, heads) in [self.heads, self.kv_heads].into_iter().enumerate() {
            for head in qkv[self.rows[i]..][..heads * d].chunks_exact_mut(d) {
                if let Some(epsilon) = self.head_norms {
                    let squares: f32 = head.iter().map(|v| v * v).sum();
                    let factor = 1.0 / (squares / d as f32 + epsilon).sqrt();
                    let weights = &norms[i * norm_row(d)..];
                    head.iter_mut().zip(weights).for_each(|(v, w)| *v *= w * factor);
                }
                turn(head, self.pairing, turns);
            }
        }
        let len = self.kv_heads * d;
        let rounded = |at: usize| qkv[at..at + len].iter().map(|v| kv.round(*v));
        cache.keys.extend(rounded(self.rows[1]));
        cache.values.extend(rounded(self.rows[2]));
    }

    /// The second half: one query head, turned, over the first `keys` positions.
    pub fn twin_head(&self, head: usize, query: &[f32], cache: &Cache, keys: usize, out: &mut [f32]) {
        let (d, stride) = (self.head_dim, self.kv_heads * self.head_dim);
        let at = head / (self.heads / self.kv_heads) * d;
        let row = |rows: &'_ [f32], key: usize| -> std::ops::Range<usize> {
            debug_assert!(rows.len() >= (key + 1) * stride);
            key * stride + at..key * stride + at + d
        };
        let mut scores: Vec<f32> = (0..keys)
            .map(|k| super::gemv::dot(query, &cache.keys[row(&cache.keys, k)]) * self.scale)
            .collect();
        let top = scores.iter().fold(f32::NEG_INFINITY, |m, s| m.max(*s));
        let mut sum = 0.0;
        for s in &mut scores {
            *s = (*s - top).exp();
            sum += *s;
        }
        out.fill(0.0);
        for (k, s) in scores.iter().enumerate() {
            for (o, v) in out.iter_mut().zip(&cache.values[row(&cache.values, k)]) {
                *o += s * v;
            }
        }
        out.iter_mut().for_each(|o| *o /= sum);
    }

    /// The whole twin for one token whose prologue has been done.
    pub fn twin(&self, math: Math, qkv: &[f32], cache: &Cache, keys: usize) -> Activations {
        let d = self.head_dim;
        let mut out = vec![0.0; self.heads * d];
        for (head, out) in out.chunks_exact_mut(d).enumerate() {
            let at = self.rows[0] + head * d;
            self.twin_head(head, &qkv[at..at + d], cache, keys, out);
        }
        Activations::from_values(math, &out)
    }
}
