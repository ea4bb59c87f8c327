// IQ2_XS: units of two chunks, two words of scales, an F16 d. A chunk is four numbers of nine bits of
// index and seven of signs; its scales are two nibbles. Part c is unit c.
struct Raw_iq2_xs { q: vec4<u32>, s: u32, d: f32 }
fn fetch_iq2_xs(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_iq2_xs {
  return Raw_iq2_xs(w[m.units + ((tile * m.blocks + block) * 4u + part) * 16u + row],
                    words_tail(m.tail, m, tile, row, block, 2u, part >> 1u), half_tail(m.tail2, m, tile, row, block));
}
fn group_iq2_xs(q: u32) -> vec4<u32> {
  return turned(vec4<u32>(book_iq2_xs[q & 511u], book_iq2_xs[(q >> 16u) & 511u]), vec4<u32>(even[(q >> 9u) & 127u], even[q >> 25u]));
}
fn decode_iq2_xs(r: Raw_iq2_xs, block: u32, part: u32) -> array<Chunk, 2> {
  let s = iq2_scales(r.s >> (16u * (part & 1u)), r.d);
  let at = 8u * block + 2u * part;
  return array<Chunk, 2>(
    Chunk(group_iq2_xs(r.q.x), group_iq2_xs(r.q.y), s.xy, vec2<f32>(0.0), at),
    Chunk(group_iq2_xs(r.q.z), group_iq2_xs(r.q.w), s.zw, vec2<f32>(0.0), at + 1u));
}
