// F16: 4 units of 8 elements in a chunk.
alias Raw_f16 = array<vec4<u32>, 4>;
fn fetch_f16(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_f16 {
  let base = m.units + (tile * m.blocks + block) * 64u + row;
  return Raw_f16(w[base], w[base + 16u], w[base + 32u], w[base + 48u]);
}
fn pairs_f16(a: u32, b: u32) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(a), unpack2x16float(b));
}
fn decode_f16(r: Raw_f16, block: u32, part: u32) -> array<vec4<f32>, 8> {
  return array<vec4<f32>, 8>(
    pairs_f16(r[0].x, r[0].y), pairs_f16(r[0].z, r[0].w), pairs_f16(r[1].x, r[1].y), pairs_f16(r[1].z, r[1].w),
    pairs_f16(r[2].x, r[2].y), pairs_f16(r[2].z, r[2].w), pairs_f16(r[3].x, r[3].y), pairs_f16(r[3].z, r[3].w));
}
