// What a device can do at most: reading, and starting dispatches. Every lane sums what it reads;
// the sum is stored only if it is a number that cannot occur, so that reading is all there is.
@group(0) @binding(0) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

struct Args {
  count: u32, // vec4s to read; the buffer holds 4 * gridDim * 256 more
}
var<immediate> args: Args;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>) {
  let step = n.x * 256u;
  var a = vec4<u32>(0u);
  for (var i = id.x; i < args.count; i += 4u * step) {
    let p = data[i]; let q = data[i + step]; let r = data[i + 2u * step]; let s = data[i + 3u * step];
    a |= p ^ q ^ r ^ s;
  }
  if a.x == 0x9e3779b9u && a.y == 0x85ebca6bu { out[0] = a.z; }
  if args.count == 0u && id.x == 0u { out[0] += 1u; }
}
