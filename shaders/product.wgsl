// The product of weights and ready-made activations, in the arithmetic of the form.
// Activations: xq holds the numbers of chunks of 32, xm a record per chunk, for its two groups of
// 16: (scale, sum, scale, sum), sum being that of the numbers times their scale.
#if INTEGER
alias Weights = vec4<u32>;
fn weights(q: vec4<u32>, bias: f32) -> Weights { return q; }
fn dot16(a: vec4<u32>, b: vec4<u32>) -> i32 {
  return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}
#if INT8
struct X { n: array<vec4<u32>, 2>, m: vec4<f32> }
#if OVERLAPPED
fn load_x(token: u32, c: u32) -> X {
  return X(array<vec4<u32>, 2>(numbers[2u * c], numbers[2u * c + 1u]), records[c]);
}
#else
fn load_x(token: u32, chunk: u32) -> X {
  let c = token * CHUNKS + chunk;
  return X(array<vec4<u32>, 2>(xq[2u * c], xq[2u * c + 1u]), xm[c]);
}
#endif
fn dots(a: Weights, b: Weights, x: X) -> vec2<f32> { return vec2<f32>(vec2<i32>(dot16(a, x.n[0]), dot16(b, x.n[1]))); }
fn x4(x: X, i: u32) -> vec4<f32> { return vec4<f32>(unpack4xI8(x.n[i >> 2u][i & 3u])); }
#else
// Two limbs: a number is 128 * high + low.
struct X { n: array<vec4<u32>, 4>, m: vec4<f32> }
#if OVERLAPPED
fn load_x(token: u32, c: u32) -> X {
  return X(array<vec4<u32>, 4>(numbers[4u * c], numbers[4u * c + 1u], numbers[4u * c + 2u], numbers[4u * c + 3u]), records[c]);
}
#else
fn load_x(token: u32, chunk: u32) -> X {
  let c = token * CHUNKS + chunk;
  return X(array<vec4<u32>, 4>(xq[4u * c], xq[4u * c + 1u], xq[4u * c + 2u], xq[4u * c + 3u]), xm[c]);
}
#endif
fn dots(a: Weights, b: Weights, x: X) -> vec2<f32> {
  return vec2<f32>(vec2<i32>(dot16(a, x.n[0]) * 128 + dot16(a, x.n[1]), dot16(b, x.n[2]) * 128 + dot16(b, x.n[3])));
}
fn x4(x: X, i: u32) -> vec4<f32> {
  let g = 2u * (i >> 2u);
  return vec4<f32>(unpack4xI8(x.n[g][i & 3u]) * 128 + unpack4xI8(x.n[g + 1u][i & 3u]));
}
#endif
#else
struct X { n: array<${ACT}, 8>, m: vec4<f32> }
fn load_x(token: u32, chunk: u32) -> X {
  let c = token * CHUNKS + chunk;
  let i = 8u * c;
  return X(array<${ACT}, 8>(xq[i], xq[i + 1u], xq[i + 2u], xq[i + 3u], xq[i + 4u], xq[i + 5u], xq[i + 6u], xq[i + 7u]), xm[c]);
}
#if F16
alias Number4 = vec4<f16>;
fn x4(x: X, i: u32) -> vec4<f32> { return vec4<f32>(x.n[i]); }
fn product4(a: Number4, n: Number4) -> f32 { return dot(vec4<f32>(a * n), vec4<f32>(1.0)); }
#else
alias Number4 = vec4<f32>;
#if F32
fn x4(x: X, i: u32) -> vec4<f32> { return x.n[i]; }
fn product4(a: Number4, n: vec4<f32>) -> f32 { return dot(a, n); }
#else
fn widened(n: vec2<u32>) -> vec4<f32> { return vec4<f32>(unpack2x16float(n.x), unpack2x16float(n.y)); }
fn x4(x: X, i: u32) -> vec4<f32> { return widened(x.n[i]); }
// Not quantizeToF16: it flushes small numbers to zero.
fn rounded(v: vec4<f32>) -> vec4<f32> {
  return widened(vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw)));
}
fn product4(a: Number4, n: vec2<u32>) -> f32 { return dot(rounded(a * widened(n)), vec4<f32>(1.0)); }
#endif
#endif
alias Weights = array<Number4, 4>;
fn weights4(q: u32, bias: f32) -> Number4 { return Number4(vec4<f32>(unpack4xI8(q)) - bias); }
fn weights(q: vec4<u32>, bias: f32) -> Weights {
  return Weights(weights4(q.x, bias), weights4(q.y, bias), weights4(q.z, bias), weights4(q.w, bias));
}
fn dots(a: Weights, b: Weights, x: X) -> vec2<f32> {
  return vec2<f32>(
    product4(a[0], x.n[0]) + product4(a[1], x.n[1]) + product4(a[2], x.n[2]) + product4(a[3], x.n[3]),
    product4(b[0], x.n[4]) + product4(b[1], x.n[5]) + product4(b[2], x.n[6]) + product4(b[3], x.n[7]));
}
#endif
