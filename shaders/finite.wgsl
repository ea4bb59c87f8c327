// What is no number must reach the logits as none. A driver's min, max and clamp may drop it, and its
// comparisons may be taken for granted: bits are looked at.
fn is_finite(v: f32) -> bool { return (bitcast<u32>(v) & 0x7f800000u) != 0x7f800000u; }
fn is_nan(v: f32) -> bool { return (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u; }
// A product with a scale that is infinite: its elements are infinite with both signs, and their sum is no
// number, though that of the levels has a sign.
fn without_infinity(v: f32) -> f32 { return select(bitcast<f32>(0x7fc00000u), v, is_finite(v)); }
// The factor of a norm, of the mean square and epsilon. Where squares overflow it would be 0, and hide that.
fn factor_of_norm(v: f32) -> f32 { return select(bitcast<f32>(0x7fc00000u), inverseSqrt(v), is_finite(v)); }
