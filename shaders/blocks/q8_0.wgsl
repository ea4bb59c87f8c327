// Q8_0: two units of bytes, an F16 scale.
struct Raw_q8_0 { a: vec4<u32>, b: vec4<u32>, d: f32 }
fn fetch_q8_0(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_q8_0 {
  let base = m.units + (tile * m.blocks + block) * 32u + row;
  return Raw_q8_0(w[base], w[base + 16u], half_tail(m.tail, m, tile, row, block));
}
fn decode_q8_0(r: Raw_q8_0, block: u32, part: u32) -> array<Chunk, 1> {
  return array<Chunk, 1>(Chunk(r.a, r.b, vec2<f32>(r.d), vec2<f32>(0.0), block));
}
