// Which experts a token takes: those of the highest scores, the first of equal ones. Every workgroup
// finds them for itself, which costs less than a dispatch. See src/kernels/route.rs.
@group(0) @binding(10) var<storage, read> scores: array<f32>; // (tokens, SCORE_STRIDE)

const EXPERTS: u32 = ${EXPERTS}u;
const USED: u32 = ${USED}u;
const SCORE_STRIDE: u32 = ${SCORE_STRIDE}u;

#if CHOSEN
var<workgroup> all_scores: array<vec4<f32>, ${EXPERT_VECTORS}>;
var<workgroup> chosen: array<u32, USED>;     // the best first
var<workgroup> best_scores: array<f32, USED>; // theirs

fn choose(token: u32, lid: u32) {
  for (var e = lid; e < ${EXPERT_VECTORS}u * 4u; e += THREADS) {
    let score = scores[token * SCORE_STRIDE + min(e, EXPERTS - 1u)];
    all_scores[e >> 2u][e & 3u] = select(-3.4e38, score, e < EXPERTS);
  }
  for (var k = lid; k < USED; k += THREADS) { chosen[k] = 0u; }
  workgroupBarrier();
  for (var e = lid; e < EXPERTS; e += THREADS) {
    let mine = vec4<f32>(all_scores[e >> 2u][e & 3u]);
    var ahead = vec4<u32>(0u);
    for (var k = 0u; k < ${EXPERT_VECTORS}u; k++) {
      let others = all_scores[k];
      let earlier = vec4<u32>(4u * k, 4u * k + 1u, 4u * k + 2u, 4u * k + 3u) < vec4<u32>(e);
      ahead += select(vec4<u32>(0u), vec4<u32>(1u), (others > mine) | ((others == mine) & earlier));
    }
    let place = ahead.x + ahead.y + ahead.z + ahead.w;
    if place < USED {
      chosen[place] = e;
      best_scores[place] = mine.x;
    }
  }
  workgroupBarrier();
}

// What each share is divided by.
fn all_shares() -> f32 {
#if NORMALISED
  var sum = 0.0;
  for (var k = 0u; k < USED; k++) { sum += exp(best_scores[k] - best_scores[0]); }
  return sum;
#else
  var sum = vec4<f32>(0.0);
  for (var k = 0u; k < ${EXPERT_VECTORS}u; k++) { sum += exp(all_scores[k] - best_scores[0]); }
  return dot(sum, vec4<f32>(1.0));
#endif
}
fn share(slot: u32, all: f32) -> f32 { return ${ROUTING_SCALE} * exp(best_scores[slot] - best_scores[0]) / all; }
#endif
