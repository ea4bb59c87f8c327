// Which experts a token takes: those of the highest scores, the first of equal ones, and their
// weights. A whole workgroup is at it. See src/kernels/route.rs. Includer: score_at, picks, THREADS.
const EXPERTS: u32 = ${EXPERTS}u;
const USED: u32 = ${USED}u;
const FOURS: u32 = ${EXPERT_FOURS}u; // vec4s of scores
const ROWS: u32 = 4u * FOURS;
const SHARERS: u32 = ${ROUTE_SHARERS}u; // lanes that compare a score with others

#vectors all_scores FOURS
var<workgroup> places: array<atomic<u32>, ROWS>;
var<workgroup> best_scores: array<f32, USED>;
var<workgroup> best_experts: array<u32, USED>;

fn route(token: u32, lid: u32) {
  for (var e = lid; e < ROWS; e += THREADS) {
    // What is infinite or no number comes first, and makes weights that are no numbers; minus infinity comes
    // last, and the padding behind it.
    let bits = bitcast<u32>(score_at(token, min(e, EXPERTS - 1u)));
    let score = select(bits, 0x7f800000u, (bits & 0x7f800000u) == 0x7f800000u && bits != 0xff800000u);
    set_all_scores(e, bitcast<f32>(select(0xff800000u, score, e < EXPERTS)));
    atomicStore(&places[e], 0u);
  }
  workgroupBarrier();
  for (var t = lid; t < ROWS * SHARERS; t += THREADS) {
    let e = t % ROWS;
    let mine = vec4<f32>(all_scores1(e));
    var ahead = vec4<u32>(0u);
    for (var k = t / ROWS; k < FOURS; k += SHARERS) {
      let others = all_scores4(k);
      let earlier = vec4<u32>(4u * k, 4u * k + 1u, 4u * k + 2u, 4u * k + 3u) < vec4<u32>(e);
      ahead += select(vec4<u32>(0u), vec4<u32>(1u), (others > mine) | ((others == mine) & earlier));
    }
    atomicAdd(&places[e], ahead.x + ahead.y + ahead.z + ahead.w);
  }
  workgroupBarrier();
  for (var e = lid; e < EXPERTS; e += THREADS) {
    let place = atomicLoad(&places[e]);
    if place < USED {
      best_scores[place] = all_scores1(e);
      best_experts[place] = e;
    }
  }
  workgroupBarrier();
  for (var k = lid; k < USED; k += THREADS) {
#if NORMALISED
    var all = 0.0;
    for (var i = 0u; i < USED; i++) { all += exp(best_scores[i] - best_scores[0]); }
#else
    var each = vec4<f32>(0.0);
    for (var i = 0u; i < FOURS; i++) { each += exp(all_scores4(i) - best_scores[0]); }
    let all = dot(each, vec4<f32>(1.0));
#endif
    let weight = ${ROUTING_SCALE} * exp(best_scores[k] - best_scores[0]) / all;
    picks[token * (USED + 1u) + k] = vec2<u32>(best_experts[k], bitcast<u32>(weight));
  }
#if SHARE_GATE
  if lid == THREADS - 1u {
    let share = 1.0 / (1.0 + exp(-score_at(token, ${GATE_AT}u)));
    picks[token * (USED + 1u) + USED] = vec2<u32>(0u, bitcast<u32>(share));
  }
#endif
}
