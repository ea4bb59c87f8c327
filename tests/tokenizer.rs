//! The tokenizer against ids made by another implementation, against damaged files, and
//! against texts that are too long to be handled carelessly.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use infer::Error;
use infer::gguf::{File, writer::Writer};
use infer::tokenizer::{ChatTemplate, Message, Special, Tokenizer};
use proptest::prelude::*;
use serde_json::Value;
use unicode_normalization::UnicodeNormalization;

mod common;
#[path = "common/program.rs"]
mod program;

/// The folder of test data beside the repository, if it is there; what is skipped is said.
fn shared(what: &str) -> Option<PathBuf> {
    let Some(path) = common::shared().map(|root| root.join(what)) else {
        common::note(&format!("SKIPPED: {what}: INFER_SHARED is not set"));
        return None;
    };
    if path.exists() {
        return Some(path);
    }
    common::note(&format!("SKIPPED: {} is not there", path.display()));
    None
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("a list of ids");
    ids.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()).expect("an id")).collect()
}

const VOCABS: [&str; 12] = [
    "gpt-2",
    "llama-spm",
    "phi-3",
    "llama-bpe",
    "qwen2",
    "qwen35",
    "deepseek-llm",
    "deepseek-coder",
    "falcon",
    "starcoder",
    "refact",
    "mpt",
];

/// `qwen35` is the vocabulary of `qwen2` with another name in `tokenizer.ggml.pre`.
fn vocab(dir: &Path, name: &str) -> Tokenizer {
    let (stored, pre) = if name == "qwen35" { ("qwen2", Some("qwen35")) } else { (name, None) };
    let file = File::open(&dir.join(format!("{stored}.gguf"))).expect("a vocabulary");
    Tokenizer::with_pre(&file, pre).expect("a tokenizer")
}

/// Whose own tokenizer composes texts, which the other implementation does not.
fn composes(name: &str) -> bool {
    matches!(name, "qwen2" | "qwen35" | "mpt" | "qwen2.5-coder-0.5b")
}

/// A text whose ids are to be those of the composed one, if it is one for which the other
/// implementation's ids are wrong.
fn composed(name: &str, text: &str) -> Option<String> {
    Some(text.nfc().collect::<String>()).filter(|composed| composes(name) && composed != text)
}

#[test]
fn vocabularies_match_their_texts() {
    let Some(dir) = shared("vocab") else { return };
    let (mut texts, mut others) = (0, 0);
    for name in VOCABS {
        let tokenizer = vocab(&dir, name);
        let input = std::fs::read_to_string(dir.join(format!("{name}.inp"))).expect("texts");
        let output = std::fs::read_to_string(dir.join(format!("{name}.out"))).expect("ids");
        let mut input: Vec<&str> = input.split("\n__ggml_vocab_test__\n").collect();
        assert_eq!(input.pop(), Some(""), "the separator stands behind the last text too");
        assert_eq!(input.len(), output.lines().count());
        for (text, line) in input.iter().zip(output.lines()) {
            let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().expect("an id")).collect();
            let got = tokenizer.encode(text, Special::AsText).expect("ids");
            if let Some(composed) = composed(name, text) {
                assert_eq!(
                    got,
                    tokenizer.encode(&composed, Special::AsText).expect("ids"),
                    "{name}: {text:?}"
                );
                assert_ne!(got, expected);
                others += 1;
                continue;
            }
            assert_eq!(got, expected, "{name}: {text:?}");
            texts += 1;
        }
    }
    assert_eq!((texts, others), (553, 3));
}

#[test]
fn vocabularies_match_the_extra_texts() {
    let Some(dir) = shared("vocab") else { return };
    let extra = json(&dir.join("extra.json"));
    let strings = extra["strings"].as_array().expect("strings");
    let (mut lists, mut doubled) = (0, 0);
    for name in VOCABS {
        let tokenizer = vocab(&dir, name);
        let of = &extra["vocabs"][name];
        for (i, text) in strings.iter().enumerate() {
            let text = text.as_str().expect("a string");
            let plain = tokenizer.encode(text, Special::AsText).expect("ids");
            if let Some(composed) = composed(name, text) {
                assert_eq!(
                    plain,
                    tokenizer.encode(&composed, Special::AsText).expect("ids"),
                    "{name}: {text:?}"
                );
                assert_ne!(plain, ids(&of["ids"][i]));
                continue;
            }
            assert_eq!(plain, ids(&of["ids"][i]), "{name}: {text:?}");
            let special = tokenizer.encode(text, Special::Recognise).expect("ids");
            assert_eq!(special, ids(&of["ids_special"][i]), "{name}, special: {text:?}");
            let got = tokenizer.encode_with_bos(text, Special::Recognise).expect("ids");
            let mut expected = ids(&of["ids_add_special"][i]);
            // The other implementation puts a second BOS before a text that begins with one.
            if tokenizer.add_bos() && tokenizer.bos() == special.first().copied() {
                assert_eq!(expected.remove(0), expected[0]);
                doubled += 1;
            }
            assert_eq!(got, expected, "{name}, with BOS: {text:?}");
            lists += 3;
        }
    }
    assert_eq!((lists, doubled), (1440 - 3 * 3, 2));
}

/// Where downloaded models are, if anywhere.
fn model(file: &str) -> Option<File> {
    let dir = match std::env::var_os("INFER_MODELS") {
        Some(dir) => PathBuf::from(dir),
        None => shared("models")?,
    };
    let path = dir.join(file);
    if !path.exists() {
        common::note(&format!("SKIPPED: {} is not there", path.display()));
        return None;
    }
    Some(File::open(&path).expect("a model"))
}

