// What indices into codebooks stand for (src/quant/codebook.rs). The books are in workgroup memory.

// Bits 0-3, each over its own byte.
fn masks(bits: u32) -> u32 { return ((((bits & 15u) * 0x00204081u) & 0x01010101u)) * 255u; }
// Turns the signs of levels that are not 0 where a byte of the mask is set.
fn turned(levels: vec4<u32>, masks: vec4<u32>) -> vec4<u32> {
  return (levels ^ masks) + (masks & vec4<u32>(0x01010101u));
}
// Bits 0-15 turn the signs of sixteen levels.
fn signed(levels: vec4<u32>, bits: u32) -> vec4<u32> {
  return turned(levels, vec4<u32>(masks(bits), masks(bits >> 4u), masks(bits >> 8u), masks(bits >> 12u)));
}
// The eight values of a point: 0-3 are low nibbles, 4-7 high ones.
fn values_of(p: u32) -> vec2<u32> { return vec2<u32>(p, p >> 4u) & vec2<u32>(0x0f0f0f0fu); }
// A point of the IQ2 types, whose magnitudes are 8, 25 and 43.
fn magnitudes(p: u32) -> vec2<u32> {
  let v = values_of(p);
  return v * 17u + ((v >> vec2<u32>(1u)) & vec2<u32>(0x01010101u)) + vec2<u32>(0x08080808u);
}
// Four nibbles of scales.
fn iq2_scales(s: u32, d: f32) -> vec4<f32> {
  return d * (vec4<f32>(vec4<u32>(s, s >> 4u, s >> 8u, s >> 12u) & vec4<u32>(15u)) + 0.5) * 0.25;
}
// Two points of the IQ1 types, eight times their values, and 2 each where they are moved up.
fn iq1_group(p: u32, q: u32, up: vec2<u32>) -> vec4<u32> { return vec4<u32>(values_of(p), values_of(q)) * 8u + up.xxyy; }
#if EVEN_SIGNS
// The masks of eight signs in seven bits: there is an even number of them.
var<workgroup> even: array<vec2<u32>, 128>;
fn bring_even_signs(lid: u32) {
  for (var k = lid; k < 128u; k += THREADS) {
    let bits = k | ((countOneBits(k) & 1u) << 7u);
    even[k] = vec2<u32>(masks(bits), masks(bits >> 4u));
  }
}
#endif
