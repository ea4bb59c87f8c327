// What a block type's snippet takes and gives. See src/quant/layout.rs for the packed layout.

// A packed matrix within the bound range.
struct Matrix {
  units: u32,  // first 16-byte unit of plane 0, in vec4<u32>
  tail: u32,   // first word of plane 1, in u32
  tail2: u32,  // first word of plane 2, in u32
  blocks: u32, // packed blocks of a row
}

// 32 elements of a row: two groups of 16, which share their storage words.
// Element i of group g is scale[g] * level - min[g]; levels are packed four to a word.
struct Levels {
  q: array<u32, 8>,   // words 0-3: group 0, words 4-7: group 1
  scale: vec2<f32>,
  min: vec2<f32>,
  groups: vec2<u32>,  // where the groups stand in the row
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

// Four 4-bit, 5-bit or 6-bit numbers to signed bytes, minus half their range: the highest bit
// is flipped, then copied upwards.
fn minus_8(v: u32) -> u32 { let t = v ^ 0x08080808u; return t | ((t & 0x08080808u) * 30u); }
fn minus_16(v: u32) -> u32 { let t = v ^ 0x10101010u; return t | ((t & 0x10101010u) * 14u); }
fn minus_32(v: u32) -> u32 { let t = v ^ 0x20202020u; return t | ((t & 0x20202020u) * 6u); }

// Bits 0-3 of b, each to bit 4 of its own byte.
fn fifth_bits(b: u32) -> u32 { return (((b & 15u) * 0x00204081u) & 0x01010101u) << 4u; }

// Scale and minimum j of the eight that Q4_K and Q5_K keep in the last 12 bytes of their first
// unit, six bits each.
fn six_bits(head: vec4<u32>, j: u32) -> vec2<f32> {
  let s = 8u * (j & 3u);
  let y = (head.y >> s) & 255u; let z = (head.z >> s) & 255u; let v = (head.w >> s) & 255u;
  let low = vec2<u32>(y & 63u, z & 63u);
  let high = vec2<u32>((v & 15u) | ((y >> 6u) << 4u), (v >> 4u) | ((z >> 6u) << 4u));
  return vec2<f32>(select(high, low, j < 4u));
}
