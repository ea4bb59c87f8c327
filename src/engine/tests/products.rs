//! Packing, matrix products and the embedding.

use super::*;
use crate::kernels::activation::Activation;
use crate::kernels::embed::{self, Embed};
use crate::kernels::gemv::{self, Epilogue, Gemv, Knobs, Part, Tail, Take, row_product};
use crate::kernels::{groups, pack, padded, select};
use crate::model::{Matrix, random_rows};
use crate::quant::{GROUP, Layout, TILE, Type, dequantize};

fn supported() -> impl Iterator<Item = Type> {
    Type::ALL.iter().copied().filter(|t| t.is_supported())
}

/// A valid matrix, as in a file.
pub(super) fn random_of(layout: &Layout, seed: u64) -> Vec<u8> {
    let Layout { ty, rows, cols, .. } = *layout;
    random_rows(&Matrix::whole("test", ty, rows, cols), 0..rows, seed)
}

/// Matrices as a dispatch binds them.
pub(super) fn weights(gpu: &Gpu, matrices: &[(&Layout, &[u8])]) -> (Vec<Part>, wgpu::Buffer) {
    let (parts, _) = gemv::side_by_side(matrices.iter().map(|(layout, _)| ((*layout).clone(), 1.0)));
    let books = gemv::book_words(matrices.iter().map(|(layout, _)| layout.ty));
    let mut bytes: Vec<u8> = bytemuck::cast_slice(&books).to_vec();
    bytes.extend(matrices.iter().flat_map(|(layout, file)| crate::quant::pack(layout, file)));
    (parts, upload(gpu, &bytes))
}

#[test]
fn packing_round_trips_on_the_device() {
    let gpu = gpu(Math::F32, Forms::default());
    for ty in supported() {
        let layout =
            Layout::new(ty, 37, 3 * ty.packed_block_elements() - usize::from(ty.is_float()) * 5).unwrap();
        let file = random_of(&layout, 1);
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

pub(super) fn knobs(threads: usize, tiles: usize, unroll: usize) -> Knobs {
    Knobs { threads, tiles, unroll, teams: 1 }
}

/// The epsilon of the norm before.
pub(super) const EPSILON: f32 = 1e-5;

/// Products of a matrix, and of it with one of another type, with a batch of activations: on the
/// device, and what the twin makes of each row.
pub(super) struct Products<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) what: String,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) tokens: usize,
    /// Tokens of the batch, padded to whole workgroups.
    pub(super) batch: usize,
    pub(super) per_group: usize,
    pub(super) knobs: Knobs,
    pub(super) parts: Vec<Part>,
    pub(super) w: wgpu::Buffer,
    /// Numbers, records and sums of squares.
    pub(super) input: [wgpu::Buffer; 3],
    pub(super) factors: Vec<f32>,
    pub(super) first: Vec<Vec<f32>>,
    pub(super) second: Vec<Vec<f32>>,
    pub(super) random: Random,
}

