//! A vocabulary and a text: building either fails or gives a tokenizer that writes every text and reads
//! it back.
#![no_main]

use arbitrary::Arbitrary;
use infer::gguf::File;
use infer::gguf::writer::Writer;
use infer::tokenizer::{Special, Tokenizer};
use infer_fuzz::{plain, within};
use libfuzzer_sys::{Corpus, fuzz_target};

/// What is made once, the classes of characters before all.
const ONCE: usize = 2 << 20;
/// Names that mean something, to be had without guessing them.
const NAMES: [&str; 16] = [
    "</s>",
    "<eos>",
    "<EOT>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
    "<|tool_response>",
    "<|channel|>",
    "<|im_end|>",
    "<0x41>",
    "<0xZZ>",
    "\u{2581}",
    "\u{120}",
    " ",
    "<s>",
    "<|fim_pad|>",
];
const PRES: [&str; 12] = [
    "default",
    "llama-bpe",
    "gpt-2",
    "qwen2",
    "deepseek-llm",
    "falcon",
    "bloom",
    "tekken",
    "smollm",
    "gpt-4o",
    "starcoder",
    "chatglm-bpe",
];

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    scheme: Scheme,
    /// The tokens that every sound vocabulary of the scheme has stand in front.
    whole: bool,
    tokens: Vec<Token<'a>>,
    merges: Vec<Merge<'a>>,
    types: Option<Vec<i32>>,
    scores: Option<Vec<f32>>,
    /// Lists are cut or filled to the number of tokens.
    fits: bool,
    pre: Pre<'a>,
    ids: [Option<i32>; 4],
    flags: [Option<bool>; 3],
    phi: bool,
    text: &'a str,
}

#[derive(Arbitrary, Debug, Clone, Copy, PartialEq)]
enum Scheme {
    Bpe,
    Spm,
}

#[derive(Arbitrary, Debug)]
enum Token<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
    Name(u8),
}

#[derive(Arbitrary, Debug)]
enum Merge<'a> {
    Text(&'a str),
    /// Of tokens with these ids: the merged one is added.
    Of(u16, u16),
}

#[derive(Arbitrary, Debug)]
enum Pre<'a> {
    None,
    Known(u8),
    Other(&'a str),
}

