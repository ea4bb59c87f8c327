// Merging the splits of attention. Includer: parts, and what emit.wgsl needs.
const SPLITS: u32 = ${SPLITS}u;
const MERGE: u32 = 256u; // elements merged at once, whole groups of 16
#if MERGES
var<workgroup> merged: array<f32, MERGE>;
#endif

fn part_at(token: u32, head: u32, split: u32) -> u32 {
  return ((token * HEADS + head) * SPLITS + split) * (DP + 2u);
}

#if MERGES
// Elements `first` to `first + count` of a token's attention output: merged, then written as
// groups of activations. Called by a whole workgroup.
fn merge(token: u32, first: u32, count: u32, lid: u32, threads: u32) {
  for (var i = lid; i < MERGE; i += threads) {
    var v = 0.0;
    if i < count {
      let head = (first + i) / D;
      let d = (first + i) % D;
      var top = -3.4e38;
      for (var s = 0u; s < args.splits; s++) { top = max(top, parts[part_at(token, head, s) + DP]); }
      var sum = 0.0;
      for (var s = 0u; s < args.splits; s++) {
        let at = part_at(token, head, s);
        let f = exp(parts[at + DP] - top);
        v += parts[at + d] * f;
        sum += parts[at + DP + 1u] * f;
      }
      v /= sum;
    }
    merged[i] = v;
  }
  workgroupBarrier();
  for (var g = lid; g < (count + 15u) / 16u; g += threads) {
    var a: array<vec4<f32>, 4>;
    for (var i = 0u; i < 4u; i++) {
      let f = 16u * g + 4u * i;
      a[i] = vec4<f32>(merged[f], merged[f + 1u], merged[f + 2u], merged[f + 3u]);
    }
    emit(token * ${OUT_GROUPS}u + first / 16u + g, a, 0.0);
  }
  workgroupBarrier();
}
#endif
