//! Sampling: penalty, top-k, top-p, min-p, temperature, and a draw that is a function of seed
//! and step alone.

use super::select::FAILED;
use super::source::Source;
use super::{Form, Shader, u32};

/// Tokens that the repeat penalty looks back on.
pub const PENALTY_WINDOW: usize = 64;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides logits; 0 takes the best.
    pub temperature: f32,
    /// Only so many of the best; 0: all.
    pub top_k: u32,
    /// Only the best whose probabilities sum to this; 1: all.
    pub top_p: f32,
    /// Only those with at least this share of the best one's probability; 0: all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of the last 64 tokens; 1: none.
    pub repeat_penalty: f32,
    /// The seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, repeat_penalty: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// The best token, always.
    pub fn greedy() -> Sampling {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    /// True where the plain selection of the best logit serves.
    pub fn is_argmax(&self) -> bool {
        self.temperature == 0.0 && self.repeat_penalty == 1.0
    }

    /// The shader's immediates for a token at `position`, the `step`-th of its generation.
    pub fn args(&self, position: u32, step: u32) -> Args {
        Args {
            position,
            step,
            top_k: self.top_k,
            temperature: self.temperature,
            top_p: self.top_p,
            min_p: self.min_p,
            penalty: self.repeat_penalty,
            seed_low: self.seed as u32,
            seed_high: (self.seed >> 32) as u32,
        }
    }
}

/// The immediates of `sample.wgsl`.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "see the shader")]
pub struct Args {
    pub position: u32,
    pub step: u32,
    pub top_k: u32,
    pub temperature: f32,
    pub top_p: f32,
    pub min_p: f32,
    pub penalty: f32,
    pub seed_low: u32,
    pub seed_high: u32,
}

/// The shader for so many logits.
pub fn shader(vocab: usize, form: Form) -> Shader {
    let mut source = Source::new(form);
    source.set("VOCAB", vocab);
    Shader {
        name: "sample",
        source: source.build("sample.wgsl"),
        bindings: vec![(0, true), (1, true), (2, true)],
        immediates: 36,
    }
}

fn mix(mut x: u32) -> u32 {
    x = (x ^ x >> 16).wrapping_mul(0x7feb_352d);
    x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
    x ^ x >> 16
}

/// Gumbel noise, a function of seed, step and id.
fn gumbel(seed: u64, step: u32, id: u32) -> f32 {
    let h = mix(id ^ mix(step ^ mix((seed >> 32) as u32 ^ mix(seed as u32 ^ 0x9e37_79b9))));
    let u = ((h >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0); // 23 bits: exact, and never 1
    let near = u * (1.0 + u * (0.5 + u * (0.333_333_34 + u * (0.25 + u * (0.2 + u * 0.166_666_67)))));
    let e = if u < 0.0625 { near } else { -(1.0 - u).ln() };
    -e.ln()
}

/// The twin: chooses from logits, which the penalty changes. `history` ends with the last token.
pub fn twin(logits: &mut [f32], history: &[u32], sampling: &Sampling, step: u32) -> u32 {
    let recent = &history[history.len().saturating_sub(PENALTY_WINDOW)..];
    if sampling.repeat_penalty != 1.0 {
        for (i, id) in recent.iter().enumerate() {
            if let Some(l) = logits.get_mut(*id as usize)
                && !recent[..i].contains(id)
            {
                *l = if *l > 0.0 { *l / sampling.repeat_penalty } else { *l * sampling.repeat_penalty };
            }
        }
    }
    if logits.iter().any(|l| !l.is_finite()) {
        return FAILED;
    }
    let mut kept: Vec<(f32, u32)> = logits.iter().enumerate().map(|(i, l)| (*l, u32(i))).collect();
    kept.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let Some(top) = kept.first().map(|k| k.0) else { return FAILED };
    // What ties with the last one kept stays.
    let keep = |kept: &mut Vec<(f32, u32)>, n: usize| {
        let last = kept[n - 1].0;
        kept.truncate(kept.partition_point(|k| k.0 >= last));
    };
    let k = sampling.top_k as usize;
    if k > 0 && k < kept.len() {
        keep(&mut kept, k);
    }
    if sampling.top_p < 1.0 {
        let mass: Vec<f32> = kept.iter().map(|k| (k.0 - top).exp()).collect();
        let wanted = sampling.top_p * mass.iter().sum::<f32>();
        let mut sum = 0.0;
        let n = mass
            .iter()
            .take_while(|m| {
                let more = sum < wanted;
                sum += **m;
                more
            })
            .count();
        keep(&mut kept, n.max(1));
    }
    if sampling.min_p > 0.0 {
        let least = top + sampling.min_p.ln();
        kept.truncate(kept.partition_point(|k| k.0 >= least).max(1));
    }
    if sampling.temperature == 0.0 {
        return kept[0].1;
    }
    let score = |k: &(f32, u32)| (k.0 - top) / sampling.temperature + gumbel(sampling.seed, step, k.1);
    kept.iter().max_by(|a, b| score(a).total_cmp(&score(b)).then(b.1.cmp(&a.1))).map_or(FAILED, |k| k.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [1.0f32, 0.0, -1.0, 2.0];
        let sampling =
            Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repeat_penalty: 1.0, seed: 7 };
        let mut seen = [0u32; 4];
        let draws = 40_000;
        for step in 0..draws {
            seen[twin(&mut logits.clone(), &[], &sampling, step) as usize] += 1;
        }
        let z: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        for (l, n) in logits.iter().zip(seen) {
            let p = f64::from(*l).exp() / z;
            let sigma = (p * (1.0 - p) / f64::from(draws)).sqrt();
            assert!((f64::from(n) / f64::from(draws) - p).abs() < 4.0 * sigma, "{seen:?}");
        }
    }

    #[test]
    fn noise_is_finite_at_the_ends() {
        // u is within its range for every hash, the largest and the smallest too.
        for h in [0u32, 1, u32::MAX] {
            let u = ((h >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0);
            assert!(u > 0.0 && u < 1.0, "{h}: {u}");
        }
        // This draw once had u = 1, noise of minus infinity, and no choice.
        let s = Sampling { seed: 8_650_586, ..Sampling::default() };
        assert_eq!(twin(&mut [9.0, -9.0, -9.0], &[], &s, 0), 0);
        assert!((0..2000).all(|id| gumbel(8_650_586, 0, id).is_finite()));
    }

    #[test]
    fn the_chain_narrows_in_order() {
        let mut logits: Vec<f32> = (0..100).map(|i| i as f32 * 0.1).collect();
        let pick = |s: &Sampling, logits: &mut Vec<f32>| -> std::collections::BTreeSet<u32> {
            (0..500).map(|step| twin(logits, &[], s, step)).collect()
        };
        let s = Sampling { temperature: 5.0, top_k: 3, top_p: 1.0, min_p: 0.0, repeat_penalty: 1.0, seed: 1 };
        assert_eq!(pick(&s, &mut logits), [97, 98, 99].into());
        let s = Sampling { top_k: 0, min_p: 0.8, ..s };
        assert_eq!(pick(&s, &mut logits), [97, 98, 99].into()); // ln 0.8 = -0.22
        let s = Sampling { min_p: 0.0, top_p: 1e-6, ..s };
        assert_eq!(pick(&s, &mut logits), [99].into());
        assert_eq!(twin(&mut [1.0, f32::NAN], &[], &s, 0), FAILED);
        let s = Sampling { repeat_penalty: 2.0, ..Sampling::greedy() };
        assert_eq!(twin(&mut [1.0, 1.5], &[1], &s, 0), 0);
    }
}
