// acc[t] += chunk of a row of type ${TYPE} times the activations of token t.
fn mac_${TYPE}(m: Matrix, tile: u32, row: u32, chunk: u32, token: u32, acc: ptr<function, array<f32, T>>) {
  let l = chunk_${TYPE}(m, tile, row, chunk);
  let a = weights(l.q[0], l.q[1], l.q[2], l.q[3]);
  let b = weights(l.q[4], l.q[5], l.q[6], l.q[7]);
  for (var t = 0u; t < T; t++) {
    let g = (token + t) * GROUPS + l.groups;
    let x = xm[g.x]; let y = xm[g.y];
    (*acc)[t] += (l.scale.x * x.x) * product(a, g.x) - l.min.x * x.y
               + (l.scale.y * y.x) * product(b, g.y) - l.min.y * y.y;
  }
}
