// Q4_1: one unit of nibbles (low ones are elements 0-15), F16 scale and minimum in a word.
struct Raw_q4_1 { q: vec4<u32>, dm: u32 }
fn fetch_q4_1(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_q4_1 {
  return Raw_q4_1(w[m.units + (tile * m.blocks + block) * 16u + row], word_tail(m.tail, m, tile, row, block));
}
fn decode_q4_1(r: Raw_q4_1, block: u32, part: u32) -> array<Chunk, 1> {
  let dm = unpack2x16float(r.dm);
  return array<Chunk, 1>(Chunk(low_nibbles(r.q), high_nibbles(r.q), vec2<f32>(dm.x), vec2<f32>(-dm.y), block));
}
