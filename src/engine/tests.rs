//! Every kernel against its twin, on a device, at odd sizes and in every form.

use super::device::{Gpu, choose};
use super::lab::bound;
use super::{DeviceChoice, Forms, Options};
use crate::kernels::attention::{self, Attention, Cache, Pairing};
use crate::kernels::embed::{self, Embed};
use crate::kernels::gemv::{self, Epilogue, Gemv, Knobs, Part, row_product, silu_gate};
use crate::kernels::sample::{self, Sampling};
use crate::kernels::select::{self, Select};
use crate::kernels::vector::Activations;
use crate::kernels::{Kv, Math, Shader, groups, pack, padded, squares};
use crate::quant::{GROUP, Layout, TILE, Type, dequantize};

const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_DST).union(wgpu::BufferUsages::COPY_SRC);

fn gpu(math: Math, forms: Forms) -> Gpu {
    let adapter = choose(&DeviceChoice::Gpu).unwrap().unwrap();
    let kv = if math == Math::F32 && forms.checked { Kv::F32 } else { Kv::F16 };
    let options = Options { math: Some(math), kv: Some(kv), forms, ..Options::default() };
    Gpu::open(&adapter, &options).unwrap()
}

/// The forms that kernels have, each on its own device.
fn forms() -> Vec<Gpu> {
    let plain = Forms { no_subgroups: true, no_coherent: true, checked: true, ..Forms::default() };
    vec![
        gpu(Math::F32, Forms::default()),
        gpu(Math::F32, plain),
        gpu(Math::F16, Forms::default()),
        gpu(Math::F16, Forms { no_f16: true, ..plain }),
        gpu(Math::Int16, Forms::default()),
        gpu(Math::Int8, plain),
    ]
}

/// Numbers in -1 to 1, the same ones for a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / f32::from(1u16 << 12) / f32::from(1u16 << 11) - 1.0
    }

    fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }

    /// A valid matrix: random blocks with scales that are no NaN.
    fn matrix(&mut self, layout: &Layout) -> Vec<u8> {
        let mut out: Vec<u8> =
            (0..layout.rows * layout.row_bytes()).map(|_| (self.next() * 128.0) as i8 as u8).collect();
        for block in out.chunks_exact_mut(layout.ty.block_bytes()) {
            let mut at = 0;
            for (field, bytes) in layout.ty.fields() {
                let value = 0.02 + 0.01 * self.next();
                match (*field, *bytes) {
                    ("d" | "m" | "dmin", 2) => {
                        block[at..at + 2].copy_from_slice(&half::f16::from_f32(value).to_le_bytes());
                    }
                    // Exponents near 1, and no NaN.
                    ("e", 1) => block[at] = 120 + block[at] % 8,
                    ("d", 4) if layout.ty == Type::NVFP4 => block[at..at + 4].iter_mut().for_each(|b| *b &= 0x37),
                    // Its scale's highest bits: sign and exponent.
                    ("scales", 8) if layout.ty == Type::IQ1_M => block[at + 7] = block[at + 7] & 0x0f | 0x20,
                    ("d", 4) => block[at..at + 4].copy_from_slice(&value.to_le_bytes()),
                    ("value", 2) if layout.ty == Type::F16 => {
                        block.copy_from_slice(&half::f16::from_f32(self.next()).to_le_bytes());
                    }
                    ("value", 2) => block.copy_from_slice(&half::bf16::from_f32(self.next()).to_le_bytes()),
                    ("value", 4) => block.copy_from_slice(&self.next().to_le_bytes()),
                    _ => {}
                }
                at += bytes;
            }
        }
        out
    }
}

fn upload<T: bytemuck::Pod>(gpu: &Gpu, data: &[T]) -> wgpu::Buffer {
    let bytes: &[u8] = bytemuck::cast_slice(data);
    let buffer = gpu.buffer("test", bytes.len() as u64, STORAGE).unwrap();
    gpu.queue.write_buffer(&buffer, 0, bytes);
    buffer
}

fn download<T: bytemuck::Pod>(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<T> {
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let landing = gpu.buffer("test", buffer.size(), usage).unwrap();
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &landing, 0, buffer.size());
    let index = gpu.queue.submit([encoder.finish()]);
    landing.slice(..).map_async(wgpu::MapMode::Read, |r| r.unwrap());
    gpu.wait(&index).unwrap();
    let view = landing.slice(..).get_mapped_range().unwrap();
    bytemuck::pod_collect_to_vec(&view)
}

