// Q2_0: one unit, four neighbouring elements a byte; an F16 scale. Bias 1.
struct Raw_q2_0 { q: vec4<u32>, d: f32 }
fn fetch_q2_0(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_q2_0 {
  return Raw_q2_0(w[m.units + (tile * m.blocks + block) * 16u + row], half_tail(m.tail, m, tile, row, block));
}
// The pairs of bits of each of four bytes, to the bytes of a word.
fn pairs_q2_0(q: u32) -> vec4<u32> {
  let b = vec4<u32>(q, q >> 8u, q >> 16u, q >> 24u) & vec4<u32>(255u);
  let halves = (b | (b << vec4<u32>(12u))) & vec4<u32>(0x000f000fu);
  return two_bits(halves | (halves << vec4<u32>(6u)));
}
fn decode_q2_0(r: Raw_q2_0, block: u32, part: u32) -> array<Chunk, 2> {
  let d = vec2<f32>(r.d);
  return array<Chunk, 2>(
    Chunk(pairs_q2_0(r.q.x), pairs_q2_0(r.q.y), d, vec2<f32>(0.0), 2u * block),
    Chunk(pairs_q2_0(r.q.z), pairs_q2_0(r.q.w), d, vec2<f32>(0.0), 2u * block + 1u));
}
