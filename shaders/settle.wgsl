// Settles the residual stream of each token of a batch, where the product before could not.
@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;  // (tokens, SETTLE_GROUPS * 4)
@group(0) @binding(1) var<storage, read> branch: array<vec4<f32>>;   // the same
@group(0) @binding(2) var<storage, read_write> oq: array<${NUMBERS_OUT}>;
@group(0) @binding(3) var<storage, read_write> om: array<vec2<Word>>;
@group(0) @binding(4) var<storage, read_write> squares_out: array<Word>; // (tokens, ${SETTLE_SQUARES}) of a group
#if VECTORS
// The branch's bias and its norm's weight, the stream's norm's weight and bias: those there are.
@group(0) @binding(5) var<storage, read> vectors: array<vec4<f32>>;
#endif

const THREADS: u32 = ${THREADS}u;

#include "finite.wgsl"
#include "overlap.wgsl"
#include "emit.wgsl"
#if BRANCH
fn branch_at(i: u32) -> vec4<f32> { return branch[i]; }
#endif
#include "settle_body.wgsl"

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  settle(wg.y, lid);
}