/// Matrices as a dispatch binds them.
fn weights(gpu: &Gpu, matrices: &[(&Layout, &[u8])]) -> (Vec<Part>, wgpu::Buffer) {
    let (parts, _) = gemv::side_by_side(matrices.iter().map(|(layout, _)| (*layout).clone()));
    let books = gemv::book_words(matrices.iter().map(|(layout, _)| layout.ty));
    let mut bytes: Vec<u8> = bytemuck::cast_slice(&books).to_vec();
    bytes.extend(matrices.iter().flat_map(|(layout, file)| crate::quant::pack(layout, file)));
    (parts, upload(gpu, &bytes))
}

fn run(gpu: &Gpu, shader: &Shader, buffers: &[&wgpu::Buffer], args: &[u8], grid: [u32; 3]) {
    let pipeline = gpu.pipeline(shader).unwrap();
    let ranges: Vec<_> = buffers.iter().map(|b| (*b).into()).collect();
    let group = gpu.bind(&pipeline, &ranges);
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.set_immediates(0, args);
        pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
    }
    let index = gpu.queue.submit([encoder.finish()]);
    gpu.wait(&index).unwrap();
}

/// Activations of several tokens in device memory.
fn upload_acts(gpu: &Gpu, acts: &[Activations]) -> [wgpu::Buffer; 3] {
    let numbers: Vec<u8> = acts.iter().flat_map(|a| a.stored(gpu.form.math)).collect();
    let records: Vec<[f32; 2]> = acts.iter().flat_map(Activations::stored_records).collect();
    let of_token = |a: &Activations| {
        let mut all: Vec<f32> = a.records.iter().map(|r| r.squares).collect();
        all.resize(squares(a.numbers.len()), 0.0);
        all
    };
    let squares: Vec<f32> = acts.iter().flat_map(of_token).collect();
    [upload(gpu, &numbers), upload(gpu, &records), upload(gpu, &squares)]
}

/// Activations as values, with their records.
fn download_acts(gpu: &Gpu, numbers: &wgpu::Buffer, records: &wgpu::Buffer) -> (Vec<f32>, Vec<[f32; 2]>) {
    let records: Vec<[f32; 2]> = download(gpu, records);
    let values = Activations::values_of(gpu.form.math, &download::<u8>(gpu, numbers), &records);
    (values, records)
}

/// Root mean square of the difference against that of what is wanted.
fn close(what: &str, got: &[f32], want: &[f32], bound: f64) {
    assert!(got.len() >= want.len(), "{what}: {} of {}", got.len(), want.len());
    let square = |v: f64| v * v;
    let error: f64 = want.iter().zip(got).map(|(w, g)| square(f64::from(*w) - f64::from(*g))).sum();
    let norm: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
    let relative = (error / norm.max(1e-30)).sqrt();
    assert!(relative < bound, "{what}: relative error {relative:.1e}");
}

fn supported() -> impl Iterator<Item = Type> {
    Type::ALL.iter().copied().filter(|t| t.is_supported())
}

#[test]
fn packing_round_trips_on_the_device() {
    let gpu = gpu(Math::F32, Forms::default());
    let mut random = Random(1);
    for ty in supported() {
        let layout =
            Layout::new(ty, 37, 3 * ty.packed_block_elements() - usize::from(ty.is_float()) * 5).unwrap();
        let file = random.matrix(&layout);
        let mut staged = file.clone();
        staged.resize(file.len().next_multiple_of(4), 0);
        let (staged, packed) =
            (upload(&gpu, &staged), gpu.buffer("test", layout.bytes as u64, STORAGE).unwrap());
        for args in pack::args(&layout, 0, layout.rows, 0) {
            run(&gpu, &pack::shader(gpu.form), &[&staged, &packed], bytemuck::bytes_of(&args), args.grid());
        }
        let packed: Vec<u8> = download(&gpu, &packed);
        assert!(packed[..layout.bytes] == crate::quant::pack(&layout, &file), "{ty}");
    }
}

fn knobs(threads: usize, tiles: usize, unroll: usize) -> Knobs {
    Knobs { threads, tiles, unroll }
}

