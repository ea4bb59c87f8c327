//! The text of a product's inner loops: which steps of a row a lane takes, and how many of them are
//! written out.

use super::gemv::{Epilogue, Gemv, Knobs};
use super::source::wgsl_name;
use crate::quant::{CHUNK, Layout, Type};

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
    let (parts, chunks) = match ty {
        // Bytes of two-bit fields: one load of them has four chunks.
        Type::Q2_K | Type::Q3_K | Type::TQ2_0 => (2, 4),
        _ => match ty.packed_block_elements() {
            256 => (4, 2),
            elements => (1, elements / CHUNK),
        },
    };
    Steps { parts, chunks, neighbours: ty != Type::Q6_K }
}

/// A row of a lane.
struct Lane {
    /// The WGSL expression of its matrix.
    matrix: String,
    /// That matrix's type.
    ty: Type,
    /// The WGSL expression of its tile.
    tile: String,
}

/// A lane's way along the rows of a set.
struct Walk<'a> {
    set: &'a Set,
    /// The row goes on with that of the token's next expert, so many times in all; the tiles of an
    /// expert.
    experts: Option<(usize, usize)>,
    /// Steps of one row.
    of_row: usize,
    /// Slices of a row: lanes that share it.
    slices: usize,
    /// Tokens whose activations it meets.
    tokens: usize,
}

/// The text of a lane's way along its rows.
#[derive(Default)]
pub(super) struct Body {
    /// Declares the weights of the first turn, where there is but one.
    pub(super) variables: String,
    /// Asks for them.
    pub(super) fetches: String,
    /// The products, with all other turns.
    pub(super) products: String,
}

/// Rows that cover the same elements in their steps.
struct Set {
    /// When they are a lane's, if not always.
    condition: Option<String>,
    rows: Vec<Lane>,
    /// The sum of the first one, times the tokens.
    first: usize,
}

impl Gemv {
    /// The loops over a row's steps, for every matrix. A lane's first tile is `tile`.
    pub(super) fn body(&self) -> Body {
        let Knobs { unroll, .. } = self.knobs;
        let slices = self.knobs.slices() * self.splits;
        let mut all = Body::default();
        let unit = steps(self.parts[0].layout.ty).chunks;
        let sets = self.sets();
        for (n, set) in sets.iter().enumerate() {
            let chunks = steps(set.rows[0].ty).chunks;
            let of_row = self.parts[0].layout.chunks() / chunks;
            let experts = match self.chosen() {
                Some((_, used)) if !self.is_gated() => Some((used, self.expert_tiles(0))),
                _ => None,
            };
            let walk = Walk { set, experts, of_row, slices, tokens: self.tokens };
            let count = of_row * experts.map_or(1, |e| e.0);
            let unroll = (unroll * unit / chunks).max(1);
            let whole = count / slices;
            // Weights of several types at once would take too many registers.
            let most = if sets.len() > 1 { 1 } else { unroll };
            let body = match self.tokens {
                1 if whole <= most && count == whole * slices => walk.at_once(n, whole),
                1 => walk.in_turns(count, unroll),
                _ => walk.batch(count),
            };
            all.variables += &body.variables;
            let inside = |text: String| match &set.condition {
                Some(condition) if !text.is_empty() => format!("  if {condition} {{\n{text}  }}\n"),
                _ => text,
            };
            all.fetches += &inside(body.fetches);
            all.products += &inside(body.products);
        }
        all
    }

    /// The rows of a lane, in sets that walk alike.
    fn sets(&self) -> Vec<Set> {
        let parts = &self.parts;
        // The last workgroup may have tiles too many: it computes the last one again.
        let last = self.output_tiles() - 1;
        let tiles = self.knobs.tiles;
        let of = |i: usize| -> Vec<Lane> {
            // A gated product is of one expert.
            let expert = if self.is_gated() && self.chosen().is_some() { "expert_tile + " } else { "" };
            let tile = |r: usize| match r {
                0 => format!("({expert}tile)"),
                _ => format!("({expert}min(tile + {r}u, {last}u))"),
            };
            let lane = |r: usize| Lane { matrix: format!("M{i}"), ty: parts[i].layout.ty, tile: tile(r) };
            (0..tiles).map(lane).collect()
        };
        let always = |rows: Vec<Lane>, first: usize| Set { condition: None, rows, first };
        match self.epilogue {
            // What covers the same elements in its steps shares the activations.
            Epilogue::Gated(_) if !self.is_paired() => vec![always(of(0), 0)],
            Epilogue::Gated(_) if steps(parts[0].layout.ty) == steps(parts[1].layout.ty) => {
                vec![always(of(0).into_iter().chain(of(1)).collect(), 0)]
            }
            Epilogue::Gated(_) => vec![always(of(0), 0), always(of(1), tiles)],
            Epilogue::Raw if parts.len() > 1 => self.sets_of_several(),
            _ => vec![always(of(0), 0)],
        }
    }

