// The key/value cache of a layer, and how a raw query or key row becomes a turned one.
//
// The cache is made of units of 16 bytes, UE numbers each. Keys: (kv heads, tiles of 32 positions,
// units of a head, 32), so that lanes which own a key each read one piece of memory. Behind them
// values: (kv heads, positions, units of a head), so that lanes which own a unit each do.
//
// In Q8_0 numbers are bytes, and the scales of blocks of 32 along a head are F16 numbers, two to a
// word, in a buffer of their own: words next to each other are written by different lanes, which
// components of one vector must not be. They lie as the units do. Keys: (kv heads, tiles, words of a
// head, 32); values: (kv heads, positions, words of a head).
#include "finite.wgsl"
const D: u32 = ${D}u;       // elements of a head
const UE: u32 = ${UE}u;     // numbers of a unit
const UV: u32 = UE / 4u;    // vec4s of a unit
const DU: u32 = ${DU}u;     // units of a head
const DV: u32 = DU * UV;    // vec4s of a head
const HEADS: u32 = ${HEADS}u;
const KV_HEADS: u32 = ${KV_HEADS}u;
const CONTEXT: u32 = ${CONTEXT}u; // positions: whole tiles
const ROTATED: u32 = ${ROTATED}u; // leading elements that RoPE turns
const STRIDE: u32 = ${STRIDE}u;   // elements of a token's raw rows
const K_AT: u32 = ${K_AT}u;       // where keys begin among them
const V_AT: u32 = ${V_AT}u;       // where values begin

// Where a position stands.
fn slot_of(position: u32) -> u32 {
#if RING
  return position % CONTEXT;
#else
  return position;
#endif
}
fn key_at(head: u32, position: u32, unit: u32) -> u32 {
  let slot = slot_of(position);
  return ((head * (CONTEXT / 32u) + slot / 32u) * DU + unit) * 32u + slot % 32u;
}
fn value_at(head: u32, position: u32, unit: u32) -> u32 {
  return ((KV_HEADS + head) * CONTEXT + slot_of(position)) * DU + unit;
}
#if SCALED
const WORDS: u32 = ${WORDS}u; // with scales of a head
fn key_scale_at(head: u32, position: u32, word: u32) -> u32 {
  let slot = slot_of(position);
  return ((head * (CONTEXT / 32u) + slot / 32u) * WORDS + word) * 32u + slot % 32u;
}
fn value_scale_at(head: u32, position: u32, word: u32) -> u32 {
  return ((KV_HEADS + head) * CONTEXT + slot_of(position)) * WORDS + word;
}
// The scale of a unit's block, of its word.
fn scale_of(word: u32, unit: u32) -> f32 {
  let pair = unpack2x16float(word);
  return select(pair.x, pair.y, (unit & 2u) != 0u);
}
#endif
// Two numbers as F16. What packing makes of numbers beyond its range, and of what is none, is anybody's
// guess: here none of them is a number.
fn halves(v: vec2<f32>) -> u32 {
  let beyond = (bitcast<vec2<u32>>(v) & vec2<u32>(0x7fffffffu)) >= vec2<u32>(0x477ff000u);
  return pack2x16float(v) | select(0u, 0x7e00u, beyond.x) | select(0u, 0x7e000000u, beyond.y);
}
#if KV_Q8_0
// Times their block's scale.
alias Unit = array<vec4<f32>, 4>;
fn loaded(v: vec4<u32>) -> Unit {
  return Unit(vec4<f32>(unpack4xI8(v.x)), vec4<f32>(unpack4xI8(v.y)), vec4<f32>(unpack4xI8(v.z)), vec4<f32>(unpack4xI8(v.w)));
}
#else
#if KV_F16
alias Unit = array<vec4<f32>, 2>;
fn stored(v: Unit) -> vec4<u32> {
  return vec4<u32>(halves(v[0].xy), halves(v[0].zw), halves(v[1].xy), halves(v[1].zw));
}
fn loaded(v: vec4<u32>) -> Unit {
  return Unit(vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)), vec4<f32>(unpack2x16float(v.z), unpack2x16float(v.w)));
}
#else
alias Unit = array<vec4<f32>, 1>;
#if CAPPED
fn stored(v: Unit) -> vec4<u32> { return bitcast<vec4<u32>>(without_infinity(v[0])); }
#else
fn stored(v: Unit) -> vec4<u32> { return bitcast<vec4<u32>>(v[0]); }
#endif
fn loaded(v: vec4<u32>) -> Unit { return Unit(bitcast<vec4<f32>>(v)); }
#endif
#endif

