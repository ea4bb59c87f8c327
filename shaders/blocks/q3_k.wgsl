// Q3_K: units 0-1 are third bits, units 2-5 two bits as in Q2_K; three words of scales, an F16 d.
// Bias 4. Part n of a block is units 2 + 2n and 3 + 2n, whose third bits are bits 4n to 4n + 3.
struct Raw_q3_k { a: vec4<u32>, b: vec4<u32>, g: vec4<u32>, h: vec4<u32>, s: vec3<u32>, d: f32 }
fn fetch_q3_k(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_q3_k {
  let base = m.units + (tile * m.blocks + block) * 96u + row;
  let s = vec3<u32>(words_tail(m.tail, m, tile, row, block, 3u, 0u), words_tail(m.tail, m, tile, row, block, 3u, 1u),
                    words_tail(m.tail, m, tile, row, block, 3u, 2u));
  return Raw_q3_k(w[base + (2u + 2u * part) * 16u], w[base + (3u + 2u * part) * 16u], w[base], w[base + 16u],
                  s, half_tail(m.tail2, m, tile, row, block));
}
fn third_bits(h: vec4<u32>, bit: u32) -> vec4<u32> {
  return ((h >> vec4<u32>(bit)) & vec4<u32>(0x01010101u)) << vec4<u32>(2u);
}
fn decode_q3_k(r: Raw_q3_k, block: u32, part: u32) -> array<Chunk, 4> {
  // Eight scales: low nibbles from the first two words, their highest two bits from the third.
  let n = 4u * part;
  let high = vec2<u32>(r.s.z >> n, r.s.z >> (n + 2u)) & vec2<u32>(0x03030303u);
  let six = ((r.s.xy >> vec2<u32>(n)) & vec2<u32>(0x0f0f0f0fu)) | (high << vec2<u32>(4u));
  let s = r.d * (vec4<f32>(unpack4xU8(six.x)) - 32.0);
  let t = r.d * (vec4<f32>(unpack4xU8(six.y)) - 32.0);
  let at = 8u * block + n;
  let none = vec2<f32>(0.0);
  let two = vec4<u32>(2u);
  let four = vec4<u32>(4u);
  let last = vec4<u32>(6u);
  return array<Chunk, 4>(
    Chunk(two_bits(r.a) | third_bits(r.g, n), two_bits(r.b) | third_bits(r.h, n), s.xy, none, at),
    Chunk(two_bits(r.a >> two) | third_bits(r.g, n + 1u), two_bits(r.b >> two) | third_bits(r.h, n + 1u), s.zw, none, at + 1u),
    Chunk(two_bits(r.a >> four) | third_bits(r.g, n + 2u), two_bits(r.b >> four) | third_bits(r.h, n + 2u), t.xy, none, at + 2u),
    Chunk(two_bits(r.a >> last) | third_bits(r.g, n + 3u), two_bits(r.b >> last) | third_bits(r.h, n + 3u), t.zw, none, at + 3u));
}
