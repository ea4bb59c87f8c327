//! Which words a file's `tokenizer.ggml.pre` means: one row per name; and the form of their text.
//!
//! A name that is not here is refused. Guessing would give ids that are nearly right.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfkc_quick};

use super::split::{Cl100k, Lead, Set, Stage};
use super::unicode::{LETTER, NUMBER, PUNCT};

/// What a name of `tokenizer.ggml.pre` stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pre {
    pub(super) names: &'static [&'static str],
    pub(super) stages: &'static [Stage],
    /// A word that is a token is taken whole, without looking at merges.
    pub(super) whole_words: bool,
    /// BOS is added where the file does not say.
    pub(super) add_bos: bool,
    /// The names of which the tests have another implementation's ids, or where the model's own
    /// tokenizer cuts texts. The others have the same rules by what is published of them, and rows
    /// without such a name were compared with their published expressions alone, word by word.
    #[allow(dead_code, reason = "a fact about the row, which README.md repeats and a test reads")]
    pub(super) oracles: &'static [&'static str],
}

/// The row of a name.
pub(super) fn find(name: &str) -> Option<&'static Pre> {
    TABLE.iter().find(|row| row.names.contains(&name))
}

/// The Unicode form that a model's tokenizer brings texts into, behind its special tokens and before
/// it cuts words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Texts stay as they are.
    AsWritten,
    /// Canonical composition: `e` and U+0301 are `é`.
    Nfc,
    /// The same after replacing what only looks different: `ﬁ` is `fi`.
    Nfkc,
}

/// Names that have the same words may differ in this. Of the names that are not here many are known
/// to leave texts as they are, and of the others nothing is.
const FORMS: &[(Form, &[&str])] = &[
    (
        Form::Nfc,
        &[
            "qwen2",
            "qwen35",
            "deepseek-r1-qwen",
            "f2llmv2",
            "stablelm2",
            "hunyuan",
            "command-r",
            "tiny_aya",
            "cohere2moe",
            "mpt",
            "olmo",
        ],
    ),
    (Form::Nfkc, &["exaone", "exaone4"]),
];

/// The form of a name.
pub(super) fn form(name: &str) -> Form {
    FORMS.iter().find(|(_, names)| names.contains(&name)).map_or(Form::AsWritten, |(form, _)| *form)
}

impl Form {
    /// A text in this form.
    pub(super) fn of(self, text: &str) -> Cow<'_, str> {
        // Most texts are in their form already, and that is soon seen.
        match self {
            Form::Nfc if is_nfc_quick(text.chars()) != IsNormalized::Yes => text.nfc().collect(),
            Form::Nfkc if is_nfkc_quick(text.chars()) != IsNormalized::Yes => text.nfkc().collect(),
            _ => Cow::Borrowed(text),
        }
    }
}

/// All rows.
#[cfg(test)]
pub(super) fn rows() -> impl Iterator<Item = &'static Pre> {
    TABLE.iter()
}

const fn row(names: &'static [&'static str], stages: &'static [Stage]) -> Pre {
    Pre { names, stages, whole_words: false, add_bos: false, oracles: &[] }
}

const fn compared(
    oracles: &'static [&'static str],
    names: &'static [&'static str],
    stages: &'static [Stage],
) -> Pre {
    Pre { oracles, ..row(names, stages) }
}

const fn class(classes: u8) -> Set {
    Set { classes, ranges: &[] }
}

const fn chars(ranges: &'static [(char, char)]) -> Set {
    Set { classes: 0, ranges }
}

const MANY: usize = usize::MAX;
const EACH_NUMBER: Stage = Stage::Run(Lead::None, class(NUMBER), 1);
const NUMBERS_OF_THREE: Stage = Stage::Run(Lead::None, class(NUMBER), 3);
const EACH_BREAK: Stage = Stage::Run(Lead::None, chars(&[('\n', '\n'), ('\r', '\r')]), 1);

const CL100K: Cl100k = Cl100k { digits: 1, marks: false, breaks_follow: true, contractions: true };

const fn cl100k(digits: usize) -> Stage {
    Stage::Cl100k(Cl100k { digits, ..CL100K })
}

