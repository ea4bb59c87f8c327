//! How long it takes to open a header: a vocabulary of 150,000 tokens with as many merges, as
//! Qwen's and Llama 3's files have, and 2^60 tensors that are not there.
//!
//! The goal: well below 10 ms for the vocabulary, so that opening never shows beside loading;
//! nothing to be measured for the second.

use std::time::{Duration, Instant};

use infer::gguf::writer::Writer;
use infer::gguf::{Bytes, File};

fn main() {
    let tokens: Vec<String> = (0..150_000).map(|i| format!("token{i}")).collect();
    let merges: Vec<String> = (0..150_000).map(|i| format!("to{i} ken{i}")).collect();
    let mut writer = Writer::new();
    writer
        .str("general.architecture", "llama")
        .strings("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &vec![1; tokens.len()])
        .strings("tokenizer.ggml.merges", &merges);
    let vocabulary: Bytes = writer.finish().into();

    let mut huge = b"GGUF\x03\0\0\0".to_vec();
    huge.extend((1u64 << 60).to_le_bytes());
    huge.extend(0u64.to_le_bytes());

    report("150,000 tokens and merges", &vocabulary, true);
    report("2^60 tensors claimed", &huge.into(), false);
}

/// The median of runs, and their extremes.
fn report(what: &str, bytes: &Bytes, sound: bool) {
    let mut times: Vec<Duration> = (0..31)
        .map(|_| {
            let bytes = bytes.clone();
            let start = Instant::now();
            let result = File::parse(bytes);
            let time = start.elapsed();
            assert_eq!(result.is_ok(), sound);
            time
        })
        .collect();
    times.sort();
    println!("{what}: {:?} (from {:?} to {:?})", times[15], times[0], times[30]);
}
