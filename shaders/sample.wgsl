// The next token by sampling: penalty, top-k, top-p, min-p, temperature, in that order. One
// workgroup; nothing is sorted.
//
// Each of top-k, top-p and min-p keeps the logits from some value upwards (ties with the last one
// included), so the kept set is a threshold, found bit by bit on an ordered integer key. The
// choice among the kept is the Gumbel-max trick: the largest of logit / T + Gumbel noise, which is
// a draw from their softmax, and needs no order and no running sum.
//
// With top-k on, the k best lie in tiles whose best reaches the k-th best of tiles' bests: only
// those logits are gathered. What does not fit, and top-p without top-k, walks all logits.
struct Args {
  position: u32, // of the new token
  step: u32,     // counts the draws of a generation
  top_k: u32,    // 0: off
  temperature: f32, // 0: the best of the kept
  top_p: f32,    // 1 or more: off
  min_p: f32,    // 0: off
  penalty: f32,  // 1: off
  seed_low: u32,
  seed_high: u32,
}
var<immediate> args: Args;

@group(0) @binding(0) var<storage, read_write> logits: array<f32>; // (VOCAB)
@group(0) @binding(1) var<storage, read_write> best: array<vec2<u32>>; // (TILES) bits of the largest logit, its row
@group(0) @binding(2) var<storage, read_write> ids: array<u32>; // (context)

const VOCAB: u32 = ${VOCAB}u;
const TILES: u32 = (VOCAB + 15u) / 16u;
const FAILED: u32 = 0xffffffffu;
const LAST: u32 = 64u;   // tokens that the penalty looks back on
const MOST: u32 = 1024u; // candidates that are gathered
const THREADS: u32 = 256u;

var<workgroup> value: array<f32, MOST>;
var<workgroup> token: array<u32, MOST>;
var<workgroup> found: atomic<u32>;
var<workgroup> count: u32;
var<workgroup> partial: array<f32, THREADS>;
var<workgroup> partial_id: array<u32, THREADS>;

// Integers in the order of the floats.
fn key(v: f32) -> u32 {
  let b = bitcast<u32>(v);
  return select(b | 0x80000000u, ~b, (b >> 31u) == 1u);
}
fn not_finite(bits: u32) -> bool { return (bits & 0x7f800000u) == 0x7f800000u; }

#if SUBGROUPS
var<private> lane: u32;
var<private> subgroup: u32;
var<private> subgroups: u32;
fn total(v: f32, lid: u32) -> f32 {
  let s = subgroupAdd(v);
  if lane == 0u { partial[subgroup] = s; }
  workgroupBarrier();
  var sum = 0.0;
  for (var i = 0u; i < subgroups; i++) { sum += partial[i]; }
  workgroupBarrier();
  return sum;
}
fn largest(v: f32, lid: u32) -> f32 {
  let s = subgroupMax(v);
  if lane == 0u { partial[subgroup] = s; }
  workgroupBarrier();
  var top = partial[0];
  for (var i = 1u; i < subgroups; i++) { top = max(top, partial[i]); }
  workgroupBarrier();
  return top;
}
#else
fn total(v: f32, lid: u32) -> f32 {
  partial[lid] = v;
  workgroupBarrier();
  for (var half = THREADS / 2u; half > 0u; half >>= 1u) {
    if lid < half { partial[lid] += partial[lid + half]; }
    workgroupBarrier();
  }
  let sum = partial[0];
  workgroupBarrier();
  return sum;
}
fn largest(v: f32, lid: u32) -> f32 {
  partial[lid] = v;
  workgroupBarrier();
  for (var half = THREADS / 2u; half > 0u; half >>= 1u) {
    if lid < half { partial[lid] = max(partial[lid], partial[lid + half]); }
    workgroupBarrier();
  }
  let top = partial[0];
  workgroupBarrier();
  return top;
}
#endif

// The best of a tile, again, after the penalty.
fn tile_best(tile: u32) -> vec2<u32> {
  var top = logits[tile * 16u];
  var at = tile * 16u;
  var bad = not_finite(bitcast<u32>(top));
  for (var i = at + 1u; i < min(tile * 16u + 16u, VOCAB); i++) {
    let l = logits[i];
    bad = bad || not_finite(bitcast<u32>(l));
    if l > top { top = l; at = i; }
  }
  return vec2<u32>(select(bitcast<u32>(top), 0x7fc00000u, bad), at);
}

// A logit among the gathered ones, or among all.
fn logit(i: u32, gathered: bool) -> f32 {
  if gathered { return value[i]; }
  return logits[i];
}

