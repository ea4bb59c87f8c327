// A stage of the trial of overlapping: each lane waits for the word of another workgroup of the stage before,
// all over it; if all words are the same, the workgroup leaves one more.
#include "overlap.wgsl"

@group(0) @binding(0) @coherent var<storage, read_write> before: array<u32>; // (WORKGROUPS), 0 where nothing is yet
@group(0) @binding(1) var<storage, read_write> after: array<u32>;            // the same

const THREADS: u32 = 256u;
const WORKGROUPS: u32 = ${WORKGROUPS}u;
var<workgroup> words: array<u32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let at = (wg.x * 17u + lid * (WORKGROUPS / THREADS)) % WORKGROUPS;
  var word = 0u;
  for (var p = 0u; p < POLLS && word == 0u; p++) { word = before[at]; }
  words[lid] = word;
  workgroupBarrier();
  if lid == 0u {
    var same = true;
    for (var i = 1u; i < THREADS; i++) { same = same && words[i] == words[0]; }
    // Where one has given up, not 0 either: the stages behind need not give up in turn.
    after[wg.x] = select(0xffffffffu, words[0] + 1u, same && words[0] != 0u && words[0] != 0xffffffffu);
  }
}
