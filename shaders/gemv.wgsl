// Matrices times vectors: one workgroup computes R tiles of 16 rows for T tokens. A lane owns one
// row of each tile and one of SLICES slices of the inner dimension; slices are summed in
// workgroup memory. No subgroup operation is used, so one form serves every adapter.
//
// Up to three matrices share a dispatch (Q, K and V), or two are paired row by row (gate and up):
// then a lane has a row of each, so that both share the activations that it loads: rows of the
// first matrix come before those of the second, and R is twice the tiles.
// The input's RMS norm is applied here as one factor per token: its producer has already
// multiplied by the norm's weight and left sums of squares.
//
// T = 1 is decoding; larger T reads each weight once for T tokens.
#include "types.wgsl"
#include "finite.wgsl"

#if ARGS
struct Args {
  tokens: u32, // tokens in the batch
  first: u32,  // first token of the input to use
}
var<immediate> args: Args;
#endif

@group(0) @binding(0) var<storage, read> w: array<vec4<u32>>;  // packed matrices
@group(0) @binding(1) var<storage, read> wt: array<u32>;       // the same bytes
#if OVERLAPPED
@group(0) @binding(2) @coherent var<storage, read_write> xq: array<vec4<u32>>;
@group(0) @binding(3) @coherent var<storage, read_write> xm: array<vec4<u32>>;
#else
@group(0) @binding(2) var<storage, read> xq: array<${ACT}>;    // (tokens, CHUNKS * numbers of a chunk)
@group(0) @binding(3) var<storage, read> xm: array<vec4<f32>>; // (tokens, CHUNKS) records
#endif
#if RAW
#if TAILED
@group(0) @binding(4) @coherent var<storage, read_write> out: array<f32>; // (SPLITS, STRIDE)
#else
@group(0) @binding(4) var<storage, read_write> out: array<Word>; // (tokens, STRIDE)
#endif
#if BIAS
@group(0) @binding(5) var<storage, read> bias: array<f32>; // (STRIDE)
#endif
#endif
#if TAILED
@group(0) @binding(12) var<storage, read_write> arrived: atomic<u32>; // left at 0
#endif
#if SETTLES
@group(0) @binding(13) var<storage, read_write> x: array<vec4<f32>>; // (STRIDE / 4) residual stream
@group(0) @binding(14) var<storage, read_write> oq: array<${NUMBERS_OUT}>;
@group(0) @binding(15) var<storage, read_write> om: array<vec2<Word>>;
@group(0) @binding(16) var<storage, read_write> squares_out: array<Word>; // of a group
#if VECTORS
@group(0) @binding(17) var<storage, read> vectors: array<vec4<f32>>; // see settle.wgsl
#endif
#endif
#if ROUTES
@group(0) @binding(18) var<storage, read_write> picks: array<vec2<u32>>; // (USED + 1): expert, weight
#endif
#if PICKED
@group(0) @binding(10) var<storage, read> picks: array<vec2<u32>>; // (tokens, PICKS): expert, weight
const PICKS: u32 = ${PICKS}u;
#endif
#if LOGITS
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // (tokens, STRIDE)
#if BEST
@group(0) @binding(5) var<storage, read_write> best: array<vec2<u32>>; // (tiles) bits of the largest logit, its row
#endif
#endif
#if RESIDUAL
@group(0) @binding(4) var<storage, read_write> x: array<Word>;   // (tokens, STRIDE) residual stream
#if OVERLAPPED
@group(0) @binding(11) @coherent var<storage, read_write> x_in: array<Word>;
#endif
@group(0) @binding(5) var<storage, read_write> oq: array<${NUMBERS_OUT}>;
@group(0) @binding(6) var<storage, read_write> om: array<vec2<Word>>;
@group(0) @binding(7) var<storage, read_write> squares_out: array<Word>; // (tokens, ${OUT_SQUARES}) of a group
@group(0) @binding(8) var<storage, read> norm: array<f32>; // (STRIDE) weight of the next norm; then the bias, of each expert
#endif
#if GATED
@group(0) @binding(4) var<storage, read_write> oq: array<${NUMBERS_OUT}>;
@group(0) @binding(5) var<storage, read_write> om: array<vec2<Word>>;
#if BIAS
@group(0) @binding(6) var<storage, read> bias: array<f32>; // (2, experts, STRIDE) gate's and up's, or up's alone
#endif
#endif
#if NORM
#if OVERLAPPED
@group(0) @binding(9) @coherent var<storage, read_write> squares_in: array<vec4<u32>>;
#else
@group(0) @binding(9) var<storage, read> squares_in: array<vec4<f32>>; // (tokens, SQUARES)
#endif
#endif