#[test]
fn real_models_match() {
    let Some(dir) = shared("golden") else { return };
    for name in ["smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b"] {
        let golden = json(&dir.join(format!("{name}.json")));
        let about = &golden["model"];
        let Some(file) = model(about["file"].as_str().expect("a file name")) else { continue };
        let tokenizer = Tokenizer::from_file(&file).expect("a tokenizer");
        assert_eq!(tokenizer.end_ids(), ends(&tokenizer, ids(&about["eog_ids"])), "{name}");
        if name == "smollm2-135m" {
            assert_eq!(file.get("tokenizer.ggml.pre").and_then(|v| v.as_str()), Some("smollm"));
        }
        assert_eq!(Some(tokenizer.add_bos()), about["add_bos"].as_bool(), "{name}");
        let shown = |id: Option<u32>| id.map(|id| tokenizer.piece(id)).unwrap_or_default();
        assert_eq!(Some(&*shown(tokenizer.bos())), about["bos"].as_str(), "{name}");
        assert_eq!(Some(&*shown(tokenizer.eos())), about["eos"].as_str(), "{name}");
        let check = |text: &Value, special, bos, expected: &Value| {
            let text = text.as_str().expect("a text");
            let got =
                if bos { tokenizer.encode_with_bos(text, special) } else { tokenizer.encode(text, special) };
            assert_eq!(got.expect("ids"), ids(expected), "{name}: {text:?}");
        };
        let list = |key: &str| golden[key].as_array().expect("a list").clone();
        for case in list("tokenize") {
            // Gemma's file says that `</s>` is text, and the other implementation that it is none.
            let text = case["text"].as_str().expect("a text");
            if let Some(composed) = composed(name, text) {
                let encode = |text: &str| tokenizer.encode(text, Special::AsText).expect("ids");
                assert_eq!(encode(text), encode(&composed));
                continue;
            }
            if name != "gemma3-270m" || !text.contains("</s>") {
                check(&case["text"], Special::AsText, false, &case["ids"]);
            }
            check(&case["text"], Special::Recognise, false, &case["ids_special"]);
            check(&case["text"], Special::Recognise, true, &case["ids_add_special"]);
            let text = case["text"].as_str().expect("a text");
            let back = tokenizer.decode(&ids(&case["ids"]));
            assert_eq!(back, text, "{name}");
        }
        for case in list("chat") {
            check(&case["prompt"], Special::Recognise, false, &case["ids"]);
        }
        for case in list("logits") {
            check(&case["text"], Special::AsText, true, &case["ids"]);
        }
        let perplexity = &golden["perplexity"];
        check(&perplexity["text"], Special::AsText, true, &perplexity["ids"]);
        for case in list("greedy") {
            check(&case["prompt"], Special::Recognise, case["kind"] == "raw", &case["prompt_ids"]);
            for run in ["f32", "q8a"] {
                let mut written = ids(&case[run]["ids"]);
                if case[run]["stop"] == "eog" {
                    assert!(tokenizer.end_ids().contains(&written.pop().expect("an end")));
                }
                let mut stream = tokenizer.stream();
                let mut text: String = written.iter().map(|id| stream.push(*id)).collect();
                text.push_str(&stream.finish());
                assert_eq!(Some(&*text), case[run]["text"].as_str(), "{name}: {}", case["id"]);
            }
        }
    }
}

/// The other implementation's ends, which takes every `</s>` for one: it is HTML in these vocabularies.
fn ends(tokenizer: &Tokenizer, theirs: Vec<u32>) -> Vec<u32> {
    theirs.into_iter().filter(|id| tokenizer.piece(*id) != "</s>").collect()
}

/// What README.md calls verified is what is compared: the ids of the vocabularies here and of
/// SmolLM2, and beside the rules themselves the words that other tokenizers cut. That the table of
/// rules agrees is tested beside it.
#[test]
fn the_readme_says_what_is_compared() {
    let readme = std::fs::read_to_string(common::repo("README.md")).expect("readable");
    let line = readme.lines().find(|l| l.starts_with("| verified |")).expect("the line");
    let mut named: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
    named.sort_unstable();
    let data = json(&common::repo("tests/data/pre-tokenizers.json"));
    let cuts = data["cuts"].as_object().expect("names").keys().map(String::as_str);
    let byte_level = VOCABS.into_iter().filter(|name| !matches!(*name, "llama-spm" | "phi-3"));
    let mut compared: Vec<&str> = byte_level.chain(cuts).chain(["smollm"]).collect();
    compared.sort_unstable();
    compared.dedup();
    assert_eq!(named, compared);
    // A vocabulary is called after its rules.
    let Some(dir) = shared("vocab") else { return };
    for name in VOCABS.into_iter().filter(|name| *name != "qwen35") {
        let file = File::open(&dir.join(format!("{name}.gguf"))).expect("a vocabulary");
        let pre = file.get("tokenizer.ggml.pre").and_then(|v| v.as_str());
        let spm = matches!(name, "llama-spm" | "phi-3");
        assert_eq!(pre, Some(if spm { "default" } else { name }));
    }
}

#[test]
fn streamed_pieces_are_the_text() {
    let Some(dir) = shared("vocab") else { return };
    let extra = json(&dir.join("extra.json"));
    for name in VOCABS {
        let tokenizer = vocab(&dir, name);
        for text in extra["strings"].as_array().expect("strings") {
            let text = text.as_str().expect("a string");
            let encoded = tokenizer.encode(text, Special::AsText).expect("ids");
            let mut stream = tokenizer.stream();
            let pieces: Vec<String> = encoded.iter().map(|id| stream.push(*id)).collect();
            assert_eq!(stream.finish(), "", "{name}: {text:?}");
            let joined = pieces.concat();
            assert!(!joined.contains('\u{fffd}') || text.contains('\u{fffd}'), "{name}: {text:?}");
            let composed = composed(name, text);
            let text = composed.as_deref().unwrap_or(text);
            assert_eq!(tokenizer.decode(&encoded), text, "{name}");
            assert!(joined == text || joined.strip_prefix(' ') == Some(text), "{name}: {text:?}");
        }
    }
}

/// The 256 byte tokens, as GPT-2 writes them, behind three special ones.
fn small_bpe(pre: &str, merges: &[&str]) -> Writer {
    let mut tokens = vec!["<bos>".to_owned(), "<|im_end|>".to_owned(), "<|x|>".to_owned()];
    let mut next = '\u{100}'..;
    for byte in 0..=u8::MAX {
        let c = char::from(byte);
        let shown =
            if matches!(c, '!'..='~' | '¡'..='¬' | '®'..='ÿ') { c } else { next.next().expect("more") };
        tokens.push(shown.to_string());
    }
    tokens.extend(merges.iter().map(|m| m.replace(' ', "")));
    let kinds: Vec<i32> = (0..tokens.len()).map(|i| if i < 3 { 3 } else { 1 }).collect();
    let mut writer = Writer::new();
    writer
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", pre)
        .strings("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .strings("tokenizer.ggml.merges", merges)
        .u32("tokenizer.ggml.bos_token_id", 0);
    writer
}

fn build(writer: &Writer) -> Result<Tokenizer, Error> {
    Tokenizer::from_file(&File::parse(writer.finish()).expect("a container"))
}

/// The ids of single bytes.
fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(|b| u32::from(b) + 3).collect()
}

#[test]
fn a_small_vocabulary_merges_by_rank() {
    let tokenizer = build(&small_bpe("gpt-2", &["b c", "a b", "Ġ a", "Ġa b"])).expect("a tokenizer");
    let encode = |text| tokenizer.encode(text, Special::Recognise).expect("ids");
    assert_eq!(encode("abc"), [bytes("a"), vec![259]].concat());
    assert_eq!(encode("ab"), [260]);
    // "a b" was learnt before "Ġ a".
    assert_eq!(encode("x ab"), [bytes("x "), vec![260]].concat());
    assert_eq!(encode("x a"), [bytes("x"), vec![261]].concat());
    assert!(encode("").is_empty());
    assert_eq!(encode("é"), bytes("é"));
    assert_eq!(tokenizer.end_ids(), [1]);
}

