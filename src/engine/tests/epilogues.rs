//! What may follow a product beside the plain cases: biases, factors, caps, other activations, a
//! share for what every token takes.

use super::products::{EPSILON, Products, knobs};
use super::*;
use crate::kernels::activation::{Activation, capped};
use crate::kernels::gemv::{Epilogue, Gemv, Take};
use crate::kernels::{groups, padded};
use crate::quant::{TILE, Type};

impl Products<'_> {
    /// Two matrices with a bias of the first, as a router with the gate of a shared expert has them.
    fn raw_of_two(&mut self) {
        let tiles = self.rows.div_ceil(TILE) * TILE;
        let stride = 2 * tiles;
        let mut bias = self.random.vec(self.rows);
        bias.resize(stride, 0.0);
        let kernel = Gemv { bias: true, ..self.kernel(&self.parts, Epilogue::Raw, stride) };
        let out = upload(self.gpu, &vec![0f32; self.batch * stride]);
        self.run(&kernel, &[&out, &upload(self.gpu, &bias)]);
        let got: Vec<f32> = download(self.gpu, &out);
        for t in 0..self.tokens {
            let f = self.factors[t];
            let first: Vec<f32> = self.first[t].iter().zip(&bias).map(|(v, b)| v * f + b).collect();
            let second: Vec<f32> = self.second[t].iter().map(|v| v * f).collect();
            for (i, want) in [first, second].iter().enumerate() {
                let got = &got[t * stride + i * tiles..];
                close(&format!("{}: raw {i} of two", self.what), got, want, bound(self.gpu, false));
            }
        }
    }

    /// Gated products, with or without gate, of an activation: with biases and a share.
    fn gated_as(&mut self, activation: Activation, with_gate: bool, share: bool) {
        let (gpu, rows, stride) = (self.gpu, self.rows, padded(self.rows));
        let parts = if with_gate { 0..2 } else { 0..1 };
        let vectors = parts.len();
        let mut bias = Vec::new();
        for i in 0..vectors {
            bias.extend(self.random.vec(rows));
            bias.resize((i + 1) * stride, 0.0);
        }
        // The share is the last of a token's picks.
        let used = 3;
        let picks: Vec<[u32; 2]> =
            (0..self.batch * (used + 1)).map(|_| [1, self.random.next().to_bits()]).collect();
        let take = if share { Take::Share { used } } else { Take::Whole };
        let kernel = self.kernel(&self.parts[parts], Epilogue::Gated(activation), stride);
        let kernel = Gemv { bias: true, take, ..kernel };
        let [oq, om, _] = upload_acts(gpu, &vec![Activations::zeros(rows); self.batch]);
        let (bias_there, picks_there) = (upload(gpu, &bias), upload(gpu, &picks));
        let after: &[&wgpu::Buffer] = if share { &[&picks_there] } else { &[] };
        self.run_with(&kernel, &[&oq, &om, &bias_there], after);
        let got = download_acts(gpu, &oq, &om);
        for t in 0..self.tokens {
            let f = self.factors[t];
            let weight = if share { f32::from_bits(picks[(t + 1) * (used + 1) - 1][1]) } else { 1.0 };
            let made = |i: usize| {
                let (gate, up) = (self.first[t][i] * f + bias[i], self.second[t][i] * f);
                match with_gate {
                    true => activation.gate(gate, up + bias[stride + i]),
                    false => activation.of(gate),
                }
            };
            let want: Vec<f32> = (0..rows).map(|i| weight * made(i)).collect();
            let what = format!("{}: {activation:?}, gate {with_gate}, share {share}", self.what);
            let at = t * groups(rows) * GROUP;
            close_acts(gpu, &what, &got, at, &Activations::from_values(gpu.form.math, &want));
        }
    }

    /// The branch is scaled, its bias with it.
    fn scaled_residual(&mut self) {
        let (gpu, rows, stride, scale) = (self.gpu, self.rows, padded(self.rows), 0.22);
        let mut vectors = self.random.vec(rows);
        vectors.resize(stride, 0.0);
        vectors.extend(self.random.vec(rows));
        vectors.resize(2 * stride, 0.0);
        let x: Vec<Vec<f32>> = (0..self.batch).map(|_| self.random.vec(rows)).collect();
        let padding = vec![0.0; stride - rows];
        let stream = upload(gpu, &x.iter().flat_map(|x| [&x[..], &padding].concat()).collect::<Vec<_>>());
        let [oq, om, os] = upload_acts(gpu, &vec![Activations::zeros(rows); self.batch]);
        let kernel = self.kernel(&self.parts[..1], Epilogue::Residual { scale }, stride);
        let kernel = Gemv { bias: true, ..kernel };
        self.run(&kernel, &[&stream, &oq, &om, &os, &upload(gpu, &vectors)]);
        let got: Vec<f32> = download(gpu, &stream);
        let acts = download_acts(gpu, &oq, &om);
        for t in 0..self.tokens {
            let bias = &vectors[stride..];
            let want: Vec<f32> = (0..rows).map(|i| x[t][i] + scale * (self.first[t][i] + bias[i])).collect();
            let what = format!("{}: scaled residual", self.what);
            close(&what, &got[t * stride..], &want, bound(gpu, false));
            let read = Activations::from_residual(gpu.form.math, &want, &vectors[..rows]);
            close_acts(gpu, &what, &acts, t * groups(rows) * GROUP, &read);
        }
    }

    /// Factor and cap of a batch's logits; some of them far beyond where the cap's tanh is 1.
    fn capped_logits(&self, scale: f32, cap: Option<f32>) {
        let (gpu, rows) = (self.gpu, self.rows);
        let epilogue = Epilogue::Logits { vocab: rows, scale, cap };
        let kernel = self.kernel(&self.parts[..1], epilogue, rows);
        let out = upload(gpu, &vec![0f32; self.batch * rows]);
        let best = upload(gpu, &vec![[0u32; 2]; rows.div_ceil(TILE)]);
        let all = [&out, &best];
        self.run(&kernel, if self.per_group == 1 { &all } else { &all[..1] });
        let got: Vec<f32> = download(gpu, &out);
        for t in 0..self.tokens {
            let want: Vec<f32> =
                self.first[t].iter().map(|v| capped(v * self.factors[t] * scale, cap)).collect();
            let what = format!("{}: logits times {scale}, cap {cap:?}", self.what);
            // Where the cap bends, a factor of 200 shows every product's own rounding.
            let most = bound(gpu, false) * if scale > 100.0 { 4.0 } else { 1.0 };
            close(&what, &got[t * rows..], &want, most);
        }
    }
}

