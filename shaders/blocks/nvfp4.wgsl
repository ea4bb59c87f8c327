// NVFP4: two units of nibbles, four bytes of scales in a word. A group is 8 bytes: low nibbles are
// elements 0-7, high ones 8-15. Levels are doubled. Bias 12.
struct Raw_nvfp4 { a: vec4<u32>, b: vec4<u32>, s: u32 }
fn fetch_nvfp4(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_nvfp4 {
  let base = m.units + (tile * m.blocks + block) * 32u + row;
  return Raw_nvfp4(w[base], w[base + 16u], word_tail(m.tail, m, tile, row, block));
}
// Halves of numbers of 4 bits of exponent and 3 of mantissa, without sign; their NaN is read as 0.
fn half_e4m3(b: vec4<u32>) -> vec4<f32> {
  let e = (b >> vec4<u32>(3u)) & vec4<u32>(15u);
  let mantissa = b & vec4<u32>(7u);
  let normal = bitcast<vec4<f32>>(((e + vec4<u32>(119u)) << vec4<u32>(23u)) | (mantissa << vec4<u32>(20u)));
  let number = select(normal, vec4<f32>(mantissa) * 0.0009765625, e == vec4<u32>(0u));
  return select(number, vec4<f32>(0.0), b == vec4<u32>(0x7fu));
}
fn decode_nvfp4(r: Raw_nvfp4, block: u32, part: u32) -> array<Chunk, 2> {
  let s = half_e4m3(unpack4xU8(r.s));
  let a = e2m1(r.a);
  let b = e2m1(r.b);
  let none = vec2<f32>(0.0);
  return array<Chunk, 2>(
    Chunk(vec4<u32>(a[0].xy, a[1].xy), vec4<u32>(a[0].zw, a[1].zw), s.xy, none, 2u * block),
    Chunk(vec4<u32>(b[0].xy, b[1].xy), vec4<u32>(b[0].zw, b[1].zw), s.zw, none, 2u * block + 1u));
}
