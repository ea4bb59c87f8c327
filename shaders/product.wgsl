// The product of weights and ready-made activations, in the arithmetic of the form.
// Activations: xq holds the numbers of groups of 16, xm a record per group: (scale, sum of the
// numbers times scale, sum of squares of the residual, unused).
#if F32
alias Weights = array<vec4<f32>, 4>;
fn weights(a: u32, b: u32, c: u32, d: u32) -> Weights {
  return Weights(vec4<f32>(unpack4xI8(a)), vec4<f32>(unpack4xI8(b)), vec4<f32>(unpack4xI8(c)), vec4<f32>(unpack4xI8(d)));
}
fn product(w: Weights, g: u32) -> f32 {
  let i = 4u * g;
  return dot(w[0], xq[i]) + dot(w[1], xq[i + 1u]) + dot(w[2], xq[i + 2u]) + dot(w[3], xq[i + 3u]);
}
fn x4(i: u32) -> vec4<f32> { return xq[i]; }
#endif
#if F16
alias Number4 = vec4<f16>;
alias Weights = array<vec4<f16>, 4>;
fn weights(a: u32, b: u32, c: u32, d: u32) -> Weights {
  return Weights(vec4<f16>(unpack4xI8(a)), vec4<f16>(unpack4xI8(b)), vec4<f16>(unpack4xI8(c)), vec4<f16>(unpack4xI8(d)));
}
fn product4(a: Number4, i: u32) -> f32 { return dot(vec4<f32>(a * xq[i]), vec4<f32>(1.0)); }
fn product(w: Weights, g: u32) -> f32 {
  let i = 4u * g;
  return product4(w[0], i) + product4(w[1], i + 1u) + product4(w[2], i + 2u) + product4(w[3], i + 3u);
}
fn x4(i: u32) -> vec4<f32> { return vec4<f32>(xq[i]); }
#endif
#if F16_STORED
alias Number4 = vec4<f32>;
alias Weights = array<vec4<f32>, 4>;
fn weights(a: u32, b: u32, c: u32, d: u32) -> Weights {
  return Weights(vec4<f32>(unpack4xI8(a)), vec4<f32>(unpack4xI8(b)), vec4<f32>(unpack4xI8(c)), vec4<f32>(unpack4xI8(d)));
}
fn x4(i: u32) -> vec4<f32> {
  let v = xq[i];
  return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y));
}
// Not quantizeToF16: it flushes small numbers to zero.
fn rounded(v: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(pack2x16float(v.xy)), unpack2x16float(pack2x16float(v.zw)));
}
fn product4(a: Number4, i: u32) -> f32 { return dot(rounded(a * x4(i)), vec4<f32>(1.0)); }
fn product(w: Weights, g: u32) -> f32 {
  let i = 4u * g;
  return product4(w[0], i) + product4(w[1], i + 1u) + product4(w[2], i + 2u) + product4(w[3], i + 3u);
}
#endif
#if INTEGER
alias Weights = vec4<u32>;
fn weights(a: u32, b: u32, c: u32, d: u32) -> Weights { return vec4<u32>(a, b, c, d); }
fn dot16(a: vec4<u32>, b: vec4<u32>) -> i32 {
  return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}
#if INT8
fn product(w: Weights, g: u32) -> f32 { return f32(dot16(w, xq[g])); }
fn x4(i: u32) -> vec4<f32> { return vec4<f32>(unpack4xI8(xq[i >> 2u][i & 3u])); }
#else
// Two limbs: a number is 128 * high + low.
fn product(w: Weights, g: u32) -> f32 { return f32(dot16(w, xq[2u * g]) * 128 + dot16(w, xq[2u * g + 1u])); }
fn x4(i: u32) -> vec4<f32> {
  let g = 2u * (i >> 2u);
  return vec4<f32>(unpack4xI8(xq[g][i & 3u]) * 128 + unpack4xI8(xq[g + 1u][i & 3u]));
}
#endif
#endif
