// What the splits of attention leave behind, and merging it. Includer: parts, and what emit.wgsl
// needs. parts: (tokens, heads, SPLITS, DV + 1) vec4s: the unscaled output, then (maximum, sum).
const SPLITS: u32 = ${SPLITS}u;

fn part_at(token: u32, head: u32, split: u32) -> u32 {
  return ((token * HEADS + head) * SPLITS + split) * (DV + 1u);
}

// Single numbers of the vectors in `pool`.
fn weight(i: u32) -> f32 { return pool1(i); }
fn set_weight(i: u32, v: f32) { set_pool(i, v); }

#if MERGES
// In workgroup memory the includer has: lanes, for (3, heads, SPLITS) numbers; pool, for
// (SHARE, OUTS) vectors and as many numbers; ${MERGED}.
const MERGE: u32 = ${MERGE}u;               // elements merged at once, whole groups of 16
const ENDS: u32 = ${MERGED_ENDS}u;          // splits of all heads that they may belong to
#if WHOLE_GROUPS
const OUTS: u32 = MERGE / 4u;
const WIDE: u32 = ${WIDE}u;                 // vectors at once
const SHARE: u32 = ${SHARE}u;               // lanes that share one, each with its splits
#endif

// Elements `first` to `first + count` of a token's attention output: merged, then written as
// groups of activations. Called by a whole workgroup.
fn merge(token: u32, first: u32, count: u32, splits: u32, lid: u32, threads: u32) {
  let head0 = first / D;
  let heads = (first + count - 1u) / D - head0 + 1u;
#if WHOLE_GROUPS
  // Everything is asked for at once.
  let share = lid / WIDE;
  var out = lid % WIDE;
  var p: array<vec4<f32>, 8>;
  var at = part_at(token, (first + 4u * min(out, count / 4u - 1u)) / D, 0u) + (first + 4u * out) % D / 4u;
#repeat n 8
  p[${n}u] = parts[at + min(share + ${n}u * SHARE, splits - 1u) * (DV + 1u)];
#end
#endif
  for (var t = lid; t < heads * splits; t += threads) {
    let end = parts[part_at(token, head0 + t / splits, t % splits) + DV];
    lanes[t] = end.x;
    lanes[ENDS + t] = end.y;
  }
  workgroupBarrier();
  for (var t = lid; t < heads * splits; t += threads) {
    let h = t / splits * splits;
    var top = lanes[h];
    for (var s = 1u; s < splits; s++) { top = max(top, lanes[h + s]); }
    lanes[2u * ENDS + t] = exp(lanes[t] - top);
  }
  workgroupBarrier();
#if WHOLE_GROUPS
  for (; share < SHARE && out < count / 4u; out += WIDE) {
    let h = ((first + 4u * out) / D - head0) * splits;
    at = part_at(token, (first + 4u * out) / D, 0u) + (first + 4u * out) % D / 4u;
    var v = vec4<f32>(0.0);
    var sum = 0.0;
    for (var s = share; s < splits; s += 8u * SHARE) {
      if s > share || out >= WIDE {
#repeat n 8
        p[${n}u] = parts[at + min(s + ${n}u * SHARE, splits - 1u) * (DV + 1u)];
#end
      }
#repeat n 8
      {
        let at_factor = h + min(s + ${n}u * SHARE, splits - 1u);
        let f = select(0.0, lanes[2u * ENDS + at_factor], s + ${n}u * SHARE < splits);
        v += p[${n}u] * f;
        sum += lanes[ENDS + at_factor] * f;
      }
#end
    }
    set_pool4(share * OUTS + out, v);
    set_weight(4u * SHARE * OUTS + share * OUTS + out, sum);
  }
  workgroupBarrier();
  for (var i = lid; i < OUTS; i += threads) {
    var v = vec4<f32>(0.0);
    if 4u * i < count {
      v = pool4(i);
      var sum = weight(4u * SHARE * OUTS + i);
      for (var g = 1u; g < SHARE; g++) {
        v += pool4(g * OUTS + i);
        sum += weight(4u * SHARE * OUTS + g * OUTS + i);
      }
      v /= sum;
    }
    ${MERGED}[i] = v;
  }
#else
  for (var i = lid; i < MERGE / 4u; i += threads) {
    var v = vec4<f32>(0.0);
    for (var k = 0u; k < 4u; k++) {
      let e = first + 4u * i + k;
      if e < first + count {
        let head = e / D;
        let d = e % D;
        let h = (head - head0) * splits;
        var sum = 0.0;
        var a = 0.0;
        for (var s = 0u; s < splits; s++) {
          a += parts[part_at(token, head, s) + d / 4u][d & 3u] * lanes[2u * ENDS + h + s];
          sum += lanes[ENDS + h + s] * lanes[2u * ENDS + h + s];
        }
        v[k] = a / sum;
      }
    }
    ${MERGED}[i] = v;
  }
#endif
  workgroupBarrier();
  emit_merged(token, first, count, lid, threads);
}

// Writes the groups of what has been merged.
fn emit_merged(token: u32, first: u32, count: u32, lid: u32, threads: u32) {
  for (var t = lid; t < (count + 15u) / 16u * 4u; t += threads) {
    let f = t / 4u * 4u;
    emit(token * ${OUT_GROUPS}u + first / 16u + t / 4u, t % 4u,
         array<vec4<f32>, 4>(${MERGED}[f], ${MERGED}[f + 1u], ${MERGED}[f + 2u], ${MERGED}[f + 3u]));
  }
  workgroupBarrier();
}
#endif
