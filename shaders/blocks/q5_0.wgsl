// Q5_0: one unit of nibbles, a word of fifth bits, an F16 scale; levels minus 16.
fn chunk_q5_0(m: Matrix, tile: u32, row: u32, chunk: u32) -> Levels {
  let q = w[m.units + (tile * m.blocks + chunk) * 16u + row];
  let lo = q & vec4<u32>(0x0f0f0f0fu);
  let hi = (q >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
  let h = word_tail(m.tail, m, tile, row, chunk);
  let d = half_tail(m.tail2, m, tile, row, chunk);
  return Levels(
    array<u32, 8>(
      minus_16(lo.x | fifth_bits(h)), minus_16(lo.y | fifth_bits(h >> 4u)),
      minus_16(lo.z | fifth_bits(h >> 8u)), minus_16(lo.w | fifth_bits(h >> 12u)),
      minus_16(hi.x | fifth_bits(h >> 16u)), minus_16(hi.y | fifth_bits(h >> 20u)),
      minus_16(hi.z | fifth_bits(h >> 24u)), minus_16(hi.w | fifth_bits(h >> 28u))),
    vec2<f32>(d), vec2<f32>(0.0), vec2<u32>(2u * chunk, 2u * chunk + 1u));
}
