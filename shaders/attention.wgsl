// Attention of a token over its cache. A workgroup has HB query heads that share a key/value head,
// one split of the keys and one token; keys pass in tiles, with a running maximum and sum per head
// (Milakov and Gimelshein, arXiv 1805.02867).
//
// Scores: a lane has every THREADS-th key of the tile, for all heads. Output: a lane owns a unit of
// the head and every VS-th key, for all heads; slices are summed at the end. Every lane knows the
// running maxima, so that one round of exponentials suffices.
//
// When decoding, the prologue adds biases, norms and turns the query heads, norms and turns and stores the new
// token's key and value, with which the running softmax of one split begins. In prefill
// `kv_write` has stored the whole batch.
//
// One split writes its output itself; several are merged by the last workgroup to arrive (INLINE),
// or by attention_merge.
struct Args {
  tokens: u32,
  position: u32, // of the first token
  splits: u32,
}
var<immediate> args: Args;

#if OVERLAPPED
@group(0) @binding(0) @coherent var<storage, read_write> qkv: array<${ROW_WORD}>;
#else
@group(0) @binding(0) var<storage, read> qkv: array<${ROW}>;        // (tokens, STRIDE) raw rows
#endif
@group(0) @binding(1) var<storage, read> rope: array<${TURNS}>; // (context, ROTATED / 2)
@group(0) @binding(2) var<storage, read_write> cache: array<vec4<u32>>;
@group(0) @binding(3) ${COHERENT} var<storage, read_write> parts: array<vec4<f32>>; // see merge.wgsl
#if INLINE
@group(0) @binding(4) var<storage, read_write> arrived: array<atomic<u32>>; // (tokens, units), left at 0
@group(0) @binding(5) var<storage, read_write> oq: array<${NUMBERS_OUT}>;
@group(0) @binding(6) var<storage, read_write> om: array<vec2<Word>>;
#endif
#if VECTORS
// Biases (STRIDE), then the weights of the queries' and the keys' norms, those of both that are there.
@group(0) @binding(7) var<storage, read> vectors: array<${ROW}>;
#endif
#if SCALED
@group(0) @binding(8) var<storage, read_write> scales: array<u32>; // see kv.wgsl
#endif

#include "overlap.wgsl"
const HB: u32 = ${HB}u;          // query heads of a workgroup
#include "kv.wgsl"

const THREADS: u32 = ${THREADS}u;
const KPL: u32 = ${KPL}u;             // keys of a lane in a tile
const KEYS: u32 = KPL * THREADS; // keys of a tile
const AHEAD: u32 = ${AHEAD}u;           // values that are asked for at once
const BU: u32 = ${BU}u;          // units of a key that are asked for at once; divides DU
const PITCH: u32 = KEYS + AHEAD * VS; // weights of a head, with zeros behind them
const GROUP: u32 = HEADS / KV_HEADS;
const BLOCKS: u32 = (GROUP + HB - 1u) / HB; // workgroups that share a key/value head
const VS: u32 = THREADS / DU;    // slices of keys for values
const PER16: u32 = THREADS / 16u;

// Little of it lets more workgroups run at once. Queries, then what comes of them: (HB, DV).
var<workgroup> q: array<vec4<f32>, ${Q_VECTORS}>;
var<workgroup> k_new: array<vec4<u32>, DU>;
var<workgroup> v_new: array<vec4<u32>, DU>;
#if SCALED
const PER_WORD: u32 = ${PER_WORD}u;  // units of a key whose scales are asked for with one word
#if DECODE
var<workgroup> new_scales: array<u32, 2u * WORDS>; // of k_new, then of v_new
#endif
#endif
#if DECODE
// (HB, 2)
#vectors eighths ${EIGHTHS}
#endif
var<workgroup> lanes: array<f32, ${LANES}>;               // (HB, THREADS)
// (HB, 4)
#vectors sixteenths ${SIXTEENTHS}
// First weights (HB, PITCH), four to a vector, then a head's slices (VS, DV). In Q8_0, before all that
// the new key and value (2, HEAD_VECTORS).
#vectors pool ${POOL}
#if INLINE
var<workgroup> is_last: u32;
#endif
#if HEAD_NORMS
// (HB + 1, 2): eighths, the key's last.
#vectors squares ${HEAD_SQUARES}
// The factor of the norm of a query head, or of the key.
fn factor_of(j: u32) -> f32 {
#if WHOLE_NORMS
  let i = select(0u, 2u * HB, j == HB);
  let heads = select(HEADS, KV_HEADS, j == HB);
#else
  let i = 2u * j;
  let heads = 1u;
#endif
  return head_factor(dot(squares4(i) + squares4(i + 1u), vec4<f32>(1.0)), heads);
}
#endif