// Where the weights of the norms of queries and keys begin among the vectors: those of a head, or
// of all heads.
const Q_NORM: u32 = ${Q_NORM}u;
const K_NORM: u32 = ${K_NORM}u;
fn norm_of(first: u32, head: u32) -> u32 {
#if WHOLE_NORMS
  return first + head * D;
#else
  return first;
#endif
}

#if OVERLAPPED
// Raw rows of the workgroup's heads, queries, key, value, brought to workgroup memory as they come.
#if ROWS_APART
var<workgroup> rows: array<${ROW}, ${ROWS_AT_HAND}>;
#endif
var<private> own_head: u32; // the workgroup's first query head
fn bring_rows(kv_head: u32, live_heads: u32, lid: u32) {
  const OF_HEAD = D / ${ROW_SIZE}u;
  for (var i = lid; i < (HB + 2u) * OF_HEAD; i += THREADS) {
    let j = i / OF_HEAD;
    let of_query = (own_head + min(j, live_heads - 1u)) * D;
    let first = select(of_query, select(V_AT, K_AT, j == HB) + kv_head * D, j >= HB);
    var word = ${ROW_WORD}(0u);
    for (var p = 0u; p < POLLS && any(word == ${ROW_WORD}(0u)); p++) { word = qkv[first / ${ROW_SIZE}u + i % OF_HEAD]; }
    ${ROWS}[i] = ${RECEIVED}(word);
  }
}
// The row's piece with element `at` of the raw rows.
fn row_at(token: u32, at: u32) -> ${ROW} {
  var here = at - own_head * D;
  if at >= V_AT { here = (HB + 1u) * D + (at - V_AT) % D; } else if at >= K_AT { here = HB * D + (at - K_AT) % D; }
  return ${ROWS}[here / ${ROW_SIZE}u];
}
#else
fn row_at(token: u32, at: u32) -> ${ROW} { return qkv[(token * STRIDE + at) / ${ROW_SIZE}u]; }
#endif

#if ALIGNED
// Four elements of raw rows with their biases.
fn raw4(token: u32, at: u32, d: u32) -> vec4<f32> {
#if BIAS
  return row_at(token, at + d) + vectors[(at + d) / 4u];
#else
  return row_at(token, at + d);
#endif
}

// The same of queries and keys, times their norm's weight, which begins at `norm`.
fn weighted4(token: u32, at: u32, d: u32, norm: u32) -> vec4<f32> {
#if HEAD_NORMS
  return raw4(token, at, d) * vectors[(norm + d) / 4u];
#else
  return raw4(token, at, d);
#endif
}

// Four elements from d on of the head that begins at `at`, turned for their position. Everything
// is loaded first, from places that exist, and chosen after: loads in branches would wait for each
// other.
fn turned4(token: u32, at: u32, d: u32, position: u32, norm: u32) -> vec4<f32> {
  let own = weighted4(token, at, d, norm);
#if TURNED
#if NEIGHBOURS
  let turn = rope[(position * ROTATED + min(d, ROTATED - 4u)) / 4u]; // cosine, sine, twice
  let v = own * turn.xxzz + vec4<f32>(-own.y, own.x, -own.w, own.z) * turn.yyww;
#else
  const HALF = ROTATED / 2u;
  let low = d < HALF;
  let other = weighted4(token, at, select(min(d - HALF, D - 4u), d + HALF, low), norm);
  let pairs = (position * HALF + min(select(d - HALF, d, low), HALF - 4u)) / 2u;
  let a = rope[pairs]; // cosine, sine, twice
  let b = rope[pairs + 1u];
  let sine = vec4<f32>(a.y, a.w, b.y, b.w);
  let v = own * vec4<f32>(a.x, a.z, b.x, b.z) + other * select(sine, -sine, low);
#endif
  return select(v, own, d >= ROTATED);
#else
  return own;
#endif
}
#else
// A raw row's element with its bias.
fn raw(token: u32, at: u32) -> f32 {
#if BIAS
  return row_at(token, at) + vectors[at];
#else
  return row_at(token, at);
#endif
}
fn weighted(token: u32, at: u32, d: u32, norm: u32) -> f32 {
#if HEAD_NORMS
  return raw(token, at + d) * vectors[norm + d];
#else
  return raw(token, at + d);
#endif
}

