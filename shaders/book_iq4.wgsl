// The levels of 32 nibbles: low ones are elements 0-15. A byte is looked up at once: its low
// nibble's level is byte 0, its high one's byte 2.
fn iq4_chunk(q: vec4<u32>, d: f32, at: u32) -> Chunk {
  var low: vec4<u32>;
  var high: vec4<u32>;
#repeat i 4
  {
    let v = q[${i}u];
    let a = book_iq4[v & 255u] | (book_iq4[(v >> 8u) & 255u] << 8u);
    let b = book_iq4[(v >> 16u) & 255u] | (book_iq4[v >> 24u] << 8u);
    low[${i}u] = (a & 0xffffu) | (b << 16u);
    high[${i}u] = (a >> 16u) | (b & 0xffff0000u);
  }
#end
  return Chunk(low, high, vec2<f32>(d), vec2<f32>(0.0), at);
}