/// The characters of words in deepseek-llm: letters with case, as of some Unicode version.
#[rustfmt::skip]
const DEEPSEEK_LETTERS: Set = chars(&[
    ('A', 'Z'), ('a', 'z'), ('\u{b5}', '\u{b5}'), ('\u{c0}', '\u{d6}'), ('\u{d8}', '\u{f6}'),
    ('\u{f8}', '\u{1ba}'), ('\u{1bc}', '\u{1bf}'), ('\u{1c4}', '\u{293}'), ('\u{295}', '\u{2af}'),
    ('\u{370}', '\u{373}'), ('\u{376}', '\u{377}'), ('\u{37b}', '\u{37d}'), ('\u{37f}', '\u{37f}'),
    ('\u{386}', '\u{386}'), ('\u{388}', '\u{38a}'), ('\u{38c}', '\u{38c}'), ('\u{38e}', '\u{3a1}'),
    ('\u{3a3}', '\u{3f5}'), ('\u{3f7}', '\u{481}'), ('\u{48a}', '\u{52f}'), ('\u{531}', '\u{556}'),
    ('\u{10a0}', '\u{10c5}'), ('\u{13a0}', '\u{13f5}'), ('\u{13f8}', '\u{13fd}'), ('\u{1c90}',
    '\u{1cba}'), ('\u{1cbd}', '\u{1cbf}'), ('\u{1d00}', '\u{1d2b}'), ('\u{1d6b}', '\u{1d77}'),
    ('\u{1d79}', '\u{1d9a}'), ('\u{1e00}', '\u{1f15}'), ('\u{1f18}', '\u{1f1d}'), ('\u{1f20}',
    '\u{1f45}'), ('\u{1f48}', '\u{1f4d}'), ('\u{1f50}', '\u{1f57}'), ('\u{1f59}', '\u{1f59}'),
    ('\u{1f5b}', '\u{1f5b}'), ('\u{1f5d}', '\u{1f5d}'), ('\u{1f5f}', '\u{1f7d}'), ('\u{1f80}',
    '\u{1fb4}'), ('\u{1fb6}', '\u{1fbc}'), ('\u{1fbe}', '\u{1fbe}'), ('\u{1fc2}', '\u{1fc4}'),
    ('\u{1fc6}', '\u{1fcc}'), ('\u{1fd0}', '\u{1fd3}'), ('\u{1fd6}', '\u{1fdb}'), ('\u{1fe0}',
    '\u{1fec}'), ('\u{1ff2}', '\u{1ff4}'), ('\u{1ff6}', '\u{1ffc}'), ('\u{2102}', '\u{2102}'),
    ('\u{2107}', '\u{2107}'), ('\u{210a}', '\u{2113}'), ('\u{2115}', '\u{2115}'), ('\u{2119}',
    '\u{211d}'), ('\u{2124}', '\u{2124}'), ('\u{2126}', '\u{2126}'), ('\u{2128}', '\u{2128}'),
    ('\u{212a}', '\u{212d}'), ('\u{212f}', '\u{2134}'), ('\u{2139}', '\u{2139}'), ('\u{213c}',
    '\u{213f}'), ('\u{2145}', '\u{2149}'), ('\u{214e}', '\u{214e}'), ('\u{2183}', '\u{2184}'),
    ('\u{2c00}', '\u{2c7b}'), ('\u{2c7e}', '\u{2ce4}'), ('\u{2ceb}', '\u{2cee}'), ('\u{2cf2}',
    '\u{2cf3}'), ('\u{a640}', '\u{a66d}'), ('\u{a680}', '\u{a69b}'), ('\u{a722}', '\u{a76f}'),
    ('\u{a771}', '\u{a787}'), ('\u{a78b}', '\u{a78e}'), ('\u{ab70}', '\u{abbf}'), ('\u{fb00}',
    '\u{fb06}'), ('\u{fb13}', '\u{fb17}'), ('\u{ff21}', '\u{ff3a}'), ('\u{ff41}', '\u{ff5a}'),
    ('\u{10400}', '\u{1044f}'), ('\u{104b0}', '\u{104d3}'), ('\u{104d8}', '\u{104fb}'), ('\u{10c80}',
    '\u{10cb2}'), ('\u{10cc0}', '\u{10cf2}'), ('\u{118a0}', '\u{118df}'), ('\u{1e900}', '\u{1e943}')
]);
const DEEPSEEK_PUNCT: Set = chars(&[
    ('!', '/'),
    (':', '~'),
    ('\u{ff01}', '\u{ff0f}'),
    ('\u{ff1a}', '\u{ff5e}'),
    ('\u{2018}', '\u{201f}'),
    ('\u{3000}', '\u{3002}'),
]);
const DEEPSEEK_CJK: Set =
    chars(&[('\u{4e00}', '\u{9fa5}'), ('\u{800}', '\u{4e00}'), ('\u{ac00}', '\u{d7ff}')]);
