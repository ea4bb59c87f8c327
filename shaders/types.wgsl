// What a block type's snippet takes and gives. See src/quant/layout.rs for the packed layout.

// A packed matrix within the bound range.
struct Matrix {
  units: u32,  // first 16-byte unit of plane 0, in vec4<u32>
  tail: u32,   // first word of plane 1, in u32
  tail2: u32,  // first word of plane 2, in u32
  blocks: u32, // packed blocks of a row
}

// 32 neighbouring elements of a row: two groups of 16. Element i of group g is
// scale[g] * (level - BIAS) - min[g]; levels are signed bytes, four to a word. BIAS is the
// type's (Type::levels).
struct Chunk {
  a: vec4<u32>,
  b: vec4<u32>,
  scale: vec2<f32>,
  min: vec2<f32>,
  at: u32, // the chunk's number in the row
}

// The F16 of a plane of 2-byte units: row `row` of block `block`.
fn half_tail(first: u32, m: Matrix, tile: u32, row: u32, block: u32) -> f32 {
  let i = (tile * m.blocks + block) * 16u + row;
  let pair = unpack2x16float(wt[first + (i >> 1u)]);
  return select(pair.x, pair.y, (i & 1u) == 1u);
}

// The word of a plane of 4-byte units.
fn word_tail(first: u32, m: Matrix, tile: u32, row: u32, block: u32) -> u32 {
  return wt[first + (tile * m.blocks + block) * 16u + row];
}

// Word `unit` of a plane of `count` 4-byte units a block.
fn words_tail(first: u32, m: Matrix, tile: u32, row: u32, block: u32, count: u32, unit: u32) -> u32 {
  return wt[first + ((tile * m.blocks + block) * count + unit) * 16u + row];
}

// The byte of a plane of single bytes.
fn byte_tail(first: u32, m: Matrix, tile: u32, row: u32, block: u32) -> u32 {
  let i = (tile * m.blocks + block) * 16u + row;
  return (wt[first + (i >> 2u)] >> (8u * (i & 3u))) & 255u;
}

fn two_bits(q: vec4<u32>) -> vec4<u32> { return q & vec4<u32>(0x03030303u); }
fn low_nibbles(q: vec4<u32>) -> vec4<u32> { return q & vec4<u32>(0x0f0f0f0fu); }
fn high_nibbles(q: vec4<u32>) -> vec4<u32> { return (q >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu); }

// Bits 0-3 of b, each to bit 4 of its own byte.
fn fifth_bits(b: u32) -> u32 { return (((b & 15u) * 0x00204081u) & 0x01010101u) << 4u; }
// The same for the 16 bits of a group.
fn fifth_bits_of_group(h: u32) -> vec4<u32> {
  return vec4<u32>(fifth_bits(h), fifth_bits(h >> 4u), fifth_bits(h >> 8u), fifth_bits(h >> 12u));
}

// Scales and minima 2c and 2c + 1 of the eight that Q4_K and Q5_K keep in the last 12 bytes of
// their first unit, six bits each: (scale, scale, minimum, minimum).
fn six_bits(head: vec4<u32>, c: u32) -> vec4<f32> {
  let v = vec3<u32>(head.y, head.z, head.w) >> vec3<u32>(16u * (c & 1u));
  let high = ((v.xy >> vec2<u32>(2u)) & vec2<u32>(0x3030u)) | (vec2<u32>(v.z, v.z >> 4u) & vec2<u32>(0x0f0fu));
  let two = select(high, v.xy & vec2<u32>(0x3f3fu), c < 2u);
  return vec4<f32>(vec4<u32>(two.x & 255u, two.x >> 8u, two.y & 255u, two.y >> 8u));
}

// Nibbles of a sign, two bits of exponent and one of mantissa: 12 and twice their numbers, first of
// the low nibbles, then of the high ones. Twice a number is whole and at most 12: with x the
// three bits, x up to 4, then steps of two (6) and four (8, 12). All eight are computed side by side;
// 15 - n with 3 taken off is 12 - n.
fn e2m1(q: vec4<u32>) -> array<vec4<u32>, 2> {
  let one = vec4<u32>(0x11111111u);
  let bytes = vec4<u32>(0x0f0f0f0fu);
  let twelve = vec4<u32>(0x0c0c0c0cu);
  let top = (q >> vec4<u32>(2u)) & one;
  let number = (q & vec4<u32>(0x77777777u)) + (q & (top * 3u)) + ((q & (q >> vec4<u32>(1u)) & top) << vec4<u32>(1u));
  let sign = ((q >> vec4<u32>(3u)) & one) * 15u;
  let turned = number ^ sign;
  return array<vec4<u32>, 2>(
    (turned & bytes) + twelve - (sign & bytes),
    ((turned >> vec4<u32>(4u)) & bytes) + twelve - ((sign >> vec4<u32>(4u)) & bytes));
}
