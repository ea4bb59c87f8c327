//! The text of a product's inner loops: which steps of a row a lane takes, and how many of them are
//! written out.

use super::gemv::{Epilogue, Gemv};
use super::source::wgsl_name;
use crate::quant::{Layout, TILE, Type};

/// How a type's snippet walks a row: `parts` steps a packed block, each of `chunks` chunks of 32.
/// Types whose steps are equal cover the same chunks in each.
#[derive(PartialEq)]
pub(super) struct Steps {
    pub(super) parts: usize,
    pub(super) chunks: usize,
    /// Chunks of a step are neighbours.
    neighbours: bool,
}

/// Steps of a row.
pub fn steps_of(layout: &Layout) -> usize {
    layout.chunks() / steps(layout.ty).chunks
}

pub(super) fn steps(ty: Type) -> Steps {
    match ty {
        Type::Q6_K => Steps { parts: 4, chunks: 2, neighbours: false },
        _ if ty.packed_block_elements() == 256 => Steps { parts: 4, chunks: 2, neighbours: true },
        _ => Steps { parts: 1, chunks: 1, neighbours: true },
    }
}

/// A row of a lane: its matrix, and the WGSL expression of its tile.
struct Lane {
    matrix: usize,
    tile: String,
}

impl Gemv {
    /// The loops over a row's steps, for every matrix.
    pub(super) fn loops(&self) -> String {
        let rows = self.lanes();
        match self.epilogue {
            Epilogue::Gated => {
                let (gate, up) = (self.parts[0].layout.ty, self.parts[1].layout.ty);
                let (gates, ups) = rows.split_at(self.knobs.tiles);
                // What covers the same elements in its steps shares the activations.
                match steps(gate) == steps(up) {
                    true => self.accumulate(&rows, 0),
                    false => self.accumulate(gates, 0) + &self.accumulate(ups, self.knobs.tiles),
                }
            }
            Epilogue::Raw if self.parts.len() == 3 => {
                let mut out = String::new();
                let mut first = 0;
                for (i, part) in self.parts.iter().enumerate() {
                    let end = first + part.layout.tiles();
                    let lane = Lane { matrix: i, tile: format!("tile - {first}u") };
                    let body = self.accumulate(&[lane], 0);
                    out +=
                        &format!("  {}if tile < {end}u {{\n{body}  }}\n", if i > 0 { "else " } else { "" });
                    first = end;
                }
                out
            }
            _ => self.accumulate(&rows, 0),
        }
    }

    /// The rows of a lane where they do not depend on the tile.
    fn lanes(&self) -> Vec<Lane> {
        // The last workgroup may have tiles too many: it computes the last one again.
        let last = self.output_tiles() - 1;
        let tile = |r: usize| match r {
            0 => "tile".to_owned(),
            _ => format!("min(tile + {r}u, {last}u)"),
        };
        let of = |matrix: usize| (0..self.knobs.tiles).map(move |r| Lane { matrix, tile: tile(r) });
        if self.epilogue == Epilogue::Gated { of(0).chain(of(1)).collect() } else { of(0).collect() }
    }

