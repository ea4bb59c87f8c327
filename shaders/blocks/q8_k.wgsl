// Q8_K: units 0-15 bytes, 16-17 sums of groups (not needed here), an F32 scale beside them.
fn chunk_q8_k(m: Matrix, tile: u32, row: u32, chunk: u32) -> Levels {
  let block = chunk >> 3u; let u = chunk & 7u;
  let base = m.units + (tile * m.blocks + block) * 288u + row;
  let a = w[base + 2u * u * 16u]; let b = w[base + (2u * u + 1u) * 16u];
  let d = bitcast<f32>(word_tail(m.tail, m, tile, row, block));
  return Levels(array<u32, 8>(a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w),
    vec2<f32>(d), vec2<f32>(0.0), vec2<u32>(2u * chunk, 2u * chunk + 1u));
}
