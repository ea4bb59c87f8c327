//! Attention and its merge.

use super::*;
use crate::kernels::attention::{self, Attention, Cache, HeadNorms, Knobs, Pairing, Temperature};
use crate::kernels::embed;
use crate::quant::TILE;
use Pairing::{Halves, Neighbours};

fn attention_bound(gpu: &Gpu) -> f64 {
    // Devices round a new key's last bit as they do: then its number in the cache may be the next one.
    let cache = match gpu.form.kv {
        Kv::F16 if !gpu.software => 6e-4,
        Kv::Q8_0 if !gpu.software => 1e-3,
        _ => 2e-5,
    };
    bound(gpu, true).max(cache)
}

/// The most tokens that the engine writes at once.
const BATCH: usize = 64;

/// Buffers of one shape's attention in one form, as the engine would have them.
struct Bench<'a> {
    gpu: &'a Gpu,
    shape: Attention,
    raw: Vec<Vec<f32>>,
    turns: wgpu::Buffer,
    vectors: Option<wgpu::Buffer>,
    cache: wgpu::Buffer,
    scales: Option<wgpu::Buffer>,
}

impl Bench<'_> {
    /// The raw rows of a few tokens.
    fn rows(&self, from: usize, to: usize) -> wgpu::Buffer {
        upload(self.gpu, &self.raw[from..to].concat())
    }

    /// Stores keys and values of a batch.
    fn write(&self, from: usize, to: usize) {
        let (gpu, tokens) = (self.gpu, (to - from) as u32);
        let rows = self.rows(from, to);
        let buffers: Vec<_> =
            [&rows, &self.turns, &self.cache].into_iter().chain(&self.vectors).chain(&self.scales).collect();
        let args = embed::Args { tokens, position: from as u32 };
        let grid = self.shape.write_grid(tokens, gpu.form.kv);
        run(gpu, &self.shape.write_shader(gpu.form), &buffers, bytemuck::bytes_of(&args), grid);
    }

    /// The output of a batch, or of one token.
    fn attend(&self, from: usize, to: usize, splits: u32) -> Vec<f32> {
        let (gpu, shape, tokens) = (self.gpu, &self.shape, to - from);
        // What no split has left must not be merged.
        let parts = upload(gpu, &vec![f32::NAN; tokens * shape.part_bytes(gpu.form.kv) / 4]);
        let arrived = upload(gpu, &vec![0u32; tokens * shape.blocks()]);
        let zeros = vec![Activations::zeros(shape.heads * shape.head_dim); tokens];
        let [oq, om, _] = upload_acts(gpu, &zeros);
        let rows = self.rows(from, to);
        let args = attention::Args { tokens: tokens as u32, position: from as u32, splits };
        let args = bytemuck::bytes_of(&args);
        let mut buffers = vec![&rows, &self.turns, &self.cache, &parts];
        if gpu.form.inline_merge {
            buffers.extend([&arrived, &oq, &om]);
        }
        buffers.extend(self.vectors.iter().chain(&self.scales));
        run(gpu, &shape.shader(gpu.form), &buffers, args, shape.grid(tokens as u32, splits));
        if !gpu.form.inline_merge {
            let grid = shape.merge_grid(tokens as u32, gpu.form);
            run(gpu, &shape.merge_shader(gpu.form), &[&parts, &oq, &om], args, grid);
        }
        let arrived: Vec<u32> = download(gpu, &arrived);
        assert!(arrived.iter().all(|n| *n == 0), "{shape:?}: the counters are left for the next step");
        download_acts(gpu, &oq, &om).0
    }
}