#if SINKS
fn sink(head: u32) -> f32 {
#if ALIGNED
  return vectors[(${SINKS_AT}u + head) >> 2u][(${SINKS_AT}u + head) & 3u];
#else
  return vectors[${SINKS_AT}u + head];
#endif
}
#endif

#if CAPPED
#include "cap.wgsl"
fn capped(score: f32) -> f32 { return soft_capped(score, ${CAP}); }
#else
fn capped(score: f32) -> f32 { return score; }
#endif

#include "merge.wgsl"
#if INLINE
#include "emit.wgsl"
#endif

fn fma4(a: vec4<f32>, b: vec4<f32>, c: f32) -> f32 {
  return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, c))));
}

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let kv_head = wg.x / BLOCKS;
  let block = wg.x % BLOCKS;
  let head0 = kv_head * GROUP + block * HB;
  let live_heads = min(HB, GROUP - block * HB);
  let split = wg.y;
  let token = wg.z;
  let position = args.position + token;
  let keys = position + 1u;
#if WINDOWED
  let seen = max(keys, ${WINDOW}u) - ${WINDOW}u; // the first one
#else
  let seen = 0u;
#endif
  // Whole tiles of the cache a split; the last ones may be empty. The new key goes with the last of
  // the old ones.
#if DECODE
  let old = max(position, seen + 1u);
#else
  let old = keys;
#endif
  let per_split = ((old - seen + args.splits - 1u) / args.splits + 31u) / 32u * 32u;
  let begin = min(seen + split * per_split, old);
  var end = min(begin + per_split, old);
  if end == old { end = keys; }
  // Keys and values that are in the cache: the new ones are added by themselves.
#if DECODE
  let past = min(end, position);
  let fresh = end == keys && begin < old;
#else
  let past = end;
#if SINKS
  let owns = end == keys && begin < old;
#endif
#endif
  let last = max(past, 1u) - 1u;

  // What the first tile needs is asked for before the queries are ready: keys, then values.
  let unit = lid % DU;
  let slice = lid / DU;
  var ks: array<vec4<u32>, BU>;    // units of a key
  var vs: array<vec4<u32>, AHEAD>; // of values
#repeat n BU
  ks[${n}u] = cache[key_at(kv_head, min(begin + lid, last), ${n}u)];
#end
#if SCALED
  var k_words: array<u32, ${KEY_WORDS}>;
  var v_words: array<u32, AHEAD>;
#repeat n KEY_WORDS
  k_words[${n}u] = scales[key_scale_at(kv_head, min(begin + lid, last), ${n}u * PER_WORD / 4u)];
#end
#endif
#if EARLY
#repeat n AHEAD
  vs[${n}u] = cache[value_at(kv_head, min(begin + slice + ${n}u * VS, last), unit)];
#if SCALED
  v_words[${n}u] = scales[value_scale_at(kv_head, min(begin + slice + ${n}u * VS, last), unit / 4u)];
#endif
#end
#endif
#if OVERLAPPED
  own_head = head0;
  bring_rows(kv_head, live_heads, lid);
  workgroupBarrier();
#endif

#if HEAD_NORMS
#if WHOLE_NORMS
  lanes[lid] = head_squares(token, 0u, HEADS, lid, THREADS);
  set_weight(lid, head_squares(token, K_AT, KV_HEADS, lid, THREADS));
  workgroupBarrier();
  if lid < 16u {
    var sum = 0.0;
    for (var i = lid & 7u; i < THREADS; i += 8u) { sum += select(weight(i), lanes[i], lid < 8u); }
    set_squares(4u * select(2u * HB, 0u, lid < 8u) + (lid & 7u), sum);
  }
#else
  if lid < 8u * (HB + 1u) {
    let j = lid / 8u;
    let at = select((head0 + min(j, live_heads - 1u)) * D, K_AT + kv_head * D, j == HB);
    set_squares(lid, head_squares(token, at, 1u, lid & 7u, 8u));
  }
#endif
  workgroupBarrier();
