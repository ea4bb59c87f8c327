// Attention of a token over its cache. A workgroup has one block of query heads that share a
// key/value head, one split of the keys and one token; keys pass in tiles, with a running
// maximum and sum per head (Milakov and Gimelshein, arXiv 1805.02867).
//
// When decoding, the prologue adds biases, turns the query heads, and turns, stores and uses the
// new token's key and value directly: the split that owns the new position does it. In prefill
// `kv_write` has stored the whole batch.
//
// The splits are merged by the last workgroup to arrive (INLINE), or by attention_merge.
struct Args {
  tokens: u32,
  position: u32, // of the first token
  splits: u32,
}
var<immediate> args: Args;

@group(0) @binding(0) var<storage, read> qkv: array<f32>;        // (tokens, STRIDE) raw rows
@group(0) @binding(1) var<storage, read> rope: array<vec2<f32>>; // (context, ROTATED / 2)
@group(0) @binding(2) var<storage, read_write> cache: array<${KV}>;
@group(0) @binding(3) ${COHERENT} var<storage, read_write> parts: array<f32>; // (tokens, heads, SPLITS, DP + 2)
#if INLINE
@group(0) @binding(4) var<storage, read_write> arrived: array<atomic<u32>>; // (tokens, units), left at 0
@group(0) @binding(5) var<storage, read_write> oq: array<${ACT}>;
@group(0) @binding(6) var<storage, read_write> om: array<vec4<f32>>;
#endif
#if BIAS
@group(0) @binding(7) var<storage, read> bias: array<f32>;       // (STRIDE)
#endif

const THREADS: u32 = 128u;
const KEYS: u32 = 32u;       // keys of a tile
const AHEAD: u32 = ${AHEAD}u;     // values that are asked for at once; divides KEYS
const HB: u32 = ${HB}u;      // query heads of a workgroup
const GROUP: u32 = HEADS / KV_HEADS;
const BLOCKS: u32 = (GROUP + HB - 1u) / HB; // workgroups that share a key/value head
const D4: u32 = DP / 4u;
const SLOTS: u32 = HB * D4;  // vec4s of the output
const OWN: u32 = (SLOTS + THREADS - 1u) / THREADS; // of them, a lane's

var<workgroup> q: array<vec4<f32>, SLOTS>;
var<workgroup> k_new: array<vec4<f32>, D4>;
var<workgroup> v_new: array<vec4<f32>, D4>;
var<workgroup> scores: array<f32, ${SCORES}>; // (HB, KEYS)
var<workgroup> top: array<f32, HB>;   // running maximum
var<workgroup> sum: array<f32, HB>;   // running sum of exponentials
var<workgroup> shrink: array<f32, HB>; // factor for what was summed before this tile
#if INLINE
var<workgroup> is_last: u32;
#endif

#include "kv.wgsl"
#include "merge.wgsl"
#if INLINE
#include "emit.wgsl"
#endif

// Scores of a head's tile to exponentials, and its running maximum and sum.
#if SUBGROUPS
fn softmax_tile(lane: u32, lanes: u32, subgroup: u32, subgroups: u32) {
  for (var j = subgroup; j < HB; j += subgroups) {
    var m = -3.4e38;
    for (var k = lane; k < KEYS; k += lanes) { m = max(m, scores[j * KEYS + k]); }
    let old = top[j];
    m = max(subgroupMax(m), old);
    var s = 0.0;
    for (var k = lane; k < KEYS; k += lanes) {
      let e = exp(scores[j * KEYS + k] - m);
      scores[j * KEYS + k] = e;
      s += e;
    }
    s = subgroupAdd(s);
    if lane == 0u {
      shrink[j] = exp(old - m);
      sum[j] = sum[j] * exp(old - m) + s;
      top[j] = m;
    }
  }
}
#else
fn softmax_tile(j: u32) {
  if j >= HB { return; }
  let old = top[j];
  var m = old;
  for (var k = 0u; k < KEYS; k++) { m = max(m, scores[j * KEYS + k]); }
  var s = 0.0;
  for (var k = 0u; k < KEYS; k++) {
    let e = exp(scores[j * KEYS + k] - m);
    scores[j * KEYS + k] = e;
    s += e;
  }
  shrink[j] = exp(old - m);
  sum[j] = sum[j] * exp(old - m) + s;
  top[j] = m;
}
#endif

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lid: u32
#if SUBGROUPS
  , @builtin(subgroup_invocation_id) lane: u32, @builtin(subgroup_size) lanes: u32
  , @builtin(subgroup_id) subgroup: u32, @builtin(num_subgroups) subgroups: u32
