//! Attention and its merge.

use super::*;
use crate::kernels::attention::{self, Attention, Cache, HeadNorms, Pairing};
use crate::kernels::embed;
use crate::quant::TILE;

fn attention_bound(gpu: &Gpu) -> f64 {
    let cache = if gpu.form.kv == Kv::F16 && !gpu.software { 6e-4 } else { 2e-5 };
    bound(gpu, true).max(cache)
}

/// Attention of `tokens` new tokens after `past` ones.
fn attends(gpu: &Gpu, mut shape: Attention, past: usize, tokens: usize, splits: u32) {
    let what = format!("{shape:?}, {past} + {tokens}, {splits} splits, {:?}", gpu.form);
    let mut random = Random((past + tokens) as u64);
    let (math, d) = (gpu.form.math, shape.head_dim);
    let pad = |n: usize| (n * d).next_multiple_of(TILE);
    shape.rows = [
        0,
        pad(shape.heads),
        pad(shape.heads) + pad(shape.kv_heads),
        pad(shape.heads) + 2 * pad(shape.kv_heads),
    ];
    let stride = shape.rows[3];
    let turns: Vec<[f32; 2]> = (0..shape.context * shape.rotated / 2)
        .map(|_| {
            let angle = 3.0 * random.next();
            [angle.cos(), angle.sin()]
        })
        .collect();
    let vectors = random.vec(shape.vectors());
    let raw: Vec<Vec<f32>> = (0..past + tokens).map(|_| random.vec(stride)).collect();
    let kv = gpu.form.kv;
    let mut cache = Cache::default();
    let mut want = Vec::new();
    for (at, raw) in raw.iter().enumerate() {
        let mut raw = raw.clone();
        let turn = &turns[at * shape.rotated / 2..(at + 1) * shape.rotated / 2];
        shape.twin_prologue(kv, &mut raw, &vectors, turn, at, &mut cache);
        want.push(shape.twin(math, &raw, &vectors, &cache, at));
    }

    let stored = upload(gpu, &vec![0u8; shape.cache_bytes(kv)]);
    let qkv = |range: std::ops::Range<usize>| upload(gpu, &raw[range].concat());
    let turns = upload(gpu, &turns);
    let with_vectors = |mut buffers: Vec<wgpu::Buffer>| {
        if shape.has_vectors() {
            buffers.push(upload(gpu, &vectors));
        }
        buffers
    };
    let write = |from: usize, to: usize| {
        let buffers = with_vectors(vec![qkv(from..to), turns.clone(), stored.clone()]);
        let args = embed::Args { tokens: (to - from) as u32, position: from as u32 };
        let refs: Vec<_> = buffers.iter().collect();
        run(
            gpu,
            &shape.write_shader(gpu.form),
            &refs,
            bytemuck::bytes_of(&args),
            shape.write_grid((to - from) as u32, kv),
        );
    };
    if past > 0 {
        write(0, past);
    }
    if !shape.decode {
        write(past, past + tokens);
    }
    let parts = upload(gpu, &vec![f32::NAN; tokens * shape.part_bytes(kv) / 4]);
    let arrived = upload(gpu, &vec![0u32; tokens * shape.blocks()]);
    let [oq, om, _] = upload_acts(gpu, &vec![Activations::zeros(shape.heads * d); tokens]);
    let args = attention::Args { tokens: tokens as u32, position: past as u32, splits };
    let args = bytemuck::bytes_of(&args);
    let mut buffers = vec![qkv(past..past + tokens), turns.clone(), stored.clone(), parts.clone()];
    if gpu.form.inline_merge {
        buffers.extend([arrived.clone(), oq.clone(), om.clone()]);
    }
    let buffers = with_vectors(buffers);
    let refs: Vec<_> = buffers.iter().collect();
    run(gpu, &shape.shader(gpu.form), &refs, args, shape.grid(tokens as u32, splits));
    if !gpu.form.inline_merge {
        run(
            gpu,
            &shape.merge_shader(gpu.form),
            &[&parts, &oq, &om],
            args,
            shape.merge_grid(tokens as u32, gpu.form),
        );
    }
    let (got, _) = download_acts(gpu, &oq, &om);
    for t in 0..tokens {
        let want = want[past + t].values();
        close(&what, &got[t * want.len()..], &want, attention_bound(gpu));
    }
    let arrived: Vec<u32> = download(gpu, &arrived);
    assert!(arrived.iter().all(|n| *n == 0), "{what}: the counters are left for the next step");
}

#[test]
fn attention_decodes_and_takes_batches() {
    let shape = |heads, kv_heads, head_dim, rotated, pairing, bias, decode| Attention {
        heads,
        kv_heads,
        head_dim,
        rotated,
        pairing,
        scale: 1.0 / (head_dim as f32).sqrt(),
        bias,
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
        decode,
        knobs: attention::Knobs::of(Attention::widest_block(heads, kv_heads, head_dim, 32 << 10), head_dim),
    };
    use Pairing::{Halves, Neighbours};
    for gpu in forms() {
        // Grouped heads, one key/value head, more query heads than a workgroup takes, heads that
        // are no whole groups of 16, the largest head.
        attends(&gpu, shape(4, 2, 64, 64, Neighbours, false, true), 0, 1, 1);
        attends(
            &gpu,
            Attention {
                knobs: attention::Knobs::of(1, 64),
                max_splits: 1,
                ..shape(4, 2, 64, 64, Halves, true, true)
            },
            90,
            1,
            1,
        );
        let deep = Attention { context: 4200, max_splits: 32, ..shape(8, 2, 64, 64, Halves, false, true) };
        attends(&gpu, deep.clone(), 4112, 1, 32);
        attends(&gpu, Attention { decode: false, ..deep }, 4112, 3, 1);
        attends(&gpu, Attention { context: 700, ..shape(8, 1, 16, 16, Halves, false, true) }, 650, 1, 2);
        // Tiles that are no multiple of the lanes; no key but the new one; splits that just fit.
        let tiles = Attention { context: 700, ..shape(4, 2, 64, 64, Halves, false, true) };
        attends(&gpu, tiles.clone(), 650, 1, 1);
        attends(&gpu, Attention { knobs: attention::Knobs::of(1, 64), ..tiles }, 600, 1, 1);
        attends(&gpu, shape(4, 2, 64, 64, Halves, false, true), 0, 1, 4);
        attends(&gpu, shape(4, 1, 128, 128, Halves, false, true), 128, 1, 4);
        attends(&gpu, shape(4, 2, 64, 48, Halves, true, true), 100, 1, 1);
        attends(&gpu, shape(9, 1, 32, 32, Neighbours, false, true), 131, 1, 4);
        attends(&gpu, shape(6, 3, 22, 20, Halves, true, true), 70, 1, 3);
        attends(&gpu, shape(2, 2, 256, 256, Halves, false, true), 40, 1, 8);
        attends(&gpu, shape(4, 2, 2, 0, Halves, false, true), 40, 1, 2);
        let normed = |shape: Attention| Attention { norms: HeadNorms::Each, ..shape };
        attends(&gpu, normed(shape(6, 3, 22, 20, Halves, true, true)), 70, 1, 3);
        attends(&gpu, normed(shape(4, 2, 64, 64, Halves, true, false)), 30, 5, 2);
        attends(&gpu, shape(4, 2, 64, 64, Halves, true, false), 30, 5, 2);
        attends(&gpu, shape(3, 3, 10, 10, Neighbours, false, false), 0, 7, 1);
    }
}
