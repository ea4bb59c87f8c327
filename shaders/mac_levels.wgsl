// acc[t] += chunk of a row of type ${TYPE} times the activations of token t.
fn mac_${TYPE}(m: Matrix, tile: u32, row: u32, chunk: u32, token: u32, acc: ptr<function, array<f32, T>>) {
  let l = chunk_${TYPE}(m, tile, row, chunk);
  let a0 = number4(l.q[0]); let a1 = number4(l.q[1]); let a2 = number4(l.q[2]); let a3 = number4(l.q[3]);
  let b0 = number4(l.q[4]); let b1 = number4(l.q[5]); let b2 = number4(l.q[6]); let b3 = number4(l.q[7]);
  for (var t = 0u; t < T; t++) {
    let g = (token + t) * GROUPS + l.groups;
    let i = g * 4u;
    let x = xm[g.x]; let y = xm[g.y];
    let a = product(a0, i.x) + product(a1, i.x + 1u) + product(a2, i.x + 2u) + product(a3, i.x + 3u);
    let b = product(b0, i.y) + product(b1, i.y + 1u) + product(b2, i.y + 2u) + product(b3, i.y + 3u);
    (*acc)[t] += (l.scale.x * x.x) * a - l.min.x * x.y + (l.scale.y * y.x) * b - l.min.y * y.y;
  }
}