#endif
  for (var i = lid; i < HB * DV; i += THREADS) {
    let j = i / DV;
    var v = vec4<f32>(0.0);
    if j < live_heads {
      let norm = norm_of(Q_NORM, head0 + j);
      v = turned4(token, (head0 + j) * D, 4u * (i % DV), position, norm) * ${SCALE};
#if TEMPERED
      v *= 1.0 + ${GROWTH} * log(1.0 + f32(position / ${SPAN}u));
#endif
#if HEAD_NORMS
      v *= factor_of(j);
#endif
    }
#if CAPPED
    // A cap would make a number of what is infinite because a weight's scale is.
    v = without_infinity(v);
#endif
    q[i] = v;
  }
#if DECODE
  if fresh {
    // From the other end, so that other lanes are at it than at the queries.
    let i = THREADS - 1u - lid;
    var factor = 1.0;
#if HEAD_NORMS
    factor = factor_of(HB);
#endif
#if SCALED
    for (var t = i; t < 2u * HEAD_VECTORS; t += THREADS) {
      if t < HEAD_VECTORS {
        set_pool4(t, key_vector(token, kv_head, t, position, factor));
      } else {
        set_pool4(t, value_vector(token, kv_head, t - HEAD_VECTORS));
      }
    }
  }
  workgroupBarrier();
  if fresh {
    // Units of the key, then of the value, as rounded as what later tokens will read.
    for (var t = lid; t < 2u * DU; t += THREADS) {
      let u = t % DU;
      let of_value = t >= DU;
      let first = select(0u, HEAD_VECTORS, of_value);
      let made = quantised(first + 4u * u, block_scale(first + u / 2u * 8u));
      if of_value { v_new[u] = made; } else { k_new[u] = made; }
      if block == 0u { cache[select(key_at(kv_head, position, u), value_at(kv_head, position, u), of_value)] = made; }
      if u % 4u == 0u {
        let word = word_of(first + 4u * u);
        new_scales[select(0u, WORDS, of_value) + u / 4u] = word;
        if block == 0u {
          scales[select(key_scale_at(kv_head, position, u / 4u), value_scale_at(kv_head, position, u / 4u), of_value)] = word;
        }
      }
    }
#else
    for (var u = i; u < DU; u += THREADS) {
      let k = key_unit(token, kv_head, u, position, factor);
      k_new[u] = k; // as rounded as what later tokens will read
      if block == 0u { cache[key_at(kv_head, position, u)] = k; }
    }
    for (var u = (i + THREADS - DU % THREADS) % THREADS; u < DU; u += THREADS) {
      let v = value_unit(token, kv_head, u);
      v_new[u] = v;
      if block == 0u { cache[value_at(kv_head, position, u)] = v; }
    }
#endif
  }
#endif
  workgroupBarrier();

#if DECODE
  if lid < 8u * HB {
    // An eighth of the new key's score.
    var a = 0.0;
    if fresh {
      for (var i = lid & 7u; i < DV; i += 8u) {
        var x = loaded(k_new[i / UV]);
#if SCALED
        a += dot(q[lid / 8u * DV + i], x[i % UV]) * scale_of(new_scales[i / UV / 4u], i / UV);
#else
        a += dot(q[lid / 8u * DV + i], x[i % UV]);
#endif
      }
    }
    set_eighths(lid, a);
  }
  workgroupBarrier();
#endif

  // The running softmax begins with the new key.
  var top: array<f32, HB>;
  var sum: array<f32, HB>;
  var acc: array<vec4<f32>, ${ACC}>; // (HB, UV)
#repeat j HB
  top[${j}u] = -3.4e38;
  sum[${j}u] = 0.0;
#repeat i UV
  acc[${j}u * UV + ${i}u] = vec4<f32>(0.0);
#end
#end
#if DECODE
  if fresh {
    var x = loaded(v_new[unit]);
#if SCALED
#repeat i UV
    x[${i}u] *= scale_of(new_scales[WORDS + unit / 4u], unit);
#end
#endif
#repeat j HB
    {
      let score = capped(dot(eighths4(2u * ${j}u) + eighths4(2u * ${j}u + 1u), vec4<f32>(1.0)));
#if SINKS
      let s = sink(head0 + min(${j}u, live_heads - 1u));
      top[${j}u] = max(max(score, s), -3.4e38);
      let e = exp(score - top[${j}u]);
      sum[${j}u] = select(0.0, e + exp(s - top[${j}u]), lid == 0u);
#else
      top[${j}u] = score;
      // Where older keys follow, they meet the score. One that is always alone must be a number itself.
#if LONE
      let e = select(bitcast<f32>(0x7fc00000u), 1.0, is_finite(score));
#else
      let e = 1.0;
#endif
      sum[${j}u] = select(0.0, e, lid == 0u);
#endif
#repeat i UV
      acc[${j}u * UV + ${i}u] = select(vec4<f32>(0.0), x[${i}u] * e, slice == 0u);
#end
    }
#end
  }
