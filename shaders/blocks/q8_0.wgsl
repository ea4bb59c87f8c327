// Q8_0: two units of bytes, an F16 scale.
fn step_q8_0(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> array<Chunk, 1> {
  let base = m.units + (tile * m.blocks + block) * 32u + row;
  let a = w[base]; let b = w[base + 16u];
  let d = half_tail(m.tail, m, tile, row, block);
  return array<Chunk, 1>(Chunk(a, b, vec2<f32>(d), vec2<f32>(0.0), block));
}
