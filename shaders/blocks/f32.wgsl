// F32: 8 units of 4 elements in a chunk.
fn numbers_f32(m: Matrix, tile: u32, row: u32, chunk: u32) -> array<vec4<f32>, 8> {
  let base = m.units + (tile * m.blocks + chunk) * 128u + row;
  return array<vec4<f32>, 8>(
    bitcast<vec4<f32>>(w[base]), bitcast<vec4<f32>>(w[base + 16u]),
    bitcast<vec4<f32>>(w[base + 32u]), bitcast<vec4<f32>>(w[base + 48u]),
    bitcast<vec4<f32>>(w[base + 64u]), bitcast<vec4<f32>>(w[base + 80u]),
    bitcast<vec4<f32>>(w[base + 96u]), bitcast<vec4<f32>>(w[base + 112u]));
}