#else
#if SINKS
  if owns {
#repeat j HB
    top[${j}u] = sink(head0 + min(${j}u, live_heads - 1u));
    sum[${j}u] = select(0.0, 1.0, lid == 0u);
#end
  }
#endif
#endif
  // Tiles of equal size.
  let span = max(past, begin) - begin;
  let tiles = max((span + KEYS - 1u) / KEYS, 1u);
  let tile = ((span + tiles - 1u) / tiles + 31u) / 32u * 32u;
  for (var k0 = begin; k0 < past; k0 += tile) {
    // Scores, a key of each lane at a time. Keys beyond the end are read as the last one and do not
    // count.
    let count = min(tile, past - k0);
    var most: array<f32, HB>;
#repeat j HB
    most[${j}u] = -3.4e38;
#end
    for (var k = lid; k - lid < count; k += THREADS) {
      let key = min(k0 + k, last);
      var s: array<f32, HB>;
#repeat j HB
      s[${j}u] = 0.0;
#end
      for (var u0 = 0u; u0 < DU; u0 += BU) {
        if u0 > 0u || k0 > begin || k >= THREADS {
#repeat n BU
          ks[${n}u] = cache[key_at(kv_head, key, u0 + ${n}u)];
#end
#if SCALED
#repeat n KEY_WORDS
          k_words[${n}u] = scales[key_scale_at(kv_head, key, (u0 + ${n}u * PER_WORD) / 4u)];
#end
#endif
        }
#repeat n BU
        {
          let x = loaded(ks[${n}u]);
#if SCALED
          let scale = scale_of(k_words[${n}u / PER_WORD], u0 + ${n}u);
#repeat j HB
          {
            var of_unit = 0.0;
#repeat i UV
            of_unit = fma4(q[${j}u * DV + (u0 + ${n}u) * UV + ${i}u], x[${i}u], of_unit);
#end
            s[${j}u] = fma(of_unit, scale, s[${j}u]);
          }
#end
#else
#repeat j HB
#repeat i UV
          s[${j}u] = fma4(q[${j}u * DV + (u0 + ${n}u) * UV + ${i}u], x[${i}u], s[${j}u]);
#end
#end
#endif
        }
#end
      }
#repeat j HB
      s[${j}u] = select(-3.4e38, capped(s[${j}u]), k < count);
      set_weight(${j}u * PITCH + k, s[${j}u]);
      most[${j}u] = max(most[${j}u], s[${j}u]);
#end
    }
#repeat j HB
    lanes[${j}u * THREADS + lid] = most[${j}u];
#end
    workgroupBarrier();
    if lid < 16u * HB {
      let first = lid / 16u * THREADS + lid % 16u;
      var m = lanes[first];
      for (var i = 1u; i < PER16; i++) { m = max(m, lanes[first + 16u * i]); }
      set_sixteenths(lid, m);
    }
    workgroupBarrier();
#repeat j HB
    {
      let m4 = max(max(sixteenths4(4u * ${j}u), sixteenths4(4u * ${j}u + 1u)), max(sixteenths4(4u * ${j}u + 2u), sixteenths4(4u * ${j}u + 3u)));
      let m = max(max(max(m4.x, m4.y), max(m4.z, m4.w)), top[${j}u]);
      let shrink = exp(top[${j}u] - m);
      top[${j}u] = m;
      sum[${j}u] *= shrink;
#repeat i UV
      acc[${j}u * UV + ${i}u] *= shrink;
#end
    }
#end
    for (var k = lid; k < count + AHEAD * VS; k += THREADS) {
#repeat j HB
      let e${j} = select(0.0, exp(weight(${j}u * PITCH + k) - top[${j}u]), k < count);
      sum[${j}u] += e${j};
      set_weight(${j}u * PITCH + k, e${j});
#end
    }
    workgroupBarrier();
    // Values. Keys beyond the end are read as the last one, with weight 0.
    if slice < VS {
      for (var k = slice; k < count; k += AHEAD * VS) {
#if EARLY
        if k0 + k != begin + slice {
#endif
#repeat n AHEAD
        vs[${n}u] = cache[value_at(kv_head, min(k0 + k + ${n}u * VS, last), unit)];
#if SCALED
        v_words[${n}u] = scales[value_scale_at(kv_head, min(k0 + k + ${n}u * VS, last), unit / 4u)];
#endif
#end
#if EARLY
        }
#endif
#repeat n AHEAD
        {
          let x = loaded(vs[${n}u]);
#if SCALED
          let scale = scale_of(v_words[${n}u], unit);
#endif
#repeat j HB
#if SCALED
          let f${j} = weight(${j}u * PITCH + k + ${n}u * VS) * scale;
#else
          let f${j} = weight(${j}u * PITCH + k + ${n}u * VS);
#endif
#repeat i UV
          acc[${j}u * UV + ${i}u] += f${j} * x[${i}u];
#end
#end
        }
#end
      }
    }
    workgroupBarrier();
  }

  // The sums over slices and lanes.
