// F16: 4 units of 8 elements in a chunk.
fn pairs_f16(a: u32, b: u32) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(a), unpack2x16float(b));
}
fn numbers_f16(m: Matrix, tile: u32, row: u32, chunk: u32) -> array<vec4<f32>, 8> {
  let base = m.units + (tile * m.blocks + chunk) * 64u + row;
  let a = w[base]; let b = w[base + 16u]; let c = w[base + 32u]; let d = w[base + 48u];
  return array<vec4<f32>, 8>(
    pairs_f16(a.x, a.y), pairs_f16(a.z, a.w), pairs_f16(b.x, b.y), pairs_f16(b.z, b.w),
    pairs_f16(c.x, c.y), pairs_f16(c.z, c.w), pairs_f16(d.x, d.y), pairs_f16(d.z, d.w));
}
