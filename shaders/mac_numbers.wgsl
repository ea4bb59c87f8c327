// acc[t] += chunk of a row of type ${TYPE} times the activations of token t. BF16 and F32
// weights may lie outside of F16's range: their products are F32 in every form.
fn mac_${TYPE}(m: Matrix, tile: u32, row: u32, chunk: u32, token: u32, acc: ptr<function, array<f32, T>>) {
  var v = numbers_${TYPE}(m, tile, row, chunk);
  for (var t = 0u; t < T; t++) {
    let g = (token + t) * GROUPS + 2u * chunk;
    var a = 0.0; var b = 0.0;
    for (var i = 0u; i < 4u; i++) {
#if IS_F16
      a += product4(Number4(v[i]), g * 4u + i);
      b += product4(Number4(v[i + 4u]), g * 4u + 4u + i);
#else
      a += dot(v[i], x4(g * 4u + i));
      b += dot(v[i + 4u], x4(g * 4u + 4u + i));
#endif
    }
    (*acc)[t] += xm[g].x * a + xm[g + 1u].x * b;
  }
}
