// IQ2_S: units 0-1 are indices, a word a chunk, units 2-3 its signs; beside them two words of the
// indices' highest two bits and two of scales, a byte a chunk each; an F16 d. Part c is chunks 2c
// and 2c + 1.
struct Raw_iq2_s { q: vec2<u32>, signs: vec2<u32>, h: u32, s: u32, d: f32 }
fn fetch_iq2_s(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_iq2_s {
  let at = (m.units + ((tile * m.blocks + block) * 4u + (part >> 1u)) * 16u + row) * 4u + 2u * (part & 1u);
  return Raw_iq2_s(vec2<u32>(wt[at], wt[at + 1u]), vec2<u32>(wt[at + 128u], wt[at + 129u]),
                   words_tail(m.tail, m, tile, row, block, 4u, part >> 1u),
                   words_tail(m.tail, m, tile, row, block, 4u, 2u + (part >> 1u)), half_tail(m.tail2, m, tile, row, block));
}
fn run_iq2_s(q: u32, h: u32, signs: u32, scale: vec2<f32>, at: u32) -> Chunk {
  let a = vec4<u32>(book_iq2_s[(q & 255u) | ((h & 3u) << 8u)], book_iq2_s[((q >> 8u) & 255u) | ((h & 12u) << 6u)]);
  let b = vec4<u32>(book_iq2_s[((q >> 16u) & 255u) | ((h & 48u) << 4u)], book_iq2_s[(q >> 24u) | ((h & 192u) << 2u)]);
  return Chunk(signed(a, signs), signed(b, signs >> 16u), scale, vec2<f32>(0.0), at);
}
fn decode_iq2_s(r: Raw_iq2_s, block: u32, part: u32) -> array<Chunk, 2> {
  let half = 16u * (part & 1u);
  let s = iq2_scales(r.s >> half, r.d);
  let h = r.h >> half;
  let at = 8u * block + 2u * part;
  return array<Chunk, 2>(run_iq2_s(r.q.x, h, r.signs.x, s.xy, at), run_iq2_s(r.q.y, h >> 8u, r.signs.y, s.zw, at + 1u));
}
