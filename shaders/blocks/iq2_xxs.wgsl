// IQ2_XXS: units of two chunks, an F16 scale. A chunk is a word of four indices and one of four
// times seven signs and a scale. Part c is unit c.
struct Raw_iq2_xxs { q: vec4<u32>, d: f32 }
fn fetch_iq2_xxs(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_iq2_xxs {
  return Raw_iq2_xxs(w[m.units + ((tile * m.blocks + block) * 4u + part) * 16u + row], half_tail(m.tail, m, tile, row, block));
}
fn run_iq2_xxs(q: u32, s: u32, d: f32, at: u32) -> Chunk {
  let scale = vec2<f32>(d * (0.5 + f32(s >> 28u)) * 0.25);
  return Chunk(
    turned(vec4<u32>(book_iq2_xxs[q & 255u], book_iq2_xxs[(q >> 8u) & 255u]), vec4<u32>(even[s & 127u], even[(s >> 7u) & 127u])),
    turned(vec4<u32>(book_iq2_xxs[(q >> 16u) & 255u], book_iq2_xxs[q >> 24u]), vec4<u32>(even[(s >> 14u) & 127u], even[(s >> 21u) & 127u])),
    scale, vec2<f32>(0.0), at);
}
fn decode_iq2_xxs(r: Raw_iq2_xxs, block: u32, part: u32) -> array<Chunk, 2> {
  let at = 8u * block + 2u * part;
  return array<Chunk, 2>(run_iq2_xxs(r.q.x, r.q.y, r.d, at), run_iq2_xxs(r.q.z, r.q.w, r.d, at + 1u));
}
