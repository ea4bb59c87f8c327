// Routes each token of a batch, where the router's product could not.
@group(0) @binding(0) var<storage, read> scores: array<f32>; // (tokens, ${SCORE_STRIDE})
@group(0) @binding(1) var<storage, read_write> picks: array<vec2<u32>>; // (tokens, USED + 1): expert, weight

const THREADS: u32 = ${THREADS}u;

fn score_at(token: u32, i: u32) -> f32 { return scores[token * ${SCORE_STRIDE}u + i]; }
#include "route_body.wgsl"

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  route(wg.y, lid);
}