#[test]
fn special_tokens_are_found_only_when_asked_for() {
    let tokenizer = build(&small_bpe("gpt-2", &[])).expect("a tokenizer");
    let text = "a<|x|><|im_end|>b";
    let special = tokenizer.encode(text, Special::Recognise).expect("ids");
    assert_eq!(special, [bytes("a"), vec![2, 1], bytes("b")].concat());
    assert_eq!(tokenizer.encode(text, Special::AsText).expect("ids"), bytes(text));
    // An end is no text; another control token that a model writes is shown.
    assert_eq!(tokenizer.decode(&special), "a<|x|>b");
    assert_eq!(tokenizer.piece(1), "<|im_end|>");
    assert_eq!(tokenizer.bytes(1), b"");
    assert_eq!((tokenizer.piece(9999), tokenizer.bytes(9999)), (String::new(), &[][..]));
}

#[test]
fn bos_is_added_once() {
    let tokenizer = build(small_bpe("gpt-2", &[]).bool("tokenizer.ggml.add_bos_token", true)).expect("sound");
    let encode = |text| tokenizer.encode_with_bos(text, Special::Recognise).expect("ids");
    assert_eq!(encode(""), [0]);
    assert_eq!(encode("a"), [vec![0], bytes("a")].concat());
    assert_eq!(encode("<bos>a"), [vec![0], bytes("a")].concat());
    // By default it is up to the pre-tokenizer.
    assert!(!build(&small_bpe("gpt-2", &[])).expect("sound").add_bos());
    assert!(build(&small_bpe("llama-bpe", &[])).expect("sound").add_bos());
}

/// What is done to a text beforehand: by the name of its rules, or as the file says.
#[test]
fn texts_are_normalised_behind_special_tokens() {
    let merges = ["Ã ©"];
    let (decomposed, e) = ("e\u{301}", 259);
    let encode = |writer: &Writer, text: &str| {
        build(writer).expect("a tokenizer").encode(text, Special::Recognise).expect("ids")
    };
    assert_eq!(encode(&small_bpe("qwen2", &merges), decomposed), [e]);
    assert_eq!(encode(&small_bpe("exaone", &merges), "e\u{301}\u{fb01}"), [vec![e], bytes("fi")].concat());
    assert_eq!(encode(&small_bpe("gpt-2", &merges), decomposed), bytes(decomposed));
    // The file's own word counts more.
    let nfc = "tokenizer.ggml.normalizer.nfc";
    assert_eq!(encode(small_bpe("gpt-2", &merges).bool(nfc, true), decomposed), [e]);
    assert_eq!(encode(small_bpe("qwen2", &merges).bool(nfc, false), decomposed), bytes(decomposed));
    // A special token is cut out before: `>` and a stroke would be one character.
    assert_eq!(encode(&small_bpe("qwen2", &merges), "<|x|>\u{338}"), [vec![2], bytes("\u{338}")].concat());
    assert_eq!(encode(&small_bpe("qwen2", &merges), "<|y|>\u{338}"), bytes("<|y|\u{226f}"));
    // What is not done is refused.
    for key in ["normalizer.lowercase", "normalizer.strip_accents"] {
        let key = format!("tokenizer.ggml.{key}");
        refused(small_bpe("gpt-2", &[]).bool(&key, true), &key);
        assert!(build(small_bpe("gpt-2", &[]).bool(&key, false)).is_ok());
    }
    let key = "tokenizer.ggml.precompiled_charsmap";
    refused(small_spm().i32s(key, &[1, 2]), key);
    assert!(build(small_spm().i32s(key, &[])).is_ok());
    // SentencePiece may leave out spaces.
    let (few, space, a, b) = ("tokenizer.ggml.remove_extra_whitespaces", 259, 260, 261);
    let (first, then) = ([264, space, b], [264, space, space, b]);
    assert_eq!(encode(small_spm().bool(few, true), "  a   b "), first);
    assert_eq!(encode(small_spm().bool(few, false), "a  b"), then);
    assert_eq!(encode(small_spm().bool(few, true).bool("tokenizer.ggml.add_space_prefix", false), " a"), [a]);
}

/// A name that is empty is none: the default rules, and a note.
#[test]
fn an_empty_pre_tokenizer_is_none() {
    let t = build(&small_bpe("", &[])).expect("a tokenizer");
    assert!(
        t.notes().len() == 1 && t.notes()[0].starts_with("tokenizer.ggml.pre is empty"),
        "{:?}",
        t.notes()
    );
    let (text, default) = ("a1b22  (c)", build(&small_bpe("default", &[])).expect("a tokenizer"));
    assert!(default.notes().is_empty());
    let ids = |t: &Tokenizer| t.encode(text, Special::AsText).expect("ids");
    assert_eq!(ids(&t), ids(&default));
    assert!(build(small_spm().str("tokenizer.ggml.pre", "")).expect("a tokenizer").notes().is_empty());
}

#[test]
fn whole_words_come_before_merges_where_the_rules_say_so() {
    let merges = ["b c", "a b", "ab c"];
    let by_merges = build(&small_bpe("gpt-2", &merges)).expect("a tokenizer");
    assert_eq!(by_merges.encode("abc", Special::AsText).expect("ids"), [bytes("a"), vec![259]].concat());
    let whole = build(&small_bpe("llama-bpe", &merges)).expect("a tokenizer");
    assert_eq!(whole.encode("abc", Special::AsText).expect("ids"), [261]);
}

/// SentencePiece in small: three special tokens, the bytes, and a few pieces.
fn small_spm() -> Writer {
    spm_with(&[])
}

/// The same with more tokens behind them, each of a kind.
fn spm_with(more: &[(&str, i32)]) -> Writer {
    spm_of(3, more)
}

