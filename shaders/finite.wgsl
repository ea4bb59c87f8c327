// What is no number must reach the logits as none. A driver's min, max and clamp may drop it, and its
// comparisons may be taken for granted: bits are looked at.
fn is_finite(v: f32) -> bool { return (bitcast<u32>(v) & 0x7f800000u) != 0x7f800000u; }
fn is_nan(v: f32) -> bool { return (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u; }
// Of products with a scale that is infinite. Elements of such a block are infinite with both signs, so that
// their sum is no number, though the levels' sum has a sign: what would make a number of an infinity (a cap, a
// clamp) takes this first.
fn without_infinity(v: vec4<f32>) -> vec4<f32> {
  let finite = (bitcast<vec4<u32>>(v) & vec4<u32>(0x7f800000u)) != vec4<u32>(0x7f800000u);
  return select(vec4<f32>(bitcast<f32>(0x7fc00000u)), v, finite);
}
// The factor of a norm, of the mean square and epsilon. Where squares overflow it would be 0, and hide that.
fn factor_of_norm(v: f32) -> f32 { return select(bitcast<f32>(0x7fc00000u), inverseSqrt(v), is_finite(v)); }
