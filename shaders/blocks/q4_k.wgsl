// Q4_K: unit 0 is d, dmin and 12 bytes of 6-bit scales and minima; units 1-8 are nibbles. Part c
// of a block is units 1 + 2c and 2 + 2c: low nibbles are chunk 2c, high ones chunk 2c + 1.
fn step_q4_k(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> array<Chunk, 2> {
  let base = m.units + (tile * m.blocks + block) * 144u + row;
  let head = w[base];
  let a = w[base + (1u + 2u * part) * 16u];
  let b = w[base + (2u + 2u * part) * 16u];
  let s = six_bits(head, part) * unpack2x16float(head.x).xxyy;
  let at = 8u * block + 2u * part;
  return array<Chunk, 2>(
    Chunk(low_nibbles(a), low_nibbles(b), s.xx, s.zz, at),
    Chunk(high_nibbles(a), high_nibbles(b), s.yy, s.ww, at + 1u));
}
