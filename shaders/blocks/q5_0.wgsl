// Q5_0: one unit of nibbles, a word of fifth bits, an F16 scale. Bias 16.
struct Raw_q5_0 { q: vec4<u32>, h: u32, d: f32 }
fn fetch_q5_0(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_q5_0 {
  return Raw_q5_0(w[m.units + (tile * m.blocks + block) * 16u + row], word_tail(m.tail, m, tile, row, block),
                  half_tail(m.tail2, m, tile, row, block));
}
fn decode_q5_0(r: Raw_q5_0, block: u32, part: u32) -> array<Chunk, 1> {
  return array<Chunk, 1>(Chunk(low_nibbles(r.q) | fifth_bits_of_group(r.h), high_nibbles(r.q) | fifth_bits_of_group(r.h >> 16u),
    vec2<f32>(r.d), vec2<f32>(0.0), block));
}