/// The same with a `<s>` of another kind.
fn spm_of(begin: i32, more: &[(&str, i32)]) -> Writer {
    let pieces = [("▁", -1.0), ("a", -2.0), ("b", -3.0), ("ab", -0.5), ("ba", -0.4), ("▁a", -0.6)];
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    tokens.extend((0..=u8::MAX).map(|b| format!("<0x{b:02X}>")));
    tokens.extend(pieces.iter().map(|(text, _)| (*text).to_owned()));
    let mut scores = vec![0.0; 259];
    scores.extend(pieces.iter().map(|(_, score)| *score));
    let mut kinds: Vec<i32> = (0..tokens.len())
        .map(|i| match i {
            0 => 2,
            1 => begin,
            2 => 3,
            3..259 => 6,
            _ => 1,
        })
        .collect();
    tokens.extend(more.iter().map(|(text, _)| (*text).to_owned()));
    scores.extend(more.iter().map(|_| 0.0));
    kinds.extend(more.iter().map(|(_, kind)| *kind));
    let mut writer = Writer::new();
    writer
        .str("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &tokens)
        .f32s("tokenizer.ggml.scores", &scores)
        .i32s("tokenizer.ggml.token_type", &kinds);
    writer
}

#[test]
fn a_small_sentencepiece_vocabulary_merges_by_score() {
    let tokenizer = build(&small_spm()).expect("a tokenizer");
    let encode = |text| tokenizer.encode(text, Special::Recognise).expect("ids");
    let (space, b, ab, ba, space_a) = (259, 261, 262, 263, 264);
    assert_eq!(encode("ab"), [space, ab]);
    // "ba" has the best score, then "▁a".
    assert_eq!(encode("aba"), [space_a, ba]);
    assert_eq!(encode("bb"), [space, b, b]);
    // A character without a piece is spelt; a space follows a special token too.
    assert_eq!(encode("é</s>ab"), [space, 3 + 0xc3, 3 + 0xa9, 2, space, ab]);
    assert_eq!(tokenizer.encode_with_bos("", Special::AsText).expect("ids"), [1]);
    for text in ["ab", " ab", "é b", "", "a  b "] {
        assert_eq!(tokenizer.decode(&encode(text)), text);
    }
    assert_eq!(tokenizer.decode(&encode("b</s>ab")), "bab");
    let mut stream = tokenizer.stream();
    let pieces: Vec<String> = encode("aé").iter().map(|id| stream.push(*id)).collect();
    assert_eq!(pieces, [" a", "", "é"]);
}

fn refused(writer: &Writer, part: &str) {
    match build(writer) {
        Err(Error::Unsupported(text)) => {
            assert!(text.contains(part) && !text.contains('\n'), "{text}");
        }
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("{part}: not refused"),
    }
}

#[test]
fn damaged_lists_are_refused_by_name() {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    refused(&Writer::new(), "tokenizer.ggml.model is missing");
    refused(Writer::new().u32(&key("model"), 1), "tokenizer.ggml.model is no text");
    refused(Writer::new().str(&key("model"), "rwkv"), "\"rwkv\" is not supported");
    refused(Writer::new().str(&key("model"), "gpt2"), "tokenizer.ggml.tokens is missing");
    refused(Writer::new().str(&key("model"), "gpt2").i32s(&key("tokens"), &[1]), "no list of strings");
    refused(Writer::new().str(&key("model"), "gpt2").strings::<&str>(&key("tokens"), &[]), "is empty");
    refused(&small_bpe("qwen9", &[]), "\"qwen9\" is not known");
    refused(Writer::new().str(&key("model"), "llama").strings(&key("tokens"), &["a"]), "scores is missing");
    refused(
        Writer::new()
            .str(&key("model"), "llama")
            .strings(&key("tokens"), &["a", "b"])
            .f32s(&key("scores"), &[0.0]),
        "1 entries for 2 tokens",
    );
    refused(small_bpe("gpt-2", &[]).f32(&key("eos_token_id"), 1.0), "eos_token_id is no token id, but a f32");
    refused(small_bpe("gpt-2", &[]).u32(&key("add_bos_token"), 1), "is no bool");
}

#[test]
fn damaged_merges_are_refused_by_name() {
    let with = |merge: &str| {
        let mut writer = Writer::new();
        writer
            .str("tokenizer.ggml.model", "gpt2")
            .str("tokenizer.ggml.pre", "gpt-2")
            .strings("tokenizer.ggml.tokens", &["a", "b", "ab"])
            .strings("tokenizer.ggml.merges", &["a b", merge]);
        writer
    };
    refused(&with("b c"), "merge 1, \"b c\", names unknown tokens");
    refused(&with("b a"), "merge 1, \"b a\", names unknown tokens");
    refused(&with("ab"), "merge 1, \"ab\", is no pair");
    refused(&with(""), "merge 1, \"\", is no pair");
    let tokenizer = build(&with("a b")).expect("a merge that stands twice does no harm");
    assert_eq!(tokenizer.encode("abb", Special::AsText).expect("ids"), [2, 1]);
    // Neither error nor silence about a byte that cannot be written.
    let error = tokenizer.encode("abc", Special::AsText).expect_err("no token for c");
    assert!(matches!(&error, Error::Request(text) if text.contains("0x63")), "{error}");
}

#[test]
fn malformed_files_are_refused() {
    let Some(dir) = shared("fixtures/malformed") else { return };
    let cases = json(&dir.join("cases.json"));
    let mut seen = 0;
    for case in cases.as_array().expect("cases").iter().filter(|c| c["group"] == "tok") {
        let name = case["file"].as_str().expect("a name");
        let file = File::open(&dir.join(name)).expect("a sound container");
        let built = Tokenizer::from_file(&file);
        seen += 1;
        match name {
            // The tokenizer is sound there: the template is not, or the model is too large.
            _ if name.starts_with("tok-chat-") => assert!(built.is_ok(), "{name}"),
            // What is no token's number means none, with a word about it.
            "tok-bos-range.gguf" | "tok-eos-range.gguf" => {
                let tokenizer = built.expect("sound");
                let (id, key) =
                    if name.contains("bos") { (tokenizer.bos(), "bos_") } else { (tokenizer.eos(), "eos_") };
                assert_eq!(id, None, "{name}");
                assert!(tokenizer.notes().iter().any(|note| note.contains(key)), "{name}");
            }
            "tok-tokens-few.gguf" if built.is_ok() => assert_eq!(built.expect("sound").len(), 10),
            _ => assert!(matches!(built, Err(Error::Unsupported(_))), "{name}: {:?}", built.err()),
        }
    }
    assert_eq!(seen, 19);
    let valid = File::open(&dir.join("valid.gguf")).expect("a sound container");
    assert!(Tokenizer::from_file(&valid).is_ok());
}

/// The architectures whose files must have a tokenizer that works.
const ARCHITECTURES: [&str; 16] = [
    "cohere2",
    "gemma2",
    "gemma3",
    "glm4",
    "gpt-oss",
    "granite",
    "llama",
    "mistral3",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen2moe",
    "qwen3",
    "qwen3moe",
    "smollm3",
    "starcoder2",
];

/// A file of every architecture turns any text into ids and back, from its library and from its
/// command line, and its template's text into special tokens.
#[test]
fn every_architecture_has_its_tokenizer() {
    let Some(dir) = shared("fixtures/models") else { return };
    let texts = [
        "",
        " ",
        "Hello, world! 123 é",
        "  two\n\n\tlines \r\n",
        "if (x[0] != 'y') { z(); } // 12345",
        "中文 😀 e\u{301}\u{0}",
    ];
    let mut seen: Vec<String> = Vec::new();
    for path in common::files(&dir, "gguf") {
        let file = File::open(&path).expect("a model");
        let shown = path.display();
        let text = |key: &str| file.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        let tokenizer = match Tokenizer::from_file(&file) {
            Ok(tokenizer) => tokenizer,
            Err(Error::Unsupported(why)) if text("tokenizer.ggml.model") == "rwkv" => {
                assert!(why.contains("rwkv"), "{why}");
                continue;
            }
            Err(other) => panic!("{shown}: {other}"),
        };
        for text in texts {
            let ids = tokenizer.encode(text, Special::AsText).expect("ids");
            let decoded = tokenizer.decode(&ids);
            // Some compose what others leave as it is.
            assert!(decoded == text || decoded.chars().eq(text.nfc()), "{shown}: {decoded:?}");
        }
        // The end that the file names, and those that are known by their text.
        let eos = tokenizer.eos().expect("an end");
        assert!(tokenizer.end_ids().contains(&eos), "{shown}");
        let template = ChatTemplate::from_file(&file).expect("a template");
        let user = Message { role: "user".to_owned(), content: "Hi there".to_owned() };
        let prompt = template.render(&[user], true).expect("a text");
        let ids = tokenizer.encode_with_bos(&prompt, Special::Recognise).expect("ids");
        let begins = ids.iter().filter(|id| Some(**id) == tokenizer.bos()).count();
        assert_eq!(begins, usize::from(tokenizer.add_bos()), "{shown}: {prompt:?}");
        if prompt.contains("<|im_start|>") {
            let start = |id: &&u32| tokenizer.piece(**id) == "<|im_start|>";
            assert_eq!(ids.iter().filter(start).count(), 2, "{shown}: {prompt:?}");
        }
        let architecture = text("general.architecture");
        if !seen.contains(&architecture) {
            let path = path.to_str().expect("a name");
            for text in ["Hello, world! 123 é", " a  b"] {
                let run = program::run(&["tokenize", path, "--no-bos", "--json", "--text", text]);
                let ids: Vec<String> = ids_of(&run.json()).iter().map(u32::to_string).collect();
                let back = program::run(&["tokenize", path, "--decode", &ids.join(",")]);
                assert_eq!(back.works(), format!("{text}\n"), "{shown}");
            }
            seen.push(architecture);
        }
    }
    let missing: Vec<&str> =
        ARCHITECTURES.into_iter().filter(|name| !seen.iter().any(|seen| seen == name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn ids_of(report: &Value) -> Vec<u32> {
    ids(&report["ids"])
}

/// A byte-level vocabulary with these tokens, of a kind, in front of the bytes.
fn bpe_with(tokens: &[&str], kind: i32) -> Writer {
    bpe_of(&tokens.iter().map(|text| (*text, kind)).collect::<Vec<_>>())
}

/// The same, each of a kind of its own.
fn bpe_of(tokens: &[(&str, i32)]) -> Writer {
    let small = File::parse(small_bpe("gpt-2", &[]).finish()).expect("a container");
    let bytes = small.get("tokenizer.ggml.tokens").and_then(|v| v.as_array()?.strings()).expect("tokens");
    let bytes: Vec<String> = bytes.skip(3).map(|t| String::from_utf8_lossy(t).into_owned()).collect();
    let list: Vec<&str> =
        tokens.iter().map(|(text, _)| *text).chain(bytes.iter().map(String::as_str)).collect();
    let kinds: Vec<i32> =
        tokens.iter().map(|(_, kind)| *kind).chain(std::iter::repeat_n(1, bytes.len())).collect();
    let mut writer = Writer::new();
    writer
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "gpt-2")
        .strings("tokenizer.ggml.tokens", &list)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .strings::<&str>("tokenizer.ggml.merges", &[]);
    writer
}

/// All tokens that end a turn, as the files of each family name them or do not.
#[test]
fn a_turn_has_more_than_one_end() {
    let ends = |tokens: &[&str], keys: &[(&str, u32)]| -> Vec<String> {
        let mut writer = bpe_with(tokens, 3);
        for (key, id) in keys {
            writer.u32(&format!("tokenizer.ggml.{key}_token_id"), *id);
        }
        let tokenizer = build(&writer).expect("a tokenizer");
        tokenizer.end_ids().iter().map(|id| tokenizer.piece(*id)).collect()
    };
    let eos = [("eos", 0)];
    // Llama 3: a turn, a message to a tool, a text.
    let llama = ["<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|start_header_id|>"];
    assert_eq!(ends(&llama, &eos), llama[..3]);
    // gpt-oss ends a message with <|end|>, and goes on; even where the file calls it the turn's end.
    let oss =
        ["<|return|>", "<|call|>", "<|end|>", "<|endoftext|>", "<|start|>", "<|channel|>", "<|message|>"];
    assert_eq!(ends(&oss, &eos), ["<|return|>", "<|call|>", "<|endoftext|>"]);
    assert_eq!(ends(&oss, &[("eos", 0), ("eot", 2)]), ["<|return|>", "<|call|>", "<|endoftext|>"]);
    // Phi-3 does end with it, and <|user|> alone says nothing.
    let phi = ["<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>"];
    assert_eq!(ends(&phi, &eos), phi[..2]);
    // GLM-4 ends where another's turn begins, whether or not the file names them.
    let glm =
        ["<|endoftext|>", "<|user|>", "<|observation|>", "[gMASK]", "<sop>", "<|assistant|>", "<|system|>"];
    assert_eq!(ends(&glm, &eos), glm[..3]);
    assert_eq!(ends(&glm[..3], &[("eos", 0), ("eot", 1), ("eom", 2)]), glm[..3]);
    assert_eq!(ends(&glm[..3], &[("eos", 0), ("eot", 1)]), glm[..2]);
    // Command R's models, with an end of text for eos.
    let cohere = ["<EOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>", "<|END_RESPONSE|>"];
    assert_eq!(ends(&cohere, &eos), cohere[..2]);
    for known in [
        &["</s>", "[INST]", "[/INST]"][..],
        &["<|im_end|>", "<|im_start|>"],
        &["<end_of_turn>", "<start_of_turn>"],
        &["<|end_of_text|>", "<|end_of_role|>"],
        &["<｜end▁of▁sentence｜>", "<｜User｜>"],
        &["<EOT>", "<|fim_begin|>"],
        // Models that fill in code end where a file or a repository would begin.
        &["<|file_sep|>", "<|fim_middle|>"],
    ] {
        assert_eq!(ends(known, &[]), known[..1]);
    }
    // An end is a control token, whatever the file says, and shows no text.
    let tokenizer = build(&bpe_with(&["<|im_end|>"], 1)).expect("a tokenizer");
    assert_eq!((tokenizer.end_ids(), tokenizer.bytes(0)), (&[0][..], &b""[..]));
    assert_eq!(tokenizer.encode("<|im_end|>", Special::Recognise).expect("ids"), [0]);
}

/// A token that looks like an end is text where the file says so, and structure where nobody has said
/// anything.
#[test]
fn the_files_kinds_come_before_guesses() {
    let (normal, control, user, unused) = (1, 3, 4, 5);
    let with = |tokens: &[(&str, i32)], eos: Option<u32>| {
        let mut writer = bpe_of(tokens);
        if let Some(eos) = eos {
            writer.u32("tokenizer.ggml.eos_token_id", eos);
        }
        build(&writer).expect("a tokenizer")
    };
    let shown = |t: &Tokenizer, id: u32| String::from_utf8_lossy(t.bytes(id)).into_owned();
    for text in ["</s>", "<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|end|>", "[EOS]", "<|fim_pad|>"] {
        // The user's own: text in any text, and shown.
        let t = with(&[(text, user), ("<|over|>", control)], Some(1));
        assert_eq!((t.end_ids(), shown(&t, 0).as_str()), (&[1][..], text));
        let written = format!("a{text}b");
        let ids = t.encode(&written, Special::AsText).expect("ids");
        assert_eq!((ids[1], t.decode(&ids).as_str()), (0, written.as_str()));
        // Structure: an end beside the one that a key names, and never shown.
        let t = with(&[(text, control), ("<|over|>", control)], Some(1));
        assert_eq!((t.end_ids(), shown(&t, 0).as_str()), (&[0, 1][..], ""), "{text}");
        // Nobody has said anything: only what HTML has too may be text.
        for kind in [normal, unused] {
            let t = with(&[(text, kind), ("<|over|>", control)], Some(1));
            let html = text == "</s>";
            assert_eq!((t.end_ids().len(), shown(&t, 0).as_str()), if html { (1, text) } else { (2, "") });
            assert_eq!(t.encode(text, Special::Recognise).expect("ids"), [0]);
        }
    }
    // Where nothing else ends a text, a doubtful one does.
    for kind in [normal, user] {
        assert_eq!(with(&[("</s>", kind)], None).end_ids(), [0]);
        assert_eq!(with(&[("</s>", kind), ("<|im_end|>", normal)], None).end_ids(), [1]);
    }
    // SentencePiece's own pair is no HTML; another `</s>` is.
    let spm = |begin| {
        let mut writer = spm_of(begin, &[("</s>", 4), ("<over>", 3)]);
        writer.u32("tokenizer.ggml.eos_token_id", 266);
        build(&writer).expect("a tokenizer").end_ids().to_vec()
    };
    assert_eq!(spm(3), [265, 266]);
    assert_eq!(spm(4), [266]);
    // gpt-oss ends a message with <|end|> and shows it; Gemma 4 stops where a tool answers.
    let t = with(&[("<|return|>", control), ("<|call|>", control), ("<|end|>", control)], Some(0));
    assert_eq!((t.end_ids(), shown(&t, 2).as_str()), (&[0, 1][..], "<|end|>"));
    let t = with(&[("<turn|>", control), ("<|tool_response>", user)], Some(0));
    assert_eq!((t.end_ids(), shown(&t, 1).as_str()), (&[0, 1][..], "<|tool_response>"));
    // What a key names is structure in a file without kinds.
    let mut writer = Writer::new();
    writer
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "gpt-2")
        .strings("tokenizer.ggml.tokens", &["a", "<", ">", "<a>", "<aa>"])
        .strings::<&str>("tokenizer.ggml.merges", &[])
        .u32("tokenizer.ggml.bos_token_id", 3);
    let t = build(&writer).expect("a tokenizer");
    assert_eq!(t.encode("<a><aa>", Special::Recognise).expect("ids"), [3, 1, 0, 0, 2]);
    assert_eq!(t.decode(&[3, 0]), "a");
    // SentencePiece's own, where no key names them.
    let mut writer = Writer::new();
    writer
        .str("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>", "a"])
        .f32s("tokenizer.ggml.scores", &[0.0; 4])
        .bool("tokenizer.ggml.add_space_prefix", false);
    let t = build(&writer).expect("a tokenizer");
    assert_eq!(t.encode("<s>a</s>", Special::Recognise).expect("ids"), [1, 3, 2]);
    assert_eq!((t.decode(&[1, 3, 2]), t.end_ids()), ("a".to_owned(), &[2][..]));
}

/// Control tokens within an answer say something; those around it do not.
#[test]
fn control_tokens_are_shown_where_they_carry_meaning() {
    let tokens =
        ["<s>", "</s>", "<pad>", "[THINK]", "[/THINK]", "[TOOL_CALLS]", "<|python_tag|>", "<|channel|>"];
    let mut writer = bpe_with(&tokens, 3);
    for (key, id) in [("bos", 0), ("eos", 1), ("padding", 2)] {
        writer.u32(&format!("tokenizer.ggml.{key}_token_id"), id);
    }
    let t = build(&writer).expect("a tokenizer");
    assert_eq!(t.decode(&[0, 3, 4, 5, 6, 7, 2, 1]), tokens[3..].concat());
    // They are recognised in a template's text alone.
    assert!(!t.encode("<|channel|>", Special::AsText).expect("ids").contains(&7));
}

/// -1, 2^32 - 1 and other numbers that are no token's mean that there is none, in any type.
#[test]
fn special_tokens_that_are_none() {
    let names = [
        "bos",
        "eos",
        "eot",
        "eom",
        "unknown",
        "seperator",
        "padding",
        "cls",
        "mask",
        "fim_pre",
        "fim_suf",
        "fim_mid",
        "fim_pad",
        "fim_rep",
        "fim_sep",
    ];
    for name in names {
        let key = format!("tokenizer.ggml.{name}_token_id");
        for (number, shown) in [(-1, "-1"), (257, "257"), (i32::MAX, "2147483647"), (i32::MIN, "-2147483648")]
        {
            let t = build(bpe_with(&["<|im_end|>"], 3).i32(&key, number)).expect("a tokenizer");
            let [note] = t.notes() else { panic!("{name}: {:?}", t.notes()) };
            assert!(note.contains(&key) && note.contains(shown) && note.contains("none"), "{note}");
            assert_eq!(t.end_ids(), [0]);
        }
        let t = build(bpe_with(&["<s>"], 3).u32(&key, u32::MAX)).expect("a tokenizer");
        assert!(t.notes()[0].contains("4294967295"), "{:?}", t.notes());
        assert!(build(bpe_with(&["<s>"], 3).u16(&key, 0)).expect("a tokenizer").notes().is_empty());
    }
    // None is none, even where SentencePiece has a token of its own; a template sees no text then.
    for writer in [&mut small_spm(), &mut bpe_with(&["<s>"], 3)] {
        writer.i32("tokenizer.ggml.bos_token_id", -1).str("tokenizer.chat_template", "[{{ bos_token }}]");
        let file = File::parse(writer.finish()).expect("a container");
        let t = Tokenizer::from_file(&file).expect("a tokenizer");
        assert_eq!((t.bos(), t.encode_with_bos("", Special::AsText).expect("ids")), (None, vec![]));
        let template = ChatTemplate::from_file(&file).expect("a template");
        assert_eq!(template.render(&[], true).expect("a text"), "[]");
    }
}

/// An answer stands for itself; what continues a prompt keeps its space.
#[test]
fn the_space_before_an_answer_is_none() {
    let t = build(&small_spm()).expect("a tokenizer");
    let (space, a, space_a, end) = (259, 260, 264, 2);
    let text = |mut stream: infer::tokenizer::Decoder<'_>, ids: &[u32]| -> String {
        ids.iter().map(|id| stream.push(*id)).collect()
    };
    for ids in [&[space_a, a][..], &[space, a, a], &[end, space_a, a]] {
        assert_eq!((text(t.stream_text(), ids), text(t.stream(), ids)), ("aa".to_owned(), " aa".to_owned()));
    }
    assert_eq!(text(t.stream_text(), &[space_a, space_a]), "a a");
    let t = build(small_spm().bool("tokenizer.ggml.add_space_prefix", false)).expect("a tokenizer");
    assert_eq!(text(t.stream_text(), &[space_a]), " a");
}