impl Products<'_> {
    pub(super) fn new(
        gpu: &Gpu,
        ty: Type,
        [rows, cols]: [usize; 2],
        tokens: usize,
        per_group: usize,
        knobs: Knobs,
    ) -> Products<'_> {
        let math = gpu.form.math;
        let what = format!("{ty} {rows}x{cols}, {tokens} tokens by {per_group}, {knobs}, {:?}", gpu.form);
        let mut random = Random((rows + cols + tokens) as u64);
        let layouts = [ty, Type::Q8_0].map(|ty| Layout::new(ty, rows, cols).unwrap());
        let files = layouts.each_ref().map(|layout| random_of(layout, 2));
        let (mut parts, w) = weights(gpu, &[(&layouts[0], &files[0]), (&layouts[1], &files[1])]);
        if ty == Type::NVFP4 {
            (parts[0].scale, parts[1].scale) = (0.75, 1.5);
        }
        let norm = random.vec(cols);
        let inputs: Vec<Activations> =
            (0..tokens).map(|_| Activations::from_residual(math, &random.vec(cols), &norm)).collect();
        let batch = tokens.next_multiple_of(per_group);
        let mut padded_inputs = inputs.clone();
        padded_inputs.resize(batch, Activations::zeros(cols));
        let mut scratch = vec![0.0; cols];
        let mut products = |part: &Part, file: &[u8]| -> Vec<Vec<f32>> {
            let layout = &part.layout;
            let rows = || file.chunks_exact(layout.row_bytes());
            let mut product = |x: &Activations| {
                rows().map(|row| part.scale * row_product(math, layout.ty, row, x, &mut scratch)).collect()
            };
            inputs.iter().map(&mut product).collect()
        };
        let (first, second) = (products(&parts[0], &files[0]), products(&parts[1], &files[1]));
        let factors = inputs.iter().map(|x| x.norm_factor(cols, EPSILON)).collect();
        let input = upload_acts(gpu, &padded_inputs);
        Products {
            gpu,
            what,
            rows,
            cols,
            tokens,
            batch,
            per_group,
            knobs,
            parts,
            w,
            input,
            factors,
            first,
            second,
            random,
        }
    }

    pub(super) fn kernel(&self, parts: &[Part], epilogue: Epilogue, stride: usize) -> Gemv {
        Gemv {
            parts: parts.to_vec(),
            take: Take::Whole,
            tail: Tail::None,
            splits: 1,
            norm: (!matches!(epilogue, Epilogue::Residual { .. })).then_some((self.cols, EPSILON)),
            bias: false,
            first_tile: 0,
            stride,
            tokens: self.per_group,
            knobs: Knobs { tiles: if parts.len() == 3 { 1 } else { self.knobs.tiles }, ..self.knobs },
            epilogue,
        }
    }

    /// Runs a kernel over the whole batch.
    pub(super) fn run(&self, kernel: &Gemv, outputs: &[&wgpu::Buffer]) {
        self.run_with(kernel, outputs, &[]);
    }

    /// The same with what is bound behind all others.
    pub(super) fn run_with(&self, kernel: &Gemv, outputs: &[&wgpu::Buffer], after: &[&wgpu::Buffer]) {
        let args = gemv::Args { tokens: self.tokens as u32, first: 0 };
        let args = if kernel.has_args() { bytemuck::bytes_of(&args) } else { &[] };
        let [xq, xm, squares] = &self.input;
        let mut buffers = vec![&self.w, &self.w, xq, xm];
        buffers.extend(outputs);
        if kernel.norm.is_some() {
            buffers.push(squares);
        }
        buffers.extend(after);
        run(self.gpu, &kernel.shader(self.gpu.form), &buffers, args, kernel.grid(self.tokens as u32));
    }

    /// Three matrices: the first, the second and the first again.
    fn raw(&self) {
        let Products { gpu, what, batch, parts, .. } = self;
        let tiles = self.rows.div_ceil(TILE) * TILE;
        let three = [parts[0].clone(), parts[1].clone(), parts[0].clone()];
        let out = upload(gpu, &vec![0f32; batch * 3 * tiles]);
        self.run(&self.kernel(&three, Epilogue::Raw, 3 * tiles), &[&out]);
        let got: Vec<f32> = download(gpu, &out);
        for t in 0..self.tokens {
            for (i, want) in [&self.first, &self.second, &self.first].into_iter().enumerate() {
                let want: Vec<f32> = want[t].iter().map(|v| v * self.factors[t]).collect();
                close(&format!("{what}: raw"), &got[(3 * t + i) * tiles..], &want, bound(gpu, false));
            }
        }
    }

    /// With the activations of the norm that follows.
    fn residual(&mut self) {
        let Products { gpu, rows, batch, tokens, .. } = *self;
        let stride = padded(rows);
        let mut weight = self.random.vec(rows);
        let x: Vec<Vec<f32>> = (0..tokens).map(|_| self.random.vec(rows)).collect();
        let what = &self.what;
        let mut x_padded: Vec<f32> =
            x.iter().flat_map(|x| [x.clone(), vec![0.0; stride - rows]].concat()).collect();
        x_padded.resize(batch * stride, 0.0);
        let stream = upload(gpu, &x_padded);
        let [oq, om, os] = upload_acts(gpu, &vec![Activations::zeros(rows); batch]);
        weight.resize(stride, 0.0);
        let next = upload(gpu, &weight);
        let kernel = self.kernel(&self.parts[..1], Epilogue::Residual { scale: 1.0 }, stride);
        self.run(&kernel, &[&stream, &oq, &om, &os, &next]);
        let got_stream: Vec<f32> = download(gpu, &stream);
        let got = download_acts(gpu, &oq, &om);
        let got_squares: Vec<f32> = download(gpu, &os);
        for t in 0..tokens {
            let sum: Vec<f32> = x[t].iter().zip(&self.first[t]).map(|(a, b)| a + b).collect();
            close(&format!("{what}: stream"), &got_stream[t * stride..], &sum, bound(gpu, false));
            let acts = Activations::from_residual(gpu.form.math, &sum, &weight[..rows]);
            close_acts(gpu, what, &got, t * groups(rows) * GROUP, &acts);
            close(
                &format!("{what}: squares"),
                &got_squares[t * squares(rows)..],
                &acts.records.iter().map(|r| r.squares).collect::<Vec<_>>(),
                bound(gpu, false).max(1e-4),
            );
        }
    }

    fn gated(&self) {
        let Products { gpu, rows, .. } = *self;
        let [oq, om, _] = upload_acts(gpu, &vec![Activations::zeros(rows); self.batch]);
        self.run(&self.kernel(&self.parts, Epilogue::Gated(Activation::Silu), padded(rows)), &[&oq, &om]);
        let (got, _) = download_acts(gpu, &oq, &om);
        for t in 0..self.tokens {
            let f = self.factors[t];
            let pairs = self.first[t].iter().zip(&self.second[t]);
            let want: Vec<f32> = pairs.map(|(g, u)| Activation::Silu.gate(g * f, u * f)).collect();
            let want = Activations::from_values(gpu.form.math, &want).values();
            let got = &got[t * groups(rows) * GROUP..];
            close(&format!("{}: gated", self.what), got, &want, bound(gpu, true));
        }
    }

    /// Of the last token alone.
    fn logits(&self, tiles: usize) {
        let Products { gpu, rows, tokens, what, .. } = self;
        let epilogue = Epilogue::Logits { vocab: *rows, scale: 1.0, cap: None };
        let of_all = self.kernel(&self.parts[..1], epilogue, *rows);
        let logits = Gemv { knobs: Knobs { tiles, ..of_all.knobs }, tokens: 1, ..of_all };
        let out = upload(gpu, &vec![0f32; self.batch * rows]);
        let best = upload(gpu, &vec![[0u32; 2]; rows.div_ceil(TILE)]);
        let [xq, xm, squares] = &self.input;
        let buffers = [&self.w, &self.w, xq, xm, &out, &best, squares];
        let last = gemv::Args { tokens: 1, first: *tokens as u32 - 1 };
        run(gpu, &logits.shader(gpu.form), &buffers, bytemuck::bytes_of(&last), logits.grid(1));
        let want: Vec<f32> = self.first[tokens - 1].iter().map(|v| v * self.factors[tokens - 1]).collect();
        let got: Vec<f32> = download(gpu, &out);
        close(&format!("{what}: logits"), &got, &want, bound(gpu, false));
        let best: Vec<[u32; 2]> = download(gpu, &best);
        for (tile, logits) in got[..*rows].chunks(TILE).enumerate() {
            let at = select::twin(logits) as usize;
            let want = [logits[at].to_bits(), (tile * TILE + at) as u32];
            assert_eq!(best[tile], want, "{what}: best of tile {tile}");
        }
    }
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
        let mut products = Products::new(gpu, ty, [rows, cols], tokens, per_group, knobs);
        products.raw();
        products.residual();
        products.gated();
        for tiles in if knobs.threads == 64 { vec![1, 2, 4] } else { vec![knobs.tiles] } {
            products.logits(tiles);
        }
    }
}

