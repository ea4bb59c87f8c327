// How a stage hands words on to the next. Where stages overlap, a word is its own sign that it is there:
// memory is zero before, and no word that is handed on is. See src/engine/overlap.rs.
#if OVERLAPPED
alias Word = u32;
// How often a lane looks until it gives up; what it has then is no number.
const POLLS: u32 = ${POLLS}u;
// A number. In place of the one with all bits set, which is none, another that is none.
fn sent(v: f32) -> Word { return select(~bitcast<u32>(v), 0x803fffffu, bitcast<u32>(v) == 0xffffffffu); }
// Four bytes. None of them is -128, unless they were made of no numbers: their scale says so.
fn sent_bytes(v: u32) -> u32 { return max(v ^ 0x80808080u, 1u); }
fn received(v: Word) -> f32 { return bitcast<f32>(~v); }
fn received4(v: vec4<Word>) -> vec4<f32> { return bitcast<vec4<f32>>(~v); }
#else
alias Word = f32;
fn sent(v: f32) -> Word { return v; }
fn sent_bytes(v: u32) -> u32 { return v; }
#endif
