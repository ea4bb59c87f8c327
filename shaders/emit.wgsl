// Writes a group of 16 activations ready-made for its consumers' arithmetic. See product.wgsl
// for the record. In F16 the group's scale is the power of two above its largest magnitude, so
// that numbers are exact apart from their rounding, below 1, and never overflow; as integers it is
// the largest magnitude over the largest integer.
fn emit(g: u32, v: array<vec4<f32>, 4>, squares: f32) {
  var a = v;
#if F32
  var sum = 0.0;
  for (var i = 0u; i < 4u; i++) { oq[4u * g + i] = a[i]; sum += dot(a[i], vec4<f32>(1.0)); }
  om[g] = vec4<f32>(1.0, sum, squares, 0.0);
#else
  var top = max(max(abs(a[0]), abs(a[1])), max(abs(a[2]), abs(a[3])));
  let largest = max(max(top.x, top.y), max(top.z, top.w));
  var sum = 0.0;
#if INTEGER
  // Integers cannot be NaN: the scale must carry it on.
  var bad = vec4<bool>(false);
  for (var i = 0u; i < 4u; i++) { bad = bad | ((bitcast<vec4<u32>>(a[i]) & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u)); }
  let inverse = select(0.0, ${STEPS} / largest, largest > 1e-30);
  let scale = select(largest / ${STEPS}, bitcast<f32>(0x7fc00000u), any(bad));
#if INT8
  var q: vec4<u32>;
  for (var i = 0u; i < 4u; i++) {
    let n = vec4<i32>(round(a[i] * inverse));
    q[i] = pack4xI8(n);
    sum += f32(n.x + n.y + n.z + n.w);
  }
  oq[g] = q;
#else
  var high: vec4<u32>;
  var low: vec4<u32>;
  for (var i = 0u; i < 4u; i++) {
    let n = vec4<i32>(round(a[i] * inverse));
    let h = (n + vec4<i32>(64)) >> vec4<u32>(7u);
    high[i] = pack4xI8(h);
    low[i] = pack4xI8(n - h * 128);
    sum += f32(n.x + n.y + n.z + n.w);
  }
  oq[2u * g] = high;
  oq[2u * g + 1u] = low;
#endif
#else
  let e = clamp((bitcast<u32>(largest) >> 23u) + 1u, 1u, 253u);
  let scale = bitcast<f32>(e << 23u);
  let inverse = bitcast<f32>((254u - e) << 23u);
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
#endif
  om[g] = vec4<f32>(scale, sum * scale, squares, 0.0);
#endif
}
