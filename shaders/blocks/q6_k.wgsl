// Q6_K: units 0-7 low nibbles, 8-11 two-bit highs, 12 sixteen i8 scales; an F16 d beside them.
// Bias 32. A part is half p of half n of a block, part = 2n + p: its low nibbles are chunk
// 4n + p, its high ones chunk 4n + p + 2, and their highs are bits 2p and 2p + 4 of units 8 + 2n
// and 9 + 2n.
struct Raw_q6_k { a: vec4<u32>, b: vec4<u32>, x: vec4<u32>, y: vec4<u32>, s: vec2<u32>, d: f32 }
fn fetch_q6_k(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> Raw_q6_k {
  let n = part >> 1u;
  let base = m.units + (tile * m.blocks + block) * 208u + row;
  let s = (base + 192u) * 4u + 2u * n; // two words of scales
  return Raw_q6_k(w[base + 2u * part * 16u], w[base + (2u * part + 1u) * 16u], w[base + (8u + 2u * n) * 16u],
                  w[base + (9u + 2u * n) * 16u], vec2<u32>(wt[s], wt[s + 1u]), half_tail(m.tail, m, tile, row, block));
}
fn decode_q6_k(r: Raw_q6_k, block: u32, part: u32) -> array<Chunk, 2> {
  let n = part >> 1u; let p = part & 1u;
  let x = r.x >> vec4<u32>(2u * p);
  let y = r.y >> vec4<u32>(2u * p);
  // Bytes 2p and 2p + 1 of the two words.
  let s = r.s >> vec2<u32>(16u * p);
  let scales = bitcast<vec4<i32>>(vec4<u32>(s.x << 24u, s.x << 16u, s.y << 24u, s.y << 16u)) >> vec4<u32>(24u);
  let ds = r.d * vec4<f32>(scales);
  let at = 8u * block + 4u * n + p;
  let low = vec4<u32>(0x03030303u);
  let high = vec4<u32>(0x30303030u);
  let up = vec4<u32>(4u);
  return array<Chunk, 2>(
    Chunk(low_nibbles(r.a) | ((x & low) << up), low_nibbles(r.b) | ((y & low) << up), ds.xy, vec2<f32>(0.0), at),
    Chunk(high_nibbles(r.a) | (x & high), high_nibbles(r.b) | (y & high), ds.zw, vec2<f32>(0.0), at + 2u));
}