/// Phi-3's special tokens take the white space behind them, in files of any name.
#[test]
fn special_tokens_of_phi3_take_the_space_behind_them() {
    let encode = |keys: &[(&str, &str)]| {
        let mut writer = spm_with(&[("<|user|>", 3), ("<|endoftext|>", 3)]);
        for (key, text) in keys {
            writer.str(key, text);
        }
        let tokenizer = build(&writer).expect("a tokenizer");
        tokenizer.encode("<|user|>\n b<|endoftext|> b", Special::Recognise).expect("ids")
    };
    let (user, end, space, newline, b) = (265, 266, 259, 3 + 10, 261);
    let kept = [user, space, newline, space, b, end, space, space, b];
    let taken = [user, space, b, end, space, space, b];
    assert_eq!(encode(&[]), kept);
    assert_eq!(encode(&[("general.architecture", "llama"), ("general.name", "Phine")]), kept);
    for keys in [("general.name", "Phi-3-mini"), ("general.name", "phi3"), ("general.architecture", "phi3")] {
        assert_eq!(encode(&[keys]), taken, "{keys:?}");
    }
}

/// Two megabytes that one rule takes as a single word, and the time they may take.
#[test]
fn long_runs_take_seconds_at_most() {
    let texts = [" ", "a", "\n", "中", "1", "ab", "Aa", "!", "\t \n"].map(|s| s.repeat(2_000_000 / s.len()));
    let check = |name: &str, tokenizer: &Tokenizer, texts: &[String]| {
        for text in texts {
            let start = Instant::now();
            let encoded = tokenizer.encode(text, Special::Recognise).expect("ids");
            let took = start.elapsed();
            assert_eq!(tokenizer.decode(&encoded), *text, "{name}");
            let head: String = text.chars().take(4).collect();
            eprintln!("{name}: 2 MB of {head:?}: {} ids in {took:?}", encoded.len());
            assert!(took < Duration::from_secs(20), "{name}: {took:?}");
        }
    };
    check(
        "small bpe",
        &build(&small_bpe("qwen2", &["a a", "Ġ Ġ", "aa aa", "ĠĠ ĠĠ"])).expect("sound"),
        &texts,
    );
    check("small spm", &build(&small_spm()).expect("sound"), &texts);
    let Some(dir) = shared("vocab") else { return };
    for name in ["qwen2", "deepseek-llm", "falcon", "llama-spm", "llama-bpe"] {
        check(name, &vocab(&dir, name), &texts[..2]);
    }
}

