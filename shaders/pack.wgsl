// Rearranges a staged piece of a matrix, as in the file, into one plane of the packed layout
// (src/quant/layout.rs). One lane writes one word.
struct Args {
  offset: u32,      // first byte of the plane's units within a block
  width: u32,       // bytes of a unit: 16, 4, 2 or 1
  count: u32,       // units in a block
  block_bytes: u32, // bytes of a (packed) block in the file
  row_bytes: u32,   // bytes of a row in the file
  blocks: u32,      // packed blocks of a row
  rows: u32,        // rows in the piece
  words: u32,       // words of the plane that the piece fills
  first: u32,       // the first of them, in the bound range
}
var<immediate> args: Args;

@group(0) @binding(0) var<storage, read> staged: array<u32>;
@group(0) @binding(1) var<storage, read_write> packed: array<u32>;

fn byte(row: u32, at: u32) -> u32 {
  // The last chunk of a float row may be short, and the last tile may have fewer rows.
  if row >= args.rows || at >= args.row_bytes { return 0u; }
  let i = row * args.row_bytes + at;
  return (staged[i >> 2u] >> (8u * (i & 3u))) & 255u;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let word = (wg.y * n.x + wg.x) * 256u + lid;
  if word >= args.words { return; }
  var v = 0u;
  for (var k = 0u; k < 4u; k++) {
    let at = word * 4u + k;          // byte of the plane
    let unit = at / args.width;      // (tile, block, unit, row)
    let row = unit & 15u;
    let u = (unit >> 4u) % args.count;
    let tb = (unit >> 4u) / args.count;
    let at_file = (tb % args.blocks) * args.block_bytes + args.offset + u * args.width + at % args.width;
    v |= byte(tb / args.blocks * 16u + row, at_file) << (8u * k);
  }
  packed[args.first + word] = v;
}
