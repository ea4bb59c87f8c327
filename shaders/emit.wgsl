// Writes a group of 16 activations ready-made for its consumers' arithmetic. See product.wgsl
// for the record. In F16 the group's scale is the power of two above its largest magnitude, so
// that numbers are exact apart from their rounding, below 1, and never overflow.
fn emit(g: u32, v: array<vec4<f32>, 4>, squares: f32) {
  var a = v;
#if F32
  var sum = 0.0;
  for (var i = 0u; i < 4u; i++) { oq[4u * g + i] = a[i]; sum += dot(a[i], vec4<f32>(1.0)); }
  om[g] = vec4<f32>(1.0, sum, squares, 0.0);
#else
  var top = max(max(abs(a[0]), abs(a[1])), max(abs(a[2]), abs(a[3])));
  let e = clamp((bitcast<u32>(max(max(top.x, top.y), max(top.z, top.w))) >> 23u) + 1u, 1u, 253u);
  let scale = bitcast<f32>(e << 23u);
  let inverse = bitcast<f32>((254u - e) << 23u);
  var sum = 0.0;
  for (var i = 0u; i < 4u; i++) {
#if F16
    let q = vec4<f16>(a[i] * inverse);
    oq[4u * g + i] = q;
    sum += dot(vec4<f32>(q), vec4<f32>(1.0));
#else
    let s = a[i] * inverse;
    let q = vec2<u32>(pack2x16float(s.xy), pack2x16float(s.zw));
    oq[4u * g + i] = q;
    sum += dot(vec4<f32>(unpack2x16float(q.x), unpack2x16float(q.y)), vec4<f32>(1.0));
#endif
  }
  om[g] = vec4<f32>(scale, sum * scale, squares, 0.0);
#endif
}
