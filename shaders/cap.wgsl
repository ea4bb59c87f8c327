// cap · tanh(v / cap). Beyond 10 tanh is 1, and some drivers make NaN of it; near 0 some make it of
// exponentials that cancel, where a few terms of its series are exact. What is no number stays so. Includer:
// is_nan.
fn soft_capped(v: f32, cap: f32) -> f32 {
  let x = clamp(v / cap, -10.0, 10.0);
  let s = x * x;
  let near = x * (1.0 + s * (-0.33333333 + s * (0.13333333 - s * 0.053968254)));
  return select(cap * select(tanh(x), near, s < 0.0625), v, is_nan(v));
}