    /// Matrices of one type walk alike: which it is only shifts where it begins. So there is one
    /// piece of code for each type.
    fn sets_of_several(&self) -> Vec<Set> {
        let mut starts = vec![0];
        for part in &self.parts {
            starts.push(starts[starts.len() - 1] + part.layout.tiles());
        }
        let parts = self.parts.len();
        let inside: Vec<String> = (0..parts)
            .map(|i| match i {
                0 => format!("tile < {}u", starts[1]),
                i if i + 1 == parts => format!("tile >= {}u", starts[i]),
                i => format!("tile >= {}u && tile < {}u", starts[i], starts[i + 1]),
            })
            .collect();
        let mut types: Vec<Type> = self.parts.iter().map(|p| p.layout.ty).collect();
        types.sort();
        types.dedup();
        let set = |ty: &Type| {
            let of: Vec<usize> = (0..parts).filter(|i| self.parts[*i].layout.ty == *ty).collect();
            let choose = |text: &dyn Fn(usize) -> String| {
                let others = of.iter().skip(1).filter(|i| text(**i) != text(of[0]));
                others
                    .fold(text(of[0]), |chosen, i| format!("select({chosen}, {}, {})", text(*i), inside[*i]))
            };
            let field = |at: usize| choose(&|i| format!("M{i}.{}", FIELDS[at]));
            let conditions: Vec<&str> = of.iter().map(|i| inside[*i].as_str()).collect();
            let fields: Vec<String> = (0..FIELDS.len()).map(field).collect();
            Set {
                condition: (types.len() > 1).then(|| conditions.join(" || ")),
                rows: vec![Lane {
                    matrix: format!("Matrix({})", fields.join(", ")),
                    ty: *ty,
                    tile: format!("(tile - {})", choose(&|i| format!("{}u", starts[i]))),
                }],
                first: 0,
            }
        };
        types.iter().map(set).collect()
    }
}

/// The fields of the WGSL struct `Matrix`.
const FIELDS: [&str; 4] = ["units", "tail", "tail2", "blocks"];

