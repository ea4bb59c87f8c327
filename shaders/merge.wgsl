// What the splits of attention leave behind, and merging it. Includer: parts, and what emit.wgsl
// needs. parts: (tokens, heads, SPLITS, DV + 1) vec4s: the unscaled output, then (maximum, sum).
const SPLITS: u32 = ${SPLITS}u;

fn part_at(token: u32, head: u32, split: u32) -> u32 {
  return ((token * HEADS + head) * SPLITS + split) * (DV + 1u);
}

#if MERGES
const MERGE: u32 = ${MERGE}u;                   // elements merged at once, whole groups of 16
const MERGED_HEADS: u32 = ${MERGED_HEADS}u;     // heads that they may belong to
var<workgroup> merged: array<vec4<f32>, ${MERGED_VECTORS}>;
var<workgroup> ends: array<vec2<f32>, ${MERGED_ENDS}>;    // (heads, SPLITS) maximum, sum
var<workgroup> factors: array<f32, ${MERGED_ENDS}>;       // (heads, SPLITS)

// Elements `first` to `first + count` of a token's attention output: merged, then written as
// groups of activations. Called by a whole workgroup.
fn merge(token: u32, first: u32, count: u32, splits: u32, lid: u32, threads: u32) {
  let head0 = first / D;
  let heads = (first + count - 1u) / D - head0 + 1u;
  for (var t = lid; t < heads * splits; t += threads) {
    ends[t] = parts[part_at(token, head0 + t / splits, t % splits) + DV].xy;
  }
  workgroupBarrier();
  for (var t = lid; t < heads * splits; t += threads) {
    let h = t / splits * splits;
    var top = ends[h].x;
    for (var s = 1u; s < splits; s++) { top = max(top, ends[h + s].x); }
    factors[t] = exp(ends[t].x - top);
  }
  workgroupBarrier();
  for (var i = lid; i < MERGE / 4u; i += threads) {
    var v = vec4<f32>(0.0);
    if 4u * i < count {
#if WHOLE_GROUPS
      let head = (first + 4u * i) / D;
      let d = (first + 4u * i) % D;
      let h = (head - head0) * splits;
      let at = part_at(token, head, 0u) + d / 4u;
      var sum = 0.0;
      for (var s = 0u; s < splits; s += 8u) {
        var p: array<vec4<f32>, 8>;
#repeat n 8
        p[${n}u] = parts[at + min(s + ${n}u, splits - 1u) * (DV + 1u)];
#end
#repeat n 8
        let f${n} = select(0.0, factors[h + min(s + ${n}u, splits - 1u)], s + ${n}u < splits);
        v += p[${n}u] * f${n};
        sum += ends[h + min(s + ${n}u, splits - 1u)].y * f${n};
#end
      }
      v /= sum;
#else
      for (var k = 0u; k < 4u; k++) {
        let e = first + 4u * i + k;
        if e < first + count {
          let head = e / D;
          let d = e % D;
          let h = (head - head0) * splits;
          var sum = 0.0;
          var a = 0.0;
          for (var s = 0u; s < splits; s++) {
            a += parts[part_at(token, head, s) + d / 4u][d & 3u] * factors[h + s];
            sum += ends[h + s].y * factors[h + s];
          }
          v[k] = a / sum;
        }
      }
#endif
    }
    merged[i] = v;
  }
  workgroupBarrier();
  emit_merged(token, first, count, lid, threads);
}

// Writes the groups of what stands in `merged`.
fn emit_merged(token: u32, first: u32, count: u32, lid: u32, threads: u32) {
  for (var t = lid; t < (count + 15u) / 16u * 4u; t += threads) {
    let f = t / 4u * 4u;
    emit(token * ${OUT_GROUPS}u + first / 16u + t / 4u, t % 4u,
         array<vec4<f32>, 4>(merged[f], merged[f + 1u], merged[f + 2u], merged[f + 3u]));
  }
  workgroupBarrier();
}
#endif
