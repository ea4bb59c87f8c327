// Adds a branch to a token's residual stream, normed before if its model says so, and makes the
// activations of those who read the stream. A whole workgroup is at it; a lane has every
// THREADS-th vec4. An RMS norm's factor is left to the consumers, as everywhere. Padding is 0.
// Includer: x, branch_at, oq, om, squares_out, vectors where there are any, THREADS, finite.wgsl.
const SETTLE_GROUPS: u32 = ${SETTLE_GROUPS}u; // of a token, whole chunks

// (THREADS / 4)
#vectors settle_sums ${SETTLE_FOURTHS}
#vectors settle_firsts 4
var<workgroup> settled: array<vec4<f32>, THREADS>;

// The sum of all lanes' numbers.
fn sum_of_lanes(v: f32, lid: u32) -> f32 {
  workgroupBarrier();
  set_settle_sums(lid, v);
  workgroupBarrier();
  if lid < 16u {
    var sum = settle_sums4(lid);
    for (var i = lid + 16u; i < THREADS / 4u; i += 16u) { sum += settle_sums4(i); }
    set_settle_firsts(lid, dot(sum, vec4<f32>(1.0)));
  }
  workgroupBarrier();
  return dot(settle_firsts4(0u) + settle_firsts4(1u) + settle_firsts4(2u) + settle_firsts4(3u), vec4<f32>(1.0));
}

fn settle(token: u32, lid: u32) {
  let first = token * SETTLE_GROUPS * 4u;
  var v: array<vec4<f32>, ${SETTLE_TURNS}>;
#if BRANCH
  var b: array<vec4<f32>, ${SETTLE_TURNS}>;
#endif
  // Everything is asked for at once, from places that exist.
#repeat k SETTLE_TURNS
  {
    let i = min(lid + ${k}u * THREADS, SETTLE_GROUPS * 4u - 1u);
    v[${k}u] = x[first + i];
#if BRANCH
    b[${k}u] = branch_at(first + i);
#if BRANCH_BIASED
    b[${k}u] += vectors[${BRANCH_BIAS}u + i];
#endif
#endif
  }
#end
#if BRANCH
  var factor = ${BRANCH_SCALE};
#if BRANCH_NORMED
  var squares = 0.0;
#repeat k SETTLE_TURNS
  squares += select(0.0, dot(b[${k}u], b[${k}u]), lid + ${k}u * THREADS < SETTLE_GROUPS * 4u);
#end
  factor *= factor_of_norm(sum_of_lanes(squares, lid) / ${SETTLE_WIDTH} + ${SETTLE_EPS});
#endif
#repeat k SETTLE_TURNS
  {
    let i = min(lid + ${k}u * THREADS, SETTLE_GROUPS * 4u - 1u);
#if BRANCH_NORMED
    b[${k}u] *= vectors[${BRANCH_NORM}u + i];
#endif
    v[${k}u] += b[${k}u] * factor;
    if lid + ${k}u * THREADS < SETTLE_GROUPS * 4u { x[first + i] = v[${k}u]; }
  }
#end
#endif
#if LAYER
  var sum = 0.0;
#repeat k SETTLE_TURNS
  sum += select(0.0, dot(v[${k}u], vec4<f32>(1.0)), lid + ${k}u * THREADS < SETTLE_GROUPS * 4u);
#end
  let mean = sum_of_lanes(sum, lid) / ${SETTLE_WIDTH};
  var square = 0.0;
#repeat k SETTLE_TURNS
  {
    // The mean is not taken off the padding.
    let element = 4u * (lid + ${k}u * THREADS) + vec4<u32>(0u, 1u, 2u, 3u);
    v[${k}u] = select(vec4<f32>(0.0), v[${k}u] - mean, element < vec4<u32>(${SETTLE_ELEMENTS}u));
    square += dot(v[${k}u], v[${k}u]);
  }
#end
  let norm = factor_of_norm(sum_of_lanes(square, lid) / ${SETTLE_WIDTH} + ${SETTLE_EPS});
#endif
#repeat k SETTLE_TURNS
  {
    let t = lid + ${k}u * THREADS;
    let i = min(t, SETTLE_GROUPS * 4u - 1u);
    var read = v[${k}u];
#if LAYER
    read *= norm;
#endif
#if NORMED
    read *= vectors[${STREAM_NORM}u + i];
#endif
#if NORM_BIASED
    read += vectors[${STREAM_BIAS}u + i];
#endif
    workgroupBarrier();
    settled[lid] = read;
    set_settle_sums(lid, dot(v[${k}u], v[${k}u]));
    workgroupBarrier();
    if t < SETTLE_GROUPS * 4u {
      let f = lid / 4u * 4u;
      let g = token * SETTLE_GROUPS + t / 4u;
      emit(g, lid & 3u, array<vec4<f32>, 4>(settled[f], settled[f + 1u], settled[f + 2u], settled[f + 3u]));
#if RMS
      if (lid & 3u) == 0u { squares_out[token * ${SETTLE_SQUARES}u + t / 4u] = sent(dot(settle_sums4(lid >> 2u), vec4<f32>(1.0))); }
#endif
    }
  }
#end
}