fuzz_target!(|input: Input| -> Corpus {
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    let mut types = Vec::new();
    if input.whole {
        base(input.scheme, &mut tokens, &mut types);
    }
    let given = tokens.len();
    for token in &input.tokens {
        tokens.push(match token {
            Token::Text(text) => text.as_bytes().to_vec(),
            Token::Bytes(bytes) => bytes.to_vec(),
            Token::Name(n) => NAMES[usize::from(*n) % NAMES.len()].as_bytes().to_vec(),
        });
    }
    let mut merges = Vec::new();
    for merge in &input.merges {
        match merge {
            Merge::Text(text) => merges.push(text.as_bytes().to_vec()),
            Merge::Of(a, b) if !tokens.is_empty() => {
                let [a, b] = [a, b].map(|i| &tokens[usize::from(*i) % tokens.len()]);
                merges.push([&a[..], b" ", &b[..]].concat());
                tokens.push([&a[..], &b[..]].concat());
            }
            Merge::Of(..) => {}
        }
    }
    let fit = |mut list: Vec<i32>| {
        if input.fits {
            list.resize(tokens.len(), 1);
        }
        list
    };
    // Types decide what can be read back: see `reads_back`.
    let odd_types = input.types.is_some();
    let types = match &input.types {
        Some(more) => Some(fit(types.iter().chain(more).copied().collect())),
        None if input.scheme == Scheme::Spm => {
            types.resize(tokens.len(), 1);
            Some(types)
        }
        None => None,
    };
    let mut writer = Writer::new();
    writer.str("general.name", if input.phi { "Phi-3 mini" } else { "x" });
    writer.str("tokenizer.ggml.model", if input.scheme == Scheme::Bpe { "gpt2" } else { "llama" });
    match input.pre {
        Pre::None => {}
        Pre::Known(n) => {
            writer.str("tokenizer.ggml.pre", PRES[usize::from(n) % PRES.len()]);
        }
        Pre::Other(name) => {
            writer.str("tokenizer.ggml.pre", name);
        }
    }
    writer.strings("tokenizer.ggml.tokens", &tokens).strings("tokenizer.ggml.merges", &merges);
    if let Some(types) = types {
        writer.i32s("tokenizer.ggml.token_type", &types);
    }
    if let Some(scores) = &input.scores {
        let mut scores = scores.clone();
        if input.fits {
            scores.resize(tokens.len(), -1.0);
        }
        writer.f32s("tokenizer.ggml.scores", &scores);
    }
    let keys = ["bos_token_id", "eos_token_id", "unknown_token_id", "eot_token_id"];
    for (key, id) in keys.iter().zip(input.ids) {
        if let Some(id) = id {
            writer.i32(&format!("tokenizer.ggml.{key}"), id % (tokens.len() as i32 + 1));
        }
    }
    for (key, flag) in ["add_bos_token", "add_eos_token", "add_space_prefix"].iter().zip(input.flags) {
        if let Some(flag) = flag {
            writer.bool(&format!("tokenizer.ggml.{key}"), flag);
        }
    }
    let bytes = writer.finish();
    let size = bytes.len();
    let Ok(file) = File::parse(bytes) else { panic!("what is written is sound") };
    let tokenizer = match within(32 * size + ONCE, || Tokenizer::from_file(&file)) {
        Ok(tokenizer) => tokenizer,
        Err(e) => {
            plain(&e);
            return Corpus::Keep;
        }
    };
    assert_eq!(tokenizer.len(), tokens.len());
    // A second token of a byte's name is plain text, and takes its place.
    let bytes_again = tokens[given..].iter().any(|t| t.starts_with(b"<0x"));
    // Qwen's texts come back composed.
    let composed = matches!(input.pre, Pre::Known(n) if PRES[usize::from(n) % PRES.len()] == "qwen2");
    let same = !composed || input.text.is_ascii();
    let sound = input.whole && !odd_types && !input.phi && !bytes_again && same;
    for special in [Special::Recognise, Special::AsText] {
        let most = 128 * (input.text.len() + merges.len()) + 64 * tokens.len() + ONCE;
        match within(most, || tokenizer.encode(input.text, special)) {
            Ok(ids) => read_back(&tokenizer, &ids, input.text, sound),
            Err(e) => assert!(!sound || input.scheme == Scheme::Spm, "{e}"),
        }
    }
    Corpus::Keep
});

/// Every byte has a token.
fn base(scheme: Scheme, tokens: &mut Vec<Vec<u8>>, types: &mut Vec<i32>) {
    match scheme {
        Scheme::Bpe => {
            let mut next = 0x100;
            for byte in 0..=255u8 {
                let c = match char::from(byte) {
                    c @ ('!'..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{ff}') => c,
                    _ => {
                        next += 1;
                        char::from_u32(next - 1).expect("a character")
                    }
                };
                tokens.push(c.to_string().into_bytes());
            }
            types.resize(256, 1);
        }
        Scheme::Spm => {
            tokens.extend(["<unk>", "<s>", "</s>"].map(|t| t.as_bytes().to_vec()));
            types.extend([2, 3, 3]);
            tokens.extend((0..=255u8).map(|b| format!("<0x{b:02X}>").into_bytes()));
            types.resize(259, 6);
            tokens.push("\u{2581}".as_bytes().to_vec());
            types.push(1);
        }
    }
}

/// Whatever the ids are, they are a text; those of a sound vocabulary are the text that they came from,
/// if none of them is invisible.
fn read_back(tokenizer: &Tokenizer, ids: &[u32], text: &str, sound: bool) {
    let decoded = tokenizer.decode(ids);
    let mut stream = tokenizer.stream();
    let mut streamed: String = ids.iter().map(|id| stream.push(*id)).collect();
    streamed.push_str(&stream.finish());
    let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.bytes(*id)).copied().collect();
    assert_eq!(streamed, String::from_utf8_lossy(&bytes));
    let visible = ids.iter().all(|id| !tokenizer.bytes(*id).is_empty());
    if sound && visible && !text.contains('\u{2581}') {
        assert_eq!(decoded, text, "{ids:?}");
    }
}