/// Two million spaces are the ids that a rule over runs gives: the longest token of spaces,
/// over and over.
#[test]
fn two_megabytes_of_spaces_are_right() {
    let Some(dir) = shared("vocab") else { return };
    let tokenizer = vocab(&dir, "qwen2");
    let short = tokenizer.encode(&" ".repeat(4096), Special::AsText).expect("ids");
    let long = tokenizer.encode(&" ".repeat(2_097_152), Special::AsText).expect("ids");
    assert!(short.iter().all(|id| *id == short[0]) && long.iter().all(|id| *id == short[0]));
    assert_eq!(long.len(), short.len() * 512);
}

/// The bound is the one for optimised code; tests are built with less.
#[test]
fn a_large_vocabulary_is_built_quickly() {
    let Some(dir) = shared("vocab") else { return };
    for name in ["qwen2", "llama-bpe", "llama-spm"] {
        let file = File::open(&dir.join(format!("{name}.gguf"))).expect("a vocabulary");
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let start = Instant::now();
            let tokenizer = Tokenizer::from_file(&file).expect("a tokenizer");
            best = best.min(start.elapsed());
            assert!(tokenizer.len() >= 32_000);
        }
        eprintln!("{name}: built in {best:?}");
        let limit = if cfg!(debug_assertions) { 3000 } else { 300 };
        assert!(best < Duration::from_millis(limit), "{name}: {best:?}");
    }
}

