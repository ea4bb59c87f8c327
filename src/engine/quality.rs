//! How well a model predicts texts, and what an arithmetic costs: how far its predictions are from an
//! exact one's, and how sure that is.
//!
//! Neighbouring positions resemble each other, so a mean over all of them is less certain than
//! their number suggests. Windows of text are computed apart from each other: their spread is what
//! the intervals come from.

use serde::Serialize;

use super::{Engine, Progress};
use crate::{Error, Result};

/// Cuts a text's ids into windows of `size`, the last of what is left. Where there is a BOS, it
/// takes the place of each window's first token.
pub fn windows(ids: &[u32], size: usize, bos: Option<u32>) -> Vec<Vec<u32>> {
    let begun = |part: &[u32]| {
        let mut ids = part.to_vec();
        if let (Some(first), Some(bos)) = (ids.first_mut(), bos) {
            *first = bos;
        }
        ids
    };
    ids.chunks(size.max(1)).map(begun).collect()
}

/// -ln of the probability that a row of logits gives to `next`. `None` where the row lacks it, or
/// holds a number that is not finite.
pub fn nll(row: &[f32], next: u32) -> Option<f64> {
    let logit = f64::from(*row.get(next as usize)?);
    if !row.iter().all(|v| v.is_finite()) {
        return None;
    }
    let top = f64::from(row[best(row)]);
    let sum: f64 = row.iter().map(|v| (f64::from(*v) - top).exp()).sum();
    Some(sum.ln() + top - logit)
}

/// Predicts the tokens of a window behind position `first`: the sum of their NLL, and their number.
/// A row of logits is held at a time.
///
/// # Errors
/// The engine's, and [`Error::Other`] for logits that are not finite.
pub fn score(
    engine: &mut dyn Engine,
    ids: &[u32],
    first: usize,
    progress: Progress<'_>,
) -> Result<(f64, usize)> {
    let info = engine.info().clone();
    let (mut sum, mut scored, mut next) = (0.0, 0, ids.iter().skip(1).enumerate());
    engine.logits(&ids[..ids.len().saturating_sub(1)], true, progress, &mut |row| {
        if let Some((position, id)) = next.next()
            && position >= first
        {
            sum += nll(row, *id).ok_or_else(|| super::not_finite(&info))?;
            scored += 1;
        }
        Ok(())
    })?;
    match next.next() {
        None => Ok((sum, scored)),
        Some((rows, _)) => Err(Error::Other(format!("the engine gave {rows} rows of logits alone"))),
    }
}

/// How two predictions of one token differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// KL(reference ‖ other) over the whole vocabulary, in nats.
    pub divergence: f64,
    /// -ln of the reference's probability of the token that follows.
    pub reference_nll: f64,
    /// The same of the other's.
    pub nll: f64,
    /// Both find the same token most likely; of equal ones the first counts.
    pub agrees: bool,
}

/// Compares two rows of logits for a position that `next` follows. `None` where they cannot be
/// compared: they differ in length, lack `next`, or hold a number that is not finite.
pub fn compare(reference: &[f32], other: &[f32], next: u32) -> Option<Position> {
    if reference.len() != other.len() || !reference.iter().chain(other).all(|v| v.is_finite()) {
        return None;
    }
    let next = next as usize;
    let (a, b) = (f64::from(*reference.get(next)?), f64::from(*other.get(next)?));
    let (best_a, best_b) = (best(reference), best(other));
    let (top_a, top_b) = (f64::from(reference[best_a]), f64::from(other[best_b]));
    // With p = exp(x - top) / sum: KL = Σ p (x - y) - (logsumexp(x) - logsumexp(y)). What is taken
    // off first keeps exp() from overflowing and the terms small.
    let (mut sum_a, mut sum_b, mut weighed) = (0.0, 0.0, 0.0);
    for (x, y) in reference.iter().zip(other) {
        let (x, y) = (f64::from(*x) - top_a, f64::from(*y) - top_b);
        let p = x.exp();
        sum_a += p;
        sum_b += y.exp();
        weighed += p * (x - y);
    }
    let (log_a, log_b) = (sum_a.ln(), sum_b.ln());
    Some(Position {
        // It is never negative but by rounding.
        divergence: (weighed / sum_a - (log_a - log_b)).max(0.0),
        reference_nll: log_a + top_a - a,
        nll: log_b + top_b - b,
        agrees: best_a == best_b,
    })
}

