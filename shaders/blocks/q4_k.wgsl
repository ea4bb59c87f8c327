// Q4_K: unit 0 is d, dmin and 12 bytes of 6-bit scales and minima; units 1-8 are nibbles. Part c
// of a block is units 1 + 2c and 2 + 2c: low nibbles are chunk 2c, high ones chunk 2c + 1.
struct Raw_q4_k { head: vec4<u32>, a: vec4<u32>, b: vec4<u32> }
fn fetch_q4_k(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_q4_k {
  let base = m.units + (tile * m.blocks + block) * 144u + row;
  return Raw_q4_k(w[base], w[base + (1u + 2u * part) * 16u], w[base + (2u + 2u * part) * 16u]);
}
fn decode_q4_k(r: Raw_q4_k, block: u32, part: u32) -> array<Chunk, 2> {
  let s = six_bits(r.head, part) * unpack2x16float(r.head.x).xxyy;
  let at = 8u * block + 2u * part;
  return array<Chunk, 2>(
    Chunk(low_nibbles(r.a), low_nibbles(r.b), s.xx, s.zz, at),
    Chunk(high_nibbles(r.a), high_nibbles(r.b), s.yy, s.ww, at + 1u));
}