/// A product in all epilogues, with other lanes, tiles and unrollings.
fn products(gpu: &Gpu, ty: Type, rows: usize, cols: usize, tokens: usize, per_group: usize) {
    let ways = match tokens {
        1 if cols > 1000 => {
            vec![knobs(64, 1, 2), knobs(320, 2, 1), knobs(128, 4, 3)]
        }
        1 => vec![knobs(64, 1, 2), knobs(320, 2, 1)],
        _ => vec![knobs(256, 1, 1)],
    };
    for knobs in ways {
        products_by(gpu, ty, [rows, cols], tokens, per_group, knobs);
    }
}

/// A product in all epilogues, against row products of the twin.
fn products_by(gpu: &Gpu, ty: Type, [rows, cols]: [usize; 2], tokens: usize, per_group: usize, knobs: Knobs) {
    let math = gpu.form.math;
    let what = format!("{ty} {rows}x{cols}, {tokens} tokens by {per_group}, {knobs}, {:?}", gpu.form);
    let mut random = Random((rows + cols + tokens) as u64);
    let layout = Layout::new(ty, rows, cols).unwrap();
    let other = Layout::new(Type::Q8_0, rows, cols).unwrap();
    let files = [random.matrix(&layout), random.matrix(&other)];
    let (parts, w) = weights(gpu, &[(&layout, &files[0]), (&other, &files[1])]);
    let norm = random.vec(cols);
    let inputs: Vec<Activations> =
        (0..tokens).map(|_| Activations::from_residual(math, &random.vec(cols), &norm)).collect();
    let batch = tokens.next_multiple_of(per_group);
    let mut padded_inputs = inputs.clone();
    padded_inputs.resize(batch, Activations::zeros(cols));
    let [xq, xm, sq] = upload_acts(gpu, &padded_inputs);
    let mut scratch = vec![0.0; cols];
    let mut product = |layout: &Layout, file: &[u8], x: &Activations| -> Vec<f32> {
        file.chunks_exact(layout.row_bytes())
            .map(|row| row_product(math, layout.ty, row, x, &mut scratch))
            .collect()
    };
    let first: Vec<Vec<f32>> = inputs.iter().map(|x| product(&layout, &files[0], x)).collect();
    let second: Vec<Vec<f32>> = inputs.iter().map(|x| product(&other, &files[1], x)).collect();
    let factors: Vec<f32> = inputs.iter().map(|x| x.norm_factor(cols, 1e-5)).collect();
    let args = gemv::Args { tokens: tokens as u32, first: 0 };
    let args = if per_group > 1 { bytemuck::bytes_of(&args) } else { &[] };
    let kernel = |parts: &[Part], epilogue, norm, stride| Gemv {
        parts: parts.to_vec(),
        norm,
        bias: false,
        first_tile: 0,
        stride,
        tokens: per_group,
        knobs: Knobs { tiles: if parts.len() == 3 { 1 } else { knobs.tiles }, ..knobs },
        epilogue,
    };

    // Raw, three matrices: the first, the second and the first again.
    let tiles = rows.div_ceil(TILE) * TILE;
    let three = [parts[0].clone(), parts[1].clone(), parts[0].clone()];
    let raw = kernel(&three, Epilogue::Raw, Some((cols, 1e-5)), 3 * tiles);
    let out = upload(gpu, &vec![0f32; batch * 3 * tiles]);
    run(gpu, &raw.shader(gpu.form), &[&w, &w, &xq, &xm, &out, &sq], args, raw.grid(tokens as u32));
    let got: Vec<f32> = download(gpu, &out);
    for t in 0..tokens {
        for (i, want) in [&first, &second, &first].into_iter().enumerate() {
            let want: Vec<f32> = want[t].iter().map(|v| v * factors[t]).collect();
            close(&format!("{what}: raw"), &got[(3 * t + i) * tiles..], &want, bound(gpu, false));
        }
    }

    // Residual, with the activations of the norm that follows.
    let stride = padded(rows);
    let residual = kernel(&parts[..1], Epilogue::Residual, None, stride);
    let mut weight = random.vec(rows);
    let x: Vec<Vec<f32>> = (0..tokens).map(|_| random.vec(rows)).collect();
    let mut x_padded: Vec<f32> =
        x.iter().flat_map(|x| [x.clone(), vec![0.0; stride - rows]].concat()).collect();
    x_padded.resize(batch * stride, 0.0);
    let stream = upload(gpu, &x_padded);
    let [oq, om, os] = upload_acts(gpu, &vec![Activations::zeros(rows); batch]);
    weight.resize(stride, 0.0);
    let next = upload(gpu, &weight);
    run(
        gpu,
        &residual.shader(gpu.form),
        &[&w, &w, &xq, &xm, &stream, &oq, &om, &os, &next],
        args,
        residual.grid(tokens as u32),
    );
    let got: Vec<f32> = download(gpu, &stream);
    let (got_values, got_records) = download_acts(gpu, &oq, &om);
    let got_squares: Vec<f32> = download(gpu, &os);
    for t in 0..tokens {
        let sum: Vec<f32> = x[t].iter().zip(&first[t]).map(|(a, b)| a + b).collect();
        close(&format!("{what}: stream"), &got[t * stride..], &sum, bound(gpu, false));
        let acts = Activations::from_residual(math, &sum, &weight[..rows]);
        let at = t * groups(rows);
        close(&format!("{what}: activations"), &got_values[at * GROUP..], &acts.values(), bound(gpu, true));
        let records = &got_records[at..at + groups(rows)];
        close(
            &format!("{what}: squares"),
            &got_squares[t * squares(rows)..],
            &acts.records.iter().map(|r| r.squares).collect::<Vec<_>>(),
            bound(gpu, false).max(1e-4),
        );
        // Sums cancel: what they may be off by is measured against the sum of magnitudes.
        let size: Vec<f32> =
            acts.values().chunks(GROUP).map(|group| group.iter().map(|v| v.abs()).sum()).collect();
        let got: Vec<f32> = records.iter().zip(&size).map(|(r, size)| r[1] + 2.0 * size).collect();
        let want: Vec<f32> = acts.records.iter().zip(&size).map(|(r, size)| r.sum + 2.0 * size).collect();
        close(&format!("{what}: sums"), &got, &want, bound(gpu, true).max(1e-4));
    }

    // Gated.
    let gated = kernel(&parts, Epilogue::Gated, Some((cols, 1e-5)), stride);
    let [oq, om, _] = upload_acts(gpu, &vec![Activations::zeros(rows); batch]);
    run(gpu, &gated.shader(gpu.form), &[&w, &w, &xq, &xm, &oq, &om, &sq], args, gated.grid(tokens as u32));
    let (got, _) = download_acts(gpu, &oq, &om);
    for t in 0..tokens {
        let f = factors[t];
        let want: Vec<f32> = first[t].iter().zip(&second[t]).map(|(g, u)| silu_gate(g * f, u * f)).collect();
        let want = Activations::from_values(math, &want).values();
        close(&format!("{what}: gated"), &got[t * groups(rows) * GROUP..], &want, bound(gpu, true));
    }

    // Logits of the last token alone.
    let logits = kernel(&parts[..1], Epilogue::Logits { vocab: rows }, Some((cols, 1e-5)), rows);
    let out = upload(gpu, &vec![0f32; batch * rows]);
    let best = upload(gpu, &vec![[0u32; 2]; rows.div_ceil(TILE)]);
    let buffers = [&w, &w, &xq, &xm, &out, &best, &sq];
    let last = gemv::Args { tokens: 1, first: tokens as u32 - 1 };
    for tiles in if knobs.threads == 64 { vec![1, 2, 4] } else { vec![knobs.tiles] } {
        let logits = Gemv { knobs: Knobs { tiles, ..logits.knobs }, tokens: 1, ..logits.clone() };
        run(gpu, &logits.shader(gpu.form), &buffers, bytemuck::bytes_of(&last), logits.grid(1));
        let want: Vec<f32> = first[tokens - 1].iter().map(|v| v * factors[tokens - 1]).collect();
        let got: Vec<f32> = download(gpu, &out);
        close(&format!("{what}: logits"), &got, &want, bound(gpu, false));
        let best: Vec<[u32; 2]> = download(gpu, &best);
        for (tile, logits) in got[..rows].chunks(TILE).enumerate() {
            let at = select::twin(logits) as usize;
            assert_eq!(
                best[tile],
                [logits[at].to_bits(), (tile * TILE + at) as u32],
                "{what}: best of tile {tile}"
            );
        }
    }
}

