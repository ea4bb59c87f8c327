// Q2_K: unit 0 is a nibble of scale and one of minimum for each group, units 1-4 are bits; F16 d and
// dmin in a word. Part n of a block is units 1 + 2n and 2 + 2n: bits 2j are chunk 4n + j.
struct Raw_q2_k { a: vec4<u32>, b: vec4<u32>, s: vec2<u32>, dm: u32 }
fn fetch_q2_k(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_q2_k {
  let base = m.units + (tile * m.blocks + block) * 80u + row;
  let s = base * 4u + 2u * part; // two words of scales
  return Raw_q2_k(w[base + (1u + 2u * part) * 16u], w[base + (2u + 2u * part) * 16u], vec2<u32>(wt[s], wt[s + 1u]),
                  word_tail(m.tail, m, tile, row, block));
}
// Bits 0 and 1 of each byte, with two bytes of scales.
fn run_q2_k(a: vec4<u32>, b: vec4<u32>, s: u32, dm: vec2<f32>, at: u32) -> Chunk {
  let scales = vec2<u32>(s, s >> 8u) & vec2<u32>(15u);
  let mins = vec2<u32>(s >> 4u, s >> 12u) & vec2<u32>(15u);
  return Chunk(two_bits(a), two_bits(b), dm.x * vec2<f32>(scales), dm.y * vec2<f32>(mins), at);
}
fn decode_q2_k(r: Raw_q2_k, block: u32, part: u32) -> array<Chunk, 4> {
  let dm = unpack2x16float(r.dm);
  let at = 8u * block + 4u * part;
  return array<Chunk, 4>(
    run_q2_k(r.a, r.b, r.s.x, dm, at),
    run_q2_k(r.a >> vec4<u32>(2u), r.b >> vec4<u32>(2u), r.s.x >> 16u, dm, at + 1u),
    run_q2_k(r.a >> vec4<u32>(4u), r.b >> vec4<u32>(4u), r.s.y, dm, at + 2u),
    run_q2_k(r.a >> vec4<u32>(6u), r.b >> vec4<u32>(6u), r.s.y >> 16u, dm, at + 3u));
}
