// Q5_1: one unit of nibbles, F16 scale and minimum in a word, a word of fifth bits.
fn chunk_q5_1(m: Matrix, tile: u32, row: u32, chunk: u32) -> Levels {
  let q = w[m.units + (tile * m.blocks + chunk) * 16u + row];
  let lo = q & vec4<u32>(0x0f0f0f0fu);
  let hi = (q >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
  let dm = unpack2x16float(word_tail(m.tail, m, tile, row, chunk));
  let h = word_tail(m.tail2, m, tile, row, chunk);
  return Levels(
    array<u32, 8>(
      lo.x | fifth_bits(h), lo.y | fifth_bits(h >> 4u),
      lo.z | fifth_bits(h >> 8u), lo.w | fifth_bits(h >> 12u),
      hi.x | fifth_bits(h >> 16u), hi.y | fifth_bits(h >> 20u),
      hi.z | fifth_bits(h >> 24u), hi.w | fifth_bits(h >> 28u)),
    vec2<f32>(dm.x), vec2<f32>(-dm.y), vec2<u32>(2u * chunk, 2u * chunk + 1u));
}