/// Attention of `tokens` new tokens after `past` ones: as a batch, or one after the other. The past
/// comes in batches, so that a ring is written over as the engine does.
fn attends(gpu: &Gpu, mut shape: Attention, past: usize, tokens: usize, splits: u32) {
    let what = format!("{shape:?}, {past} + {tokens}, {splits} splits, {:?}", gpu.form);
    let mut random = Random((past + tokens) as u64);
    let (kv, all) = (gpu.form.kv, past + tokens);
    shape.knobs = shape.knobs.stored_as(kv);
    let pad = |heads: usize| (heads * shape.head_dim).next_multiple_of(TILE);
    let (q, k) = (pad(shape.heads), pad(shape.kv_heads));
    shape.rows = [0, q, q + k, q + 2 * k];
    let pairs = shape.rotated / 2;
    let turn = |_| {
        let angle = 3.0 * random.next();
        [angle.cos(), angle.sin()]
    };
    let turns: Vec<[f32; 2]> = (0..all * pairs).map(turn).collect();
    let vectors = random.vec(shape.vectors());
    let raw: Vec<Vec<f32>> = (0..all).map(|_| random.vec(shape.rows[3])).collect();
    let mut cache = Cache::default();
    let mut want = Vec::new();
    for (at, raw) in raw.iter().enumerate() {
        let mut raw = raw.clone();
        let turns = &turns[at * pairs..(at + 1) * pairs];
        shape.twin_prologue(kv, &mut raw, &vectors, turns, at, &mut cache);
        if at >= past {
            want.push(shape.twin(gpu.form.math, &raw, &vectors, &cache, at).values());
        }
    }
    let bench = Bench {
        turns: upload(gpu, &turns),
        vectors: shape.has_vectors().then(|| upload(gpu, &vectors)),
        cache: upload(gpu, &vec![0u8; shape.unit_bytes(kv)]),
        scales: (shape.scale_bytes(kv) > 0).then(|| upload(gpu, &vec![0u8; shape.scale_bytes(kv)])),
        gpu,
        shape,
        raw,
    };
    for from in (0..past).step_by(BATCH) {
        bench.write(from, past.min(from + BATCH));
    }
    let each = if bench.shape.decode { 1 } else { tokens };
    for (i, want) in want.chunks(each).enumerate() {
        let from = past + i * each;
        if !bench.shape.decode {
            bench.write(from, from + each);
        }
        let got = bench.attend(from, from + each, splits);
        for (t, want) in want.iter().enumerate() {
            let what = format!("{what}, token {}", from + t);
            close(&what, &got[t * want.len()..], want, attention_bound(gpu));
        }
    }
}

/// Query heads, key and value heads, elements.
fn shape(heads: usize, kv_heads: usize, head_dim: usize, rotated: usize, pairing: Pairing) -> Attention {
    Attention {
        heads,
        kv_heads,
        head_dim,
        rotated,
        pairing,
        scale: 1.0 / (head_dim as f32).sqrt(),
        bias: false,
        norms: HeadNorms::None,
        epsilon: 1e-6,
        sinks: false,
        cap: None,
        temperature: None,
        window: None,
        ring: false,
        context: 160,
        rows: [0; 4],
        max_splits: 8,
        decode: true,
        knobs: Knobs::of(Attention::widest_block(heads, kv_heads, head_dim, 32 << 10), head_dim),
    }
}

/// As the engine runs few keys: a workgroup for each query head, nothing to merge.
fn alone(shape: Attention) -> Attention {
    Attention { knobs: Knobs::of(1, shape.head_dim), max_splits: 1, ..shape }
}

/// A step or two after so many tokens, by one split and by several, then a batch.
fn both(gpu: &Gpu, shape: &Attention, past: usize, tokens: usize) {
    for splits in [1, 3, 8] {
        attends(gpu, shape.clone(), past, 2, splits);
    }
    for splits in [1, 3] {
        attends(gpu, Attention { decode: false, ..shape.clone() }, past, tokens, splits);
    }
}

/// What differs between forms where only attention is looked at: the cache's numbers, and who merges.
fn cache_forms() -> Vec<Gpu> {
    vec![gpu(Math::F32, Forms::default()), gpu(Math::F32, plain())]
}