    /// The loop over the steps of rows that cover the same elements; their sums begin at sum
    /// `first` times T. With one token its turns are written out, so that their loads are all
    /// under way before the first is needed: naga leaves loops as they are, and a loop waits for
    /// the memory at every turn.
    fn accumulate(&self, rows: &[Lane], first: usize) -> String {
        let layout = &self.parts[rows[0].matrix].layout;
        let shape = steps(layout.ty);
        let count = layout.chunks() / shape.chunks;
        let slices = self.knobs.threads / TILE;
        let turns = |at: &[String]| self.turns(rows, first, at);
        if self.tokens > 1 {
            let body = turns(&["s".to_owned()]);
            return format!("  for (var s = slice; s < {count}u; s += SLICES) {{\n{body}  }}\n");
        }
        let (whole, rest) = (count / slices, count % slices);
        let mut out = String::new();
        let mut done = 0;
        let unroll = (self.knobs.unroll * steps(self.parts[0].layout.ty).chunks / shape.chunks).max(1);
        if whole > unroll {
            let times = whole / unroll;
            let at: Vec<String> = (0..unroll).map(|k| format!("s + {}u", k * slices)).collect();
            out += &format!(
                "  for (var k = 0u; k < {times}u; k++) {{\n  let s = slice + k * {}u;\n{}  }}\n",
                unroll * slices,
                turns(&at)
            );
            done = times * unroll;
        }
        let at: Vec<String> = (done..whole).map(|k| format!("slice + {}u", k * slices)).collect();
        if !at.is_empty() {
            out += &turns(&at);
        }
        if rest > 0 {
            let k = whole * slices;
            out += &format!("  if slice + {k}u < {count}u {{\n{}  }}\n", turns(&[format!("slice + {k}u")]));
        }
        out
    }

    /// Turns of the loop: steps `at` of each row, times the activations of every token. All weights
    /// are asked for before any of them is used.
    fn turns(&self, rows: &[Lane], first: usize, at: &[String]) -> String {
        let ty = self.parts[rows[0].matrix].layout.ty;
        let (shape, float) = (steps(ty), ty.is_float());
        let mut out = String::from("  {\n");
        for (s, at) in at.iter().enumerate() {
            let (block, part) = self.place(&shape, at);
            out += &format!("    let block{s} = {block}; let part{s} = {part};\n");
            for (r, lane) in rows.iter().enumerate() {
                let name = wgsl_name(self.parts[lane.matrix].layout.ty);
                out += &format!(
                    "    let raw{s}_{r} = fetch_{name}(M{}, {}, row, block{s}, part{s});\n",
                    lane.matrix, lane.tile
                );
            }
        }
        for s in 0..at.len() {
            for (r, lane) in rows.iter().enumerate() {
                let ty = self.parts[lane.matrix].layout.ty;
                let name = wgsl_name(ty);
                let decoded = format!("decode_{name}(raw{s}_{r}, block{s}, part{s})");
                if ty.is_float() {
                    out += &format!("    let w{s}_{r}_0 = {decoded};\n");
                    continue;
                }
                out += &format!("    let l{s}_{r} = {decoded};\n");
                for c in 0..shape.chunks {
                    out += &format!("    let w{s}_{r}_{c} = ready_{name}(l{s}_{r}[{c}]);\n");
                }
            }
            for c in 0..shape.chunks {
                let chunk = if float { format!("block{s}") } else { format!("l{s}_0[{c}].at") };
                let sums = |sum: &dyn Fn(usize) -> String| -> String {
                    let add = |(r, lane): (usize, &Lane)| {
                        let name = wgsl_name(self.parts[lane.matrix].layout.ty);
                        format!(" acc[{}] += product_{name}(w{s}_{r}_{c}, x);", sum(first + r))
                    };
                    rows.iter().enumerate().map(add).collect()
                };
                out += &match self.tokens {
                    1 => format!("    {{ let x = load_x(token, {chunk});{} }}\n", sums(&|r| format!("{r}u"))),
                    t => format!(
                        "    for (var t = 0u; t < T; t++) {{ let x = load_x(token + t, {chunk});{} }}\n",
                        sums(&|r| format!("{}u + t", r * t))
                    ),
                };
            }
        }
        out + "  }\n"
    }

    /// The block and the part of it that is step `at` of a row.
    fn place(&self, shape: &Steps, at: &str) -> (String, String) {
        // Where the slices are whole blocks, a lane's part of its blocks is always the same.
        match shape.parts {
            1 => (at.to_owned(), "0u".to_owned()),
            p if (self.knobs.threads / TILE).is_multiple_of(p) => {
                (format!("({at}) / {p}u"), format!("slice % {p}u"))
            }
            p => (format!("({at}) / {p}u"), format!("({at}) % {p}u")),
        }
    }
}
