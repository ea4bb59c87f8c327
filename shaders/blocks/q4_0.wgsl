// Q4_0: one unit of nibbles (low ones are elements 0-15), an F16 scale. Bias 8.
fn step_q4_0(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> array<Chunk, 1> {
  let q = w[m.units + (tile * m.blocks + block) * 16u + row];
  let d = half_tail(m.tail, m, tile, row, block);
  return array<Chunk, 1>(Chunk(low_nibbles(q), high_nibbles(q), vec2<f32>(d), vec2<f32>(0.0), block));
}
