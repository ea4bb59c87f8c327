//! Shader texts: WGSL files, put together by `#include`, `#if`, `#else`, `#endif` and `${NAME}`, by
//! `#vectors NAME COUNT` (see [`Source::vectors`]), and loops that are written out: `#repeat NAME
//! COUNT` … `#end`, where `${NAME}` counts from 0. naga leaves loops as they are, and a driver that
//! does not unroll one keeps the arrays that it indexes in memory instead of registers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write};

use super::{Form, Math};
use crate::quant::{Book, Type, books};

macro_rules! shaders {
    ($($name:literal),+ $(,)?) => {
        /// The text of a file of `shaders/`.
        fn file(name: &str) -> Option<&'static str> {
            match name { $($name => Some(include_str!(concat!("../../shaders/", $name))),)+ _ => None }
        }
    };
}

shaders![
    "activation.wgsl",
    "attention.wgsl",
    "attention_merge.wgsl",
    "book_iq4.wgsl",
    "books.wgsl",
    "cap.wgsl",
    "embed.wgsl",
    "emit.wgsl",
    "finite.wgsl",
    "gemv.wgsl",
    "kv.wgsl",
    "kv_block.wgsl",
    "kv_write.wgsl",
    "mac_levels.wgsl",
    "mac_numbers.wgsl",
    "merge.wgsl",
    "overlap.wgsl",
    "overlap_probe.wgsl",
    "pack.wgsl",
    "probe.wgsl",
    "product.wgsl",
    "route.wgsl",
    "route_body.wgsl",
    "sample.wgsl",
    "select.wgsl",
    "settle.wgsl",
    "settle_body.wgsl",
    "types.wgsl",
    "blocks/f32.wgsl",
    "blocks/f16.wgsl",
    "blocks/bf16.wgsl",
    "blocks/q4_0.wgsl",
    "blocks/q4_1.wgsl",
    "blocks/q5_0.wgsl",
    "blocks/q5_1.wgsl",
    "blocks/q8_0.wgsl",
    "blocks/q4_k.wgsl",
    "blocks/q5_k.wgsl",
    "blocks/q6_k.wgsl",
    "blocks/q8_k.wgsl",
    "blocks/q2_k.wgsl",
    "blocks/q3_k.wgsl",
    "blocks/iq1_s.wgsl",
    "blocks/iq1_m.wgsl",
    "blocks/iq2_xxs.wgsl",
    "blocks/iq2_xs.wgsl",
    "blocks/iq2_s.wgsl",
    "blocks/iq3_xxs.wgsl",
    "blocks/iq3_s.wgsl",
    "blocks/iq4_nl.wgsl",
    "blocks/iq4_xs.wgsl",
    "blocks/tq1_0.wgsl",
    "blocks/tq2_0.wgsl",
    "blocks/q1_0.wgsl",
    "blocks/q2_0.wgsl",
    "blocks/mxfp4.wgsl",
    "blocks/nvfp4.wgsl",
];

/// Types whose signs are seven bits of eight: their shaders look the masks up.
fn has_even_signs(ty: Type) -> bool {
    matches!(ty, Type::IQ2_XXS | Type::IQ2_XS | Type::IQ3_XXS)
}

/// The book's points are brought to workgroup memory as their magnitudes, two words each.
fn is_of_magnitudes(book: Book) -> bool {
    matches!(book, Book::Iq2Xxs | Book::Iq2Xs | Book::Iq2S)
}

/// Bytes of workgroup memory that the types' codebooks take.
pub(super) fn book_bytes(types: &[Type]) -> usize {
    let (placed, _) = books(types.iter().copied());
    let words = |book: Book| book.word_count() * if is_of_magnitudes(book) { 2 } else { 1 };
    let even = if types.iter().any(|ty| has_even_signs(*ty)) { 2 * 128 } else { 0 };
    4 * (placed.into_iter().map(|(book, _)| words(book)).sum::<usize>() + even)
}

/// The type's name in shaders.
pub(super) fn wgsl_name(ty: Type) -> String {
    ty.name().to_ascii_lowercase()
}

/// What a shader's text is made with.
#[derive(Clone, Default)]
pub(super) struct Source {
    flags: BTreeSet<&'static str>,
    values: BTreeMap<String, String>,
}

