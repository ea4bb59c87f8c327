//! Choosing a token's experts from the router's scores. The last workgroup of the router's product
//! does it where workgroups can see each other's writes, else a dispatch of its own.

use super::source::Source;
use super::{Form, Shader, u32};

use std::cmp::Ordering;

/// How a token's experts are chosen and weighted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// Experts there are.
    pub count: usize,
    /// Experts a token takes: those of the highest scores, the first of equal ones.
    pub used: usize,
    /// Their weights are the softmax over them alone, not over all.
    pub normalised: bool,
    /// Multiplies the weights.
    pub scale: f32,
}

/// Routing as a kernel: from `(tokens, stride)` scores to `(tokens, used + 1)` picks, an expert and its
/// weight each; the last one's weight is the sigmoid of the shared expert's gate, if there is one.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// What is chosen.
    pub routing: Routing,
    /// Elements of a token's scores.
    pub stride: usize,
    /// Where the gate's score stands among them.
    pub gate: Option<usize>,
}

/// Lanes of a workgroup of `route.wgsl`, which has a token.
const THREADS: usize = 256;

impl Route {
    /// Says what `route_body.wgsl` needs to know, for so many lanes.
    pub(super) fn set(&self, source: &mut Source, threads: usize) {
        let fours = self.routing.count.div_ceil(4);
        source
            .set("EXPERTS", self.routing.count)
            .set("EXPERT_FOURS", fours)
            .set("USED", self.routing.used)
            .set("ROUTE_SHARERS", (threads / (4 * fours)).clamp(1, fours))
            .set_f32("ROUTING_SCALE", self.routing.scale)
            .set("GATE_AT", self.gate.unwrap_or(0))
            .set("SCORE_STRIDE", self.stride)
            .flag("SHARE_GATE", self.gate.is_some())
            .flag("NORMALISED", self.routing.normalised);
    }

    /// Bytes of workgroup memory.
    pub(super) fn shared_bytes(&self) -> usize {
        8 * self.routing.count.next_multiple_of(4) + 8 * self.routing.used
    }

    /// The shader of a form.
    pub fn shader(&self, form: Form) -> Shader {
        let mut source = Source::new(form);
        source.set("THREADS", THREADS);
        self.set(&mut source, THREADS);
        let bindings = vec![(0, false), (1, true)];
        Shader { name: "route", source: source.build("route.wgsl"), bindings, immediates: 0 }
    }

    /// The grid.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [1, u32(tokens as usize), 1]
    }
}

impl Routing {
    /// The chosen experts, the best first, each with its weight. A score that is infinite or no number
    /// comes first, and no weight is finite then: what comes of it says so. Minus infinity is the lowest.
    pub fn choose(&self, scores: &[f32]) -> Vec<(usize, f32)> {
        let score = |e: usize| if scores[e].is_nan() { f32::INFINITY } else { scores[e] };
        let mut order: Vec<usize> = (0..self.count).collect();
        // Stable: of equal scores the first comes first.
        order.sort_by(|a, b| score(*b).partial_cmp(&score(*a)).unwrap_or(Ordering::Equal));
        let top = score(order[0]);
        let share = |expert: &usize| (score(*expert) - top).exp();
        let over = if self.normalised { &order[..self.used] } else { &order[..] };
        let sum: f32 = over.iter().map(share).sum();
        order[..self.used].iter().map(|e| (*e, self.scale * share(e) / sum)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routing(count: usize, used: usize, normalised: bool) -> Routing {
        Routing { count, used, normalised, scale: 2.0 }
    }

    fn experts(chosen: &[(usize, f32)]) -> Vec<usize> {
        chosen.iter().map(|c| c.0).collect()
    }

    #[test]
    fn the_best_come_first_and_of_equals_the_first() {
        let chosen = routing(6, 4, true).choose(&[1.0, 3.0, 1.0, 3.0, -1.0, 1.0]);
        assert_eq!(experts(&chosen), [1, 3, 0, 2]);
        // Both zeros are the same number.
        assert_eq!(experts(&routing(3, 1, true).choose(&[-0.0, 0.0, -1.0])), [0]);
    }

    #[test]
    fn weights_are_shares_of_the_chosen_or_of_all() {
        let scores = [0.0f32, 4f32.ln(), 3f32.ln()];
        let weights = |used, normalised| -> Vec<f32> {
            routing(3, used, normalised).choose(&scores).iter().map(|c| (c.1 * 1e4).round() / 1e4).collect()
        };
        assert_eq!(weights(2, true), [1.1429, 0.8571]); // 4/7 and 3/7, twice
        assert_eq!(weights(2, false), [1.0, 0.75]); // 4/8 and 3/8
        assert_eq!(weights(3, true), weights(3, false), "all are taken");
        assert_eq!(routing(1, 1, true).choose(&[-7.0]), [(0, 2.0)]);
        // Scores are large numbers in some models: their differences count.
        let far = routing(2, 2, true).choose(&[1000.0, 1000.0]);
        assert_eq!(far, [(0, 1.0), (1, 1.0)]);
    }

    #[test]
    fn a_score_that_is_no_number_is_not_passed_over() {
        for normalised in [true, false] {
            let of = |score| routing(3, 1, normalised).choose(&[1.0, score, 2.0]);
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
                let chosen = of(bad);
                assert!(chosen[0].0 == 1 && chosen[0].1.is_nan(), "{bad}: {chosen:?}");
            }
            let chosen = of(f32::NEG_INFINITY);
            assert!(chosen[0].0 == 2 && chosen[0].1.is_finite(), "{chosen:?}");
            let all = routing(2, 2, normalised).choose(&[f32::NEG_INFINITY; 2]);
            assert!(all[0].1.is_nan() && all[1].1.is_nan(), "nothing is left to choose");
        }
    }
}
