// Merges the splits of attention where workgroups of one dispatch cannot see each other's
// writes. A workgroup has MERGE elements of a token's output.
struct Args {
  tokens: u32,
  position: u32,
  splits: u32,
}
var<immediate> args: Args;

@group(0) @binding(0) var<storage, read> parts: array<vec4<f32>>; // see merge.wgsl
@group(0) @binding(1) var<storage, read_write> oq: array<${NUMBERS_OUT}>;
@group(0) @binding(2) var<storage, read_write> om: array<vec2<Word>>;

const D: u32 = ${D}u;
const DV: u32 = ${DV}u;
const HEADS: u32 = ${HEADS}u;

var<workgroup> lanes: array<f32, ${LANES}>;
#vectors pool ${POOL}
var<workgroup> merged: array<vec4<f32>, ${MERGED_VECTORS}>;

#include "merge.wgsl"
#include "overlap.wgsl"
#include "emit.wgsl"

@compute @workgroup_size(${MERGERS})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let first = wg.x * MERGE;
  merge(wg.y, first, min(MERGE, HEADS * D - first), args.splits, lid, ${MERGERS}u);
}
