//! Settling the residual stream, in a dispatch of its own and as the tail of a product.

use super::products::{Products, knobs};
use super::*;
use crate::kernels::gemv::{Epilogue, Gemv, Tail};
use crate::kernels::padded;
use crate::kernels::settle::{Added, Reads, Settle, Vectors};
use crate::quant::Type;

/// Far enough from 0 that the mean is worth taking off.
const MEAN: f32 = 1.5;

/// The streams of a few tokens, and what settling them needs.
struct Streams<'a> {
    gpu: &'a Gpu,
    kernel: &'a Settle,
    what: String,
    before: Vec<Vec<f32>>,
    vectors: Vectors,
    x: wgpu::Buffer,
    /// Numbers, records and sums of squares.
    acts: [wgpu::Buffer; 3],
    side_by_side: Option<wgpu::Buffer>,
    random: Random,
}

fn padded_rows(rows: &[Vec<f32>]) -> Vec<f32> {
    rows.iter().flat_map(|row| [row.clone(), vec![0.0; padded(row.len()) - row.len()]].concat()).collect()
}

impl Streams<'_> {
    fn new<'a>(gpu: &'a Gpu, kernel: &'a Settle, tokens: usize) -> Streams<'a> {
        let width = kernel.width;
        let mut random = Random((width + tokens) as u64);
        let mut vector = |there: bool| if there { random.vec(width) } else { vec![] };
        let added = kernel.branch.unwrap_or(Added { bias: false, normed: false, scale: 1.0 });
        let vectors = Vectors {
            branch_bias: vector(added.bias),
            branch_norm: vector(added.normed),
            norm: vector(kernel.norm != Reads::Stream),
            norm_bias: vector(matches!(kernel.norm, Reads::Normed { bias: true, .. })),
        };
        let mut row = |_| random.vec(width).into_iter().map(|v| v + MEAN).collect();
        let before: Vec<Vec<f32>> = (0..tokens).map(&mut row).collect();
        // What stands in the activations' padding must go.
        let ones = Activations::from_values(gpu.form.math, &vec![1.0; padded(width)]);
        Streams {
            gpu,
            kernel,
            what: format!("{kernel:?}, {tokens} tokens, {:?}", gpu.form),
            x: upload(gpu, &padded_rows(&before)),
            acts: upload_acts(gpu, &vec![ones; tokens]),
            side_by_side: kernel.has_vectors().then(|| upload(gpu, &vectors.side_by_side(width))),
            before,
            vectors,
            random,
        }
    }

    /// What is bound behind the branch.
    fn outputs(&self) -> impl Iterator<Item = &wgpu::Buffer> {
        self.acts.iter().chain(&self.side_by_side)
    }

    /// The streams are settled with the branches.
    fn check(&self, what: &str, branches: &[Vec<f32>]) {
        let (gpu, width) = (self.gpu, self.kernel.width);
        let what = format!("{}: {what}", self.what);
        let stride = padded(width);
        let stream: Vec<f32> = download(gpu, &self.x);
        let got = download_acts(gpu, &self.acts[0], &self.acts[1]);
        let got_squares: Vec<f32> = download(gpu, &self.acts[2]);
        for (t, branch) in branches.iter().enumerate() {
            let mut want = self.before[t].clone();
            let read = self.kernel.twin(gpu.form.math, &mut want, branch, &self.vectors);
            let stream = &stream[t * stride..(t + 1) * stride];
            close(&format!("{what}: stream"), stream, &want, bound(gpu, false));
            assert!(stream[width..].iter().all(|v| *v == 0.0), "{what}: the stream's padding");
            close_acts(gpu, &what, &got, t * stride, &read);
            assert!(got.0[t * stride + width..(t + 1) * stride].iter().all(|v| *v == 0.0), "{what}: padding");
            if self.kernel.defers() {
                let want: Vec<f32> = read.records.iter().map(|r| r.squares).collect();
                close(
                    &format!("{what}: squares"),
                    &got_squares[t * squares(width)..],
                    &want,
                    bound(gpu, false),
                );
            }
        }
    }
}

fn settles(gpu: &Gpu, kernel: &Settle, tokens: usize) {
    let mut streams = Streams::new(gpu, kernel, tokens);
    let branches: Vec<Vec<f32>> = (0..tokens).map(|_| streams.random.vec(kernel.width)).collect();
    let branch = upload(gpu, &padded_rows(&branches));
    let mut buffers = vec![&streams.x, &branch];
    buffers.extend(streams.outputs());
    run(gpu, &kernel.shader(gpu.form), &buffers, &[], kernel.grid(tokens as u32));
    streams.check("alone", &branches);
}

/// The branch is what a product has made, whose last workgroup settles the stream.
fn settles_behind_a_product(gpu: &Gpu, kernel: &Settle, lanes: usize, splits: usize) {
    let (width, stride) = (kernel.width, padded(kernel.width));
    let product = Products::new(gpu, Type::Q5_0, [width, 416], 1, 1, knobs(lanes, 1, 1));
    let streams = Streams::new(gpu, kernel, 1);
    let (out, arrived) = (upload(gpu, &vec![0f32; splits * stride]), upload(gpu, &[0u32; 4]));
    let gemv = product.kernel(&product.parts[..1], Epilogue::Raw, stride);
    let gemv = Gemv { norm: None, tail: Tail::Settle(kernel.clone()), splits, ..gemv };
    let tail: Vec<_> = [&arrived, &streams.x].into_iter().chain(streams.outputs()).collect();
    product.run_with(&gemv, &[&out], &tail);
    streams.check(&format!("behind a product, {lanes} lanes, {splits} splits"), &product.first);
    assert_eq!(download::<u32>(gpu, &arrived)[0], 0, "the counter is left for the next step");
}

#[test]
fn settling() {
    let rms = |bias| Reads::Normed { mean: false, bias };
    let layer = |bias| Reads::Normed { mean: true, bias };
    let plain = Added { bias: false, normed: false, scale: 1.0 };
    // Less than a group, whole chunks, a chunk and a half, more vectors than lanes and a rest.
    let cases = [
        (20, None, layer(true), 3),
        (20, Some(Added { bias: true, normed: true, scale: 0.25 }), rms(false), 2),
        (96, Some(Added { normed: true, ..plain }), Reads::Stream, 1),
        (96, None, layer(false), 4),
        (112, Some(Added { bias: true, ..plain }), layer(false), 3),
        (112, Some(Added { scale: 3.0, ..plain }), rms(false), 1),
        (1152, Some(Added { bias: true, normed: true, scale: 1.0 }), rms(false), 2),
        (1152, Some(plain), Reads::Stream, 2),
        (4100, Some(Added { normed: true, scale: 0.5, ..plain }), layer(true), 2),
        (4100, None, Reads::Stream, 1),
        (4100, Some(Added { bias: true, scale: 2.0, ..plain }), layer(false), 1),
    ];
    for (form, gpu) in forms().iter().enumerate() {
        // The first form has all cases, the others share them.
        for (i, (width, branch, norm, tokens)) in cases.into_iter().enumerate() {
            if form > 0 && i % 3 != form % 3 {
                continue;
            }
            let kernel = Settle { width, branch, norm, epsilon: 1e-3 };
            settles(gpu, &kernel, tokens);
            if gpu.form.inline_merge && branch.is_some() {
                settles_behind_a_product(gpu, &kernel, [64, 256, 320][i % 3], 1 + i % 2);
            }
        }
    }
}
