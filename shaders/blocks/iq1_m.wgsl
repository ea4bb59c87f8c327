// IQ1_M: units 0-1 are indices, a word a chunk, unit 2 a nibble for each of them: three more bits and
// the direction of the move; two words beside them: scales of three bits a group, and the block's
// F16 scale in the highest nibbles of their halves. Levels are eighths. Bias 9. Part c is chunks
// 2c and 2c + 1.
struct Raw_iq1_m { q: vec2<u32>, h: u32, s: vec2<u32> }
fn fetch_iq1_m(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_iq1_m {
  let base = (m.units + (tile * m.blocks + block) * 48u + row) * 4u;
  let at = base + (part >> 1u) * 64u + 2u * (part & 1u);
  return Raw_iq1_m(vec2<u32>(wt[at], wt[at + 1u]), wt[base + 128u + part],
                   vec2<u32>(words_tail(m.tail, m, tile, row, block, 2u, 0u), words_tail(m.tail, m, tile, row, block, 2u, 1u)));
}
fn ups_iq1_m(h: u32) -> vec2<u32> {
  return select(vec2<u32>(0x02020202u), vec2<u32>(0u), (vec2<u32>(h, h >> 4u) & vec2<u32>(8u)) != vec2<u32>(0u));
}
fn run_iq1_m(q: u32, h: u32, scale: vec2<f32>, at: u32) -> Chunk {
  return Chunk(
    iq1_group(book_iq1[(q & 255u) | ((h & 7u) << 8u)], book_iq1[((q >> 8u) & 255u) | ((h & 0x70u) << 4u)], ups_iq1_m(h)),
    iq1_group(book_iq1[((q >> 16u) & 255u) | (h & 0x700u)], book_iq1[(q >> 24u) | ((h & 0x7000u) >> 4u)], ups_iq1_m(h >> 8u)),
    scale, vec2<f32>(0.0), at);
}
fn decode_iq1_m(r: Raw_iq1_m, block: u32, part: u32) -> array<Chunk, 2> {
  let bits = ((r.s.x >> 12u) & 15u) | ((r.s.x >> 24u) & 0xf0u) | ((r.s.y >> 4u) & 0xf00u) | ((r.s.y >> 16u) & 0xf000u);
  let d = unpack2x16float(bits).x * 0.125;
  // The half word of a part's four scales.
  let s = select(r.s.x, r.s.y, part > 1u) >> (16u * (part & 1u));
  let scales = d * vec4<f32>((vec4<u32>(s, s >> 3u, s >> 6u, s >> 9u) & vec4<u32>(7u)) * 2u + 1u);
  let at = 8u * block + 2u * part;
  return array<Chunk, 2>(run_iq1_m(r.q.x, r.h, scales.xy, at), run_iq1_m(r.q.y, r.h >> 16u, scales.zw, at + 1u));
}