/// Where the first of the largest numbers is.
fn best(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in row.iter().enumerate() {
        if *v > row[best] {
            best = i;
        }
    }
    best
}

/// A mean over positions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its 95 % interval reaches so far to each side; of a single window nothing can be said.
    pub half_width: Option<f64>,
}

impl Estimate {
    /// Of windows, each as the sum over its positions and their number. Each window counts by its
    /// number of positions.
    ///
    /// The variance of a ratio of sums over independent windows: for windows of one length that is
    /// the variance of the mean of their means.
    pub fn of(windows: &[(f64, usize)]) -> Estimate {
        let positions: f64 = windows.iter().map(|w| w.1 as f64).sum();
        let mean = windows.iter().map(|w| w.0).sum::<f64>() / positions;
        let Some(freedom) = windows.len().checked_sub(1).filter(|n| *n > 0) else {
            return Estimate { mean, half_width: None };
        };
        let squares: f64 = windows.iter().map(|(sum, n)| (sum - *n as f64 * mean).powi(2)).sum();
        let variance = squares * windows.len() as f64 / freedom as f64;
        Estimate { mean, half_width: Some(student(freedom) * variance.sqrt() / positions) }
    }
}

/// The quantile of Student's t that leaves 2.5 % above it. Few windows make a wide interval.
fn student(freedom: usize) -> f64 {
    match freedom {
        0 => f64::INFINITY,
        1 => 12.7062,
        2 => 4.3027,
        3 => 3.1824,
        4 => 2.7764,
        n => {
            // The expansion of Cornish and Fisher around the normal quantile: right to 0.2 % here.
            let (z, n) = (1.959_963_985_f64, n as f64);
            let first = (z.powi(3) + z) / 4.0;
            let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
            let third = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
            z + first / n + second / n.powi(2) + third / n.powi(3)
        }
    }
}

/// How well a text is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Perplexity {
    /// exp of the mean NLL.
    pub perplexity: f64,
    /// Its 95 % interval to each side, by the delta method: the mean's times the perplexity.
    pub half_width: Option<f64>,
    /// The mean NLL of a token, in nats.
    pub nll: f64,
    /// Its 95 % interval to each side; of a single window nothing can be said.
    pub nll_half_width: Option<f64>,
    /// Tokens that were predicted.
    pub tokens: usize,
    /// Windows that they stand in.
    pub windows: usize,
}

impl Perplexity {
    /// Of windows, each as [`score`] gives it; `None` without a token.
    pub fn of(windows: &[(f64, usize)]) -> Option<Perplexity> {
        let tokens = windows.iter().map(|w| w.1).sum();
        if tokens == 0 {
            return None;
        }
        let nll = Estimate::of(windows);
        let perplexity = nll.mean.exp();
        Some(Perplexity {
            perplexity,
            half_width: nll.half_width.map(|half| half * perplexity),
            nll: nll.mean,
            nll_half_width: nll.half_width,
            tokens,
            windows: windows.len(),
        })
    }
}

/// What an arithmetic costs over many windows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Windows with a position.
    pub windows: usize,
    /// Positions.
    pub tokens: usize,
    /// KL(reference ‖ other), nats a token.
    pub divergence: Estimate,
    /// Half of the positions diverge no more than this.
    pub divergence_median: f64,
    /// 99 of 100 do.
    pub divergence_p99: f64,
    /// All do.
    pub divergence_max: f64,
    /// exp of the reference's mean NLL.
    pub reference_perplexity: f64,
    /// exp of the other's.
    pub perplexity: f64,
    /// NLL of the other less the reference's, at the same positions.
    pub nll_difference: Estimate,
    /// Positions where both find the same token most likely, in percent.
    pub agreement_percent: f64,
}