#[test]
fn products_of_every_type() {
    for gpu in forms() {
        for ty in supported() {
            products_by(&gpu, ty, [40, 768], 1, 1, knobs(320, 2, 1));
        }
    }
}

#[test]
fn products_at_odd_sizes_and_in_batches() {
    // One token takes other lanes than many: long rows, rows of less than a chunk a lane.
    for gpu in forms() {
        products(&gpu, Type::Q4_0, 20, 4576, 1, 1);
        products(&gpu, Type::Q6_K, 17, 768, 3, 2);
        products(&gpu, Type::Q4_K, 100, 512, 5, 8);
        products(&gpu, Type::Q5_0, 16, 96, 2, 4);
        // A single row is a single number, in which scale and minimum cancel: what a driver's own
        // rounding of F16 does to it has no bound that would say anything.
        if gpu.software || gpu.form.math != Math::F16 {
            products(&gpu, Type::Q4_1, 1, 32, 9, 2);
        }
    }
}

#[test]
fn embeddings() {
    for gpu in forms() {
        let odd = [(Type::Q8_0, 96), (Type::F16, 40), (Type::Q6_K, 2304)];
        let all = supported().map(|ty| (ty, 512)).filter(|_| gpu.form.math == Math::F32);
        for (ty, cols) in all.chain(odd) {
            let mut random = Random(3);
            let layout = Layout::new(ty, 37, cols).unwrap();
            let file = random.matrix(&layout);
            let norm = random.vec(padded(cols));
            // The second part of a table whose first 16 rows are elsewhere.
            let (parts, w) = weights(&gpu, &[(&layout, &file)]);
            let kernel = Embed { table: parts[0].clone(), first_row: 16, vocab: 53 };
            let ids = [99u32, 16, 52, 20, 3];
            let buffers = [
                w,
                upload(&gpu, &ids),
                upload(&gpu, &norm),
                upload(&gpu, &vec![0f32; 4 * padded(cols)]),
            ];
            let [oq, om, os] = upload_acts(&gpu, &vec![Activations::zeros(cols); 4]);
            let [w, id, n, x] = &buffers;
            let args = embed::Args { tokens: 4, position: 1 };
            run(
                &gpu,
                &kernel.shader(gpu.form),
                &[w, w, id, n, x, &oq, &om, &os],
                bytemuck::bytes_of(&args),
                kernel.grid(4),
            );
            let got: Vec<f32> = download(&gpu, x);
            let (got_values, _) = download_acts(&gpu, &oq, &om);
            let got_squares: Vec<f32> = download(&gpu, &os);
            for (t, id) in ids[1..4].iter().enumerate() {
                let row = &file[(*id as usize - 16) * layout.row_bytes()..][..layout.row_bytes()];
                let (stream, acts) = embed::twin(gpu.form.math, &layout, row, &norm);
                let mut exact = vec![0.0; cols];
                dequantize(ty, row, &mut exact);
                assert_eq!(stream[..cols], exact);
                close(&format!("{ty} embedding"), &got[t * padded(cols)..], &stream, 1e-6);
                let want: Vec<f32> = acts.records.iter().map(|r| r.squares).collect();
                close(&format!("{ty} squares"), &got_squares[t * squares(cols)..], &want, 1e-5);
                close(&format!("{ty} activations"), &got_values[t * padded(cols)..], &acts.values(), 1e-5);
            }
            // Another part has it: nothing is written.
            assert!(got[3 * padded(cols)..4 * padded(cols)].iter().all(|v| *v == 0.0));
        }
    }
}

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
    let bias = random.vec(stride);
    let raw: Vec<Vec<f32>> = (0..past + tokens).map(|_| random.vec(stride)).collect();
    let kv = gpu.form.kv;
    let mut cache = Cache::default();
    let mut want = Vec::new();
    for (at, raw) in raw.iter().enumerate() {
        let mut raw = raw.clone();
        let turn = &turns[at * shape.rotated / 2..(at + 1) * shape.rotated / 2];
        shape.twin_prologue(kv, &mut raw, shape.bias.then_some(&bias[..]), turn, &mut cache);
        want.push(shape.twin(math, &raw, &cache, at + 1));
    }

    let stored = upload(gpu, &vec![0u8; shape.cache_bytes(kv)]);
    let qkv = |range: std::ops::Range<usize>| upload(gpu, &raw[range].concat());
    let (turns, bias) = (upload(gpu, &turns), upload(gpu, &bias));
    let with_bias = |mut buffers: Vec<wgpu::Buffer>| {
        if shape.bias {
            buffers.push(bias.clone());
        }
        buffers
    };
    let write = |from: usize, to: usize| {
        let buffers = with_bias(vec![qkv(from..to), turns.clone(), stored.clone()]);
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
    let buffers = with_bias(buffers);
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
        attends(&gpu, shape(4, 2, 64, 64, Halves, true, false), 30, 5, 2);
        attends(&gpu, shape(3, 3, 10, 10, Neighbours, false, false), 0, 7, 1);
    }
}

