//! Choosing a token's experts from the router's scores: the twin of `route.wgsl`, which stands in
//! the prologue of the products that need the choice.

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
