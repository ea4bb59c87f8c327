// Matrices times vectors: one workgroup computes a tile of 16 rows for T tokens. A lane owns one
// row of the tile and one of SLICES slices of the inner dimension; slices are summed in
// workgroup memory. No subgroup operation is used, so one form serves every adapter.
//
// Up to three matrices share a dispatch (Q, K and V), or two are paired row by row (gate and up).
// The input's RMS norm is applied here as one factor per token: its producer has already
// multiplied by the norm's weight and left sums of squares.
//
// T = 1 is decoding; larger T reads each weight once for T tokens.
#include "types.wgsl"

struct Args {
  tokens: u32, // tokens in the batch
  first: u32,  // first token of the input to use
}
var<immediate> args: Args;

@group(0) @binding(0) var<storage, read> w: array<vec4<u32>>;  // packed matrices
@group(0) @binding(1) var<storage, read> wt: array<u32>;       // the same bytes
@group(0) @binding(2) var<storage, read> xq: array<${ACT}>;    // (tokens, GROUPS * 4)
@group(0) @binding(3) var<storage, read> xm: array<vec4<f32>>; // (tokens, GROUPS)
#if RAW
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // (tokens, STRIDE)
#endif
#if LOGITS
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // (tokens, STRIDE)
#if BEST
@group(0) @binding(5) var<storage, read_write> best: array<vec2<u32>>; // (tiles) bits of the largest logit, its row
#endif
#endif
#if RESIDUAL
@group(0) @binding(4) var<storage, read_write> x: array<f32>;   // (tokens, STRIDE) residual stream
@group(0) @binding(5) var<storage, read_write> oq: array<${ACT}>;
@group(0) @binding(6) var<storage, read_write> om: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> norm: array<vec4<f32>>; // (STRIDE / 4) weight of the next norm; then the bias
#endif
#if GATED
@group(0) @binding(4) var<storage, read_write> oq: array<${ACT}>;
@group(0) @binding(5) var<storage, read_write> om: array<vec4<f32>>;
#if BIAS
@group(0) @binding(6) var<storage, read> bias: array<f32>; // (2, STRIDE) gate's and up's
#endif
#endif

const THREADS: u32 = ${THREADS}u;
const SLICES: u32 = THREADS / 16u;
const T: u32 = ${T}u;
const CHUNKS: u32 = ${CHUNKS}u;      // chunks of 32 in a row
const GROUPS: u32 = 2u * CHUNKS;     // groups of 16 in a token's activations
const STRIDE: u32 = ${STRIDE}u;      // elements (or groups, where activations are written) of a token's output
const M0 = Matrix(${M0});
const M1 = Matrix(${M1});
const M2 = Matrix(${M2});

// Sums over slices are made in two rounds: PARTS lanes a row first.
const PARTS: u32 = ${PARTS}u;
const LANES: u32 = THREADS / T; // that add up a token's squares
var<workgroup> partial: array<f32, ${PARTIALS}>; // (sums, T, SLICES, 16)
var<workgroup> second: array<f32, ${SECONDS}>;   // (sums, T, PARTS, 16)
var<workgroup> squares: array<f32, THREADS>;     // (T, LANES)
var<workgroup> squares2: array<f32, ${FINALS}>;  // (T, 16)
var<workgroup> final_rows: array<f32, ${FINALS}>; // (T, 16)

#include "product.wgsl"
${BLOCKS}
#if EMITS
#include "emit.wgsl"
#endif

// The first round over what the workgroup has left in `partial` as sum number k.
fn first_round(k: u32, lid: u32) {
  if lid < 16u * T * PARTS {
    let t = lid / (16u * PARTS);
    let part = (lid / 16u) % PARTS;
    var sum = 0.0;
    for (var s = part; s < SLICES; s += PARTS) { sum += partial[(k * T + t) * THREADS + s * 16u + (lid & 15u)]; }
    second[(k * T * 16u * PARTS) + lid] = sum;
  }
}
// The second: the row and token that this lane finishes (lanes below 16 T).
fn second_round(k: u32, lid: u32) -> f32 {
  var sum = 0.0;
  if lid < 16u * T {
    for (var part = 0u; part < PARTS; part++) {
      sum += second[((k * T + (lid >> 4u)) * PARTS + part) * 16u + (lid & 15u)];
    }
  }
  return sum;
}

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let row = lid & 15u;
  let slice = lid >> 4u;
  let out_tile = ${TILE0}u + wg.x;
  let token = args.first + wg.y * T; // first token of this workgroup, in the input
#if NORM
  // Asked for before the weights, so that both are under way together.
  var square = 0.0;
  for (var g = lid % LANES; g < GROUPS; g += LANES) { square += xm[(token + lid / LANES) * GROUPS + g].z; }