#[test]
fn selection_and_sampling() {
    let plain = Forms { no_subgroups: true, ..Forms::default() };
    for gpu in [gpu(Math::F32, Forms::default()), gpu(Math::F32, plain)] {
        for vocab in [3usize, 1000, 4099] {
            let mut random = Random(vocab as u64);
            let logits: Vec<f32> = (0..vocab).map(|_| 8.0 * random.next()).collect();
            let history: Vec<u32> = (0..70).map(|i| (i * 7 % vocab) as u32).collect();
            let choose = |logits: &[f32], sampling: &Sampling, step: u32| -> u32 {
                let best: Vec<[u32; 2]> = logits
                    .chunks(TILE)
                    .enumerate()
                    .map(|(tile, logits)| match select::twin(logits) {
                        select::FAILED => [f32::NAN.to_bits(), 0],
                        at => [logits[at as usize].to_bits(), (tile * TILE) as u32 + at],
                    })
                    .collect();
                let mut ids = history.clone();
                ids.push(12345);
                let (logits, best, ids) = (upload(&gpu, logits), upload(&gpu, &best), upload(&gpu, &ids));
                let position = history.len() as u32;
                if sampling.is_argmax() {
                    let kernel = Select { vocab, threads: 256 };
                    run(
                        &gpu,
                        &kernel.shader(gpu.form),
                        &[&best, &ids],
                        bytemuck::bytes_of(&position),
                        [1, 1, 1],
                    );
                } else {
                    let args = sampling.args(position, step);
                    let shader = sample::shader(vocab, gpu.form);
                    run(&gpu, &shader, &[&logits, &best, &ids], bytemuck::bytes_of(&args), [1, 1, 1]);
                }
                download::<u32>(&gpu, &ids)[history.len()]
            };
            let d = Sampling { seed: 0x1234_5678_9abc_def0, ..Sampling::default() };
            let ways = [
                Sampling::greedy(),
                d,
                Sampling { top_k: 0, top_p: 1.0, min_p: 0.0, temperature: 1.0, ..d },
                Sampling { top_k: 0, top_p: 0.5, min_p: 0.0, temperature: 2.0, ..d },
                Sampling { top_k: 0, top_p: 1.0, min_p: 0.3, temperature: 3.0, ..d },
                Sampling { top_k: 5, top_p: 0.9, min_p: 0.0, temperature: 5.0, repeat_penalty: 1.3, ..d },
                Sampling { top_k: 900, top_p: 0.99, min_p: 0.0, temperature: 1.5, repeat_penalty: 0.7, ..d },
                Sampling { repeat_penalty: 2.0, ..Sampling::greedy() },
                Sampling { top_p: 0.0, ..d },
            ];
            for sampling in ways {
                for step in 0..8 {
                    let want = sample::twin(&mut logits.clone(), &history, &sampling, step);
                    assert_eq!(choose(&logits, &sampling, step), want, "{vocab} {sampling:?} step {step}");
                }
                // A draw whose noise was infinite once, with one candidate left.
                let mut peak = vec![-20.0; vocab];
                peak[0] = 20.0;
                let once = Sampling { seed: 8_650_586, ..sampling };
                assert_eq!(choose(&peak, &once, 0), sample::twin(&mut peak.clone(), &history, &once, 0));
                // Equal logits: ties stay, the lowest wins where the best is taken.
                let flat = vec![1.0; vocab];
                let want = sample::twin(&mut flat.clone(), &history, &sampling, 0);
                assert_eq!(choose(&flat, &sampling, 0), want, "{vocab} {sampling:?} flat");
                let mut bad = logits.clone();
                bad[vocab / 2] = f32::NAN;
                assert_eq!(choose(&bad, &sampling, 0), select::FAILED, "{vocab} {sampling:?} NaN");
            }
        }
    }
}
