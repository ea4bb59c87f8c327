// A chunk of type ${TYPE}, ready for products.
struct W_${TYPE} { a: Weights, b: Weights, scale: vec2<f32>, min: vec2<f32> }
fn ready_${TYPE}(c: Chunk) -> W_${TYPE} {
  return W_${TYPE}(weights(c.a, ${LEVEL_BIAS}), weights(c.b, ${LEVEL_BIAS}), c.scale, c.min);
}
fn product_${TYPE}(w: W_${TYPE}, x: X) -> f32 {
  let d = dots(w.a, w.b, x);
#if PAIRED
  var v = x.m.x * d.x + x.m.z * d.y;
#if BIASED
  v -= ${LEVEL_BIAS} * (x.m.y + x.m.w);
#endif
  v *= w.scale.x;
#if MINS
  v -= w.min.x * (x.m.y + x.m.w);
#endif
  return v;
#else
  var v = x.m.xz * d;
#if BIASED
  v -= ${LEVEL_BIAS} * x.m.yw;
#endif
  v *= w.scale;
#if MINS
  v -= w.min * x.m.yw;
#endif
  return v.x + v.y;
#endif
}