#endif
) {
  let kv_head = wg.x / BLOCKS;
  let block = wg.x % BLOCKS;
  let head0 = kv_head * GROUP + block * HB; // first query head
  let live_heads = min(HB, GROUP - block * HB);
  let split = wg.y;
  let token = wg.z;
  let position = args.position + token;
  let keys = position + 1u;
  // Whole tiles a split; the last ones may be empty.
  let per_split = ((keys + args.splits - 1u) / args.splits + KEYS - 1u) / KEYS * KEYS;
  let begin = min(split * per_split, keys);
  let end = min(begin + per_split, keys);

  for (var i = lid; i < SLOTS; i += THREADS) {
    let j = i / D4;
    var v = vec4<f32>(0.0);
    if j < live_heads {
      let at = (head0 + j) * D;
      let d = 4u * (i % D4);
      v = vec4<f32>(turned(token, at, d, position), turned(token, at, d + 1u, position),
                    turned(token, at, d + 2u, position), turned(token, at, d + 3u, position));
    }
    q[i] = v * ${SCALE};
  }
  if lid < HB { top[lid] = -3.4e38; sum[lid] = 0.0; }
#if DECODE
  let owner = begin < end && end == keys;
  if owner {
    for (var i = lid; i < D4; i += THREADS) {
      let k = stored(key4(token, kv_head, i, position));
      let v = stored(value4(token, kv_head, i));
      k_new[i] = loaded(k); // as rounded as what later tokens will read
      v_new[i] = loaded(v);
      if block == 0u {
        cache[cache_index(0u, kv_head, position, i)] = k;
        cache[cache_index(1u, kv_head, position, i)] = v;
      }
    }
  }
#endif
  workgroupBarrier();

  var acc: array<vec4<f32>, OWN>;
  for (var k0 = begin; k0 < end; k0 += KEYS) {
    for (var p = lid; p < HB * KEYS; p += THREADS) {
      let j = p / KEYS;
      let key = k0 + p % KEYS;
      var s = -3.4e38;
      if key < end && j < live_heads {
        s = 0.0;
#if DECODE
        if key == position {
          for (var i = 0u; i < D4; i++) { s += dot(q[j * D4 + i], k_new[i]); }
        } else
#endif
        {
          // Eight loads at a time: a lane that waits for each in turn waits for the memory D4 times.
          let at = cache_index(0u, kv_head, key, 0u);
          let from_q = j * D4;
          var i = 0u;
          for (; i + 8u <= D4; i += 8u) {
            var v: array<${KV}, 8>;
            for (var n = 0u; n < 8u; n++) { v[n] = cache[at + i + n]; }
            for (var n = 0u; n < 8u; n++) { s += dot(q[from_q + i + n], loaded(v[n])); }
          }
          for (; i < D4; i++) { s += dot(q[from_q + i], loaded(cache[at + i])); }
        }
      }
      scores[p] = s;
    }
    workgroupBarrier();
#if SUBGROUPS
    softmax_tile(lane, lanes, subgroup, subgroups);
#else
    softmax_tile(lid);
#endif
    workgroupBarrier();
    // Keys beyond the end have weight 0: whatever is read in their place does not count, but it
    // is read within the cache. The new key's value is not read back from there.
    let stop = end - k0;
    for (var o = 0u; o < OWN; o++) {
      let slot = lid + o * THREADS;
      if slot < SLOTS {
        let j = slot / D4;
        let i = slot % D4;
        var a = acc[o] * shrink[j];
        for (var k = 0u; k < stop && k < KEYS; k += AHEAD) {
          var v: array<${KV}, AHEAD>;
          for (var n = 0u; n < AHEAD; n++) { v[n] = cache[cache_index(1u, kv_head, min(k0 + k + n, CONTEXT - 1u), i)]; }
          for (var n = 0u; n < AHEAD; n++) {
            let key = k0 + k + n;
#if DECODE
            let weight = select(0.0, scores[j * KEYS + k + n], key < position);
#else
            let weight = select(0.0, scores[j * KEYS + k + n], key < end);
#endif
            a += weight * loaded(v[n]);
          }
        }
#if DECODE
        if position >= k0 && position < end && position - k0 < KEYS { a += scores[j * KEYS + position - k0] * v_new[i]; }
#endif
        acc[o] = a;
      }
    }
    workgroupBarrier();
  }

  // This split's part: numbers, maximum, sum.
  for (var o = 0u; o < OWN; o++) {
    let slot = lid + o * THREADS;
    let j = slot / D4;
    if slot < SLOTS && j < live_heads {
      let at = part_at(token, head0 + j, split);
      let d = 4u * (slot % D4);
      parts[at + d] = acc[o].x;
      parts[at + d + 1u] = acc[o].y;
      parts[at + d + 2u] = acc[o].z;
      parts[at + d + 3u] = acc[o].w;
    }
  }
  if lid < live_heads {
    let at = part_at(token, head0 + lid, split) + DP;
    parts[at] = top[lid];
    parts[at + 1u] = sum[lid];
  }
#if INLINE
  storageBarrier();
  workgroupBarrier();
  // Where heads are whole groups of 16, a unit is this workgroup's heads, else all heads.
#if WHOLE_GROUPS
  let unit = wg.x;
  let expected = args.splits;
  let units = KV_HEADS * BLOCKS;
#else
  let unit = 0u;
  let expected = args.splits * KV_HEADS * BLOCKS;
  let units = 1u;
#endif
  if lid == 0u {
    let before = atomicAdd(&arrived[token * units + unit], 1u);
    is_last = select(0u, 1u, before + 1u == expected);
    if before + 1u == expected { atomicStore(&arrived[token * units + unit], 0u); }
  }
  let last = workgroupUniformLoad(&is_last);
  if last == 1u {
    storageBarrier();
#if WHOLE_GROUPS
    let first = head0 * D;
    let count = live_heads * D;
#else
    let first = 0u;
    let count = HEADS * D;
#endif
    for (var e = first; e < first + count; e += MERGE) { merge(token, e, min(MERGE, first + count - e), lid, THREADS); }
  }
#endif
}
