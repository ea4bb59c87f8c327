// The key/value cache of a layer, and how a raw query or key row becomes a turned one.
//
// The cache is made of units of 16 bytes, UE numbers each. Keys: (kv heads, tiles of 32 positions,
// units of a head, 32), so that lanes which own a key each read one piece of memory. Behind them
// values: (kv heads, positions, units of a head), so that lanes which own a unit each do.
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

fn key_at(head: u32, position: u32, unit: u32) -> u32 {
  return ((head * (CONTEXT / 32u) + position / 32u) * DU + unit) * 32u + position % 32u;
}
fn value_at(head: u32, position: u32, unit: u32) -> u32 {
  return ((KV_HEADS + head) * CONTEXT + position) * DU + unit;
}
#if KV_F16
alias Unit = array<vec4<f32>, 2>;
fn stored(v: Unit) -> vec4<u32> {
  return vec4<u32>(pack2x16float(v[0].xy), pack2x16float(v[0].zw), pack2x16float(v[1].xy), pack2x16float(v[1].zw));
}
fn loaded(v: vec4<u32>) -> Unit {
  return Unit(vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)), vec4<f32>(unpack2x16float(v.z), unpack2x16float(v.w)));
}
#else
alias Unit = array<vec4<f32>, 1>;
fn stored(v: Unit) -> vec4<u32> { return bitcast<vec4<u32>>(v[0]); }
fn loaded(v: vec4<u32>) -> Unit { return Unit(bitcast<vec4<f32>>(v)); }
#endif

// A raw row's element with its bias.
fn raw(token: u32, at: u32) -> f32 {
#if BIAS
  return qkv[token * STRIDE + at] + bias[at];
#else
  return qkv[token * STRIDE + at];
#endif
}

// Element d of the head that begins at `at`, turned for its position.
fn turned(token: u32, at: u32, d: u32, position: u32) -> f32 {
  if d >= D { return 0.0; }
  if d >= ROTATED { return raw(token, at + d); }
#if NEIGHBOURS
  let pair = d >> 1u;
  let a = raw(token, at + 2u * pair);
  let b = raw(token, at + 2u * pair + 1u);
  let first = (d & 1u) == 0u;
#else
  let pair = d % (ROTATED / 2u);
  let a = raw(token, at + pair);
  let b = raw(token, at + pair + ROTATED / 2u);
  let first = d < ROTATED / 2u;
#endif
  let turn = rope[position * (ROTATED / 2u) + pair]; // cosine, sine
  return select(a * turn.y + b * turn.x, a * turn.x - b * turn.y, first);
}

fn turned4(token: u32, at: u32, d: u32, position: u32) -> vec4<f32> {
  return vec4<f32>(turned(token, at, d, position), turned(token, at, d + 1u, position),
                   turned(token, at, d + 2u, position), turned(token, at, d + 3u, position));
}
fn raw4(token: u32, at: u32, d: u32) -> vec4<f32> {
  var v = vec4<f32>(0.0);
  for (var i = 0u; i < 4u; i++) {
    if d + i < D { v[i] = raw(token, at + d + i); }
  }
  return v;
}

fn key_unit(token: u32, head: u32, unit: u32, position: u32) -> vec4<u32> {
  var v: Unit;
  for (var i = 0u; i < UV; i++) { v[i] = turned4(token, K_AT + head * D, unit * UE + 4u * i, position); }
  return stored(v);
}
fn value_unit(token: u32, head: u32, unit: u32) -> vec4<u32> {
  var v: Unit;
  for (var i = 0u; i < UV; i++) { v[i] = raw4(token, V_AT + head * D, unit * UE + 4u * i); }
  return stored(v);
}
