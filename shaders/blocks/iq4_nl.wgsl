// IQ4_NL: one unit of nibbles (low ones are elements 0-15), an F16 scale.
struct Raw_iq4_nl { q: vec4<u32>, d: f32 }
fn fetch_iq4_nl(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_iq4_nl {
  return Raw_iq4_nl(w[m.units + (tile * m.blocks + block) * 16u + row], half_tail(m.tail, m, tile, row, block));
}
fn decode_iq4_nl(r: Raw_iq4_nl, block: u32, part: u32) -> array<Chunk, 1> {
  return array<Chunk, 1>(iq4_chunk(r.q, r.d, block));
}