#endif
  let tile = wg.x;
  // This lane's token in the batch and in the output.
  let to = wg.y * T + (lid >> 4u);
  let live = lid < 16u * T && to < args.tokens;
  let mine = wg.y * T + lid;
#if RESIDUAL
  // What the epilogue reads is asked for now, not when it is needed.
  var old = 0.0;
  if live { old = x[to * STRIDE + out_tile * 16u + row]; }
  var norms: array<vec4<f32>, 4>;
  if lid < T { norms = array<vec4<f32>, 4>(norm[out_tile * 4u], norm[out_tile * 4u + 1u], norm[out_tile * 4u + 2u], norm[out_tile * 4u + 3u]); }
#endif
  var acc: array<f32, T>;
#if GATED
  var up: array<f32, T>;
${LOOP0}
${LOOP1}
  for (var t = 0u; t < T; t++) { partial[(T + t) * THREADS + lid] = up[t]; }
#else
  if tile < ${END0}u {
${LOOP0}
  }
#if TWO
  else if tile < ${END1}u {
${LOOP1}
  }
  else {
${LOOP2}
  }
#endif
#endif
  for (var t = 0u; t < T; t++) { partial[t * THREADS + lid] = acc[t]; }
#if NORM
  squares[lid] = square;
#endif
  workgroupBarrier();
  first_round(0u, lid);
#if GATED
  first_round(1u, lid);
#endif
#if NORM
  if lid < 16u * T {
    var sum = 0.0;
    for (var i = lid & 15u; i < LANES; i += 16u) { sum += squares[(lid >> 4u) * LANES + i]; }
    squares2[lid] = sum;
  }
#endif
  workgroupBarrier();
  var v = second_round(0u, lid);
#if NORM
  var factor = 0.0;
  if lid < 16u * T {
    for (var i = 0u; i < 16u; i++) { factor += squares2[(lid & ~15u) + i]; }
  }
  factor = inverseSqrt(factor / ${WIDTH} + ${EPS});
  v *= factor;
#endif
#if GATED
  var u = second_round(1u, lid) * factor;
#if BIAS
  if lid < 16u * T {
    v += bias[out_tile * 16u + row];
    u += bias[STRIDE + out_tile * 16u + row];
  }
#endif
  if lid < 16u * T { final_rows[lid] = v / (1.0 + exp(-v)) * u; }
#endif
#if RAW
  if live { out[to * STRIDE + out_tile * 16u + row] = v; }
#endif
#if LOGITS
  let id = out_tile * 16u + row;
  let inside = id < ${VOCAB}u;
  if live && inside { out[to * STRIDE + id] = v; }
#if BEST
  if lid < 16u { final_rows[lid] = select(-3.4e38, v, inside); }
  workgroupBarrier();
  if lid == 0u {
    var top = final_rows[0];
    var at = 0u;
    var bad = false;
    for (var r = 0u; r < 16u; r++) {
      let l = final_rows[r];
      bad = bad || (bitcast<u32>(l) & 0x7f800000u) == 0x7f800000u;
      if l > top { top = l; at = r; }
    }
    best[out_tile] = vec2<u32>(select(bitcast<u32>(top), 0x7fc00000u, bad), id + at);
  }
#endif
#endif
#if RESIDUAL
  if live {
    let i = to * STRIDE + out_tile * 16u + row;
    var sum = old + v;
#if BIAS
    sum += norm[(STRIDE + out_tile * 16u + row) / 4u][row & 3u];
#endif
    x[i] = sum;
    final_rows[lid] = sum;
  }
  workgroupBarrier();
  if lid < T && mine < args.tokens {
    var a: array<vec4<f32>, 4>;
    var s = 0.0;
    for (var i = 0u; i < 4u; i++) {
      let f = lid * 16u + i * 4u;
      let r = vec4<f32>(final_rows[f], final_rows[f + 1u], final_rows[f + 2u], final_rows[f + 3u]);
      s += dot(r, r);
      a[i] = r * norms[i];
    }
    emit(mine * (STRIDE / 16u) + out_tile, a, s);
  }
#endif
#if GATED
  workgroupBarrier();
  if lid < T && mine < args.tokens {
    var a: array<vec4<f32>, 4>;
    for (var i = 0u; i < 4u; i++) {
      let f = lid * 16u + i * 4u;
      a[i] = vec4<f32>(final_rows[f], final_rows[f + 1u], final_rows[f + 2u], final_rows[f + 3u]);
    }
    emit(mine * (STRIDE / 16u) + out_tile, a, 0.0);
  }
#endif
}
