// A token's row of the embedding: the residual stream, and the activations of the first norm's
// consumers. One lane decodes one chunk of 32 elements.
#include "types.wgsl"

struct Args {
  tokens: u32,   // tokens in the batch
  position: u32, // of the first one
}
var<immediate> args: Args;

@group(0) @binding(0) var<storage, read> w: array<vec4<u32>>;  // packed table
@group(0) @binding(1) var<storage, read> wt: array<u32>;       // the same bytes
@group(0) @binding(2) var<storage, read> ids: array<u32>;      // (context) token at each position
@group(0) @binding(3) var<storage, read> norm: array<vec4<f32>>; // (STRIDE / 4)
@group(0) @binding(4) var<storage, read_write> x: array<vec4<f32>>; // (tokens, STRIDE / 4)
@group(0) @binding(5) var<storage, read_write> oq: array<${ACT}>;
@group(0) @binding(6) var<storage, read_write> om: array<vec4<f32>>;

const CHUNKS: u32 = ${CHUNKS}u;
const M0 = Matrix(${M0});

${BLOCKS}
#include "emit.wgsl"

fn group(token: u32, g: u32, v: array<vec4<f32>, 4>) {
  var a = v;
  var s = 0.0;
  for (var i = 0u; i < 4u; i++) {
    x[token * CHUNKS * 8u + g * 4u + i] = a[i];
    s += dot(a[i], a[i]);
    a[i] *= norm[g * 4u + i];
  }
  emit(token * CHUNKS * 2u + g, a, s);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let chunk = id.x;
  let token = id.y;
  if chunk >= CHUNKS { return; }
  // An id that is no token (the mark of a failed selection) is read as the last one.
  let entry = min(ids[args.position + token], ${VOCAB}u - 1u);
  if entry < ${ROW0}u || entry >= ${ROW0}u + ${ROWS}u { return; } // another part of the table has it
  let r = entry - ${ROW0}u;
#if LEVELS
  let l = chunk_${TYPE0}(M0, r >> 4u, r & 15u, chunk);
  var a: array<vec4<f32>, 4>;
  var b: array<vec4<f32>, 4>;
  for (var i = 0u; i < 4u; i++) {
    a[i] = l.scale.x * vec4<f32>(unpack4xI8(l.q[i])) - l.min.x;
    b[i] = l.scale.y * vec4<f32>(unpack4xI8(l.q[i + 4u])) - l.min.y;
  }
  group(token, l.groups.x, a);
  group(token, l.groups.y, b);
#else
  let v = numbers_${TYPE0}(M0, r >> 4u, r & 15u, chunk);
  group(token, 2u * chunk, array<vec4<f32>, 4>(v[0], v[1], v[2], v[3]));
  group(token, 2u * chunk + 1u, array<vec4<f32>, 4>(v[4], v[5], v[6], v[7]));
#endif
}