#include "overlap.wgsl"

const THREADS: u32 = ${THREADS}u;
const TEAMS: u32 = ${TEAMS}u;
const SLICES: u32 = THREADS / 16u / TEAMS;
const T: u32 = ${T}u;
const R: u32 = ${R}u;
const CHUNKS: u32 = ${CHUNKS}u;      // chunks of 32 in a token's activations
const STRIDE: u32 = ${STRIDE}u;      // elements (padded) of a token's output
const SQUARES: u32 = ${SQUARES}u;    // vec4s of sums of squares
const M0 = Matrix(${M0});
const M1 = Matrix(${M1});
const M2 = Matrix(${M2});

// A row's slices stand side by side; one vec4 more, so that rows begin in different banks.
const VECTORS: u32 = SLICES / 4u;
const PITCH: u32 = VECTORS + 1u;
// (R * T * 16, PITCH)
#vectors partial ${PARTIALS}
// (T * 4)
#vectors squares ${FOURS}
// (R * T * 4)
#vectors final_rows ${FOURS}
#if RESIDUAL
// (R * T * 4)
#vectors stream ${FOURS}
#endif

#if GATED
#include "activation.wgsl"
#endif
#if CAPPED
#include "cap.wgsl"
#endif
#if OVERLAPPED
// The activations, brought to workgroup memory as they come: a lane asks for all of its share at once, and
// again for what was not there. Nobody makes the groups of the padding: they are 0. If one lane gives up, no
// sum of the workgroup is a number.
var<workgroup> gave_up: atomic<u32>;
const GROUPS: u32 = ${GROUPS}u;
const NUMBERS: u32 = ${NUMBERS}u; // vectors of a token
const MADE: u32 = NUMBERS / CHUNKS * GROUPS / 2u; // of them
const UNMADE: vec4<u32> = vec4<u32>(0xffffffffu); // is 0 when it is received
var<workgroup> numbers: array<vec4<u32>, NUMBERS>;
var<workgroup> records: array<vec4<f32>, CHUNKS>;
fn number_at(k: u32) -> vec4<u32> { return xq[min(k, MADE - 1u)]; }
fn record_at(k: u32) -> vec4<u32> {
  let at = min(k, CHUNKS - 1u);
#if PADDED
  return select(xm[at], UNMADE, vec4<u32>(2u * at) + vec4<u32>(0u, 0u, 1u, 1u) >= vec4<u32>(GROUPS));
#else
  return xm[at];
#endif
}
#if NORM
fn squares_at(k: u32) -> vec4<u32> {
  let at = min(k, SQUARES - 1u);
#if SQUARES_PADDED
  return select(squares_in[at], UNMADE, vec4<u32>(4u * at) + vec4<u32>(0u, 1u, 2u, 3u) >= vec4<u32>(GROUPS));
#else
  return squares_in[at];
#endif
}
#endif
fn bring(lid: u32) {
  var there = true;
  var n: array<vec4<u32>, ${NUMBER_TURNS}>;
  var m: array<vec4<u32>, ${RECORD_TURNS}>;
#repeat k NUMBER_TURNS
  n[${k}u] = number_at(lid + ${k}u * THREADS);
#end
#repeat k RECORD_TURNS
  m[${k}u] = record_at(lid + ${k}u * THREADS);
#end
#repeat k NUMBER_TURNS
  for (var p = 0u; p < POLLS && any(n[${k}u] == vec4<u32>(0u)); p++) { n[${k}u] = number_at(lid + ${k}u * THREADS); }
  there = there && all(n[${k}u] != vec4<u32>(0u));
#if PADDED
  if lid + ${k}u * THREADS >= MADE { n[${k}u] = vec4<u32>(0x80808080u); }
#endif
  if lid + ${k}u * THREADS < NUMBERS { numbers[lid + ${k}u * THREADS] = n[${k}u] ^ vec4<u32>(0x80808080u); }
#end
#repeat k RECORD_TURNS
  for (var p = 0u; p < POLLS && any(m[${k}u] == vec4<u32>(0u)); p++) { m[${k}u] = record_at(lid + ${k}u * THREADS); }
  if lid + ${k}u * THREADS < CHUNKS { records[lid + ${k}u * THREADS] = received4(m[${k}u]); }
#end
  if !there { atomicStore(&gave_up, 1u); }
}
#endif
#include "product.wgsl"
${BLOCKS}
#if EMITS
#include "emit.wgsl"
#endif
#if SETTLES
fn branch_at(i: u32) -> vec4<f32> {
  var v = vec4<f32>(0.0);
#repeat z SPLITS
  v += vec4<f32>(out[${z}u * STRIDE + 4u * i], out[${z}u * STRIDE + 4u * i + 1u], out[${z}u * STRIDE + 4u * i + 2u], out[${z}u * STRIDE + 4u * i + 3u]);
#end
  return v;
}
#include "settle_body.wgsl"
#endif
#if ROUTES
fn score_at(token: u32, i: u32) -> f32 {
  var v = 0.0;
#repeat z SPLITS
  v += out[${z}u * STRIDE + i];
#end
  return v;
}
#include "route_body.wgsl"
#endif
#if TAILED
var<workgroup> is_last: u32;
#endif

