// Q5_0: one unit of nibbles, a word of fifth bits, an F16 scale. Bias 16.
fn step_q5_0(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> array<Chunk, 1> {
  let q = w[m.units + (tile * m.blocks + block) * 16u + row];
  let h = word_tail(m.tail, m, tile, row, block);
  let d = half_tail(m.tail2, m, tile, row, block);
  return array<Chunk, 1>(Chunk(low_nibbles(q) | fifth_bits_of_group(h), high_nibbles(q) | fifth_bits_of_group(h >> 16u),
    vec2<f32>(d), vec2<f32>(0.0), block));
}
