// IQ1_S: units 0-1 are indices, a word a chunk, unit 2 a half word a chunk: four times three more
// bits of index, a scale of three bits and the direction of the move; an F16 d. Levels are eighths.
// Bias 9. Part c is chunks 2c and 2c + 1.
struct Raw_iq1_s { q: vec2<u32>, h: u32, d: f32 }
fn fetch_iq1_s(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_iq1_s {
  let base = (m.units + (tile * m.blocks + block) * 48u + row) * 4u;
  let at = base + (part >> 1u) * 64u + 2u * (part & 1u);
  return Raw_iq1_s(vec2<u32>(wt[at], wt[at + 1u]), wt[base + 128u + part], half_tail(m.tail, m, tile, row, block));
}
fn run_iq1_s(q: u32, h: u32, d: f32, at: u32) -> Chunk {
  let up = vec2<u32>(select(0x02020202u, 0u, (h & 0x8000u) != 0u));
  return Chunk(
    iq1_group(book_iq1[(q & 255u) | ((h & 7u) << 8u)], book_iq1[((q >> 8u) & 255u) | ((h & 56u) << 5u)], up),
    iq1_group(book_iq1[((q >> 16u) & 255u) | ((h & 448u) << 2u)], book_iq1[(q >> 24u) | ((h & 3584u) >> 1u)], up),
    vec2<f32>(d * f32(2u * ((h >> 12u) & 7u) + 1u) * 0.125), vec2<f32>(0.0), at);
}
fn decode_iq1_s(r: Raw_iq1_s, block: u32, part: u32) -> array<Chunk, 2> {
  let at = 8u * block + 2u * part;
  return array<Chunk, 2>(run_iq1_s(r.q.x, r.h, r.d, at), run_iq1_s(r.q.y, r.h >> 16u, r.d, at + 1u));
}