#repeat j HB
  lanes[${j}u * THREADS + lid] = sum[${j}u];
#end
#repeat j HB
  if slice < VS {
#repeat i UV
    set_pool4(slice * DV + unit * UV + ${i}u, acc[${j}u * UV + ${i}u]);
#end
  }
  workgroupBarrier();
  if ${j}u == 0u && lid < 16u * HB {
    let first = lid / 16u * THREADS + lid % 16u;
    var a = lanes[first];
    for (var i = 1u; i < PER16; i++) { a += lanes[first + 16u * i]; }
    set_sixteenths(lid, a);
  }
  for (var t = lid; t < DV; t += THREADS) {
    var a = pool4(t);
    for (var i = 1u; i < VS; i++) { a += pool4(t + i * DV); }
    q[${j}u * DV + t] = a;
  }
  workgroupBarrier();
#end
#if INLINE
#if WHOLE_GROUPS
#if ALONE
  {
#else
  if args.splits == 1u {
#endif
    for (var t = lid; t < live_heads * (D / 4u); t += THREADS) {
      let j = t / (D / 4u);
      let all = sixteenths4(4u * j) + sixteenths4(4u * j + 1u) + sixteenths4(4u * j + 2u) + sixteenths4(4u * j + 3u);
      q[t] = q[t] / dot(all, vec4<f32>(1.0));
    }
    workgroupBarrier();
    emit_merged(token, head0 * D, live_heads * D, lid, THREADS);
    return;
  }
#endif
#endif
#if ALONE
#else
  // This split's part.
  for (var t = lid; t < live_heads * DV; t += THREADS) {
    parts[part_at(token, head0 + t / DV, split) + t % DV] = q[t];
  }
#repeat j HB
  if lid == ${j}u && ${j}u < live_heads {
    let all = sixteenths4(4u * ${j}u) + sixteenths4(4u * ${j}u + 1u) + sixteenths4(4u * ${j}u + 2u) + sixteenths4(4u * ${j}u + 3u);
    parts[part_at(token, head0 + ${j}u, split) + DV] = vec4<f32>(top[${j}u], dot(all, vec4<f32>(1.0)), 0.0, 0.0);
  }
#end
#if INLINE
  storageBarrier();
  workgroupBarrier();
  // Where heads are whole groups of 16, a unit is this workgroup's heads, else all heads.
#if WHOLE_GROUPS
  let own = wg.x;
  let expected = args.splits;
  let owners = KV_HEADS * BLOCKS;
#else
  let own = 0u;
  let expected = args.splits * KV_HEADS * BLOCKS;
  let owners = 1u;
#endif
  if lid == 0u {
    let before = atomicAdd(&arrived[token * owners + own], 1u);
    is_last = select(0u, 1u, before + 1u == expected);
#if OVERLAPPED
#else
    if before + 1u == expected { atomicStore(&arrived[token * owners + own], 0u); }
#endif
  }
  let closes = workgroupUniformLoad(&is_last);
  if closes == 1u {
    storageBarrier();
#if WHOLE_GROUPS
    let first = head0 * D;
    let count = live_heads * D;
#else
    let first = 0u;
    let count = HEADS * D;
#endif
    for (var e = first; e < first + count; e += MERGE) {
      merge(token, e, min(MERGE, first + count - e), args.splits, lid, THREADS);
    }
  }
#endif
#endif
}