/// What a type says is read in two arithmetics; epilogues and forms do not ask for the type.
#[test]
fn products_of_every_type() {
    for gpu in [gpu(Math::F32, Forms::default()), gpu(Math::Int16, Forms::default())] {
        for ty in supported() {
            Products::new(&gpu, ty, [40, 768], 1, 1, knobs(320, 1, 1)).raw();
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
        products(&gpu, Type::IQ2_S, 33, 1024, 1, 1);
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
            let file = random_of(&layout, 3);
            let norm = random.vec(padded(cols));
            // The second part of a table whose first 16 rows are elsewhere.
            let (parts, w) = weights(&gpu, &[(&layout, &file)]);
            let scale = if cols == 512 { 1.0 } else { (cols as f32).sqrt() };
            let kernel = Embed { table: parts[0].clone(), first_row: 16, vocab: 53, scale };
            let ids = [99u32, 16, 52, 20, 3];
            let buffers =
                [w, upload(&gpu, &ids), upload(&gpu, &norm), upload(&gpu, &vec![0f32; 4 * padded(cols)])];
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
                let (stream, acts) = embed::twin(gpu.form.math, &layout, row, scale, &norm);
                let mut exact = vec![0.0; cols];
                dequantize(ty, row, &mut exact);
                exact.iter_mut().for_each(|v| *v *= scale);
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
