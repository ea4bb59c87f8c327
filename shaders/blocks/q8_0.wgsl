// Q8_0: two units of bytes, an F16 scale.
fn chunk_q8_0(m: Matrix, tile: u32, row: u32, chunk: u32) -> Levels {
  let base = m.units + (tile * m.blocks + chunk) * 32u + row;
  let a = w[base]; let b = w[base + 16u];
  let d = half_tail(m.tail, m, tile, row, chunk);
  return Levels(array<u32, 8>(a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w),
    vec2<f32>(d), vec2<f32>(0.0), vec2<u32>(2u * chunk, 2u * chunk + 1u));
}
