//! RoPE's table: cosine and sine of every pair at every position.
//!
//! Computed once, in F64, by the host: shader sines are only good near zero.

use super::spec::{Divisors, Rope, Scaling, Spec};
use super::weights::Weights;
use crate::{Error, Result};

const FREQUENCIES: &str = "rope_freqs.weight";
const SHORT: &str = "rope_factors_short.weight";
const LONG: &str = "rope_factors_long.weight";

/// Divisors of the frequencies, one for each pair, which are tensors.
#[derive(Clone, Debug, PartialEq)]
pub enum Factors {
    /// None.
    None,
    /// The same for every text (Llama 3).
    Always(Vec<f32>),
    /// By the length of the text (LongRoPE, Ding et al., arXiv 2402.13753; Phi-3). All positions of a
    /// text have the same ones: a text that grows beyond the original context has to be computed again.
    ByLength {
        /// Those of texts up to the original context.
        short: Vec<f32>,
        /// Those of longer ones.
        long: Vec<f32>,
        /// The context of training.
        original: usize,
    },
}

impl Factors {
    /// The factors among a model's tensors.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for tensors of another length, or that are no divisors.
    pub(super) fn of(spec: &Spec, weights: &Weights) -> Result<Factors> {
        let pairs = spec.ropes.first().map_or(0, |rope| rope.dims / 2);
        let read = |name: &str| -> Result<Vec<f32>> {
            let factors = weights.floats(&weights.vector(name, pairs)?);
            match factors.iter().all(|f| f.is_finite() && *f != 0.0) {
                true => Ok(factors),
                false => Err(Error::Unsupported(format!("tensor {name}: a factor is 0 or no number"))),
            }
        };
        let has = |name: &str| weights.tensor(name).is_some();
        match spec.divisors {
            Divisors::ByContext { required } if required || has(SHORT) || has(LONG) => {
                if let Some(name) = [SHORT, LONG].into_iter().find(|name| !has(name)) {
                    return Err(Error::Unsupported(format!(
                        "tensor {name} is missing: a RoPE scaling of type \"longrope\" is {SHORT} and {LONG}"
                    )));
                }
                Ok(Factors::ByLength {
                    short: read(SHORT)?,
                    long: read(LONG)?,
                    original: spec.original_context,
                })
            }
            Divisors::Always if has(FREQUENCIES) => Ok(Factors::Always(read(FREQUENCIES)?)),
            Divisors::ByContext { .. } | Divisors::Always | Divisors::None => Ok(Factors::None),
        }
    }

    /// The tensors that they are.
    pub(super) fn tensors(&self) -> &'static [&'static str] {
        match self {
            Factors::None => &[],
            Factors::Always(_) => &[FREQUENCIES],
            Factors::ByLength { .. } => &[SHORT, LONG],
        }
    }

    /// Those of a text of so many tokens.
    pub fn of_length(&self, tokens: usize) -> Option<&[f32]> {
        match self {
            Factors::None => None,
            Factors::Always(factors) => Some(factors),
            Factors::ByLength { short, long, original } => {
                Some(if tokens > *original { long } else { short })
            }
        }
    }

    /// The tokens beyond which a text has other factors than before, if there is such a number.
    pub fn change_at(&self) -> Option<usize> {
        match self {
            Factors::ByLength { original, .. } => Some(*original),
            Factors::None | Factors::Always(_) => None,
        }
    }
}

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
    let magnitude = f64::from(rope.magnitude);
    let plain = |i: usize| {
        let divisor = factors.and_then(|f| f.get(i)).copied().unwrap_or(1.0);
        base.powf(-2.0 * i as f64 / rope.dims as f64) / f64::from(divisor)
    };
    match rope.scaling {
        Scaling::None => ((0..pairs).map(plain).collect(), magnitude),
        Scaling::Linear { factor } => ((0..pairs).map(|i| plain(i) / f64::from(factor)).collect(), magnitude),
        Scaling::Yarn { factor, original_context, extrapolation, magnitude: grown, beta_fast, beta_slow } => {
            let (factor, extrapolation) = (f64::from(factor), f64::from(extrapolation));
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
                let fast = (1.0 - ramp) * extrapolation;
                let f = plain(i);
                f / factor * (1.0 - fast) + f * fast
            });
            (f.collect(), magnitude * f64::from(grown))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::Pairing;

    #[test]
    fn linear_scaling_divides_positions() {
        let mut rope = Rope {
            pairing: Pairing::Halves,
            dims: 8,
            base: 10_000.0,
            scaling: Scaling::None,
            magnitude: 1.0,
        };
        let plain = table(&rope, None, 5);
        rope.scaling = Scaling::Linear { factor: 4.0 };
        let scaled = table(&rope, None, 17);
        assert_eq!(plain[4..8], scaled[16..20]);
        assert_eq!(plain[16..20], scaled[64..68]);
    }
}