/// A SentencePiece vocabulary as large as Gemma's and made like it: no space in front of a text,
/// runs of line breaks and of spaces that are taken whole, and pieces of up to four letters.
fn like_gemma() -> Writer {
    const TOKENS: usize = 262_144;
    let mut tokens: Vec<String> =
        ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"].map(str::to_owned).into();
    let mut kinds = vec![3; tokens.len()];
    tokens.extend((1..=31).map(|n| "\n".repeat(n)));
    tokens.extend((2..=31).map(|n| " ".repeat(n)));
    kinds.resize(tokens.len(), 4);
    tokens.extend((0..=u8::MAX).map(|b| format!("<0x{b:02X}>")));
    kinds.resize(tokens.len(), 6);
    let letters: Vec<String> = ('a'..='z').map(String::from).collect();
    let mut pieces = letters.clone();
    let mut last = pieces.clone();
    while tokens.len() + 2 * pieces.len() < TOKENS {
        last = last.iter().flat_map(|head| letters.iter().map(move |c| format!("{head}{c}"))).collect();
        pieces.extend(last.iter().cloned());
    }
    // Shorter pieces have the better scores, as the more frequent ones have in a real vocabulary.
    tokens.push("▁".to_owned());
    tokens.extend(pieces.iter().flat_map(|piece| [piece.clone(), format!("▁{piece}")]));
    tokens.truncate(TOKENS);
    kinds.resize(TOKENS, 1);
    let mut rank = 0.0;
    let scores: Vec<f32> = kinds
        .iter()
        .map(|kind| {
            rank -= f32::from(u8::from(*kind == 1));
            if *kind == 1 { rank } else { -1000.0 }
        })
        .collect();
    let mut writer = Writer::new();
    writer
        .str("tokenizer.ggml.model", "llama")
        .str("tokenizer.ggml.pre", "default")
        .strings("tokenizer.ggml.tokens", &tokens)
        .f32s("tokenizer.ggml.scores", &scores)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .u32("tokenizer.ggml.bos_token_id", 2)
        .u32("tokenizer.ggml.eos_token_id", 1)
        .u32("tokenizer.ggml.unknown_token_id", 3)
        .bool("tokenizer.ggml.add_bos_token", true)
        .bool("tokenizer.ggml.add_space_prefix", false);
    writer
}

