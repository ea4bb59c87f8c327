// Q6_K: units 0-7 low nibbles, 8-11 two-bit highs, 12 sixteen i8 scales; an F16 d beside them.
// Chunk u of a block is unit u: quarter v = u % 4 of half n = u / 4, low nibbles elements
// 128n + 16v, high ones 64 further. Levels minus 32.
fn chunk_q6_k(m: Matrix, tile: u32, row: u32, chunk: u32) -> Levels {
  let block = chunk >> 3u; let u = chunk & 7u;
  let n = u >> 2u; let v = u & 3u;
  let base = m.units + (tile * m.blocks + block) * 208u + row;
  let q = w[base + u * 16u];
  let bits = w[base + (8u + 2u * n + (v & 1u)) * 16u] >> vec4<u32>(2u * (v >> 1u));
  let scales = w[base + 192u];
  let lo = (q & vec4<u32>(0x0f0f0f0fu)) | ((bits & vec4<u32>(0x03030303u)) << vec4<u32>(4u));
  let hi = ((q >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu)) | (bits & vec4<u32>(0x30303030u));
  let d = half_tail(m.tail, m, tile, row, block);
  let i = 8u * n + v;
  let a = f32(extractBits(bitcast<i32>(scales[i >> 2u]), 8u * (i & 3u), 8u));
  let b = f32(extractBits(bitcast<i32>(scales[(i + 4u) >> 2u]), 8u * (i & 3u), 8u));
  let g = 16u * block + i;
  return Levels(
    array<u32, 8>(minus_32(lo.x), minus_32(lo.y), minus_32(lo.z), minus_32(lo.w),
                  minus_32(hi.x), minus_32(hi.y), minus_32(hi.z), minus_32(hi.w)),
    vec2<f32>(d * a, d * b), vec2<f32>(0.0), vec2<u32>(g, g + 4u));
}
