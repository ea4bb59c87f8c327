// Q5_K: unit 0 as in Q4_K, units 1-2 fifth bits, units 3-10 nibbles, parts as in Q4_K. Bits 2c and
// 2c + 1 of a byte of fifth bits belong to the low and the high nibbles of part c.
fn step_q5_k(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> array<Chunk, 2> {
  let base = m.units + (tile * m.blocks + block) * 176u + row;
  let head = w[base];
  let p = w[base + 16u] >> vec4<u32>(2u * part);
  let q = w[base + 32u] >> vec4<u32>(2u * part);
  let a = w[base + (3u + 2u * part) * 16u];
  let b = w[base + (4u + 2u * part) * 16u];
  let s = six_bits(head, part) * unpack2x16float(head.x).xxyy;
  let at = 8u * block + 2u * part;
  let low = vec4<u32>(0x01010101u);
  let high = vec4<u32>(0x02020202u);
  let up4 = vec4<u32>(4u);
  let up3 = vec4<u32>(3u);
  return array<Chunk, 2>(
    Chunk(low_nibbles(a) | ((p & low) << up4), low_nibbles(b) | ((q & low) << up4), s.xx, s.zz, at),
    Chunk(high_nibbles(a) | ((p & high) << up3), high_nibbles(b) | ((q & high) << up3), s.yy, s.ww, at + 1u));
}
