// Q4_0: one unit of nibbles (low ones are elements 0-15), an F16 scale; levels minus 8.
fn chunk_q4_0(m: Matrix, tile: u32, row: u32, chunk: u32) -> Levels {
  let q = w[m.units + (tile * m.blocks + chunk) * 16u + row];
  let lo = q & vec4<u32>(0x0f0f0f0fu);
  let hi = (q >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
  let d = half_tail(m.tail, m, tile, row, chunk);
  return Levels(
    array<u32, 8>(minus_8(lo.x), minus_8(lo.y), minus_8(lo.z), minus_8(lo.w),
                  minus_8(hi.x), minus_8(hi.y), minus_8(hi.z), minus_8(hi.w)),
    vec2<f32>(d), vec2<f32>(0.0), vec2<u32>(2u * chunk, 2u * chunk + 1u));
}
