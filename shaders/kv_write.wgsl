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

#if SCALED
@group(0) @binding(4) var<storage, read_write> scales: array<u32>;  // see kv.wgsl
// Of keys, then of values.
#vectors pool 128
#endif

#include "kv.wgsl"

// The factor of a key's norm.
fn key_factor(token: u32, head: u32) -> f32 {
#if HEAD_NORMS
#if WHOLE_NORMS
  return head_factor(head_squares(token, K_AT, KV_HEADS, 0u, 1u), KV_HEADS);
#else
  return head_factor(head_squares(token, K_AT + head * D, 1u, 0u, 1u), 1u);
#endif
#else
  return 1.0;
#endif
}

#if SCALED
// A lane has a vector of a key and of a value; of each four one makes the unit, of each sixteen one
// the word of scales.
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let i = id.x % HEAD_VECTORS;
  let head = id.x / HEAD_VECTORS;
  let token = id.y;
  let position = args.position + token;
  if head < KV_HEADS {
    set_pool4(lid, key_vector(token, head, i, position, key_factor(token, head)));
    set_pool4(64u + lid, value_vector(token, head, i));
  }
  workgroupBarrier();
  if head < KV_HEADS && i % 4u == 0u && i < DV {
    let unit = i / 4u;
    let block = lid / 8u * 8u;
    cache[key_at(head, position, unit)] = quantised(lid, block_scale(block));
    cache[value_at(head, position, unit)] = quantised(64u + lid, block_scale(64u + block));
    if i % WORD_VECTORS == 0u {
      scales[key_scale_at(head, position, unit / 4u)] = word_of(lid);
      scales[value_scale_at(head, position, unit / 4u)] = word_of(64u + lid);
    }
  }
}
#else
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let unit = id.x % DU;
  let head = id.x / DU;
  let token = id.y;
  if head >= KV_HEADS { return; }
  let position = args.position + token;
  cache[key_at(head, position, unit)] = key_unit(token, head, unit, position, key_factor(token, head));
  cache[value_at(head, position, unit)] = value_unit(token, head, unit);
}
#endif
