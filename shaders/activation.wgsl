// The functions between the matrices of a feed-forward layer: see src/kernels/activation.rs.
#if GELU
// Beyond 10 tanh is 1, and some drivers make NaN of it.
fn activated(x: f32) -> f32 { return 0.5 * x * (1.0 + tanh(clamp(0.7978845608 * (x + 0.044715 * x * x * x), -10.0, 10.0))); }
#else
fn activated(x: f32) -> f32 { return x / (1.0 + exp(-x)); }
#endif
#if CLAMPED_SWISH
fn gated(gate: f32, up: f32) -> f32 {
  // Not min and clamp, which may drop what is no number.
  let g = select(gate, 7.0, gate > 7.0);
  let u = select(select(up, 7.0, up > 7.0), -7.0, up < -7.0);
  return g / (1.0 + exp(-1.702 * g)) * (u + 1.0);
}
#else
fn gated(gate: f32, up: f32) -> f32 { return activated(gate) * up; }
#endif
