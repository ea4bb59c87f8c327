//! Choosing each token's experts, and the products of those it has chosen.

use super::products::{Products, knobs, random_of, weights};
use super::*;
use crate::kernels::activation::{Activation, sigmoid};
use crate::kernels::gemv::{Epilogue, Gemv, Knobs, Part, Tail, Take, row_product};
use crate::kernels::route::{Route, Routing};
use crate::kernels::{groups, padded};
use crate::quant::{Layout, TILE, Type};

const EPSILON: f32 = 1e-5;

/// Experts of a layer, and a batch that takes some of them.
#[derive(Clone, Copy, Debug)]
struct Case {
    ty: Type,
    count: usize,
    used: usize,
    /// Rows of an expert's matrix, and elements of its input.
    shape: [usize; 2],
    tokens: usize,
    normalised: bool,
    bias: bool,
    activation: Activation,
    knobs: Knobs,
}

/// A case on a device.
struct Experts<'a> {
    gpu: &'a Gpu,
    case: Case,
    what: String,
    /// Of each token, with their weights.
    chosen: Vec<Vec<(usize, f32)>>,
    picks: wgpu::Buffer,
    random: Random,
}

/// The matrices of all experts as in a file, and as packed rows are: each one's padded to tiles.
struct Stack {
    layout: Layout,
    padded: Vec<u8>,
    file: Vec<u8>,
}

impl Stack {
    fn new(ty: Type, count: usize, [rows, cols]: [usize; 2], seed: u64) -> Stack {
        let all = Layout::new(ty, count * rows, cols).unwrap();
        let file = random_of(&all, seed);
        let of_expert = rows * all.row_bytes();
        let padding = vec![0; rows.next_multiple_of(TILE) * all.row_bytes() - of_expert];
        let padded = file.chunks(of_expert).flat_map(|expert| [expert, &padding].concat()).collect();
        Stack { layout: Layout::new(ty, count * rows.next_multiple_of(TILE), cols).unwrap(), padded, file }
    }

    /// An expert's products.
    fn products(&self, math: Math, expert: usize, rows: usize, x: &Activations) -> Vec<f32> {
        let size = self.layout.row_bytes();
        let mut scratch = vec![0.0; self.layout.cols];
        let of_expert = self.file[expert * rows * size..].chunks_exact(size).take(rows);
        of_expert.map(|row| row_product(math, self.layout.ty, row, x, &mut scratch)).collect()
    }
}

/// Scores of a batch, and how they are routed.
struct Scores {
    route: Route,
    /// `(tokens, stride)`.
    scores: Vec<f32>,
}

impl Scores {
    fn new(random: &mut Random, (count, used): (usize, usize), normalised: bool, tokens: usize) -> Scores {
        let at = count.next_multiple_of(TILE);
        let stride = at + TILE;
        // Steps of a quarter: among many experts some are equal. What stands behind them is no score.
        let scores = (0..tokens * stride).map(|i| match i % stride {
            i if i < count => (8.0 * random.next()).round() / 4.0,
            i if i == at => random.next(),
            _ => 100.0,
        });
        let scores = scores.collect();
        let routing = Routing { count, used, normalised, scale: 1.5 };
        Scores { route: Route { routing, stride, gate: Some(at) }, scores }
    }

    fn of_token(&self, token: usize) -> &[f32] {
        &self.scores[token * self.route.stride..][..self.route.stride]
    }

    fn chosen(&self, token: usize) -> Vec<(usize, f32)> {
        self.route.routing.choose(&self.of_token(token)[..self.route.routing.count])
    }

    fn tokens(&self) -> usize {
        self.scores.len() / self.route.stride
    }

    /// A dispatch of their own makes picks of them.
    fn picks(&self, gpu: &Gpu) -> wgpu::Buffer {
        // Another batch's are there.
        let picks = upload(gpu, &vec![[1u32; 2]; self.tokens() * (self.route.routing.used + 1)]);
        let scores = upload(gpu, &self.scores);
        run(
            gpu,
            &self.route.shader(gpu.form),
            &[&scores, &picks],
            &[],
            self.route.grid(self.tokens() as u32),
        );
        picks
    }

