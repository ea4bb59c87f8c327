// Q8_K: units 0-15 bytes, 16-17 sums of groups (not needed here), an F32 scale beside them. Part c
// is chunks 2c and 2c + 1.
struct Raw_q8_k { q: array<vec4<u32>, 4>, d: u32 }
fn fetch_q8_k(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_q8_k {
  let base = m.units + (tile * m.blocks + block) * 288u + part * 64u + row;
  return Raw_q8_k(array<vec4<u32>, 4>(w[base], w[base + 16u], w[base + 32u], w[base + 48u]),
                  word_tail(m.tail, m, tile, row, block));
}
fn decode_q8_k(r: Raw_q8_k, block: u32, part: u32) -> array<Chunk, 2> {
  let d = vec2<f32>(bitcast<f32>(r.d));
  let at = 8u * block + 2u * part;
  return array<Chunk, 2>(
    Chunk(r.q[0], r.q[1], d, vec2<f32>(0.0), at),
    Chunk(r.q[2], r.q[3], d, vec2<f32>(0.0), at + 1u));
}