/// The bounds are those for optimised code; tests are built with less.
#[test]
fn a_vocabulary_like_gemmas_is_right_and_quick() {
    let file = File::parse(like_gemma().finish()).expect("a container");
    let start = Instant::now();
    let tokenizer = Tokenizer::from_file(&file).expect("a tokenizer");
    let built = start.elapsed();
    assert_eq!(tokenizer.len(), 262_144);
    let pieces = |text: &str| -> Vec<String> {
        let ids = tokenizer.encode(text, Special::Recognise).expect("ids");
        let pieces: Vec<String> = ids.iter().map(|id| tokenizer.piece(*id)).collect();
        assert_eq!(pieces.concat(), text);
        pieces
    };
    // Nothing is put in front, and a space belongs to the word behind it.
    assert_eq!(pieces("ab cd"), ["ab", " cd"]);
    assert_eq!(pieces(" ab"), [" ab"]);
    assert_eq!(
        pieces("<start_of_turn>ab\nc<end_of_turn>\n"),
        ["<start_of_turn>", "ab", "\n", "c", "<end_of_turn>", "\n"]
    );
    for n in 2..=31 {
        assert_eq!(pieces(&" ".repeat(n)), [" ".repeat(n)]);
        assert_eq!(pieces(&"\n".repeat(n)), ["\n".repeat(n)]);
        assert_eq!(pieces(&format!("a{}b", " ".repeat(n))), ["a", &" ".repeat(n), "b"]);
    }
    assert_eq!(pieces(&" ".repeat(33)), [" ".repeat(31), " ".repeat(2)]);
    assert_eq!(pieces(&" ".repeat(32)), [" ".repeat(31), " ".to_owned()]);
    assert_eq!(pieces("a \n  b"), ["a", " ", "\n", "  ", "b"]);
    // What is no piece is written byte by byte.
    let ids = tokenizer.encode("a😀é", Special::AsText).expect("ids");
    let byte = |b: u8| 67 + u32::from(b);
    assert_eq!(ids[1..], [0xf0, 0x9f, 0x98, 0x80, 0xc3, 0xa9].map(byte));
    assert_eq!(tokenizer.decode(&ids), "a😀é");
    assert_eq!(tokenizer.encode_with_bos("", Special::AsText).expect("ids"), [2]);
    assert_eq!(tokenizer.end_ids(), [1, 5]);

    // Words of all lengths, as a text has them: 100 kB.
    let (mut text, mut seed) = (String::new(), 1u32);
    while text.len() < 100_000 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let c = char::from(b'a' + u8::try_from((seed >> 16) % 26).expect("a letter"));
        text.push(c);
        match (seed >> 24) % 64 {
            0..=9 => text.push(' '),
            10 => text.push_str(".\n\n    "),
            11 => text.push('é'),
            _ => {}
        }
    }
    let start = Instant::now();
    let ids = tokenizer.encode(&text, Special::Recognise).expect("ids");
    let encoded = start.elapsed();
    assert_eq!(tokenizer.decode(&ids), text);
    eprintln!("262,144 tokens: built in {built:?}; 100 kB: {} ids in {encoded:?}", ids.len());
    let limit = Duration::from_millis(if cfg!(debug_assertions) { 5000 } else { 500 });
    assert!(built < limit && encoded < limit, "{built:?}, {encoded:?}");
}

/// Merging as it is defined: of all neighbours that can be merged, the best and of those the
/// leftmost, again and again.
fn merge_slowly(mut parts: Vec<String>, better: impl Fn(&str, &str) -> Option<i64>) -> Vec<String> {
    loop {
        let pairs = parts.windows(2).enumerate();
        let best = pairs.filter_map(|(i, p)| Some((better(&p[0], &p[1])?, i))).min();
        let Some((_, i)) = best else { return parts };
        let right = parts.remove(i + 1);
        parts[i].push_str(&right);
    }
}

#[test]
fn merging_is_what_it_is_defined_to_be() {
    let merges = ["a b", "b a", "a a", "ab a", "ba ba", "aa b", "b b", "ab ab", "aab ab", "aba ba", "bb a"];
    let bpe = build(&small_bpe("gpt-2", &merges)).expect("a tokenizer");
    let spm = build(&small_spm()).expect("a tokenizer");
    // The order of their scores, the best first.
    let scores = ["ba", "ab", "▁a"];
    let letters = prop::collection::vec(prop::sample::select(vec!['a', 'b']), 1..60);
    let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
    let run = proptest::test_runner::TestRunner::new(config).run(&letters, |letters| {
        let text: String = letters.iter().collect();
        let pieces = |tokenizer: &Tokenizer| -> Vec<String> {
            tokenizer
                .encode(&text, Special::AsText)
                .expect("ids")
                .iter()
                .map(|id| tokenizer.piece(*id))
                .collect()
        };
        let singles: Vec<String> = letters.iter().map(char::to_string).collect();
        let rank = |a: &str, b: &str| {
            let rank = merges.iter().position(|m| m.split_once(' ') == Some((a, b)))?;
            i64::try_from(rank).ok()
        };
        prop_assert_eq!(pieces(&bpe), merge_slowly(singles.clone(), rank));
        let score = |a: &str, b: &str| {
            let rank = scores.iter().position(|t| *t == format!("{a}{b}"))?;
            i64::try_from(rank).ok()
        };
        let with_space = [vec!["▁".to_owned()], singles].concat();
        let expected: Vec<String> =
            merge_slowly(with_space, score).iter().map(|p| p.replace('▁', " ")).collect();
        prop_assert_eq!(pieces(&spm), expected);
        Ok(())
    });
    run.expect("all equal");
}

#[test]
fn any_text_comes_back() {
    let bpe = build(&small_bpe("llama-bpe", &["a b", "Ġ a", "Ã ©"])).expect("a tokenizer");
    let composing = build(&small_bpe("qwen2", &["a b", "Ġ a", "Ã ©"])).expect("a tokenizer");
    let spm = build(&small_spm()).expect("a tokenizer");
    let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
    // SentencePiece writes a space as U+2581, and reads that one as a space.
    let texts = any::<String>().prop_filter("no mark", |text| !text.contains('\u{2581}'));
    let run = proptest::test_runner::TestRunner::new(config).run(&texts, |text| {
        for (tokenizer, space) in [(&bpe, ""), (&spm, " ")] {
            let ids = tokenizer.encode(&text, Special::AsText).expect("ids");
            prop_assert_eq!(tokenizer.decode(&ids), text.clone());
            let mut stream = tokenizer.stream();
            let mut joined: String = ids.iter().map(|id| stream.push(*id)).collect();
            joined.push_str(&stream.finish());
            prop_assert_eq!(joined, if text.is_empty() { String::new() } else { format!("{space}{text}") });
        }
        // What is composed comes back composed, and is the same text.
        let ids = composing.encode(&text, Special::AsText).expect("ids");
        prop_assert_eq!(composing.decode(&ids), text.nfc().collect::<String>());
        prop_assert_eq!(
            composing.encode(&text.nfd().collect::<String>(), Special::AsText).expect("ids"),
            ids
        );
        Ok(())
    });
    run.expect("all come back");
}

/// Longest first, and an overlap belongs to the longer one even where the shorter began.
#[test]
fn longer_special_tokens_come_first() {
    let mut writer = Writer::new();
    let tokens = ["x", "<", ">", "a", "<a>", "a>x", "a>xx", "<unk>"];
    writer
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "gpt-2")
        .strings("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &[1, 1, 1, 1, 3, 4, 3, 2])
        .strings::<&str>("tokenizer.ggml.merges", &[]);
    let tokenizer = build(&writer).expect("a tokenizer");
    let encode = |text, special| tokenizer.encode(text, special).expect("ids");
    assert_eq!(encode("<a>x", Special::Recognise), [4, 0]);
    assert_eq!(encode("<a>xx", Special::Recognise), [1, 6]);
    assert_eq!(encode("<unk>", Special::Recognise), [7]);
    // What the user defined is taken whole in any text.
    assert_eq!(encode("<a>xx", Special::AsText), [1, 5, 0]);
    assert_eq!(tokenizer.decode(&[5, 4, 7]), "a>x<a>");
}