    /// The picks are those that are wanted.
    fn check(&self, gpu: &Gpu, what: &str, picks: &wgpu::Buffer) {
        let routing = self.route.routing;
        let got: Vec<[u32; 2]> = download(gpu, picks);
        for (t, got) in got.chunks_exact(routing.used + 1).take(self.tokens()).enumerate() {
            let (experts, weights): (Vec<usize>, Vec<f32>) = self.chosen(t).into_iter().unzip();
            let what = format!("{what}, {routing:?}, token {t}");
            let got_experts: Vec<usize> = got[..routing.used].iter().map(|p| p[0] as usize).collect();
            assert_eq!(got_experts, experts, "{what}: {:?}", &self.of_token(t)[..routing.count]);
            let got_weights: Vec<f32> = got.iter().map(|p| f32::from_bits(p[1])).collect();
            close(&format!("{what}: weights"), &got_weights, &weights, 1e-5);
            let gate = self.route.gate.map(|at| sigmoid(self.of_token(t)[at]));
            close(&format!("{what}: gate"), &got_weights[routing.used..], gate.as_slice(), 1e-5);
        }
    }
}

impl Experts<'_> {
    fn new(gpu: &Gpu, case: Case) -> Experts<'_> {
        let Case { count, used, tokens, normalised, .. } = case;
        let mut random = Random((count * used + tokens) as u64);
        let scores = Scores::new(&mut random, (count, used), normalised, tokens);
        let what = format!("{case:?}, {:?}", gpu.form);
        let picks = scores.picks(gpu);
        scores.check(gpu, &what, &picks);
        let chosen = (0..tokens).map(|t| scores.chosen(t)).collect();
        Experts { gpu, case, what, chosen, picks, random }
    }

    fn kernel(&self, parts: Vec<Part>, epilogue: Epilogue) -> Gemv {
        let Case { count, used, shape: [rows, cols], bias, knobs, .. } = self.case;
        Gemv {
            parts,
            take: Take::Chosen { count, used },
            tail: Tail::None,
            splits: 1,
            first_tile: 0,
            stride: padded(rows),
            norm: matches!(epilogue, Epilogue::Gated(_)).then_some((cols, EPSILON)),
            bias,
            tokens: 1,
            knobs,
            epilogue,
        }
    }

    /// Biases of `vectors` vectors, each padded.
    fn biases(&mut self, vectors: usize) -> Vec<f32> {
        let [rows, _] = self.case.shape;
        let padding = vec![0.0; padded(rows) - rows];
        (0..vectors).flat_map(|_| [self.random.vec(rows), padding.clone()].concat()).collect()
    }

    fn gated(&mut self) {
        let Case { ty, count, used, shape, tokens, bias, activation, .. } = self.case;
        let [rows, cols] = shape;
        let (gpu, math) = (self.gpu, self.gpu.form.math);
        let stacks = [Stack::new(ty, count, shape, 5), Stack::new(ty, count, shape, 6)];
        let of = stacks.each_ref().map(|s| (&s.layout, &s.padded[..]));
        let (parts, w) = weights(gpu, &of);
        let norm = self.random.vec(cols);
        let inputs: Vec<Activations> =
            (0..tokens).map(|_| Activations::from_residual(math, &self.random.vec(cols), &norm)).collect();
        let biases = self.biases(2 * count);
        let [xq, xm, squares] = upload_acts(gpu, &inputs);
        let [oq, om, _] = upload_acts(gpu, &vec![Activations::zeros(rows); tokens * used]);
        let biases_there = upload(gpu, &biases);
        let mut buffers = vec![&w, &w, &xq, &xm, &oq, &om];
        buffers.extend(bias.then_some(&biases_there));
        buffers.extend([&squares, &self.picks]);
        let kernel = self.kernel(parts, Epilogue::Gated(activation));
        run(gpu, &kernel.shader(gpu.form), &buffers, &[], kernel.grid(tokens as u32));
        let got = download_acts(gpu, &oq, &om);
        for (t, x) in inputs.iter().enumerate() {
            let factor = x.norm_factor(cols, EPSILON);
            for (slot, (expert, weight)) in self.chosen[t].iter().copied().enumerate() {
                let [gate, up] = [0, 1].map(|m| {
                    let mut rows_of = stacks[m].products(math, expert, rows, x);
                    rows_of.iter_mut().for_each(|v| *v *= factor);
                    let of = &biases[(m * count + expert) * padded(rows)..];
                    rows_of.iter_mut().zip(of).filter(|_| bias).for_each(|(v, b)| *v += b);
                    rows_of
                });
                let want: Vec<f32> =
                    gate.iter().zip(&up).map(|(g, u)| weight * activation.gate(*g, *u)).collect();
                let want = Activations::from_values(math, &want);
                let at = (t * used + slot) * groups(rows) * GROUP;
                close_acts(gpu, &format!("{}: gated {t}, {slot}", self.what), &got, at, &want);
            }
        }
    }

    fn residual(&mut self) {
        let Case { ty, count, used, shape, tokens, bias, .. } = self.case;
        let [rows, cols] = shape;
        let (gpu, math, stride) = (self.gpu, self.gpu.form.math, padded(rows));
        let scale = 0.75;
        let stack = Stack::new(ty, count, shape, 7);
        let (parts, w) = weights(gpu, &[(&stack.layout, &stack.padded)]);
        let inputs: Vec<Activations> =
            (0..tokens * used).map(|_| Activations::from_values(math, &self.random.vec(cols))).collect();
        let stream: Vec<Vec<f32>> = (0..tokens).map(|_| self.random.vec(rows)).collect();
        let padding = vec![0.0; stride - rows];
        let x: Vec<f32> = stream.iter().flat_map(|row| [&row[..], &padding].concat()).collect();
        let vectors = [self.biases(1), self.biases(count)].concat();
        let [xq, xm, _] = upload_acts(gpu, &inputs);
        let [oq, om, os] = upload_acts(gpu, &vec![Activations::zeros(rows); tokens]);
        let (x, vectors_there) = (upload(gpu, &x), upload(gpu, &vectors));
        let kernel = self.kernel(parts, Epilogue::Residual { scale });
        let buffers = [&w, &w, &xq, &xm, &x, &oq, &om, &os, &vectors_there, &self.picks];
        run(gpu, &kernel.shader(gpu.form), &buffers, &[], kernel.grid(tokens as u32));
        let got_stream: Vec<f32> = download(gpu, &x);
        let got = download_acts(gpu, &oq, &om);
        for (t, mut want) in stream.into_iter().enumerate() {
            for (slot, (expert, weight)) in self.chosen[t].iter().copied().enumerate() {
                let products = stack.products(math, expert, rows, &inputs[t * used + slot]);
                want.iter_mut().zip(products).for_each(|(x, v)| *x += scale * v);
                let of = &vectors[(1 + expert) * stride..];
                want.iter_mut().zip(of).filter(|_| bias).for_each(|(x, b)| *x += scale * weight * b);
            }
            let what = format!("{}: residual {t}", self.what);
            close(&format!("{what}: stream"), &got_stream[t * stride..], &want, bound(gpu, false));
            let read = Activations::from_residual(math, &want, &vectors[..rows]);
            close_acts(gpu, &what, &got, t * groups(rows) * GROUP, &read);
        }
    }
}

