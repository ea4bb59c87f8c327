// TQ2_0: units of two bits as in Q2_K, an F16 scale. Bias 1. Part n is units 2n and 2n + 1.
struct Raw_tq2_0 { a: vec4<u32>, b: vec4<u32>, d: f32 }
fn fetch_tq2_0(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_tq2_0 {
  let base = m.units + (tile * m.blocks + block) * 64u + part * 32u + row;
  return Raw_tq2_0(w[base], w[base + 16u], half_tail(m.tail, m, tile, row, block));
}
fn decode_tq2_0(r: Raw_tq2_0, block: u32, part: u32) -> array<Chunk, 4> {
  let d = vec2<f32>(r.d);
  let none = vec2<f32>(0.0);
  let at = 8u * block + 4u * part;
  return array<Chunk, 4>(
    Chunk(two_bits(r.a), two_bits(r.b), d, none, at),
    Chunk(two_bits(r.a >> vec4<u32>(2u)), two_bits(r.b >> vec4<u32>(2u)), d, none, at + 1u),
    Chunk(two_bits(r.a >> vec4<u32>(4u)), two_bits(r.b >> vec4<u32>(4u)), d, none, at + 2u),
    Chunk(two_bits(r.a >> vec4<u32>(6u)), two_bits(r.b >> vec4<u32>(6u)), d, none, at + 3u));
}
