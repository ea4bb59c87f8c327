// The product of weights and ready-made activations, in the arithmetic of the form.
// Activations: xq holds the numbers, four to an element, xm a record per group of 16:
// (scale, sum of the numbers times scale, sum of squares of the residual, unused).
#if F32
alias Number4 = vec4<f32>;
fn product(a: Number4, i: u32) -> f32 { return dot(a, xq[i]); }
fn x4(i: u32) -> vec4<f32> { return xq[i]; }
#endif
#if F16
alias Number4 = vec4<f16>;
fn product(a: Number4, i: u32) -> f32 { return dot(vec4<f32>(a * xq[i]), vec4<f32>(1.0)); }
fn x4(i: u32) -> vec4<f32> { return vec4<f32>(xq[i]); }
#endif
#if F16_STORED
alias Number4 = vec4<f32>;
fn x4(i: u32) -> vec4<f32> {
  let v = xq[i];
  return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y));
}
// Not quantizeToF16: it flushes small numbers to zero.
fn rounded(v: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(pack2x16float(v.xy)), unpack2x16float(pack2x16float(v.zw)));
}
fn product(a: Number4, i: u32) -> f32 { return dot(rounded(a * x4(i)), vec4<f32>(1.0)); }
#endif
fn number4(levels: u32) -> Number4 { return Number4(unpack4xI8(levels)); }
