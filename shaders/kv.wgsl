// The key/value cache of a layer, and how a raw query or key row becomes a turned one.
// Cache: (2, kv heads, context, DP) numbers, keys first, DP = head size rounded up to 4.
const D: u32 = ${D}u;       // elements of a head
const DP: u32 = ${DP}u;     // the same, rounded up to 4
const HEADS: u32 = ${HEADS}u;
const KV_HEADS: u32 = ${KV_HEADS}u;
const CONTEXT: u32 = ${CONTEXT}u;
const ROTATED: u32 = ${ROTATED}u; // leading elements that RoPE turns
const STRIDE: u32 = ${STRIDE}u;   // elements of a token's raw rows
const K_AT: u32 = ${K_AT}u;       // where keys begin among them
const V_AT: u32 = ${V_AT}u;       // where values begin

fn cache_index(which: u32, head: u32, position: u32, d4: u32) -> u32 {
  return ((which * KV_HEADS + head) * CONTEXT + position) * (DP / 4u) + d4;
}
#if KV_F16
fn stored(v: vec4<f32>) -> vec2<u32> { return vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw)); }
fn loaded(v: vec2<u32>) -> vec4<f32> { return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)); }
#else
fn stored(v: vec4<f32>) -> vec4<f32> { return v; }
fn loaded(v: vec4<f32>) -> vec4<f32> { return v; }
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

fn key4(token: u32, head: u32, d4: u32, position: u32) -> vec4<f32> {
  let at = K_AT + head * D;
  let d = 4u * d4;
  return vec4<f32>(turned(token, at, d, position), turned(token, at, d + 1u, position),
                   turned(token, at, d + 2u, position), turned(token, at, d + 3u, position));
}

fn value4(token: u32, head: u32, d4: u32) -> vec4<f32> {
  let at = V_AT + head * D;
  var v = vec4<f32>(0.0);
  for (var i = 0u; i < 4u; i++) {
    if 4u * d4 + i < D { v[i] = raw(token, at + 4u * d4 + i); }
  }
  return v;
}