#if BEST
// The bits of the largest of 16 logits, NaN where one is not finite, and the first row that has it.
fn best_of(rows: array<vec4<f32>, 4>, first: u32) -> vec2<u32> {
  let ends = vec4<u32>(0x7f800000u);
  let bad = ((bitcast<vec4<u32>>(rows[0]) & ends) == ends) | ((bitcast<vec4<u32>>(rows[1]) & ends) == ends)
          | ((bitcast<vec4<u32>>(rows[2]) & ends) == ends) | ((bitcast<vec4<u32>>(rows[3]) & ends) == ends);
  let tops = max(max(rows[0], rows[1]), max(rows[2], rows[3]));
  let top = max(max(tops.x, tops.y), max(tops.z, tops.w));
  var at = vec4<u32>(16u);
  let lane = vec4<u32>(0u, 1u, 2u, 3u);
  let same = vec4<f32>(top);
  at = select(at, lane + 12u, rows[3] == same);
  at = select(at, lane + 8u, rows[2] == same);
  at = select(at, lane + 4u, rows[1] == same);
  at = select(at, lane, rows[0] == same);
  let lowest = min(min(at.x, at.y), min(at.z, at.w));
  return vec2<u32>(select(bitcast<u32>(top), 0x7fc00000u, any(bad)), first + lowest);
}
#endif

// The sum over the slices of sum `i` (tile and token) and a row.
fn total(i: u32, row: u32) -> f32 {
  let first = (i * 16u + row) * PITCH;
  var sum = partial4(first);
  for (var k = 1u; k < VECTORS; k++) { sum += partial4(first + k); }
  return dot(sum, vec4<f32>(1.0));
}

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let row = lid & 15u;
  let team = lid / (16u * SLICES);
  let own_slice = (lid >> 4u) % SLICES; // of this workgroup
#if SPLIT
  let slice = wg.z * SLICES + own_slice;
#else
  let slice = own_slice;
#endif
#if ARGS
  let token = args.first + wg.y * T; // first token of this workgroup, in the input
  let tokens = args.tokens;
#else
#if CHOSEN
  // A dispatch has all tokens of a batch, each with its own experts.
  let token = wg.y;
  let tokens = wg.y + 1u;
#else
  let token = 0u;
  let tokens = 1u;
#endif
#endif
  // What a lane below 16 * OUTS finishes: output i = r * T + t, and sum i; gated, OUTS + i too.
  let i = lid >> 4u;
  let to = wg.y * T + i % T;
#if CHOSEN_HIDDEN
  let pick = picks[token * PICKS + wg.z];
  let expert = pick.x;
  let expert_tile = expert * ${EXPERT_TILES0}u;
