// IQ4_XS: units of nibbles, one a chunk; beside them two words: F16 d with the scales' highest two
// bits, and their nibbles. Part c is units 2c and 2c + 1.
struct Raw_iq4_xs { a: vec4<u32>, b: vec4<u32>, dh: u32, l: u32 }
fn fetch_iq4_xs(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_iq4_xs {
  let base = m.units + (tile * m.blocks + block) * 128u + part * 32u + row;
  return Raw_iq4_xs(w[base], w[base + 16u], words_tail(m.tail, m, tile, row, block, 2u, 0u),
                    words_tail(m.tail, m, tile, row, block, 2u, 1u));
}
fn decode_iq4_xs(r: Raw_iq4_xs, block: u32, part: u32) -> array<Chunk, 2> {
  let d = unpack2x16float(r.dh).x;
  let low = vec2<u32>(r.l >> (8u * part), r.l >> (8u * part + 4u)) & vec2<u32>(15u);
  let high = vec2<u32>(r.dh >> (16u + 4u * part), r.dh >> (18u + 4u * part)) & vec2<u32>(3u);
  let s = d * (vec2<f32>(low | (high << vec2<u32>(4u))) - 32.0);
  let at = 8u * block + 2u * part;
  return array<Chunk, 2>(iq4_chunk(r.a, s.x, at), iq4_chunk(r.b, s.y, at + 1u));
}
