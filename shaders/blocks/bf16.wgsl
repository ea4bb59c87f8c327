// BF16: 4 units of 8 elements in a chunk; an element is the upper half of an F32.
fn pairs_bf16(a: u32, b: u32) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(a << 16u, a & 0xffff0000u, b << 16u, b & 0xffff0000u));
}
fn numbers_bf16(m: Matrix, tile: u32, row: u32, chunk: u32) -> array<vec4<f32>, 8> {
  let base = m.units + (tile * m.blocks + chunk) * 64u + row;
  let a = w[base]; let b = w[base + 16u]; let c = w[base + 32u]; let d = w[base + 48u];
  return array<vec4<f32>, 8>(
    pairs_bf16(a.x, a.y), pairs_bf16(a.z, a.w), pairs_bf16(b.x, b.y), pairs_bf16(b.z, b.w),
    pairs_bf16(c.x, c.y), pairs_bf16(c.z, c.w), pairs_bf16(d.x, d.y), pairs_bf16(d.z, d.w));
}
