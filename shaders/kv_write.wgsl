// Prefill: turns the keys of a batch and stores its keys and values. When decoding, attention
// does this for its one token.
struct Args {
  tokens: u32,
  position: u32, // of the first token
}
var<immediate> args: Args;

@group(0) @binding(0) var<storage, read> qkv: array<f32>;        // (tokens, STRIDE) raw rows
@group(0) @binding(1) var<storage, read> rope: array<vec2<f32>>; // (context, ROTATED / 2)
@group(0) @binding(2) var<storage, read_write> cache: array<${KV}>;
#if BIAS
@group(0) @binding(3) var<storage, read> bias: array<f32>;       // (STRIDE)
#endif

#include "kv.wgsl"

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let d4 = id.x % (DP / 4u);
  let head = id.x / (DP / 4u);
  let token = id.y;
  if head >= KV_HEADS { return; }
  let position = args.position + token;
  cache[cache_index(0u, head, position, d4)] = stored(key4(token, head, d4, position));
  cache[cache_index(1u, head, position, d4)] = stored(value4(token, head, d4));
}
