// MXFP4: one unit of nibbles (low ones are elements 0-15), a byte of exponent. Levels are doubled,
// so the scale is half of 2^(e - 127), and no number where e is 255. Bias 12.
struct Raw_mxfp4 { q: vec4<u32>, e: u32 }
fn fetch_mxfp4(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_mxfp4 {
  return Raw_mxfp4(w[m.units + (tile * m.blocks + block) * 16u + row], byte_tail(m.tail, m, tile, row, block));
}
fn decode_mxfp4(r: Raw_mxfp4, block: u32, part: u32) -> array<Chunk, 1> {
  let power = select((r.e - 1u) << 23u, 0x00200000u << r.e, r.e < 2u);
  let d = bitcast<f32>(select(power, 0x7fc00000u, r.e == 255u));
  let l = e2m1(r.q);
  return array<Chunk, 1>(Chunk(l[0], l[1], vec2<f32>(d), vec2<f32>(0.0), block));
}