// As above, where heads and turns are not whole vectors.
fn turned4(token: u32, at: u32, d: u32, position: u32, norm: u32) -> vec4<f32> {
  var v: vec4<f32>;
#if NEIGHBOURS
  var own: array<f32, 4>;
  var turn: array<vec2<f32>, 2>; // cosine, sine
#repeat i 4
  own[${i}u] = weighted(token, at, min(d + ${i}u, D - 1u), norm);
#end
#repeat i 2
  {
    turn[${i}u] = rope[position * (ROTATED / 2u) + min(d / 2u + ${i}u, max(ROTATED / 2u, 1u) - 1u)];
  }
#end
#repeat i 4
  {
    let a = own[${i}u & 2u];
    let b = own[(${i}u & 2u) + 1u];
    let t = turn[${i}u >> 1u];
    v[${i}u] = select(a * t.y + b * t.x, a * t.x - b * t.y, (${i}u & 1u) == 0u);
    v[${i}u] = select(v[${i}u], own[${i}u], d + ${i}u >= ROTATED);
  }
#end
#else
  const HALF = ROTATED / 2u;
  var own: array<f32, 4>;
  var other: array<f32, 4>;
  var turn: array<vec2<f32>, 4>; // cosine, sine
#repeat i 4
  {
    let e = min(d + ${i}u, D - 1u);
    own[${i}u] = weighted(token, at, e, norm);
    other[${i}u] = weighted(token, at, select(min(e - HALF, D - 1u), e + HALF, e < HALF), norm);
    turn[${i}u] = rope[position * HALF + min(select(e - HALF, e, e < HALF), max(HALF, 1u) - 1u)];
  }
#end
#repeat i 4
  {
    let t = turn[${i}u];
    v[${i}u] = select(other[${i}u] * t.y + own[${i}u] * t.x, own[${i}u] * t.x - other[${i}u] * t.y, d + ${i}u < HALF);
    v[${i}u] = select(v[${i}u], own[${i}u], d + ${i}u >= ROTATED);
  }
#end
#endif
#repeat i 4
  v[${i}u] = select(v[${i}u], 0.0, d + ${i}u >= D);
#end
  return v;
}
fn raw4(token: u32, at: u32, d: u32) -> vec4<f32> {
  var v: vec4<f32>;
#repeat i 4
  v[${i}u] = raw(token, at + min(d + ${i}u, D - 1u));
#end
#repeat i 4
  v[${i}u] = select(v[${i}u], 0.0, d + ${i}u >= D);
#end
  return v;
}

#endif

// A share of the squares of so many heads from the one that begins at `at` on: those of every
// `step`-th vector.
fn head_squares(token: u32, at: u32, heads: u32, first: u32, step: u32) -> f32 {
  var sum = 0.0;
  for (var i = first; i < heads * DV; i += step) {
    let v = raw4(token, at + i / DV * D, 4u * (i % DV));
    sum += dot(v, v);
  }
  return sum;
}
fn head_factor(squares: f32, heads: u32) -> f32 { return factor_of_norm(squares / f32(heads * D) + ${HEAD_EPS}); }

#if SCALED
#include "kv_block.wgsl"
#else
// A unit of a key, whose head's norm has a factor.
fn key_unit(token: u32, head: u32, unit: u32, position: u32, factor: f32) -> vec4<u32> {
  var v: Unit;
  let norm = norm_of(K_NORM, head);
#repeat i UV
  v[${i}u] = turned4(token, K_AT + head * D, unit * UE + 4u * ${i}u, position, norm) * factor;
#end
  return stored(v);
}
fn value_unit(token: u32, head: u32, unit: u32) -> vec4<u32> {
  var v: Unit;
#repeat i UV
  v[${i}u] = raw4(token, V_AT + head * D, unit * UE + 4u * ${i}u);
#end
  return stored(v);
}
#endif
