// TQ1_0: five digits of base 3 in a byte. Units 0-1 are digits of 160 elements, unit 2 of 80, a
// word beside them of 16 (four digits a byte); an F16 scale. Bias 1. Part c is chunks 2c, 2c + 1.
struct Raw_tq1_0 { a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, h: u32, d: f32 }
fn fetch_tq1_0(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_tq1_0 {
  let base = m.units + (tile * m.blocks + block) * 48u + row;
  return Raw_tq1_0(w[base], w[base + 16u], w[base + 32u], word_tail(m.tail, m, tile, row, block),
                   half_tail(m.tail2, m, tile, row, block));
}
// A byte is a fraction: digit n is the whole part of three times what is left of it times 3^n.
fn digits(q: vec4<u32>, power: vec4<u32>) -> vec4<u32> {
  let bytes = vec4<u32>(0x00ff00ffu);
  let even = (((q & bytes) * power) & bytes) * vec4<u32>(3u);
  let odd = ((((q >> vec4<u32>(8u)) & bytes) * power) & bytes) * vec4<u32>(3u);
  return ((even >> vec4<u32>(8u)) & vec4<u32>(0x00030003u)) | (odd & vec4<u32>(0x03000300u));
}
fn decode_tq1_0(r: Raw_tq1_0, block: u32, part: u32) -> array<Chunk, 2> {
  let d = vec2<f32>(r.d);
  let none = vec2<f32>(0.0);
  let at = 8u * block + 2u * part;
  let first = part < 2u; // both chunks are digits of units 0 and 1
  let last = part == 3u;
  // 3^n of the digits of chunk 2c, then of 2c + 1.
  let p = select(select(81u, 9u, part == 1u || last), 1u, part == 0u);
  let s = select(select(1u, 81u, last), select(27u, 3u, part == 0u), first);
  return array<Chunk, 2>(
    Chunk(digits(select(r.a, r.c, last), vec4<u32>(p)), digits(select(r.b, r.c, last), vec4<u32>(select(p, 27u, last))), d, none, at),
    Chunk(digits(select(r.c, r.a, first), vec4<u32>(s)),
          digits(select(select(r.c, vec4<u32>(r.h), last), r.b, first),
                 select(vec4<u32>(select(3u, s, first)), vec4<u32>(1u, 3u, 9u, 27u), last)), d, none, at + 1u));
}