impl Summary {
    /// Of windows of positions; `None` without any.
    pub fn of(windows: &[Vec<Position>]) -> Option<Summary> {
        let estimate = |value: fn(&Position) -> f64| {
            let sums = windows.iter().filter(|w| !w.is_empty());
            Estimate::of(&sums.map(|w| (w.iter().map(value).sum(), w.len())).collect::<Vec<_>>())
        };
        let mut divergences: Vec<f64> = windows.iter().flatten().map(|p| p.divergence).collect();
        divergences.sort_by(f64::total_cmp);
        let divergence_max = *divergences.last()?;
        Some(Summary {
            windows: windows.iter().filter(|w| !w.is_empty()).count(),
            tokens: divergences.len(),
            divergence: estimate(|p| p.divergence),
            divergence_median: percentile(&divergences, 50),
            divergence_p99: percentile(&divergences, 99),
            divergence_max,
            reference_perplexity: estimate(|p| p.reference_nll).mean.exp(),
            perplexity: estimate(|p| p.nll).mean.exp(),
            nll_difference: estimate(|p| p.nll - p.reference_nll),
            agreement_percent: 100.0 * estimate(|p| f64::from(u8::from(p.agrees))).mean,
        })
    }
}

/// The smallest of sorted numbers that is no less than so many percent of them.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    fn near(got: f64, want: f64, within: f64) {
        assert!((got - want).abs() <= within, "{got}, {want} is right");
    }

    #[test]
    fn divergences_worked_out_by_hand() {
        let (p, q) = (logits(&[0.5, 0.25, 0.25]), logits(&[0.25, 0.25, 0.5]));
        // ½ ln 2 + 0 - ¼ ln 2
        let got = compare(&p, &q, 2).unwrap();
        near(got.divergence, 2f64.ln() / 4.0, 1e-7);
        near(got.reference_nll, 4f64.ln(), 1e-7);
        near(got.nll, 2f64.ln(), 1e-7);
        assert!(!got.agrees);
        // It is no distance: ½ ln(4/3) one way, ¼ ln ½ + ¾ ln 3/2 the other.
        let (p, q) = (logits(&[0.5, 0.5]), logits(&[0.25, 0.75]));
        near(compare(&p, &q, 0).unwrap().divergence, (4f64 / 3.0).ln() / 2.0, 1e-7);
        near(compare(&q, &p, 0).unwrap().divergence, 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln(), 1e-7);
    }

    #[test]
    fn neither_size_nor_offset_of_logits_matters() {
        let p = [3.0, -2.0, 0.5, 1e4, 1e4 - 1.0];
        let moved = p.map(|v| v - 2e4);
        let got = compare(&p, &moved, 4).unwrap();
        near(got.divergence, 0.0, 1e-12);
        near(got.reference_nll, 1.0 + (1.0 + (-1f64).exp()).ln(), 1e-12);
        near(got.nll, got.reference_nll, 1e-12);
        assert!(got.agrees);
        // A token that the other rules out is dear, not infinite: its logit says how dear.
        near(compare(&[0.0, 0.0], &[0.0, -2000.0], 1).unwrap().divergence, 1000.0 - 2f64.ln(), 1e-9);
    }

    #[test]
    fn the_nll_of_a_row() {
        let row = [3.0, -2.0, 0.5, 1e4, 1e4 - 1.0];
        for next in 0..5 {
            assert_eq!(nll(&row, next), compare(&row, &row, next).map(|p| p.nll), "{next}");
        }
        near(nll(&logits(&[0.5, 0.25, 0.25]), 1).unwrap(), 4f64.ln(), 1e-7);
        assert_eq!(nll(&row, 5), None);
        assert_eq!(nll(&[0.0, f32::NAN], 0), None);
    }

    #[test]
    fn windows_begin_with_bos() {
        assert_eq!(windows(&[1, 2, 3, 4, 5], 2, Some(9)), [vec![9, 2], vec![9, 4], vec![9]]);
        assert_eq!(windows(&[1, 2, 3], 2, None), [vec![1, 2], vec![3]]);
        assert!(windows(&[], 2, Some(9)).is_empty());
    }

    #[test]
    fn perplexity_of_known_windows() {
        let ln2 = 2f64.ln();
        let got = Perplexity::of(&[(2.0 * ln2, 2), (2.0 * ln2, 2)]).unwrap();
        near(got.perplexity, 2.0, 1e-12);
        near(got.half_width.unwrap(), 0.0, 1e-12);
        assert_eq!((got.tokens, got.windows), (4, 2));
        let got = Perplexity::of(&[(2.0, 2), (6.0, 2)]).unwrap();
        near(got.half_width.unwrap(), got.nll_half_width.unwrap() * 2f64.exp(), 1e-12);
        assert_eq!(Perplexity::of(&[(2.0, 1)]).unwrap().half_width, None);
        assert_eq!(Perplexity::of(&[]), None);
    }

    #[test]
    fn small_divergences_are_not_lost_in_rounding() {
        // To second order KL is half the variance of the difference under p: d² p (1 - p) / 2.
        let d = 2f32.powi(-20);
        let got = compare(&[1.0, 1.0], &[1.0, 1.0 + d], 0).unwrap();
        near(got.divergence / (f64::from(d).powi(2) / 8.0), 1.0, 1e-2);
    }

    #[test]
    fn rows_that_cannot_be_compared() {
        let p = [0.0, 1.0];
        assert_eq!(compare(&p, &[0.0], 0), None);
        assert_eq!(compare(&p, &p, 2), None);
        assert_eq!(compare(&[], &[], 0), None);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(compare(&p, &[bad, 0.0], 1), None);
            assert_eq!(compare(&[bad, 0.0], &p, 1), None);
        }
    }

    #[test]
    fn intervals_come_from_windows() {
        // Means 1 and 3: a deviation of √2, an error of 1.
        let two = Estimate::of(&[(2.0, 2), (6.0, 2)]);
        near(two.mean, 2.0, 0.0);
        near(two.half_width.unwrap(), 12.7062, 1e-4);
        // More positions in the same windows make nothing surer.
        assert_eq!(Estimate::of(&[(200.0, 200), (600.0, 200)]), two);
        // Each counts by its positions: residuals 4/3, so the error is √(2 · 32/9) / 3.
        let uneven = Estimate::of(&[(2.0, 2), (3.0, 1)]);
        near(uneven.mean, 5.0 / 3.0, 1e-15);
        near(uneven.half_width.unwrap(), 12.7062 * 8.0 / 9.0, 1e-4);
        assert_eq!(Estimate::of(&[(2.0, 2)]), Estimate { mean: 1.0, half_width: None });
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (freedom, want) in [(5, 2.5706), (10, 2.2281), (39, 2.0227), (1000, 1.9623)] {
            near(student(freedom), want, 3e-3);
        }
    }

    #[test]
    fn a_summary_of_known_positions() {
        let position = |i: u32| Position {
            divergence: f64::from(i),
            reference_nll: 2f64.ln(),
            nll: 2f64.ln() + 0.5,
            agrees: !i.is_multiple_of(4),
        };
        let windows = [(1..=50).rev().map(position).collect(), vec![], (51..=100).map(position).collect()];
        let got = Summary::of(&windows).unwrap();
        assert_eq!((got.windows, got.tokens), (2, 100));
        assert_eq!((got.divergence_median, got.divergence_p99, got.divergence_max), (50.0, 99.0, 100.0));
        near(got.divergence.mean, 50.5, 1e-12);
        near(got.reference_perplexity, 2.0, 1e-12);
        near(got.perplexity, 2.0 * 0.5f64.exp(), 1e-12);
        near(got.nll_difference.mean, 0.5, 1e-12);
        // The difference is the same everywhere: paired, nothing of the texts' spread is left.
        near(got.nll_difference.half_width.unwrap(), 0.0, 1e-12);
        near(got.agreement_percent, 75.0, 1e-12);
        assert_eq!(Summary::of(&[vec![]]), None);
    }
}
