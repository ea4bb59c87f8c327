// IQ3_XXS: units 0-3 are indices, eight a chunk, units 4-5 a word a chunk of four times seven signs
// and a scale; an F16 d. Part c is unit c.
struct Raw_iq3_xxs { q: vec4<u32>, s: vec2<u32>, d: f32 }
fn fetch_iq3_xxs(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_iq3_xxs {
  let base = m.units + (tile * m.blocks + block) * 96u + row;
  let s = (base + (4u + (part >> 1u)) * 16u) * 4u + 2u * (part & 1u);
  return Raw_iq3_xxs(w[base + part * 16u], vec2<u32>(wt[s], wt[s + 1u]), half_tail(m.tail, m, tile, row, block));
}
fn points_iq3_xxs(q: u32) -> vec4<u32> {
  return vec4<u32>(book_iq3_xxs[q & 255u], book_iq3_xxs[(q >> 8u) & 255u], book_iq3_xxs[(q >> 16u) & 255u], book_iq3_xxs[q >> 24u]);
}
fn run_iq3_xxs(q: vec2<u32>, s: u32, d: f32, at: u32) -> Chunk {
  return Chunk(turned(points_iq3_xxs(q.x), vec4<u32>(even[s & 127u], even[(s >> 7u) & 127u])),
               turned(points_iq3_xxs(q.y), vec4<u32>(even[(s >> 14u) & 127u], even[(s >> 21u) & 127u])),
               vec2<f32>(d * (0.5 + f32(s >> 28u)) * 0.5), vec2<f32>(0.0), at);
}
fn decode_iq3_xxs(r: Raw_iq3_xxs, block: u32, part: u32) -> array<Chunk, 2> {
  let at = 8u * block + 2u * part;
  return array<Chunk, 2>(run_iq3_xxs(r.q.xy, r.s.x, r.d, at), run_iq3_xxs(r.q.zw, r.s.y, r.d, at + 1u));
}