#else
  let expert = 0u;
#endif
  let first_tile = wg.x * ${TILES_OF_A_GROUP}u;
#if TEAMED
  // The last workgroup may have tiles too many: it computes the last one again.
  let tile = min(first_tile + team * ${TILES_OF_A_TEAM}u, ${TILES}u - 1u);
#else
  let tile = first_tile;
#endif
  let out_tile = ${TILE0}u + first_tile + i / T;
  let live = i < ${OUTS}u && to < tokens && out_tile < ${TILE0}u + ${TILES}u;
  var acc: array<f32, ${SUMS}>; // (R, T)
#if OVERLAPPED
  // Weights are there whatever the stage before does.
${VARIABLES}${FETCHES}
  if lid == 0u { atomicStore(&gave_up, 0u); }
  workgroupBarrier();
#endif
  // What the end needs is asked for now, so that it is under way together with the rest.
#if RESIDUAL
  var old = 0.0;
  var weight = 0.0;
  var more = 0.0;
  if live {
#if OVERLAPPED
    var word = 0u;
    for (var p = 0u; p < POLLS && word == 0u; p++) { word = x_in[out_tile * 16u + row]; }
    old = received(word);
#else
    old = x[to * STRIDE + out_tile * 16u + row];
#endif
    weight = norm[out_tile * 16u + row];
#if BIAS
#if CHOSEN
    for (var k = 0u; k < PICKS - 1u; k++) {
      let pick = picks[token * PICKS + k];
      more += bitcast<f32>(pick.y) * norm[(1u + pick.x) * STRIDE + out_tile * 16u + row];
    }
#else
    more = norm[STRIDE + out_tile * 16u + row];
#endif
#endif
  }
#endif
#if NORM
  var square = 0.0;
  if i < T {
#if OVERLAPPED
    var of_groups: array<vec4<u32>, ${SQUARE_TURNS}>; // asked for at once
#repeat k SQUARE_TURNS
    of_groups[${k}u] = squares_at(row + ${k}u * 16u);
#end
#repeat k SQUARE_TURNS
    for (var p = 0u; p < POLLS && any(of_groups[${k}u] == vec4<u32>(0u)); p++) { of_groups[${k}u] = squares_at(row + ${k}u * 16u); }
    square += select(0.0, dot(received4(of_groups[${k}u]), vec4<f32>(1.0)), row + ${k}u * 16u < SQUARES);
#end
#else
    for (var k = row; k < SQUARES; k += 16u) { square += dot(squares_in[(token + i) * SQUARES + k], vec4<f32>(1.0)); }
#endif
  }
#endif
#if OVERLAPPED
  bring(lid);
  workgroupBarrier();
  if atomicLoad(&gave_up) != 0u {
#repeat k SUMS
    acc[${k}u] = bitcast<f32>(0x7fc00000u);
#end
  }
#else
${VARIABLES}${FETCHES}
#endif
#if BOOKS
  bring_books(lid);
  workgroupBarrier();
#endif
${PRODUCTS}
#repeat k SUMS
#if WHOLE_VECTORS
  set_partial(4u * PITCH * ((team * ${SUMS}u + ${k}u) * 16u + row) + own_slice, acc[${k}u]);
#else
  partial[((team * ${SUMS}u + ${k}u) * 16u + row) * PITCH + (own_slice >> 2u)][own_slice & 3u] = acc[${k}u];
#endif
#end
#if NORM
  if i < T { set_squares(lid, square); }
