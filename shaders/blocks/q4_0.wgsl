// Q4_0: one unit of nibbles (low ones are elements 0-15), an F16 scale. Bias 8.
struct Raw_q4_0 { q: vec4<u32>, d: f32 }
fn fetch_q4_0(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_q4_0 {
  return Raw_q4_0(w[m.units + (tile * m.blocks + block) * 16u + row], half_tail(m.tail, m, tile, row, block));
}
fn decode_q4_0(r: Raw_q4_0, block: u32, part: u32) -> array<Chunk, 1> {
  return array<Chunk, 1>(Chunk(low_nibbles(r.q), high_nibbles(r.q), vec2<f32>(r.d), vec2<f32>(0.0), block));
}
