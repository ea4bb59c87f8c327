// F32: 8 units of 4 elements in a chunk.
alias Raw_f32 = array<vec4<u32>, 8>;
fn fetch_f32(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_f32 {
  let base = m.units + (tile * m.blocks + block) * 128u + row;
  return Raw_f32(w[base], w[base + 16u], w[base + 32u], w[base + 48u], w[base + 64u], w[base + 80u], w[base + 96u], w[base + 112u]);
}
fn decode_f32(r: Raw_f32, block: u32, part: u32) -> array<vec4<f32>, 8> {
  return array<vec4<f32>, 8>(
    bitcast<vec4<f32>>(r[0]), bitcast<vec4<f32>>(r[1]), bitcast<vec4<f32>>(r[2]), bitcast<vec4<f32>>(r[3]),
    bitcast<vec4<f32>>(r[4]), bitcast<vec4<f32>>(r[5]), bitcast<vec4<f32>>(r[6]), bitcast<vec4<f32>>(r[7]));
}