#endif
  workgroupBarrier();
  var v = 0.0;
  if live {
    let sum_at = i / (${TILES_OF_A_TEAM}u * T) * ${SUMS}u + i % (${TILES_OF_A_TEAM}u * T);
    v = total(sum_at, row);
#if BOUNDED
    v = without_infinity(vec4<f32>(v)).x;
#endif
#if SCALED
#if RAW
    let within = out_tile - ${TILE0}u;
    v *= select(select(${SCALE0}, ${SCALE1}, within >= ${TILES0}u), ${SCALE2}, within >= ${TILES01}u);
#else
    v *= ${SCALE0};
#endif
#endif
#if NORM
    let s = 4u * (i % T);
    let sum = dot(squares4(s) + squares4(s + 1u) + squares4(s + 2u) + squares4(s + 3u), vec4<f32>(1.0));
    let factor = factor_of_norm(sum / ${WIDTH} + ${EPS});
    v *= factor;
#endif
#if GATED
#if PAIRED_ROWS
    var u = total(sum_at + ${TILES_OF_A_TEAM}u * T, row);
#if BOUNDED
    u = without_infinity(vec4<f32>(u)).x;
#endif
#if SCALED
    u *= ${SCALE1};
#endif
#if NORM
    u *= factor;
#endif
#if BIAS
    v += bias[expert * STRIDE + out_tile * 16u + row];
    u += bias[(${EXPERTS}u + expert) * STRIDE + out_tile * 16u + row];
#endif
    v = gated(v, u);
#else
#if BIAS
    v += bias[expert * STRIDE + out_tile * 16u + row];
#endif
    v = activated(v);
#endif
#if CHOSEN_HIDDEN
    v *= bitcast<f32>(pick.y);
#endif
#if SHARE
    v *= bitcast<f32>(picks[to * PICKS + PICKS - 1u].y);
#endif
#endif
#if LOGITS
#if FACTORED
    v *= ${FACTOR};
#endif
#if CAPPED
    v = soft_capped(v, ${CAP});
#endif
#endif
#if RAW
#if BIAS
#if SPLIT
    v += select(0.0, bias[out_tile * 16u + row], wg.z == 0u);
#else
    v += bias[out_tile * 16u + row];
#endif
#endif
#endif
#if RAW
#if SPLIT
    out[wg.z * STRIDE + out_tile * 16u + row] = v;
#else
#if TAILED
    out[to * STRIDE + out_tile * 16u + row] = v;
#else
    out[to * STRIDE + out_tile * 16u + row] = sent(v);
#endif
#endif
#endif
#if RESIDUAL
    v += more;
#if FACTORED
    v *= ${FACTOR};
#endif
    v += old;
    x[to * STRIDE + out_tile * 16u + row] = sent(v);
#endif
#if LOGITS
    if out_tile * 16u + row < ${VOCAB}u { out[to * STRIDE + out_tile * 16u + row] = v; }
#endif
  }
#if GROUPED
#if BEST
  // Rows of the padding lose against every logit.
  if out_tile * 16u + row >= ${VOCAB}u { v = -3.4e38; }
#endif
  if i < ${OUTS}u {
#if RESIDUAL
    set_stream(lid, v);
    v *= weight;
#endif
    set_final_rows(lid, v);
  }
  workgroupBarrier();
  if live && row < 4u {
    let f = 4u * i;
    let rows = array<vec4<f32>, 4>(final_rows4(f), final_rows4(f + 1u), final_rows4(f + 2u), final_rows4(f + 3u));
#if BEST
    if row == 0u { best[out_tile] = best_of(rows, out_tile * 16u); }
#endif
#if EMITS
#if CHOSEN_HIDDEN
    emit((to * (PICKS - 1u) + wg.z) * (STRIDE / 16u) + out_tile, row, rows);
#else
    emit(to * (STRIDE / 16u) + out_tile, row, rows);
#endif
#endif
#if RESIDUAL
    if row == 0u {
      squares_out[to * ${OUT_SQUARES}u + out_tile] = sent(dot(stream4(f), stream4(f)) + dot(stream4(f + 1u), stream4(f + 1u))
        + dot(stream4(f + 2u), stream4(f + 2u)) + dot(stream4(f + 3u), stream4(f + 3u)));
    }
#endif
  }
#endif
#if TAILED
  // The last workgroup to arrive sees what all have written.
  storageBarrier();
  workgroupBarrier();
  if lid == 0u {
    let before = atomicAdd(&arrived, 1u);
    is_last = select(0u, 1u, before + 1u == ${WORKGROUPS}u);
    if before + 1u == ${WORKGROUPS}u { atomicStore(&arrived, 0u); }
  }
  if workgroupUniformLoad(&is_last) == 1u {
    storageBarrier();
#if SETTLES
    settle(0u, lid);
#else
    route(0u, lid);
#endif
  }
#endif
}
