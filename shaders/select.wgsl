// The next token, greedily: the best of the tiles' best, the lowest id among equals. One
// workgroup. Logits that are not finite give the mark of failure instead of a token.
struct Args {
  position: u32, // of the new token
}
var<immediate> args: Args;

@group(0) @binding(0) var<storage, read> best: array<vec2<u32>>; // (tiles) bits of the largest logit, its row
@group(0) @binding(1) var<storage, read_write> ids: array<u32>;  // (context)

const TILES: u32 = ${TILES}u;
const THREADS: u32 = ${THREADS}u;
const FAILED: u32 = 0xffffffffu;
var<workgroup> values: array<f32, THREADS>;
var<workgroup> rows: array<u32, THREADS>;

@compute @workgroup_size(${THREADS})
fn main(@builtin(local_invocation_index) lid: u32) {
  var top = -3.4e38;
  var row = FAILED;
  var bad = false;
  // Eight at a time: a lane that waits for each in turn waits for the memory as often. The last
  // ones may be asked for twice.
  for (var i = lid; i < TILES; i += 8u * THREADS) {
    var b: array<vec2<u32>, 8>;
#repeat n 8
    b[${n}u] = best[min(i + ${n}u * THREADS, TILES - 1u)];
#end
#repeat n 8
    {
      bad = bad || (b[${n}u].x & 0x7f800000u) == 0x7f800000u;
      let v = bitcast<f32>(b[${n}u].x);
      if v > top || (v == top && b[${n}u].y < row) { top = v; row = b[${n}u].y; }
    }
#end
  }
  // A failure outweighs every logit.
  values[lid] = select(top, 3.4e38, bad);
  rows[lid] = select(row, FAILED, bad);
  workgroupBarrier();
  for (var half = THREADS / 2u; half > 0u; half >>= 1u) {
    if lid < half {
      let v = values[lid + half];
      let r = rows[lid + half];
      if v > values[lid] || (v == values[lid] && r < rows[lid]) { values[lid] = v; rows[lid] = r; }
    }
    workgroupBarrier();
  }
  if lid == 0u { ids[args.position] = rows[0]; }
}
