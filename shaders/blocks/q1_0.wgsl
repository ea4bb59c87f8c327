// Q1_0: one unit of bits, an F16 scale. A block is chunks of a word each; levels are doubled bits.
// Bias 1.
struct Raw_q1_0 { q: vec4<u32>, d: f32 }
fn fetch_q1_0(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_q1_0 {
  return Raw_q1_0(w[m.units + (tile * m.blocks + block) * 16u + row], half_tail(m.tail, m, tile, row, block));
}
fn run_q1_0(q: u32, d: f32, at: u32) -> Chunk {
  let down = vec4<u32>(3u);
  return Chunk(fifth_bits_of_group(q) >> down, fifth_bits_of_group(q >> 16u) >> down, vec2<f32>(d), vec2<f32>(0.0), at);
}
fn decode_q1_0(r: Raw_q1_0, block: u32, part: u32) -> array<Chunk, 4> {
  let at = 4u * block;
  return array<Chunk, 4>(run_q1_0(r.q.x, r.d, at), run_q1_0(r.q.y, r.d, at + 1u),
                         run_q1_0(r.q.z, r.d, at + 2u), run_q1_0(r.q.w, r.d, at + 3u));
}
