//! The hand-written rules against the regular expressions that are published for them, on
//! text made to hit their corners, and against the words that models' own tokenizers cut.

use fancy_regex::Regex;
use proptest::prelude::*;

use super::{pre, split};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str = r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const SEED: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const MINICPM5: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const UFAKZEKA: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

/// One name of each kind of row, and its expressions in turn.
const RULES: &[(&str, &[&str])] = &[
    ("gpt-2", &[GPT2]),
    ("llama-bpe", &[LLAMA3]),
    ("glm4", &[LLAMA3]),
    ("qwen2", &[QWEN2]),
    ("qwen35", &[QWEN35]),
    ("laguna", &[r"[^\n]+|[\n]+", QWEN2]),
    ("minicpm5", &[r"\p{N}{1,3}", MINICPM5]),
    ("bailingmoe", &[BAILING]),
    ("seed-coder", &[SEED]),
    ("starcoder", &[r"\p{N}", GPT2]),
    ("gpt-4o", &[O200K]),
    ("tekken", &[TEKKEN]),
    ("deepseek-v3", &[r"\p{N}{1,3}", r"[一-龥\u3040-ゟ゠-ヿ]+", DEEPSEEK3]),
    ("deepseek-coder", &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-\x{d7ff}]+", r"\p{N}"]),
    ("falcon", &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
    ("default", &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    ("superbpe", &[r"\p{N}+", r"(?=(\d{3})+(?!\d))"]),
    ("tiny_aya", &[r"\d{1,3}(?=(?:\d{3})*\b)", O200K]),
    ("ufakzeka", &[UFAKZEKA]),
    ("bloom", &[BLOOM]),
    ("viking", &[BLOOM, r"\p{N}"]),
];

/// What an expression finds, and what lies between.
fn cut<'a>(pieces: Vec<&'a str>, regex: &Regex) -> Vec<&'a str> {
    let mut out = Vec::new();
    for piece in pieces {
        let mut end = 0;
        for found in regex.find_iter(piece) {
            let found = found.expect("the engine's limits are not reached");
            out.push(&piece[end..found.start()]);
            out.push(found.as_str());
            end = found.end();
        }
        out.push(&piece[end..]);
    }
    out.retain(|p| !p.is_empty());
    out
}

fn agree(name: &str, regexes: &[Regex], text: &str) {
    let expected = regexes.iter().fold(vec![text], cut);
    let mut got = Vec::new();
    let row = pre::find(name).expect("a row");
    split::split(text, row.stages, &mut |word| got.push(word));
    let expected: Vec<&str> = expected.into_iter().filter(|w| !w.is_empty()).collect();
    assert_eq!(got, expected, "{name}: {text:?}");
}

/// Every row is held to its expressions, under one of its names; deepseek-llm's letters are a list
/// too long to be written twice, and reference ids cover them.
#[test]
fn every_row_has_its_expressions() {
    let missing = pre::rows().filter(|row| {
        let same = |(name, _): &(&str, &[&str])| pre::find(name).is_some_and(|r| r.stages == row.stages);
        !RULES.iter().any(same)
    });
    let missing: Vec<&str> = missing.map(|row| row.names[0]).collect();
    assert_eq!(missing, ["deepseek-llm"]);
}

#[test]
fn rules_are_their_expressions() {
    // Letters of each case and none, marks, numbers, both kinds of punctuation, spaces, line
    // breaks, what contractions are made of, and what is in no class at all.
    let letters = "aZsStTrRlLvVeEmMdD'éÉǅʰß中かガ한ाิ\u{301}";
    let others = "0190٣_½٣²Ⅷ \u{3000}\u{a0}\t\n\r\u{b}.,!?-/_$+<=>^~|`¿€…。、।(){}[]\"#\u{200b}\u{0}😀";
    let alphabet: Vec<char> = format!("{letters}{others}    \n\n''").chars().collect();
    let text = prop::collection::vec(prop::sample::select(alphabet), 0..40);
    let rules: Vec<(&str, Vec<Regex>)> = RULES
        .iter()
        .map(|(name, list)| (*name, list.iter().map(|r| Regex::new(r).expect("an expression")).collect()))
        .collect();
    let config = ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    runner
        .run(&text, |chars| {
            let text: String = chars.into_iter().collect();
            for (name, regexes) in &rules {
                agree(name, regexes, &text);
            }
            Ok(())
        })
        .expect("all agree");
}

/// Where the own tokenizers of some models cut texts, which `scripts/tokenizer-oracles` wrote down:
/// the lengths of their words in bytes.
#[test]
fn texts_are_cut_where_the_models_own_tokenizers_cut_them() {
    let data: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/data/pre-tokenizers.json")).expect("JSON");
    let texts = data["texts"].as_array().expect("texts");
    let mut compared = 0;
    for (name, cuts) in data["cuts"].as_object().expect("names") {
        let row = pre::find(name).expect("a row");
        assert!(row.oracles.contains(&name.as_str()), "{name}");
        for (text, expected) in texts.iter().zip(cuts.as_array().expect("cuts")) {
            let text = text.as_str().expect("a text");
            let mut got = Vec::new();
            split::split(text, row.stages, &mut |word| got.push(word.len()));
            assert_eq!(serde_json::json!(got), *expected, "{name}: {text:?}");
            compared += 1;
        }
    }
    assert_eq!(compared, 5 * 140);
}

/// What those tokenizers make of a text before they cut it.
#[test]
fn texts_have_the_form_that_the_models_own_tokenizers_give_them() {
    let data: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/data/pre-tokenizers.json")).expect("JSON");
    let texts = data["composed"].as_array().expect("texts");
    let mut changed = Vec::new();
    for (name, forms) in data["forms"].as_object().expect("names") {
        for (text, expected) in texts.iter().zip(forms.as_array().expect("texts")) {
            let text = text.as_str().expect("a text");
            assert_eq!(pre::form(name).of(text), expected.as_str().expect("a text"), "{name}: {text:?}");
            if expected != text && !changed.contains(&name) {
                changed.push(name);
            }
        }
    }
    assert_eq!(changed, ["qwen2"]);
}
