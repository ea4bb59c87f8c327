// Q5_K: unit 0 as in Q4_K, units 1-2 fifth bits, units 3-10 nibbles, chunks as in Q4_K. Bits 2c
// and 2c + 1 of a byte of fifth bits belong to the low and the high nibbles of run c.
fn chunk_q5_k(m: Matrix, tile: u32, row: u32, chunk: u32) -> Levels {
  let block = chunk >> 3u; let u = chunk & 7u;
  let c = u >> 1u; let h = u & 1u;
  let base = m.units + (tile * m.blocks + block) * 176u + row;
  let head = w[base];
  let bits = w[base + (1u + h) * 16u] >> vec4<u32>(2u * c);
  let q = w[base + (3u + u) * 16u];
  let lo = (q & vec4<u32>(0x0f0f0f0fu)) | ((bits & vec4<u32>(0x01010101u)) << vec4<u32>(4u));
  let hi = ((q >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu)) | ((bits & vec4<u32>(0x02020202u)) << vec4<u32>(3u));
  let d = unpack2x16float(head.x);
  let a = six_bits(head, 2u * c) * d;
  let b = six_bits(head, 2u * c + 1u) * d;
  let g = 16u * block + 4u * c + h;
  return Levels(array<u32, 8>(lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w),
    vec2<f32>(a.x, b.x), vec2<f32>(a.y, b.y), vec2<u32>(g, g + 2u));
}
