//! What of a model's tokens reaches the user: what is shown, where it stops, and which ids are told.
//! The models say exactly what a test makes them say.

#[path = "common/chain.rs"]
mod chain;
mod common;
#[path = "common/program.rs"]
mod program;

use chain::Chain;
use infer::gguf::writer::Writer;
use program::Infer;
use serde_json::json;

const CONTROL: i32 = 3;
const USER: i32 = 4;

/// A model that says these after `>`, and what they end with.
fn says(said: &[usize], mut chain: Chain, architecture: &str) -> Writer {
    let ids = [&[usize::from(b'>')], said].concat();
    let end = u32::try_from(*said.last().expect("an end")).expect("an id");
    let mut model = chain.then(&ids).model(architecture);
    model.u32("tokenizer.ggml.eos_token_id", end);
    model
}

/// Greedy, without a template.
fn run(model: &Writer, flags: &[&str]) -> program::Run {
    let infer = Infer::new();
    infer.write("m.gguf", &model.finish());
    let all = ["run", "m.gguf", "--device", "cpu", "--temperature", "0", "--quiet", "--raw", "--prompt", ">"];
    infer.run(&[&all[..], flags].concat())
}

/// The text, the ids and why it stopped.
fn told(model: &Writer, flags: &[&str]) -> serde_json::Value {
    let report = run(model, &[flags, &["--json"]].concat()).json();
    json!([report["text"], report["ids"], report["stop_reason"]])
}

fn byte(c: char) -> usize {
    c as usize
}

#[test]
fn a_users_token_that_looks_like_an_end_is_text() {
    let mut chain = Chain::bytes();
    let [open, close, mark] = ["<s>", "</s>", "<|end|>"].map(|text| chain.add(text, USER));
    let end = chain.add("<|im_end|>", CONTROL);
    let model = says(&[open, byte('a'), close, mark, byte('b'), end], chain, "llama");
    assert_eq!(run(&model, &[]).works(), "<s>a</s><|end|>b\n");
    let infer = Infer::new();
    infer.write("m.gguf", &model.finish());
    let ids = format!("{open},97,{close},98");
    assert_eq!(infer.run(&["tokenize", "m.gguf", "--decode", &ids]).works(), "<s>a</s>b\n");
    let plain = infer.run(&["tokenize", "m.gguf", "--no-special", "--json", "--text", "<s>a</s>b"]).json();
    assert_eq!(plain["ids"], json!([open, 97, close, 98]));
}

#[test]
fn control_tokens_within_an_answer_are_shown() {
    let mut chain = Chain::bytes();
    let texts = ["<s>", "[THINK]", "[/THINK]", "[TOOL_CALLS]", "<|channel|>", "<pad>", "</s>"];
    let [begin, think, done, call, channel, pad, end] = texts.map(|text| chain.add(text, CONTROL));
    let said = [begin, think, byte('x'), pad, done, call, byte('y'), channel, end];
    for architecture in ["llama", "mistral3"] {
        let mut model = says(&said, chain.clone(), architecture);
        for (key, id) in [("bos", begin), ("padding", pad)] {
            model.u32(&format!("tokenizer.ggml.{key}_token_id"), u32::try_from(id).unwrap());
        }
        let text = "[THINK]x[/THINK][TOOL_CALLS]y<|channel|>";
        assert_eq!(told(&model, &[]), json!([text, said[..said.len() - 1], "eos"]));
        // What is not shown is a stop text all the same, whole.
        assert_eq!(told(&model, &["--stop", "<pad>"]), json!(["[THINK]x", [begin, think, 120], "stop"]));
        assert_eq!(told(&model, &["--stop", "x<pad>[/"]), json!(["[THINK]", [begin, think], "stop"]));
        assert_eq!(told(&model, &["--stop", "pad"])[2], "eos");
        // The end's own text may be a part of one: the model has ended, and what stands before it is gone.
        assert_eq!(told(&model, &["--stop", "y<|channel|></s>"])[0], "[THINK]x[/THINK][TOOL_CALLS]");
        assert_eq!(told(&model, &["--stop", "</s>"]), told(&model, &[]));
    }
}

