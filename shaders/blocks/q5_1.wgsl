// Q5_1: one unit of nibbles, F16 scale and minimum in a word, a word of fifth bits.
struct Raw_q5_1 { q: vec4<u32>, dm: u32, h: u32 }
fn fetch_q5_1(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_q5_1 {
  return Raw_q5_1(w[m.units + (tile * m.blocks + block) * 16u + row], word_tail(m.tail, m, tile, row, block),
                  word_tail(m.tail2, m, tile, row, block));
}
fn decode_q5_1(r: Raw_q5_1, block: u32, part: u32) -> array<Chunk, 1> {
  let dm = unpack2x16float(r.dm);
  return array<Chunk, 1>(Chunk(low_nibbles(r.q) | fifth_bits_of_group(r.h), high_nibbles(r.q) | fifth_bits_of_group(r.h >> 16u),
    vec2<f32>(dm.x), vec2<f32>(-dm.y), block));
}