const CJK_AND_KANA: Set = chars(&[('\u{4e00}', '\u{9fa5}'), ('\u{3040}', '\u{30ff}')]);

const FALCON_PUNCT: Set = Set {
    classes: PUNCT,
    ranges: &[('$', '$'), ('+', '+'), ('<', '>'), ('^', '^'), ('~', '~'), ('|', '|'), ('`', '`')],
};
const DEFAULT_PUNCT: Set =
    Set { classes: PUNCT, ranges: &[('$', '$'), ('+', '+'), ('<', '>'), ('^', '^'), ('~', '~'), ('|', '|')] };
/// What ends a word of BLOOM, besides white space.
const BLOOM_STOPS: Set = chars(&[
    ('(', ')'),
    ('|', '|'),
    ('.', '.'),
    (',', ','),
    ('!', '!'),
    ('?', '?'),
    ('\u{2026}', '\u{2026}'),
    ('\u{3002}', '\u{3002}'),
    ('\u{ff0c}', '\u{ff0c}'),
    ('\u{3001}', '\u{3001}'),
    ('\u{964}', '\u{964}'),
    ('\u{6d4}', '\u{6d4}'),
    ('\u{60c}', '\u{60c}'),
]);

const TABLE: &[Pre] = &[
    Pre {
        whole_words: true,
        add_bos: true,
        ..compared(
            &["llama-bpe"],
            &[
                "llama-bpe",
                "llama3",
                "llama-v3",
                "falcon3",
                "falcon-h1",
                "pixtral",
                "midm-2.0",
                "lfm2",
                "jina-v5-nano",
            ],
            &[cl100k(3)],
        )
    },
    compared(
        &["gpt-2", "mpt"],
        &[
            "gpt-2",
            "mpt",
            "phi-2",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "exaone4",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
        ],
        &[Stage::Gpt2],
    ),
    compared(
        &["starcoder", "refact", "smollm"],
        &["starcoder", "refact", "smollm", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[EACH_NUMBER, Stage::Gpt2],
    ),
    compared(
        &["qwen2"],
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "stablelm2",
            "hunyuan",
            "megrez",
            "solar-open",
            "grok-2",
            "kormo",
            "f2llmv2",
        ],
        &[cl100k(1)],
    ),
    row(&["ufakzeka"], &[Stage::Cl100k(Cl100k { contractions: false, ..CL100K })]),
    row(&["laguna"], &[Stage::Lines, cl100k(1)]),
    Pre { whole_words: true, ..row(&["minicpm5"], &[NUMBERS_OF_THREE, cl100k(MANY)]) },
    compared(&["qwen35"], &["qwen35"], &[Stage::Cl100k(Cl100k { marks: true, ..CL100K })]),
    row(
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        // `\s*[\r\n]` and `\s*[\r\n]+` end at the same line break.
        &[cl100k(1)],
    ),
    row(&["seed-coder"], &[Stage::Cl100k(Cl100k { breaks_follow: false, ..CL100K })]),
    row(&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], &[cl100k(3)]),
    compared(
        &["deepseek-llm"],
        &["deepseek-llm"],
        &[
            EACH_BREAK,
            Stage::Run(Lead::White, DEEPSEEK_LETTERS, MANY),
            Stage::Run(Lead::White, DEEPSEEK_PUNCT, MANY),
            Stage::SpacesAtEnd,
            Stage::Run(Lead::None, DEEPSEEK_CJK, MANY),
            Stage::Run(Lead::None, class(NUMBER), MANY),
        ],
    ),
    compared(
        &["deepseek-coder"],
        &["deepseek-coder"],
        &[
            EACH_BREAK,
            Stage::Run(Lead::White, class(LETTER), MANY),
            Stage::Run(Lead::White, class(PUNCT), MANY),
            Stage::Run(Lead::None, DEEPSEEK_CJK, MANY),
            EACH_NUMBER,
        ],
    ),
    compared(
        &["deepseek-v3"],
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[NUMBERS_OF_THREE, Stage::Run(Lead::None, CJK_AND_KANA, MANY), Stage::DeepSeek3],
    ),
    compared(
        &["falcon"],
        &["falcon"],
        &[Stage::Run(Lead::None, FALCON_PUNCT, MANY), Stage::Gpt2, Stage::ThreeDigits],
    ),
    row(
        &["default"],
        &[
            Stage::Run(Lead::None, DEFAULT_PUNCT, MANY),
            Stage::Gpt2,
            Stage::Run(Lead::None, class(NUMBER), MANY),
            Stage::ThreeDigits,
        ],
    ),
    row(&["bloom", "gpt3-finnish", "poro-chat"], &[Stage::RunOutside(Lead::Space, BLOOM_STOPS)]),
    row(&["viking"], &[Stage::RunOutside(Lead::Space, BLOOM_STOPS), EACH_NUMBER]),
    // Its words go on behind spaces: nothing but numbers is cut.
    row(&["superbpe"], &[Stage::Run(Lead::None, class(NUMBER), MANY), Stage::ThreesFromTheRight]),
    Pre {
        whole_words: true,
        add_bos: true,
        ..compared(&["tekken"], &["tekken"], &[Stage::O200k { digits: 1, contractions: false }])
    },
    compared(
        &["gpt-4o"],
        &["gpt-4o", "llama4", "kanana2", "minimax-m2", "talkie"],
        &[Stage::O200k { digits: 3, contractions: true }],
    ),
    row(&["tiny_aya", "cohere2moe"], &[Stage::GroupedDigits, Stage::O200k { digits: 3, contractions: true }]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_once() {
        let mut names: Vec<&str> = TABLE.iter().flat_map(|row| row.names).copied().collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn an_unknown_name_has_no_row() {
        assert!(find("qwen9").is_none());
        assert!(find("qwen2").is_some_and(|row| !row.whole_words && !row.add_bos));
        assert!(find("tekken").is_some_and(|row| row.whole_words && row.add_bos));
    }

    #[test]
    fn texts_are_brought_into_their_form() {
        let text = "e\u{301} \u{fb01} \u{1112}\u{1161}\u{11ab} a\u{323}\u{308} \u{212b}";
        assert_eq!(Form::Nfc.of(text), "é \u{fb01} 한 \u{1ea1}\u{308} Å");
        assert_eq!(Form::Nfkc.of(text), "é fi 한 \u{1ea1}\u{308} Å");
        assert_eq!(Form::AsWritten.of(text), text);
        for form in [Form::Nfc, Form::Nfkc] {
            assert!(matches!(form.of("é fi 한"), Cow::Borrowed(_)));
        }
        // Names of one row may differ.
        let same = |a, b| find(a).map(|row| row.stages) == find(b).map(|row| row.stages);
        assert!(same("qwen2", "grok-2") && (form("qwen2"), form("grok-2")) == (Form::Nfc, Form::AsWritten));
        assert!(same("mpt", "gpt-2") && (form("mpt"), form("gpt-2")) == (Form::Nfc, Form::AsWritten));
    }

    /// README.md names the forms.
    #[test]
    fn the_readme_says_what_is_normalised() {
        let readme = include_str!("../../README.md");
        for (form, label) in [(Form::Nfc, "| NFC |"), (Form::Nfkc, "| NFKC |")] {
            let line = readme.lines().find(|l| l.starts_with(label)).unwrap_or_else(|| panic!("{label}"));
            let named: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
            let listed = FORMS.iter().find(|(f, _)| *f == form).expect("a form").1;
            assert_eq!(named, listed);
            assert!(named.iter().all(|name| find(name).is_some()), "{named:?}");
        }
    }

    /// README.md says of every name how sure it is. What it calls verified is what the tests run:
    /// `tests/tokenizer.rs` holds the other half.
    #[test]
    fn the_readme_says_what_is_verified() {
        let readme = include_str!("../../README.md");
        let sorted = |names: &mut dyn Iterator<Item = &str>| -> Vec<String> {
            let mut names: Vec<String> = names.map(str::to_owned).collect();
            names.sort_unstable();
            names
        };
        let named = |line: &str| {
            let line = readme.lines().find(|l| l.starts_with(line)).unwrap_or_else(|| panic!("{line}"));
            sorted(&mut line.split('`').skip(1).step_by(2))
        };
        let others = |of_verified: bool| {
            let verified = |row: &&Pre| {
                TABLE.iter().any(|r| r.stages == row.stages && !r.oracles.is_empty()) == of_verified
            };
            let rows = TABLE.iter().filter(verified);
            sorted(&mut rows.flat_map(|r| r.names.iter().filter(|n| !r.oracles.contains(n))).copied())
        };
        assert_eq!(named("| verified |"), sorted(&mut TABLE.iter().flat_map(|r| r.oracles).copied()));
        assert_eq!(named("| by relation |"), others(true));
        assert_eq!(named("| unverified |"), others(false));
        assert!(TABLE.iter().all(|row| row.oracles.iter().all(|name| row.names.contains(name))));
    }
}