#[test]
fn attention_decodes_and_takes_batches() {
    for gpu in forms() {
        // Grouped heads, one key/value head, more query heads than a workgroup takes, heads that
        // are no whole groups of 16, the largest head.
        attends(&gpu, shape(4, 2, 64, 64, Neighbours), 0, 1, 1);
        attends(&gpu, alone(Attention { bias: true, ..shape(4, 2, 64, 64, Halves) }), 90, 1, 1);
        let deep = Attention { context: 4200, max_splits: 32, ..shape(8, 2, 64, 64, Halves) };
        attends(&gpu, deep.clone(), 4112, 1, 32);
        attends(&gpu, Attention { decode: false, ..deep }, 4112, 3, 1);
        attends(&gpu, Attention { context: 700, ..shape(8, 1, 16, 16, Halves) }, 650, 1, 2);
        // Tiles that are no multiple of the lanes; no key but the new one; splits that just fit.
        let tiles = Attention { context: 700, ..shape(4, 2, 64, 64, Halves) };
        attends(&gpu, tiles.clone(), 650, 1, 1);
        attends(&gpu, Attention { knobs: Knobs::of(1, 64), ..tiles }, 600, 1, 1);
        attends(&gpu, shape(4, 2, 64, 64, Halves), 0, 1, 4);
        attends(&gpu, shape(4, 1, 128, 128, Halves), 128, 1, 4);
        attends(&gpu, Attention { bias: true, ..shape(4, 2, 64, 48, Halves) }, 100, 1, 1);
        attends(&gpu, shape(9, 1, 32, 32, Neighbours), 131, 1, 4);
        let odd = Attention { bias: true, ..shape(6, 3, 22, 20, Halves) };
        attends(&gpu, odd.clone(), 70, 1, 3);
        attends(&gpu, Attention { norms: HeadNorms::Each, ..odd }, 70, 1, 3);
        attends(&gpu, shape(2, 2, 256, 256, Halves), 40, 1, 8);
        attends(&gpu, shape(4, 2, 2, 0, Halves), 40, 1, 2);
        let batch = Attention { bias: true, decode: false, ..shape(4, 2, 64, 64, Halves) };
        attends(&gpu, Attention { norms: HeadNorms::Each, ..batch.clone() }, 30, 5, 2);
        attends(&gpu, batch, 30, 5, 2);
        attends(&gpu, Attention { decode: false, ..shape(3, 3, 10, 10, Neighbours) }, 0, 7, 1);
    }
}

#[test]
fn attention_norms_heads_alone_and_together() {
    for gpu in cache_forms() {
        for norms in [HeadNorms::Each, HeadNorms::Whole] {
            let of = |shape: Attention| Attention { norms, ..shape };
            both(&gpu, &of(Attention { bias: true, ..shape(6, 2, 64, 64, Halves) }), 75, 5);
            both(&gpu, &of(Attention { bias: true, ..shape(6, 3, 22, 20, Halves) }), 75, 5);
            both(&gpu, &of(shape(3, 3, 10, 10, Neighbours)), 75, 5);
            attends(&gpu, alone(of(shape(6, 2, 32, 16, Neighbours))), 75, 2, 1);
        }
    }
}

#[test]
fn attention_has_sinks_caps_and_temperatures() {
    let temperature = Some(Temperature { scale: 0.3, span: 16 });
    for gpu in cache_forms() {
        let sinks = |shape: Attention| Attention { sinks: true, ..shape };
        both(&gpu, &sinks(Attention { bias: true, ..shape(6, 2, 64, 64, Halves) }), 75, 5);
        both(&gpu, &sinks(shape(5, 1, 22, 20, Neighbours)), 75, 5);
        // The sink has the softmax almost to itself where there is nothing but the new key.
        attends(&gpu, sinks(shape(6, 2, 64, 64, Halves)), 0, 3, 4);
        attends(&gpu, alone(sinks(shape(6, 2, 64, 64, Halves))), 0, 3, 1);
        // Scores that the cap bends, and some far beyond it.
        for scale in [0.5, 50.0] {
            both(&gpu, &Attention { cap: Some(2.5), scale, ..shape(4, 2, 64, 64, Halves) }, 75, 5);
        }
        // Without RoPE, aligned and not.
        for shape in [shape(4, 2, 64, 0, Halves), shape(4, 2, 22, 0, Neighbours), shape(4, 2, 10, 0, Halves)]
        {
            both(&gpu, &Attention { temperature, ..shape.clone() }, 75, 5);
        }
        let all = Attention {
            sinks: true,
            cap: Some(1.5),
            temperature,
            norms: HeadNorms::Whole,
            bias: true,
            ..shape(6, 2, 22, 12, Halves)
        };
        both(&gpu, &all, 75, 5);
        attends(&gpu, alone(Attention { head_dim: 16, ..all }), 75, 2, 1);
    }
}

