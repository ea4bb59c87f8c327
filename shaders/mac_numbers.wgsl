// A chunk of type ${TYPE} times activations. BF16 and F32 weights may lie outside of F16's range:
// their products are F32 in every form.
fn product_${TYPE}(v: array<vec4<f32>, 8>, x: X) -> f32 {
  var w = v;
  var a = 0.0; var b = 0.0;
  for (var i = 0u; i < 4u; i++) {
#if IS_F16
    a += product4(Number4(w[i]), x.n[i]);
    b += product4(Number4(w[i + 4u]), x.n[i + 4u]);
#else
    a += dot(w[i], x4(x, i));
    b += dot(w[i + 4u], x4(x, i + 4u));
#endif
  }
  return x.m.x * a + x.m.z * b;
}
