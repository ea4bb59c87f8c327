// A token's row of the embedding: the residual stream, and the activations of the first norm's
// consumers. Four lanes share a group of 16 elements, each decodes the step that the group is in.
#include "types.wgsl"

struct Args {
  tokens: u32,   // tokens in the batch
  position: u32, // of the first one
}
var<immediate> args: Args;

@group(0) @binding(0) var<storage, read> w: array<vec4<u32>>;  // packed table
@group(0) @binding(1) var<storage, read> wt: array<u32>;       // the same bytes
@group(0) @binding(2) var<storage, read> ids: array<u32>;      // (context) token at each position
@group(0) @binding(3) var<storage, read> norm: array<vec4<f32>>; // (CHUNKS * 8)
@group(0) @binding(4) var<storage, read_write> x: array<vec4<Word>>; // (tokens, CHUNKS * 8)
@group(0) @binding(5) var<storage, read_write> oq: array<${NUMBERS_OUT}>;
@group(0) @binding(6) var<storage, read_write> om: array<vec2<Word>>;
@group(0) @binding(7) var<storage, read_write> squares_out: array<Word>; // (tokens, ${OUT_SQUARES}) of a group

#include "overlap.wgsl"

const THREADS: u32 = 64u;
const CHUNKS: u32 = ${CHUNKS}u;
const M0 = Matrix(${M0});

${BLOCKS}
#include "emit.wgsl"

#if LEVELS
fn elements(q: vec4<u32>, scale: f32, low: f32) -> array<vec4<f32>, 4> {
  return array<vec4<f32>, 4>(
    scale * (vec4<f32>(unpack4xI8(q.x)) - ${LEVEL_BIAS}) - low, scale * (vec4<f32>(unpack4xI8(q.y)) - ${LEVEL_BIAS}) - low,
    scale * (vec4<f32>(unpack4xI8(q.z)) - ${LEVEL_BIAS}) - low, scale * (vec4<f32>(unpack4xI8(q.w)) - ${LEVEL_BIAS}) - low);
}
#endif

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
#if BOOKS
  bring_books(lid);
  workgroupBarrier();
#endif
  let i = id.x & 3u;
  let half = (id.x >> 2u) & 1u;
  let c = (id.x >> 3u) % ${STEP_CHUNKS}u;
  let step = (id.x >> 3u) / ${STEP_CHUNKS}u;
  let token = id.y;
  if step >= CHUNKS / ${STEP_CHUNKS}u { return; }
  // An id that is no token (the mark of a failed selection) is read as the last one.
  let entry = min(ids[args.position + token], ${VOCAB}u - 1u);
  if entry < ${ROW0}u || entry >= ${ROW0}u + ${ROWS}u { return; } // another part of the table has it
  let r = entry - ${ROW0}u;
#if LEVELS
  let block = step / ${STEP_PARTS}u;
  let part = step % ${STEP_PARTS}u;
  var l = decode_${TYPE0}(fetch_${TYPE0}(M0, r >> 4u, r & 15u, block, part), block, part);
  let at = l[c].at;
  var v: array<vec4<f32>, 4>;
  if half == 0u { v = elements(l[c].a, l[c].scale.x, l[c].min.x); }
  else { v = elements(l[c].b, l[c].scale.y, l[c].min.y); }
#else
  let at = step;
  var n = decode_${TYPE0}(fetch_${TYPE0}(M0, r >> 4u, r & 15u, step, 0u), step, 0u);
  var v = array<vec4<f32>, 4>(n[4u * half], n[4u * half + 1u], n[4u * half + 2u], n[4u * half + 3u]);
#endif
#if EMBEDDING_SCALED
  v = array<vec4<f32>, 4>(v[0] * ${EMBEDDING_SCALE}, v[1] * ${EMBEDDING_SCALE}, v[2] * ${EMBEDDING_SCALE}, v[3] * ${EMBEDDING_SCALE});
#endif
  let g = 2u * at + half;
  let own = quarter(v, i);
  x[token * CHUNKS * 8u + g * 4u + i] = vec4<Word>(sent(own.x), sent(own.y), sent(own.z), sent(own.w));
  if i == 0u {
    squares_out[token * ${OUT_SQUARES}u + g] = sent(dot(v[0], v[0]) + dot(v[1], v[1]) + dot(v[2], v[2]) + dot(v[3], v[3]));
  }
  let n4 = g * 4u;
  emit(token * CHUNKS * 2u + g, i,
       array<vec4<f32>, 4>(v[0] * norm[n4], v[1] * norm[n4 + 1u], v[2] * norm[n4 + 2u], v[3] * norm[n4 + 3u]));
}