impl Source {
    /// The flags and names that every kernel's form has.
    pub(super) fn new(form: Form) -> Source {
        let (flag, activations) = match (form.math, form.native_f16) {
            (Math::F32, _) => ("F32", "vec4<f32>"),
            (Math::F16, true) => ("F16", "vec4<f16>"),
            (Math::F16, false) => ("F16_STORED", "vec2<u32>"),
            (Math::Int16, _) => ("INT16", "vec4<u32>"),
            (Math::Int8, _) => ("INT8", "vec4<u32>"),
        };
        let mut source = Source::default();
        source.flag(flag, true).flag("INTEGER", matches!(form.math, Math::Int16 | Math::Int8));
        source.set("STEPS", format_args!("{:.1}", form.math.steps()));
        source.flag("WHOLE_VECTORS", form.whole_vectors);
        // Four lanes write the words of a vector of integers.
        let words = form.whole_vectors && matches!(form.math, Math::Int16 | Math::Int8);
        source.set("NUMBERS_OUT", if words { "u32" } else { activations });
        source.flag("OVERLAPPED", form.overlapped).set("POLLS", form.polls);
        source.flag("SUBGROUPS", form.subgroups).set("ACT", activations);
        source
    }

    pub(super) fn flag(&mut self, name: &'static str, on: bool) -> &mut Self {
        if on {
            self.flags.insert(name);
        }
        self
    }

    pub(super) fn set(&mut self, name: &'static str, value: impl Display) -> &mut Self {
        self.values.insert(name.to_owned(), value.to_string());
        self
    }

    /// A number as a WGSL F32 literal, exact.
    pub(super) fn set_f32(&mut self, name: &'static str, value: f32) -> &mut Self {
        self.set(name, format_args!("bitcast<f32>({}u)", value.to_bits()))
    }

    /// The snippets of the types, each once; with their products for `gemv`.
    pub(super) fn set_blocks(&mut self, types: &[Type], products: bool) -> &mut Self {
        let mut text = String::new();
        let distinct: BTreeSet<Type> = types.iter().copied().collect();
        self.flag("BOOKS", distinct.iter().any(|ty| ty.book().is_some()));
        self.expand_books(&distinct, &mut text);
        for ty in distinct {
            let name = wgsl_name(ty);
            self.expand_file(&format!("blocks/{name}.wgsl"), &mut text);
            if products {
                let mut own = self.clone();
                let halves = self.flags.contains("F16") || self.flags.contains("F16_STORED");
                let levels = ty.levels();
                own.set("TYPE", &name).flag("IS_F16", ty == Type::F16 && halves);
                own.set("LEVEL_BIAS", format_args!("{:.1}", f64::from(levels.bias)));
                own.flag("PAIRED", levels.paired).flag("MINS", levels.mins);
                own.flag("BIASED", levels.bias > 0 && self.flags.contains("INTEGER"));
                let mac = if ty.is_float() { "mac_numbers.wgsl" } else { "mac_levels.wgsl" };
                own.expand_file(mac, &mut text);
            }
        }
        self.set("BLOCKS", text)
    }

    /// Codebooks in workgroup memory, and the function that brings them there from the front of the
    /// bound range. Points of the IQ2 types become magnitudes on the way.
    fn expand_books(&self, types: &BTreeSet<Type>, text: &mut String) {
        let (placed, _) = books(types.iter().copied());
        if placed.is_empty() {
            return;
        }
        let even = types.iter().any(|ty| has_even_signs(*ty));
        if placed.iter().any(|(book, _)| *book == Book::Iq4) {
            self.expand_file("book_iq4.wgsl", text);
        }
        if placed.iter().any(|(book, _)| *book != Book::Iq4) {
            self.clone().flag("EVEN_SIGNS", even).expand_file("books.wgsl", text);
        }
        let mut arrays = String::new();
        let _ = writeln!(text, "fn bring_books(lid: u32) {{");
        if even {
            let _ = writeln!(text, "  bring_even_signs(lid);");
        }
        for (book, at) in &placed {
            let (name, words) = (book.name(), book.word_count());
            let (ty, value) = match is_of_magnitudes(*book) {
                true => ("vec2<u32>", format!("magnitudes(wt[{at}u + k])")),
                false => ("u32", format!("wt[{at}u + k]")),
            };
            let _ = writeln!(arrays, "var<workgroup> book_{name}: array<{ty}, {words}>;");
            let _ = writeln!(
                text,
                "  for (var k = lid; k < {words}u; k += THREADS) {{ book_{name}[k] = {value}; }}"
            );
        }
        let _ = writeln!(text, "}}\n{arrays}");
    }

    /// The whole text of a shader.
    pub(super) fn build(&self, name: &str) -> String {
        let mut out = String::new();
        if self.flags.contains("F16") {
            out.push_str("enable f16;\n");
        }
        self.expand_file(name, &mut out);
        debug_assert!(!out.contains("${"), "{name}: a name is not set: {out}");
        out
    }

    fn expand_file(&self, name: &str, out: &mut String) {
        debug_assert!(file(name).is_some(), "no shader file {name}");
        self.expand(file(name).unwrap_or_default(), out);
    }

