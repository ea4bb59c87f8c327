// Adds a branch to the residual stream, normed before if its model says so, and makes the
// activations of those who read the stream, whole: one workgroup has a token, a lane whole groups
// of 16 elements. What is read twice comes from the caches. Padding is 0 everywhere.
@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;  // (tokens, GROUPS * 4)
@group(0) @binding(1) var<storage, read> branch: array<vec4<f32>>;   // the same
@group(0) @binding(2) var<storage, read_write> oq: array<${ACT}>;
@group(0) @binding(3) var<storage, read_write> om: array<vec2<f32>>;
#if VECTORS
// The branch's bias and its norm's weight, the stream's norm's weight and bias: those there are.
@group(0) @binding(4) var<storage, read> vectors: array<vec4<f32>>;
#endif

const THREADS: u32 = ${THREADS}u;
const GROUPS: u32 = ${GROUPS}u; // whole chunks
const REAL: u32 = ${REAL}u;     // groups with elements

var<workgroup> lanes: array<f32, THREADS>;
var<workgroup> sums: array<vec4<f32>, 4>;

#include "emit.wgsl"

// The sum of all lanes' numbers.
fn total(v: f32, lid: u32) -> f32 {
  workgroupBarrier();
  lanes[lid] = v;
  workgroupBarrier();
  if lid < 16u {
    var sum = 0.0;
    for (var i = lid; i < THREADS; i += 16u) { sum += lanes[i]; }
    sums[lid >> 2u][lid & 3u] = sum;
  }
  workgroupBarrier();
  return dot(sums[0] + sums[1] + sums[2] + sums[3], vec4<f32>(1.0));
}

#if BRANCH
fn branch4(at: u32, i: u32) -> vec4<f32> {
  var v = branch[at + i];
#if BRANCH_BIASED
  v += vectors[${BRANCH_BIAS}u + i];
#endif
  return v;
}
#endif

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let token = wg.y * GROUPS * 4u;
#if BRANCH
  var factor = ${SCALE};
#if BRANCH_NORMED
  var squares = 0.0;
  for (var g = lid; g < REAL; g += THREADS) {
    for (var i = 4u * g; i < 4u * g + 4u; i++) {
      let v = branch4(token, i);
      squares += dot(v, v);
    }
  }
  factor *= inverseSqrt(total(squares, lid) / ${WIDTH} + ${EPS});
#endif
#endif
  var sum = 0.0;
  var square = 0.0;
  for (var g = lid; g < REAL; g += THREADS) {
    for (var i = 4u * g; i < 4u * g + 4u; i++) {
      var v = x[token + i];
#if BRANCH
      var b = branch4(token, i) * factor;
#if BRANCH_NORMED
      b *= vectors[${BRANCH_NORM}u + i];
#endif
      v += b;
      x[token + i] = v;
#endif
      sum += dot(v, vec4<f32>(1.0));
      square += dot(v, v);
    }
  }
  var mean = 0.0;
  var norm = 1.0;
#if RMS
  norm = inverseSqrt(total(square, lid) / ${WIDTH} + ${EPS});
#endif
#if LAYER
  mean = total(sum, lid) / ${WIDTH};
  square = 0.0;
  for (var g = lid; g < REAL; g += THREADS) {
    for (var i = 4u * g; i < 4u * g + 4u; i++) {
      var v = x[token + i] - mean;
#if TAILED
      // The mean is not taken off the padding.
      let element = 4u * (i & 3u) + vec4<u32>(0u, 1u, 2u, 3u);
      v = select(v, vec4<f32>(0.0), element >= vec4<u32>(select(16u, ${TAIL}u, g + 1u == REAL)));
#endif
      square += dot(v, v);
    }
  }
  norm = inverseSqrt(total(square, lid) / ${WIDTH} + ${EPS});
#endif
  for (var g = lid; g < GROUPS; g += THREADS) {
    var v: array<vec4<f32>, 4>;
#repeat k 4
    {
      let i = 4u * g + ${k}u;
      v[${k}u] = x[token + i];
#if NORMED
      // Weight and bias of the padding are 0.
      v[${k}u] = (v[${k}u] - mean) * norm * vectors[${NORM}u + i];
#endif
#if BIASED
      v[${k}u] += vectors[${NORM_BIAS}u + i];
#endif
    }
#end
#repeat k 4
    emit(wg.y * GROUPS + g, ${k}u, v);
#end
  }
}