impl Walk<'_> {
    fn steps(&self) -> Steps {
        steps(self.set.rows[0].ty)
    }

    /// The loop of a batch: a step at a time.
    fn batch(&self, count: usize) -> Body {
        let turn = self.turn(&["s".to_owned()]);
        let products = format!("  for (var s = slice; s < {count}u; s += {}u) {{\n{turn}  }}\n", self.slices);
        Body { products, ..Body::default() }
    }

    /// The loop of one token, whose turns are `unroll` steps written out, so that their loads are
    /// all under way before the first is needed: naga leaves loops as they are, and a loop waits
    /// for the memory at every turn.
    fn in_turns(&self, count: usize, unroll: usize) -> Body {
        let (whole, rest) = (count / self.slices, count % self.slices);
        let mut products = String::new();
        let mut done = 0;
        let at = |first: &str, steps: std::ops::Range<usize>| -> Vec<String> {
            steps.map(|k| format!("{first} + {}u", k * self.slices)).collect()
        };
        if whole > unroll {
            let times = whole / unroll;
            products += &format!(
                "  for (var k = 0u; k < {times}u; k++) {{\n  let s = slice + k * {}u;\n{}  }}\n",
                unroll * self.slices,
                self.turn(&at("s", 0..unroll))
            );
            done = times * unroll;
        }
        if done < whole {
            products += &self.turn(&at("slice", done..whole));
        }
        if rest > 0 {
            let last = at("slice", whole..whole + 1);
            products += &format!("  if {} < {count}u {{\n{}  }}\n", last[0], self.turn(&last));
        }
        Body { products, ..Body::default() }
    }

    /// A row in one turn, whose weights are asked for before anything else: which type a tile has is
    /// not waited for. `n` tells its names from others'.
    fn at_once(&self, n: usize, steps: usize) -> Body {
        let raw = |s: usize, r: usize| format!("raw{n}_{s}_{r}");
        let places: String =
            (0..steps).map(|s| self.place(s, &format!("slice + {}u", s * self.slices))).collect();
        let mut body = Body { fetches: format!("  {{\n{places}"), ..Body::default() };
        for s in 0..steps {
            for (r, lane) in self.set.rows.iter().enumerate() {
                body.variables += &format!("  var {}: Raw_{};\n", raw(s, r), wgsl_name(lane.ty));
                body.fetches += &format!("    {} = {};\n", raw(s, r), self.fetch(s, r));
            }
        }
        body.fetches += "  }\n";
        let products: String = (0..steps).map(|s| self.products(s, |r| raw(s, r))).collect();
        body.products = format!("  {{\n{places}{products}  }}\n");
        body
    }

    /// A turn of the loop: steps `at` of each row, times the activations of every token. All weights
    /// are asked for before any of them is used.
    fn turn(&self, at: &[String]) -> String {
        let mut out = String::from("  {\n");
        for (s, at) in at.iter().enumerate() {
            out += &self.place(s, at);
            for r in 0..self.set.rows.len() {
                out += &format!("    let raw{s}_{r} = {};\n", self.fetch(s, r));
            }
        }
        for s in 0..at.len() {
            out += &self.products(s, |r| format!("raw{s}_{r}"));
        }
        out + "  }\n"
    }

    /// Names the block and the part of it that is step `at` of a row, the turn's `s`-th.
    fn place(&self, s: usize, at: &str) -> String {
        // Where the slices are whole blocks, a lane's part of its blocks is always the same.
        let (at, slot) = match self.experts {
            Some(_) => {
                (format!("(({at}) % {}u)", self.of_row), format!("let slot{s} = ({at}) / {}u; ", self.of_row))
            }
            None => (at.to_owned(), String::new()),
        };
        let (block, part) = match self.steps().parts {
            1 => (at, "0u".to_owned()),
            p if self.slices.is_multiple_of(p) => (format!("({at}) / {p}u"), format!("slice % {p}u")),
            p => (format!("({at}) / {p}u"), format!("({at}) % {p}u")),
        };
        format!("    {slot}let block{s} = {block}; let part{s} = {part};\n")
    }

    /// The WGSL expression that asks for the turn's `s`-th step of row `r`.
    fn fetch(&self, s: usize, r: usize) -> String {
        let Lane { matrix, ty, tile } = &self.set.rows[r];
        let tile = match self.experts {
            Some((_, tiles)) => format!("({tile} + picks[token * PICKS + slot{s}].x * {tiles}u)"),
            None => tile.clone(),
        };
        format!("fetch_{}({matrix}, {tile}, row, block{s}, part{s})", wgsl_name(*ty))
    }

    /// The products of the turn's `s`-th step, whose weights stand in `raw` of each row.
    fn products(&self, s: usize, raw: impl Fn(usize) -> String) -> String {
        let (shape, float) = (self.steps(), self.set.rows[0].ty.is_float());
        let mut out = String::new();
        for (r, lane) in self.set.rows.iter().enumerate() {
            let name = wgsl_name(lane.ty);
            let decoded = format!("decode_{name}({}, block{s}, part{s})", raw(r));
            if lane.ty.is_float() {
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
                    let name = wgsl_name(lane.ty);
                    format!(" acc[{}] += product_{name}(w{s}_{r}_{c}, x);", sum(self.set.first + r))
                };
                self.set.rows.iter().enumerate().map(add).collect()
            };
            out += &match self.tokens {
                1 => {
                    let token = match self.experts {
                        Some((used, _)) => format!("token * {used}u + slot{s}"),
                        None => "token".to_owned(),
                    };
                    format!("    {{ let x = load_x({token}, {chunk});{} }}\n", sums(&|r| format!("{r}u")))
                }
                t => format!(
                    "    for (var t = 0u; t < T; t++) {{ let x = load_x(token + t, {chunk});{} }}\n",
                    sums(&|r| format!("{}u + t", r * t))
                ),
            };
        }
        out
    }
}
