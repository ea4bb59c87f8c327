//! RoPE's table: cosine and sine of every pair at every position.
//!
//! Computed once, in F64, by the host: shader sines are only good near zero.

use super::spec::{Rope, Scaling};

/// `(positions, dims / 2)` pairs of cosine and sine, YaRN's magnitude included.
pub fn table(rope: &Rope, factors: Option<&[f32]>, positions: usize) -> Vec<[f32; 2]> {
    let (frequencies, magnitude) = frequencies(rope, factors);
    let mut out = Vec::with_capacity(positions * frequencies.len());
    for position in 0..positions {
        for f in &frequencies {
            let (sin, cos) = (position as f64 * f).sin_cos();
            out.push([(cos * magnitude) as f32, (sin * magnitude) as f32]);
        }
    }
    out
}

/// The frequency of each pair, and the magnitude of the turned vectors.
fn frequencies(rope: &Rope, factors: Option<&[f32]>) -> (Vec<f64>, f64) {
    let pairs = rope.dims / 2;
    let base = f64::from(rope.base);
    let plain = |i: usize| {
        let divisor = factors.and_then(|f| f.get(i)).copied().unwrap_or(1.0);
        base.powf(-2.0 * i as f64 / rope.dims as f64) / f64::from(divisor)
    };
    match rope.scaling {
        Scaling::None => ((0..pairs).map(plain).collect(), 1.0),
        Scaling::Linear { factor } => ((0..pairs).map(|i| plain(i) / f64::from(factor)).collect(), 1.0),
        Scaling::Yarn { factor, original_context, attention_factor, beta_fast, beta_slow } => {
            let factor = f64::from(factor);
            // The pair that turns `turns` times within the original context.
            let pair = |turns: f32| {
                let turn = 2.0 * std::f64::consts::PI * f64::from(turns);
                rope.dims as f64 * (original_context as f64 / turn).ln() / (2.0 * base.ln())
            };
            // Rounded to whole pairs, as llama.cpp and transformers do.
            let low = pair(beta_fast).floor().max(0.0);
            let high = pair(beta_slow).ceil().min(rope.dims as f64 - 1.0);
            let f = (0..pairs).map(|i| {
                let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                let f = plain(i);
                f / factor * ramp + f * (1.0 - ramp)
            });
            (f.collect(), f64::from(attention_factor) * (1.0 + 0.1 * factor.ln()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::Pairing;

    #[test]
    fn linear_scaling_divides_positions() {
        let mut rope = Rope { pairing: Pairing::Halves, dims: 8, base: 10_000.0, scaling: Scaling::None };
        let plain = table(&rope, None, 5);
        rope.scaling = Scaling::Linear { factor: 4.0 };
        let scaled = table(&rope, None, 17);
        assert_eq!(plain[4..8], scaled[16..20]);
        assert_eq!(plain[16..20], scaled[64..68]);
    }
}