#[test]
fn what_follows_a_product() {
    use Activation::{ClampedSwish, Gelu, Silu};
    for (form, gpu) in forms().iter().enumerate() {
        // One token, and batches whose last workgroup has too many.
        let shapes = [
            (Type::Q4_K, [40, 512], 1, 1, knobs(64, 1, 2)),
            (Type::Q5_0, [100, 96], 5, 4, knobs(256, 1, 1)),
            (Type::F16, [17, 96], 1, 1, knobs(128, 1, 1)),
        ];
        // What follows depends little on the form: the first has all, the others take turns.
        let here = match form {
            0 => &shapes[..],
            n => &shapes[n % 2..n % 2 + 1],
        };
        for (ty, shape, tokens, per_group, knobs) in here {
            let mut products = Products::new(gpu, *ty, *shape, *tokens, *per_group, *knobs);
            products.raw_of_two();
            products.scaled_residual();
            products.capped_logits(200.0, Some(2.0));
            // Far below the cap, where tanh made of exponentials would lose digits.
            products.capped_logits(1.0, Some(500.0));
            products.gated_as(Gelu, false, false);
            products.gated_as(ClampedSwish, true, false);
            products.gated_as(Silu, true, true);
            if form == 0 {
                products.capped_logits(0.0625, None);
                products.capped_logits(1.0, Some(30.0));
                products.gated_as(Silu, false, true);
                products.gated_as(Gelu, true, false);
            }
        }
    }
}

/// A cap must not make a number of what is none.
#[test]
fn caps_leave_what_is_not_finite() {
    for gpu in [gpu(Math::F32, Forms::default()), gpu(Math::Int16, Forms::default())] {
        let mut products = Products::new(&gpu, Type::Q8_0, [40, 64], 1, 1, knobs(64, 1, 1));
        products.input[2] = upload(&gpu, &[f32::NAN; 4]);
        let epilogue = Epilogue::Logits { vocab: 40, scale: 3.0, cap: Some(30.0) };
        let (out, best) = (upload(&gpu, &[0f32; 40]), upload(&gpu, &[[0u32; 2]; 3]));
        products.run(&products.kernel(&products.parts[..1], epilogue, 40), &[&out, &best]);
        assert!(download::<f32>(&gpu, &out).iter().all(|v| !v.is_finite()));
        let best: Vec<[u32; 2]> = download(&gpu, &best);
        assert!(best[..3].iter().all(|b| f32::from_bits(b[0]).is_nan()), "{best:x?}");
        assert!(products.factors[0].is_finite() && EPSILON > 0.0);
    }
}