/// What is asked of experts: how many there are, all or one of them taken, rows that end within a
/// tile or a chunk, inputs that end within a chunk.
fn cases() -> Vec<Case> {
    use Activation::{ClampedSwish, Gelu, Silu};
    let knobs = |threads, tiles, unroll| Knobs { threads, tiles, unroll, teams: 1 };
    let case = |ty, (count, used), shape, tokens, activation, knobs| Case {
        ty,
        count,
        used,
        shape,
        tokens,
        normalised: tokens % 2 == 1,
        bias: activation != Silu,
        activation,
        knobs,
    };
    vec![
        case(Type::F16, (2, 1), [40, 72], 3, Silu, knobs(64, 1, 1)),
        case(Type::F16, (5, 5), [48, 40], 2, ClampedSwish, knobs(64, 2, 2)),
        case(Type::Q4_K, (5, 3), [40, 512], 3, Gelu, knobs(256, 1, 1)),
        case(Type::Q4_K, (60, 4), [48, 768], 2, Silu, knobs(128, 1, 3)),
        case(Type::MXFP4, (60, 1), [17, 96], 2, ClampedSwish, knobs(64, 1, 2)),
        case(Type::MXFP4, (128, 8), [40, 64], 3, ClampedSwish, knobs(256, 2, 1)),
        case(Type::IQ2_S, (2, 2), [40, 256], 1, Silu, knobs(64, 1, 1)),
        case(Type::IQ4_NL, (5, 2), [100, 160], 4, Gelu, knobs(320, 1, 1)),
    ]
}

