// Q4_1: one unit of nibbles (low ones are elements 0-15), F16 scale and minimum in a word.
fn step_q4_1(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> array<Chunk, 1> {
  let q = w[m.units + (tile * m.blocks + block) * 16u + row];
  let dm = unpack2x16float(word_tail(m.tail, m, tile, row, block));
  return array<Chunk, 1>(Chunk(low_nibbles(q), high_nibbles(q), vec2<f32>(dm.x), vec2<f32>(-dm.y), block));
}
