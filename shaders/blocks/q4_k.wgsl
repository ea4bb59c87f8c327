// Q4_K: unit 0 is d, dmin and 12 bytes of 6-bit scales and minima; units 1-8 are nibbles. Chunk
// u of a block is unit 1 + u: half h = u % 2 of run c = u / 2, low nibbles elements 64c + 16h,
// high ones 32 further.
fn chunk_q4_k(m: Matrix, tile: u32, row: u32, chunk: u32) -> Levels {
  let block = chunk >> 3u; let u = chunk & 7u;
  let base = m.units + (tile * m.blocks + block) * 144u + row;
  let head = w[base];
  let q = w[base + (1u + u) * 16u];
  let lo = q & vec4<u32>(0x0f0f0f0fu);
  let hi = (q >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
  let c = u >> 1u; let h = u & 1u;
  let d = unpack2x16float(head.x);
  let a = six_bits(head, 2u * c) * d;
  let b = six_bits(head, 2u * c + 1u) * d;
  let g = 16u * block + 4u * c + h;
  return Levels(array<u32, 8>(lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w),
    vec2<f32>(a.x, b.x), vec2<f32>(a.y, b.y), vec2<u32>(g, g + 2u));
}
