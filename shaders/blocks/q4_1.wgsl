// Q4_1: one unit of nibbles (low ones are elements 0-15), F16 scale and minimum in a word.
fn chunk_q4_1(m: Matrix, tile: u32, row: u32, chunk: u32) -> Levels {
  let q = w[m.units + (tile * m.blocks + chunk) * 16u + row];
  let lo = q & vec4<u32>(0x0f0f0f0fu);
  let hi = (q >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
  let dm = unpack2x16float(word_tail(m.tail, m, tile, row, chunk));
  return Levels(array<u32, 8>(lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w),
    vec2<f32>(dm.x), vec2<f32>(-dm.y), vec2<u32>(2u * chunk, 2u * chunk + 1u));
}
