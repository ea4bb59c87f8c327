// Blocks of Q8_0 from vectors in workgroup memory: a block is 32 numbers, eight vectors of four, in
// `pool`, zeros behind a head's end. Two blocks have their scales in one word.
const WORD_VECTORS: u32 = 16u;
const HEAD_VECTORS: u32 = WORDS * WORD_VECTORS;

// The new key's vector, or zeros behind its end.
fn key_vector(token: u32, head: u32, i: u32, position: u32, factor: f32) -> vec4<f32> {
  if i >= DV { return vec4<f32>(0.0); }
  return turned4(token, K_AT + head * D, 4u * i, position, norm_of(K_NORM, head)) * factor;
}
fn value_vector(token: u32, head: u32, i: u32) -> vec4<f32> {
  if i >= DV { return vec4<f32>(0.0); }
  return raw4(token, V_AT + head * D, 4u * i);
}

// Magnitudes are ordered as their bits are, with what is no number above all: it must not get lost.
// Rounded to F16 here, since packing may cut instead.
fn block_scale(first: u32) -> f32 {
  var most = vec4<u32>(0u);
  for (var i = first; i < first + 8u; i++) {
    most = max(most, bitcast<vec4<u32>>(pool4(i)) & vec4<u32>(0x7fffffffu));
  }
  let all = min(max(max(most.x, most.y), max(most.z, most.w)), 0x7fc00000u);
  let bits = bitcast<u32>(bitcast<f32>(all) * (1.0 / 127.0));
  let nearest = (bits + 0xfffu + ((bits >> 13u) & 1u)) & 0xffffe000u;
  return unpack2x16float(halves(vec2<f32>(bitcast<f32>(nearest), 0.0))).x;
}

fn quantised4(v: vec4<f32>, inverse: f32) -> u32 {
  return pack4xI8(vec4<i32>(clamp(round(v * inverse), vec4<f32>(-127.0), vec4<f32>(127.0))));
}

// The unit whose first vector is this one, of a block with this scale.
fn quantised(first: u32, scale: f32) -> vec4<u32> {
  let inverse = select(1.0 / scale, 0.0, scale == 0.0);
  return vec4<u32>(quantised4(pool4(first), inverse), quantised4(pool4(first + 1u), inverse),
                   quantised4(pool4(first + 2u), inverse), quantised4(pool4(first + 3u), inverse));
}

// The scales of two blocks, the first of which begins here.
fn word_of(first: u32) -> u32 {
  return halves(vec2<f32>(block_scale(first), block_scale(first + 8u)));
}
