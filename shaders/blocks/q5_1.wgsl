// Q5_1: one unit of nibbles, F16 scale and minimum in a word, a word of fifth bits.
fn step_q5_1(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> array<Chunk, 1> {
  let q = w[m.units + (tile * m.blocks + block) * 16u + row];
  let dm = unpack2x16float(word_tail(m.tail, m, tile, row, block));
  let h = word_tail(m.tail2, m, tile, row, block);
  return array<Chunk, 1>(Chunk(low_nibbles(q) | fifth_bits_of_group(h), high_nibbles(q) | fifth_bits_of_group(h >> 16u),
    vec2<f32>(dm.x), vec2<f32>(-dm.y), block));
}