#[test]
fn attention_sees_a_window() {
    for gpu in cache_forms() {
        for window in [1, 2, 7, 33, 80, 200] {
            let seen = Attention { window: Some(window), ..shape(4, 2, 16, 16, Halves) };
            both(&gpu, &seen, 78, 5);
            // Nothing but the new key, whatever the window.
            attends(&gpu, seen, 0, 3, 3);
        }
        let seen = Attention { window: Some(33), sinks: true, ..shape(6, 2, 64, 64, Halves) };
        both(&gpu, &seen, 140, 5);
        attends(&gpu, alone(seen), 140, 2, 1);
    }
}

/// Positions beyond the ring's end, once and several times; batches that cross it.
#[test]
fn attention_keeps_a_ring() {
    let ring = |window: usize, shape: Attention| {
        let context = window + BATCH;
        Attention { window: Some(window), context, ring: true, ..shape }
    };
    for gpu in cache_forms() {
        for window in [1, 7, 40] {
            let ring = ring(window, shape(4, 2, 16, 16, Halves));
            let turn = ring.positions();
            // Steps across the end, the first time and later; batches that end there and that cross it.
            for (past, splits) in [(turn - 2, 1), (turn - 2, 3), (3 * turn - 1, 2), (2 * turn + 50, 3)] {
                attends(&gpu, ring.clone(), past, 3, splits);
            }
            let batch = Attention { decode: false, ..ring };
            for (past, tokens, splits) in [
                (0, BATCH, 1),
                (turn - BATCH, BATCH, 1),
                (turn - 20, BATCH, 1),
                (turn - 20, BATCH, 3),
                (3 * turn - 33, BATCH - 1, 2),
                (2 * turn + 9, 5, 1),
            ] {
                attends(&gpu, batch.clone(), past, tokens, splits);
            }
        }
        let odd = ring(33, Attention { sinks: true, bias: true, ..shape(6, 3, 22, 20, Neighbours) });
        attends(&gpu, odd.clone(), 3 * odd.positions() - 2, 4, 3);
        attends(&gpu, Attention { decode: false, ..odd.clone() }, 3 * odd.positions() - 30, 60, 3);
        attends(&gpu, alone(ring(33, shape(4, 2, 64, 64, Halves))), 300, 2, 1);
    }
}

/// Heads of whole blocks, that end within one, that are shorter than one, of an odd number of blocks.
#[test]
fn attention_stores_blocks_of_bytes() {
    for gpu in [Forms::default(), plain()].map(|forms| gpu_with(Math::F32, Kv::Q8_0, forms)) {
        let heads = [(64, 64), (16, 16), (24, 24), (40, 16), (80, 32), (22, 20), (10, 10), (2, 0), (96, 96)];
        for (i, (head_dim, rotated)) in heads.into_iter().enumerate() {
            let pairing = if i % 2 == 0 { Halves } else { Neighbours };
            let shape = Attention { bias: i % 3 == 0, ..shape(4, 2, head_dim, rotated, pairing) };
            attends(&gpu, shape.clone(), 75, 2, 1);
            attends(&gpu, shape.clone(), 0, 2, 3);
            attends(&gpu, shape.clone(), 75, 2, 3);
            attends(&gpu, Attention { decode: false, ..shape }, 75, 5, 2);
        }
        attends(&gpu, alone(shape(6, 2, 128, 64, Halves)), 75, 2, 1);
        let deep = Attention { context: 1200, max_splits: 32, ..shape(8, 2, 128, 128, Halves) };
        attends(&gpu, deep, 1150, 2, 9);
        attends(&gpu, shape(2, 2, 256, 256, Halves), 40, 1, 8);
        // What is added to the new key, in full and as a block.
        for (norms, head_dim) in [(HeadNorms::Each, 64), (HeadNorms::Whole, 22), (HeadNorms::Whole, 80)] {
            let shape = Attention { norms, bias: true, sinks: true, ..shape(6, 2, head_dim, 16, Halves) };
            both(&gpu, &shape, 40, 5);
            attends(&gpu, alone(shape), 40, 1, 1);
        }
        let ring =
            Attention { window: Some(7), context: 7 + BATCH, ring: true, ..shape(4, 2, 40, 40, Halves) };
        attends(&gpu, ring.clone(), 3 * ring.positions() - 2, 3, 3);
        attends(&gpu, Attention { decode: false, ..ring.clone() }, 3 * ring.positions() - 30, BATCH, 1);
    }
}
