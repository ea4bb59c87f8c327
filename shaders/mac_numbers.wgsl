// A chunk of type ${TYPE} times activations. BF16 and F32 weights may lie outside of F16's range:
// their products are F32 in every form.
fn product_${TYPE}(v: array<vec4<f32>, 8>, x: X) -> f32 {
  var w = v;
  var a = 0.0; var b = 0.0;
#repeat i 4
  {
#if IS_F16
    a += product4(Number4(w[${i}u]), x.n[${i}u]);
    b += product4(Number4(w[${i}u + 4u]), x.n[${i}u + 4u]);
#else
    a += dot(w[${i}u], x4(x, ${i}u));
    b += dot(w[${i}u + 4u], x4(x, ${i}u + 4u));
#endif
  }
#end
  return x.m.x * a + x.m.z * b;
}