    fn expand(&self, text: &str, out: &mut String) {
        // For each open #if: whether its lines are wanted.
        let mut open: Vec<bool> = Vec::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("#if"), Some(flag)) => open.push(self.flags.contains(flag)),
                (Some("#else"), _) => {
                    if let Some(top) = open.last_mut() {
                        *top = !*top;
                    }
                }
                (Some("#endif"), _) => {
                    open.pop();
                }
                _ if open.contains(&false) => {}
                (Some("#repeat"), Some(name)) => {
                    let count = words.next().unwrap_or_default();
                    let count = self.values.get(count).map_or(count, String::as_str).parse().unwrap_or(0);
                    debug_assert!(count > 0, "#repeat {name}: no count");
                    let mut body = String::new();
                    let mut depth = 1;
                    for line in lines.by_ref() {
                        match line.split_whitespace().next() {
                            Some("#repeat") => depth += 1,
                            Some("#end") => depth -= 1,
                            _ => {}
                        }
                        if depth == 0 {
                            break;
                        }
                        body.push_str(line);
                        body.push('\n');
                    }
                    debug_assert!(depth == 0, "a #repeat is not closed");
                    let mut turn = self.clone();
                    for i in 0..count {
                        let i: usize = i;
                        turn.values.insert(name.to_owned(), i.to_string());
                        turn.expand(&body, out);
                    }
                }
                (Some("#vectors"), Some(name)) => {
                    let mut count = String::new();
                    self.substitute(words.next().unwrap_or_default(), &mut count);
                    self.vectors(name, count.trim(), out);
                }
                (Some("#include"), Some(name)) => self.expand_file(name.trim_matches('"'), out),
                _ => self.substitute(line, out),
            }
        }
        debug_assert!(open.is_empty(), "an #if is not closed");
    }

    /// Vectors in workgroup memory of which lanes write single components: `set_NAME(i, v)` writes the i-th
    /// number, `NAME1(i)` reads it, `set_NAME4(i, v)` and `NAME4(i)` are a whole vector's. On Metal and DirectX,
    /// where a compiler may read a vector, change a component and write all of it back, they are numbers:
    /// what another lane has written meanwhile would be lost.
    fn vectors(&self, name: &str, count: &str, out: &mut String) {
        let (ty, at, set, at4, set4) = match self.flags.contains("WHOLE_VECTORS") {
            false => (
                format!("vec4<f32>, {count}"),
                format!("{name}[i >> 2u][i & 3u]"),
                format!("{name}[i >> 2u][i & 3u] = v;"),
                format!("{name}[i]"),
                format!("{name}[i] = v;"),
            ),
            true => (
                format!("f32, 4 * {count}"),
                format!("{name}[i]"),
                format!("{name}[i] = v;"),
                format!(
                    "vec4<f32>({name}[4u * i], {name}[4u * i + 1u], {name}[4u * i + 2u], {name}[4u * i + 3u])"
                ),
                (0..4).map(|k| format!("{name}[4u * i + {k}u] = v[{k}]; ")).collect(),
            ),
        };
        let _ = writeln!(out, "var<workgroup> {name}: array<{ty}>;");
        let _ = writeln!(out, "fn {name}1(i: u32) -> f32 {{ return {at}; }}");
        let _ = writeln!(out, "fn set_{name}(i: u32, v: f32) {{ {set} }}");
        let _ = writeln!(out, "fn {name}4(i: u32) -> vec4<f32> {{ return {at4}; }}");
        let _ = writeln!(out, "fn set_{name}4(i: u32, v: vec4<f32>) {{ {set4} }}");
    }

    fn substitute(&self, line: &str, out: &mut String) {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("${") {
            out.push_str(before);
            let (name, after) = after.split_once('}').unwrap_or((after, ""));
            match self.values.get(name) {
                Some(value) => out.push_str(value),
                None => {
                    let _ = write!(out, "${{{name}}}");
                }
            }
            rest = after;
        }
        out.push_str(rest);
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_and_names() {
        let mut source = Source::default();
        source.flag("A", true).set("N", 3);
        let mut out = String::new();
        source.expand("#if A\na ${N}\n#if B\nno\n#else\nyes\n#endif\n#else\nno\n#endif\nend", &mut out);
        assert_eq!(out, "a 3\nyes\nend\n");
    }

    #[test]
    fn loops_are_written_out() {
        let mut source = Source::default();
        source.flag("A", true).set("N", 2);
        let mut out = String::new();
        source.expand("#repeat i N\n#if A\n#repeat j 3\n${i}${j}\n#end\n#endif\n#end\nend ${N}", &mut out);
        assert_eq!(out, "00\n01\n02\n10\n11\n12\nend 2\n");
    }
}
