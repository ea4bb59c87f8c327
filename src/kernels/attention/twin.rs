//! Attention's twin: the same computation on the host, in F32, with the cache's rounding.

use super::super::activation::capped;
use super::super::vector::{Activations, norm_factor};
use super::super::{Kv, Math, gemv};
use super::{Attention, HeadNorms, Pairing};

/// A layer's cache, on the host.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    /// `(positions, kv heads * head size)`, as far as they have been written.
    pub keys: Vec<f32>,
    /// The same.
    pub values: Vec<f32>,
}

impl Cache {
    /// Writes a slot's row, of heads that have so many elements.
    fn write(rows: &mut Vec<f32>, slot: usize, row: &[f32], head: usize, kv: Kv) {
        let range = slot * row.len()..(slot + 1) * row.len();
        rows.resize(rows.len().max(range.end), 0.0);
        let to = &mut rows[range];
        to.copy_from_slice(row);
        to.chunks_mut(head).for_each(|head| kv.round(head));
    }
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
    /// key and value to the cache. `vectors` is empty where there are none.
    pub fn twin_prologue(
        &self,
        kv: Kv,
        qkv: &mut [f32],
        vectors: &[f32],
        turns: &[[f32; 2]],
        position: usize,
        cache: &mut Cache,
    ) {
        if self.bias {
            qkv.iter_mut().zip(&vectors[..self.rows[3]]).for_each(|(v, b)| *v += b);
        }
        let (d, starts) = (self.head_dim, self.vector_starts());
        for (i, heads) in [self.heads, self.kv_heads].into_iter().enumerate() {
            let rows = &mut qkv[self.rows[i]..][..heads * d];
            let unit = if self.norms == HeadNorms::Whole { heads * d } else { d };
            if self.norms != HeadNorms::None {
                for unit in rows.chunks_exact_mut(unit) {
                    let squares: f32 = unit.iter().map(|v| v * v).sum();
                    let factor = norm_factor(squares, unit.len(), self.epsilon);
                    unit.iter_mut().zip(&vectors[starts[i]..]).for_each(|(v, w)| *v *= w * factor);
                }
            }
            rows.chunks_exact_mut(d).for_each(|head| turn(head, self.pairing, turns));
        }
        if let Some(temperature) = self.temperature {
            let growth = temperature.of(position);
            qkv[..self.heads * d].iter_mut().for_each(|v| *v *= growth);
        }
        let (len, slot) = (self.kv_heads * d, position % self.positions());
        let row = |at: usize| &qkv[at..at + len];
        Cache::write(&mut cache.keys, slot, row(self.rows[1]), d, kv);
        Cache::write(&mut cache.values, slot, row(self.rows[2]), d, kv);
    }

    /// The second half: one query head, ready, at its position.
    pub fn twin_head(
        &self,
        head: usize,
        query: &[f32],
        vectors: &[f32],
        cache: &Cache,
        position: usize,
        out: &mut [f32],
    ) {
        let (d, stride) = (self.head_dim, self.kv_heads * self.head_dim);
        let at = head / (self.heads / self.kv_heads) * d;
        let row = |key: usize| {
            let first = key % self.positions() * stride + at;
            first..first + d
        };
        let keys = self.first_key(position)..position + 1;
        let score = |key| gemv::dot(query, &cache.keys[row(key)]) * self.scale;
        let mut scores: Vec<f32> = keys.clone().map(|key| capped(score(key), self.cap)).collect();
        let sink = self.sinks.then(|| vectors[self.vector_starts()[2] + head]);
        let top = scores.iter().copied().chain(sink).fold(f32::NEG_INFINITY, f32::max);
        let mut sum = sink.map_or(0.0, |sink| (sink - top).exp());
        for s in &mut scores {
            *s = (*s - top).exp();
            sum += *s;
        }
        out.fill(0.0);
        for (key, s) in keys.zip(&scores) {
            for (o, v) in out.iter_mut().zip(&cache.values[row(key)]) {
                *o += s * v;
            }
        }
        out.iter_mut().for_each(|o| *o /= sum);
    }

    /// The whole twin for one token whose prologue has been done.
    pub fn twin(
        &self,
        math: Math,
        qkv: &[f32],
        vectors: &[f32],
        cache: &Cache,
        position: usize,
    ) -> Activations {
        let d = self.head_dim;
        let mut out = vec![0.0; self.heads * d];
        for (head, out) in out.chunks_exact_mut(d).enumerate() {
            let at = self.rows[0] + head * d;
            self.twin_head(head, &qkv[at..at + d], vectors, cache, position, out);
        }
        Activations::from_values(math, &out)
    }
}
