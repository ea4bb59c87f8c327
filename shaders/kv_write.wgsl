// Prefill: turns the keys of a batch and stores its keys and values. When decoding, attention
// does this for its one token.
struct Args {
  tokens: u32,
  position: u32, // of the first token
}
var<immediate> args: Args;

@group(0) @binding(0) var<storage, read> qkv: array<${ROW}>;        // (tokens, STRIDE) raw rows
@group(0) @binding(1) var<storage, read> rope: array<${TURNS}>; // (context, ROTATED / 2)
@group(0) @binding(2) var<storage, read_write> cache: array<vec4<u32>>;
#if VECTORS
@group(0) @binding(3) var<storage, read> vectors: array<${ROW}>;    // see attention.wgsl
#endif

#include "kv.wgsl"

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let unit = id.x % DU;
  let head = id.x / DU;
  let token = id.y;
  if head >= KV_HEADS { return; }
  let position = args.position + token;
  var factor = 1.0;
#if HEAD_NORMS
#if WHOLE_NORMS
  factor = head_factor(head_squares(token, K_AT, KV_HEADS, 0u, 1u), KV_HEADS);
#else
  factor = head_factor(head_squares(token, K_AT + head * D, 1u, 0u, 1u), 1u);
#endif
#endif
  cache[key_at(head, position, unit)] = key_unit(token, head, unit, position, factor);
  cache[value_at(head, position, unit)] = value_unit(token, head, unit);
}