/// A turn's marker, alone and with text around it.
#[test]
fn a_stop_text_may_have_control_tokens() {
    let mut chain = Chain::bytes();
    let [user, end] = ["<|user|>", "<|stop|>"].map(|text| chain.add(text, CONTROL));
    let said = [byte('a'), byte('b'), user, byte('c'), byte('d'), end];
    let model = says(&said, chain, "llama");
    assert_eq!(told(&model, &[])[0], "ab<|user|>cd");
    for (stop, text, ids) in [
        ("<|user|>", "ab", 2),
        ("b<|user|>", "a", 1),
        ("ab<|user|>c", "", 0),
        ("<|user|>cd", "ab", 2),
        ("|>c", "ab<|user", 2),
    ] {
        assert_eq!(told(&model, &["--stop", stop]), json!([text, said[..ids], "stop"]), "{stop}");
        assert_eq!(run(&model, &["--stop", stop]).works(), format!("{text}\n"));
    }
}

/// A token with a part of the stop text is left out of the ids; the text before it is not.
#[test]
fn ids_have_no_token_of_the_stop_text() {
    let mut chain = Chain::bytes();
    let both = chain.add("bc", 1);
    let end = chain.add("<|stop|>", CONTROL);
    let said = [byte('a'), both, byte('d'), byte('e'), end];
    let model = says(&said, chain, "llama");
    for (stop, text, ids) in [("de", "abc", 2), ("cde", "ab", 1), ("bcd", "a", 1), ("e", "abcd", 3)] {
        assert_eq!(told(&model, &["--stop", stop]), json!([text, said[..ids], "stop"]), "{stop}");
    }
    // One that comes to nothing changes nothing.
    assert_eq!(told(&model, &["--stop", "cdf"]), json!(["abcde", said[..4], "eos"]));
}

/// Bytes that wait for the rest of their character stand behind the stop text.
#[test]
fn nothing_behind_a_stop_text_is_shown() {
    let mut chain = Chain::bytes();
    // A space and the first three bytes of an emoji, as a byte-level vocabulary writes them.
    let begun = chain.add("Ġ\u{f0}\u{141}\u{13a}", 1);
    let end = chain.add("<|stop|>", CONTROL);
    let said = [byte('a'), begun, 0x80, byte('b'), end];
    let model = says(&said, chain, "llama");
    assert_eq!(told(&model, &[])[0], "a \u{1f600}b");
    assert_eq!(told(&model, &["--stop", " "]), json!(["a", [97], "stop"]));
    assert_eq!(told(&model, &["--stop", " \u{1f600}"]), json!(["a", [97], "stop"]));
    assert_eq!(told(&model, &["--stop", "\u{1f600}"]), json!(["a ", [97], "stop"]));
    // Where nothing has stopped it, what was begun is shown.
    assert_eq!(told(&model, &["-n", "2"]), json!(["a \u{fffd}", [97, begun], "length"]));
}

/// Behind a template an answer stands for itself; without one it continues the prompt.
#[test]
fn an_answer_of_sentencepiece_begins_without_its_space() {
    let mut chain = Chain::sentencepiece();
    let word = chain.add("▁Oslo", 1);
    let close = 3 + byte(']');
    let mut model = chain.then(&[close, word, word + 1]).then(&[word, 2]).model("llama");
    model.str("tokenizer.chat_template", "[{{ messages[0].content }}]");
    let infer = Infer::new();
    infer.write("m.gguf", &model.finish());
    let flags = ["run", "m.gguf", "--device", "cpu", "--temperature", "0", "--quiet", "--prompt"];
    assert_eq!(infer.run(&[&flags[..], &["where?"]].concat()).works(), "Oslo\n");
    assert_eq!(infer.run(&[&flags[..], &["[where?]", "--raw"]].concat()).works(), " Oslo\n");
}
