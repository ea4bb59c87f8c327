//! Choosing a token's experts from the router's scores. The last workgroup of the router's product
//! does it where workgroups can see each other's writes, else a dispatch of its own.

use super::source::Source;
use super::{Form, Shader, u32};

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
        8 * self.routing.count.next_multiple_of(4) + 4 * self.routing.used
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
    /// The chosen experts, the best first, each with its weight.
    pub fn choose(&self, scores: &[f32]) -> Vec<(usize, f32)> {
        let mut order: Vec<usize> = (0..self.count).collect();
        // Stable: of equal scores the first comes first.
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let top = scores[order[0]];
        let share = |expert: &usize| (scores[*expert] - top).exp();
        let over = if self.normalised { &order[..self.used] } else { &order[..] };
        let sum: f32 = over.iter().map(share).sum();
        order[..self.used].iter().map(|e| (*e, self.scale * share(e) / sum)).collect()
    }
}
