// Q5_K: unit 0 as in Q4_K, units 1-2 fifth bits, units 3-10 nibbles, parts as in Q4_K. Bits 2c and
// 2c + 1 of a byte of fifth bits belong to the low and the high nibbles of part c.
struct Raw_q5_k { head: vec4<u32>, p: vec4<u32>, q: vec4<u32>, a: vec4<u32>, b: vec4<u32> }
fn fetch_q5_k(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_q5_k {
  let base = m.units + (tile * m.blocks + block) * 176u + row;
  return Raw_q5_k(w[base], w[base + 16u], w[base + 32u], w[base + (3u + 2u * part) * 16u], w[base + (4u + 2u * part) * 16u]);
}
fn decode_q5_k(r: Raw_q5_k, block: u32, part: u32) -> array<Chunk, 2> {
  let p = r.p >> vec4<u32>(2u * part);
  let q = r.q >> vec4<u32>(2u * part);
  let s = six_bits(r.head, part) * unpack2x16float(r.head.x).xxyy;
  let at = 8u * block + 2u * part;
  let low = vec4<u32>(0x01010101u);
  let high = vec4<u32>(0x02020202u);
  let up4 = vec4<u32>(4u);
  let up3 = vec4<u32>(3u);
  return array<Chunk, 2>(
    Chunk(low_nibbles(r.a) | ((p & low) << up4), low_nibbles(r.b) | ((q & low) << up4), s.xx, s.zz, at),
    Chunk(high_nibbles(r.a) | ((p & high) << up3), high_nibbles(r.b) | ((q & high) << up3), s.yy, s.ww, at + 1u));
}
