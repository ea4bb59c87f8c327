// Q8_K: units 0-15 bytes, 16-17 sums of groups (not needed here), an F32 scale beside them. Part c
// is chunks 2c and 2c + 1.
fn step_q8_k(m: Matrix, tile: u32, row: u32, block: u32, part: u32) -> array<Chunk, 2> {
  let base = m.units + (tile * m.blocks + block) * 288u + part * 64u + row;
  let d = vec2<f32>(bitcast<f32>(word_tail(m.tail, m, tile, row, block)));
  let at = 8u * block + 2u * part;
  return array<Chunk, 2>(
    Chunk(w[base], w[base + 16u], d, vec2<f32>(0.0), at),
    Chunk(w[base + 32u], w[base + 48u], d, vec2<f32>(0.0), at + 1u));
}
