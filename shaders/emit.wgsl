// Writes activations ready-made for their consumers' arithmetic: quarter i of group g, whose 16
// values are v. Four lanes share a group, each finds its scale and sum for itself: that is faster
// than to exchange them. See product.wgsl for the record. In F16 the group's scale is the power
// of two above its largest magnitude, so that numbers are exact apart from their rounding, below
// 1, and never overflow; as integers it is the largest magnitude over the largest integer.
fn quarter(v: array<vec4<f32>, 4>, i: u32) -> vec4<f32> {
  return select(select(v[0], v[1], i == 1u), select(v[2], v[3], i == 3u), i >= 2u);
}
fn emit(g: u32, i: u32, v: array<vec4<f32>, 4>) {
  let ones = vec4<f32>(1.0);
#if F32
  oq[4u * g + i] = quarter(v, i);
  if i == 0u { om[g] = vec2<Word>(sent(1.0), sent(dot(v[0] + v[1] + v[2] + v[3], ones))); }
#else
  let top = max(max(abs(v[0]), abs(v[1])), max(abs(v[2]), abs(v[3])));
  let largest = max(max(top.x, top.y), max(top.z, top.w));
#if INTEGER
  let inverse = select(0.0, ${STEPS} / largest, largest > 1e-30);
  // Rounds to even: the sum's last bit stands for 1.
  let magic = vec4<f32>(12582912.0);
  let n = array<vec4<u32>, 4>(bitcast<vec4<u32>>(v[0] * inverse + magic), bitcast<vec4<u32>>(v[1] * inverse + magic),
                              bitcast<vec4<u32>>(v[2] * inverse + magic), bitcast<vec4<u32>>(v[3] * inverse + magic));
  let mine = bitcast<vec4<i32>>(select(select(n[0], n[1], i == 1u), select(n[2], n[3], i == 3u), i >= 2u) - bitcast<vec4<u32>>(magic));
#if INT8
#if WHOLE_VECTORS
  oq[4u * g + i] = sent_bytes(pack4xI8(mine));
#else
  oq[g][i] = sent_bytes(pack4xI8(mine));
#endif
#else
  let high = (mine + vec4<i32>(64)) >> vec4<u32>(7u);
#if WHOLE_VECTORS
  oq[8u * g + i] = sent_bytes(pack4xI8(high));
  oq[8u * g + 4u + i] = sent_bytes(pack4xI8(mine - high * 128));
#else
  // Vectors where a component's write is one: words, or a function around this, cost gemma-3-1b 2 to 3 %.
  oq[2u * g][i] = sent_bytes(pack4xI8(high));
  oq[2u * g + 1u][i] = sent_bytes(pack4xI8(mine - high * 128));
#endif
#endif
  if i == 0u {
    // Integers cannot carry on what is not finite: the scale does. A sum is not finite if a number is not.
    // (Looking at each number's bits instead makes a small model 4 % slower.)
    let all = bitcast<u32>(dot(v[0] + v[1] + v[2] + v[3], ones));
    let bad = (all & 0x7f800000u) == 0x7f800000u;
    let scale = select(largest / ${STEPS}, bitcast<f32>(0x7fc00000u), bad);
    let sums = n[0] + n[1] + n[2] + n[3];
    let sum = bitcast<i32>(sums.x + sums.y + sums.z + sums.w - 0xb4000000u); // 16 times the magic's bits
    om[g] = vec2<Word>(sent(scale), sent(f32(sum) * scale));
  }
#else
  // Nor can F16 with certainty.
  let all = bitcast<u32>(dot(v[0] + v[1] + v[2] + v[3], ones));
  let bad = (all & 0x7f800000u) == 0x7f800000u;
  let e = clamp((bitcast<u32>(largest) >> 23u) + 1u, 1u, 253u);
  let scale = select(bitcast<f32>(e << 23u), bitcast<f32>(0x7fc00000u), bad);
  let inverse = bitcast<f32>((254u - e) << 23u);
  var a = v;
  var sum = 0.0;
#repeat k 4
  {
#if F16
    let q = vec4<f16>(a[${k}u] * inverse);
    sum += dot(vec4<f32>(q), ones);
#else
    let s = a[${k}u] * inverse;
    let q = vec2<u32>(pack2x16float(s.xy), pack2x16float(s.zw));
    sum += dot(vec4<f32>(unpack2x16float(q.x), unpack2x16float(q.y)), ones);
#endif
    if ${k}u == i { oq[4u * g + i] = q; }
  }
#end
  if i == 0u { om[g] = vec2<Word>(sent(scale), sent(sum * scale)); }
#endif
#endif
}
