// What indices into codebooks stand for (src/quant/codebook.rs). The books are in workgroup memory.

// Bits 0-15 turn the signs of sixteen levels that are not 0.
fn signed(levels: vec4<u32>, bits: u32) -> vec4<u32> {
  let four = vec4<u32>(bits, bits >> 4u, bits >> 8u, bits >> 12u) & vec4<u32>(15u);
  let s = (four * 0x00204081u) & vec4<u32>(0x01010101u);
  return (levels ^ (s * 255u)) + s;
}
// Eight signs each in seven bits: there is an even number of them.
fn even_signs(bits: vec4<u32>) -> vec4<u32> {
  let seven = bits & vec4<u32>(127u);
  return seven | ((countOneBits(seven) & vec4<u32>(1u)) << vec4<u32>(7u));
}
// The eight values of each of two points.
fn values_of(p: u32, q: u32) -> vec4<u32> { return vec4<u32>(p, p >> 4u, q, q >> 4u) & vec4<u32>(0x0f0f0f0fu); }

// Two points of the IQ2 types, whose magnitudes are 8, 25 and 43.
fn iq2_group(p: u32, q: u32, signs: u32) -> vec4<u32> {
  let v = values_of(p, q);
  return signed(v * 17u + ((v >> vec4<u32>(1u)) & vec4<u32>(0x01010101u)) + vec4<u32>(0x08080808u), signs);
}
// Four nibbles of scales.
fn iq2_scales(s: u32, d: f32) -> vec4<f32> {
  return d * (vec4<f32>(vec4<u32>(s, s >> 4u, s >> 8u, s >> 12u) & vec4<u32>(15u)) + 0.5) * 0.25;
}
// Two points of the IQ1 types, eight times their values, and 2 each where they are moved up.
fn iq1_group(p: u32, q: u32, up: vec2<u32>) -> vec4<u32> { return values_of(p, q) * 8u + up.xxyy; }
