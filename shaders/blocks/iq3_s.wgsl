// IQ3_S: units 0-3 are indices, eight a chunk; beside them eleven words: two of the indices'
// highest bits (a byte a chunk), eight of signs (a word a chunk), one of scales (a nibble a
// chunk); an F16 d. Part c is unit c.
struct Raw_iq3_s { q: vec4<u32>, h: u32, signs: vec2<u32>, s: u32, d: f32 }
fn fetch_iq3_s(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_iq3_s {
  return Raw_iq3_s(w[m.units + ((tile * m.blocks + block) * 4u + part) * 16u + row],
                   words_tail(m.tail, m, tile, row, block, 11u, part >> 1u),
                   vec2<u32>(words_tail(m.tail, m, tile, row, block, 11u, 2u + 2u * part),
                             words_tail(m.tail, m, tile, row, block, 11u, 3u + 2u * part)),
                   words_tail(m.tail, m, tile, row, block, 11u, 10u), half_tail(m.tail2, m, tile, row, block));
}
fn points_iq3_s(q: u32, h: u32) -> vec4<u32> {
  return vec4<u32>(book_iq3_s[(q & 255u) | ((h & 1u) << 8u)], book_iq3_s[((q >> 8u) & 255u) | ((h & 2u) << 7u)],
                   book_iq3_s[((q >> 16u) & 255u) | ((h & 4u) << 6u)], book_iq3_s[(q >> 24u) | ((h & 8u) << 5u)]);
}
fn run_iq3_s(q: vec2<u32>, h: u32, signs: u32, s: u32, d: f32, at: u32) -> Chunk {
  return Chunk(signed(points_iq3_s(q.x, h), signs), signed(points_iq3_s(q.y, h >> 4u), signs >> 16u),
               vec2<f32>(d * f32(1u + 2u * (s & 15u))), vec2<f32>(0.0), at);
}
fn decode_iq3_s(r: Raw_iq3_s, block: u32, part: u32) -> array<Chunk, 2> {
  let h = r.h >> (16u * (part & 1u));
  let s = r.s >> (8u * part);
  let at = 8u * block + 2u * part;
  return array<Chunk, 2>(run_iq3_s(r.q.xy, h, r.signs.x, s, r.d, at), run_iq3_s(r.q.zw, h >> 8u, r.signs.y, s >> 4u, r.d, at + 1u));
}
