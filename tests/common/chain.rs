//! A model whose next token depends on the last one alone, and is what a test says: one layer of a
//! llama whose branches add nothing, between embeddings that are all different and an output row for
//! each token, which picks the embedding of the token before it.

use infer::gguf::writer::Writer;
use infer::quant::Type;

/// Tokens with their kinds, and what follows what.
#[derive(Clone)]
pub(crate) struct Chain {
    tokens: Vec<(String, i32)>,
    next: Vec<usize>,
}

impl Chain {
    /// Nothing but the 256 bytes; a byte's id is its number.
    pub(crate) fn bytes() -> Chain {
        let mut chain = Chain { tokens: Vec::new(), next: Vec::new() };
        let mut more = '\u{100}'..;
        for byte in 0..=u8::MAX {
            let shown = match char::from(byte) {
                c @ ('!'..='~' | '¡'..='¬' | '®'..='ÿ') => c,
                _ => more.next().expect("a character"),
            };
            chain.add(&shown.to_string(), 1);
        }
        chain
    }

    /// SentencePiece's first three, and its bytes: a byte's id is its number and 3.
    pub(crate) fn sentencepiece() -> Chain {
        let mut chain = Chain { tokens: Vec::new(), next: Vec::new() };
        for (text, kind) in [("<unk>", 2), ("<s>", 3), ("</s>", 3)] {
            chain.add(text, kind);
        }
        for byte in 0..=u8::MAX {
            chain.add(&format!("<0x{byte:02X}>"), 6);
        }
        chain
    }

    /// One more token, which follows itself until something else is said.
    pub(crate) fn add(&mut self, text: &str, kind: i32) -> usize {
        let id = self.tokens.len();
        self.tokens.push((text.to_owned(), kind));
        self.next.push(id);
        id
    }

    /// Each of these is followed by the next.
    pub(crate) fn then(&mut self, ids: &[usize]) -> &mut Chain {
        for pair in ids.windows(2) {
            self.next[pair[0]] = pair[1];
        }
        self
    }

    /// The model of an architecture that has llama's tensors.
    pub(crate) fn model(&self, architecture: &str) -> Writer {
        let tokens = self.tokens.len();
        let width = tokens.next_multiple_of(32);
        let mut writer = Writer::new();
        let key = |name: &str| format!("{architecture}.{name}");
        writer.str("general.architecture", architecture);
        for (name, value) in [
            ("block_count", 1),
            ("context_length", 128),
            ("embedding_length", width),
            ("feed_forward_length", 32),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
            ("attention.key_length", 32),
            ("attention.value_length", 32),
        ] {
            writer.u32(&key(name), u32::try_from(value).expect("a small number"));
        }
        writer.f32(&key("attention.layer_norm_rms_epsilon"), 1e-5);
        let kinds: Vec<i32> = self.tokens.iter().map(|(_, kind)| *kind).collect();
        let texts: Vec<&str> = self.tokens.iter().map(|(text, _)| text.as_str()).collect();
        writer.strings("tokenizer.ggml.tokens", &texts).i32s("tokenizer.ggml.token_type", &kinds);
        if texts.first() == Some(&"<unk>") {
            writer.str("tokenizer.ggml.model", "llama").f32s("tokenizer.ggml.scores", &vec![0.0; tokens]);
        } else {
            writer.str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", "gpt-2");
            writer.strings::<&str>("tokenizer.ggml.merges", &[]);
        }
        let (mut embeddings, mut outputs) = (vec![0.0f32; tokens * width], vec![0.0f32; tokens * width]);
        for (id, next) in self.next.iter().enumerate() {
            embeddings[id * width + id] = 1.0;
            outputs[next * width + id] = 1.0;
        }
        let mut tensor = |name: &str, columns: usize, values: &[f32]| {
            let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let rows = values.len() / columns;
            let shape = if rows == 1 { vec![columns as u64] } else { vec![columns as u64, rows as u64] };
            writer.tensor(name, Type::F32, &shape, &data);
        };
        tensor("token_embd.weight", width, &embeddings);
        tensor("output.weight", width, &outputs);
        for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
            tensor(&format!("{name}.weight"), width, &vec![1.0; width]);
        }
        for (name, columns, rows) in [
            ("attn_q", width, 64),
            ("attn_k", width, 32),
            ("attn_v", width, 32),
            ("attn_output", 64, width),
            ("ffn_gate", width, 32),
            ("ffn_up", width, 32),
            ("ffn_down", 32, width),
        ] {
            tensor(&format!("blk.0.{name}.weight"), columns, &vec![0.0; rows * columns]);
        }
        writer
    }
}