#[test]
fn experts_between_the_matrices_and_behind_them() {
    for (form, gpu) in forms().iter().enumerate() {
        // The first form has all cases, the others share them.
        for (_, case) in cases().into_iter().enumerate().filter(|(i, _)| form == 0 || i % 3 == form % 3) {
            let mut experts = Experts::new(gpu, case);
            experts.gated();
            experts.residual();
        }
    }
}

/// Behind the router's product, whose scores have a bias; and of more experts than the cases have.
#[test]
fn experts_are_chosen() {
    let mut random = Random(9);
    for (form, gpu) in forms().iter().enumerate() {
        for (i, (count, used)) in [(1, 1), (5, 2), (60, 60), (128, 8), (509, 32)].into_iter().enumerate() {
            let scores = Scores::new(&mut random, (count, used), i % 2 == 0, 3);
            scores.check(gpu, &format!("{:?}", gpu.form), &scores.picks(gpu));
            if !gpu.form.inline_merge || (form > 0 && i % 3 != form % 3) {
                continue;
            }
            let product =
                Products::new(gpu, Type::F32, [count, 64], 1, 1, knobs([64, 256, 320][i % 3], 1, 1));
            let Route { routing, stride, gate } = scores.route;
            // The second matrix stands for the gate's.
            let parts = &product.parts[..];
            let stride = stride.max(2 * count.next_multiple_of(TILE));
            let bias = random.vec(stride);
            let route = Route { routing, stride, gate };
            let tail = Tail::Route(route.clone());
            // Several workgroups may share a row, each with its own sum.
            let splits = 1 + i % 3;
            let kernel = Gemv { bias: true, tail, splits, ..product.kernel(parts, Epilogue::Raw, stride) };
            let (out, bias, arrived) =
                (upload(gpu, &vec![0f32; splits * stride]), upload(gpu, &bias), upload(gpu, &[0u32; 4]));
            let picks = upload(gpu, &vec![[0u32; 2]; used + 1]);
            product.run_with(&kernel, &[&out, &bias], &[&arrived, &picks]);
            // What the product has made is tested elsewhere.
            let sums: Vec<f32> = download(gpu, &out);
            let sum = |at: usize| sums.iter().skip(at).step_by(stride).sum();
            let scores = Scores { route, scores: (0..stride).map(sum).collect() };
            scores.check(gpu, &format!("behind a product, {:?}", gpu.form), &picks);
            assert_eq!(download::<u32>(gpu, &arrived)[0], 0, "the counter is left for the next step");
        }
    }
}

/// The choice must not pass over a score that is no number, as comparisons would. One that is minus infinity
/// is the lowest of all.
#[test]
fn a_score_that_is_no_number_makes_weights_that_are_none() {
    let gpu = gpu(Math::F32, Forms::default());
    for (bad, normalised) in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
        .into_iter()
        .flat_map(|bad| [(bad, true), (bad, false)])
    {
        let mut scores = Scores::new(&mut Random(1), (5, 2), normalised, 2);
        scores.scores[1] = bad;
        let picks: Vec<[u32; 2]> = download(&gpu, &scores.picks(&gpu));
        if bad == f32::NEG_INFINITY {
            let others = picks[..2].iter().all(|p| p[0] != 1 && f32::from_bits(p[1]).is_finite());
            assert!(others, "{bad}: {picks:x?}");
        } else {
            assert_eq!(picks[0][0], 1, "{bad}");
            assert!(f32::from_bits(picks[0][1]).is_nan(), "{bad}: {picks:x?}");
        }
        assert!(picks[3..5].iter().all(|p| f32::from_bits(p[1]).is_finite()), "{bad}: other tokens");
    }
}