// Uniform in (0, 1), a function of seed, step and id.
fn mix(a: u32) -> u32 {
  var x = a;
  x = (x ^ (x >> 16u)) * 0x7feb352du;
  x = (x ^ (x >> 15u)) * 0x846ca68bu;
  return x ^ (x >> 16u);
}
fn gumbel(id: u32) -> f32 {
  let h = mix(id ^ mix(args.step ^ mix(args.seed_high ^ mix(args.seed_low ^ 0x9e3779b9u))));
  let u = (f32(h >> 9u) + 0.5) * 0x1p-23; // 23 bits: exact, and never 1
  // An exponential variate, -ln(1 - u): the series where the logarithm loses digits.
  let near = u * (1.0 + u * (0.5 + u * (0.33333334 + u * (0.25 + u * (0.2 + u * 0.16666667)))));
  let e = select(-log(1.0 - u), near, u < 0.0625);
  return -log(e);
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lid: u32
#if SUBGROUPS
  , @builtin(subgroup_invocation_id) my_lane: u32, @builtin(subgroup_id) my_subgroup: u32
  , @builtin(num_subgroups) my_subgroups: u32
#endif
) {
#if SUBGROUPS
  lane = my_lane; subgroup = my_subgroup; subgroups = my_subgroups;
#endif
  if args.penalty != 1.0 {
    let id = ids[args.position - 1u - min(lid, args.position - 1u)];
    let mine = lid < min(LAST, args.position) && id < VOCAB;
    var first = mine;
    if mine {
      for (var j = 0u; j < lid; j++) { first = first && ids[args.position - 1u - j] != id; }
    }
    if first {
      let l = logits[id];
      logits[id] = select(l * args.penalty, l / args.penalty, l > 0.0);
    }
    storageBarrier();
    workgroupBarrier();
    if first { best[id / 16u] = tile_best(id / 16u); }
    storageBarrier();
    workgroupBarrier();
  }

  var top = -3.4e38;
  var failures = 0.0;
  for (var i = lid; i < TILES; i += THREADS) {
    let b = best[i].x;
    if not_finite(b) { failures += 1.0; } else { top = max(top, bitcast<f32>(b)); }
  }
  failures = total(failures, lid);
  top = largest(top, lid);

  // Gather the candidates.
  var floor_key = 0u; // a key that all candidates reach
  var gathered = false;
  if args.top_k > 0u && args.top_k < TILES {
    for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
      var n = 0.0;
      for (var i = lid; i < TILES; i += THREADS) { n += select(0.0, 1.0, key(bitcast<f32>(best[i].x)) >= (floor_key | bit)); }
      if total(n, lid) >= f32(args.top_k) { floor_key |= bit; }
    }
    gathered = true;
  } else if args.top_p >= 1.0 && args.min_p > 0.0 {
    floor_key = key(top + log(args.min_p));
    gathered = true;
  }
  if lid == 0u { atomicStore(&found, 0u); }
  workgroupBarrier();
  if gathered {
    for (var i = lid; i < TILES; i += THREADS) {
      if key(bitcast<f32>(best[i].x)) < floor_key { continue; }
      for (var r = 16u * i; r < min(16u * i + 16u, VOCAB); r++) {
        let l = logits[r];
        if key(l) < floor_key { continue; }
        let n = atomicAdd(&found, 1u);
        if n < MOST { value[n] = l; token[n] = r; }
      }
    }
  }
  workgroupBarrier();
  if lid == 0u { count = atomicLoad(&found); }
  let n = workgroupUniformLoad(&count);
  gathered = gathered && n <= MOST;
  let all = select(VOCAB, n, gathered);

  // Top-k, then top-p, then min-p: each raises the key that is needed to stay.
  var least = 0u;
  if args.top_k > 0u && args.top_k < VOCAB {
    for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
      var c = 0.0;
      for (var i = lid; i < all; i += THREADS) { c += select(0.0, 1.0, key(logit(i, gathered)) >= (least | bit)); }
      if total(c, lid) >= f32(args.top_k) { least |= bit; }
    }
  }
  if args.top_p < 1.0 {
    var mass = 0.0;
    for (var i = lid; i < all; i += THREADS) {
      let l = logit(i, gathered);
      if key(l) >= least { mass += exp(l - top); }
    }
    let wanted = args.top_p * total(mass, lid);
    var nucleus = 0u;
    for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
      mass = 0.0;
      for (var i = lid; i < all; i += THREADS) {
        let l = logit(i, gathered);
        if key(l) >= max(least, nucleus | bit) { mass += exp(l - top); }
      }
      if total(mass, lid) >= wanted { nucleus |= bit; }
    }
    least = max(least, nucleus);
  }
  if args.min_p > 0.0 { least = max(least, key(top + log(args.min_p))); }
  least = min(least, key(top)); // the best always stays

  var score = -3.4e38;
  var choice = FAILED;
  for (var i = lid; i < all; i += THREADS) {
    let l = logit(i, gathered);
    if key(l) < least { continue; }
    var id = i;
    if gathered { id = token[i]; }
    var s = l;
    if args.temperature > 0.0 { s = (l - top) / args.temperature + gumbel(id); }
    if s > score || (s == score && id < choice) { score = s; choice = id; }
  }
  partial[lid] = score;
  partial_id[lid] = choice;
  workgroupBarrier();
  for (var half = THREADS / 2u; half > 0u; half >>= 1u) {
    if lid < half {
      let s = partial[lid + half];
      let id = partial_id[lid + half];
      if s > partial[lid] || (s == partial[lid] && id < partial_id[lid]) { partial[lid] = s; partial_id[lid] = id; }
    }
    workgroupBarrier();
  }
  // The best always stays, so there is a choice; without one the mark of failure stands.
  if lid == 0u { ids[args.position] = select(partial_id[0], FAILED, failures > 0.0); }
}
