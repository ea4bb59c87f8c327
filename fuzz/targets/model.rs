//! A header, in front of data of any kind: it is refused, or becomes a plan, a tokenizer and a prompt;
//! and where the model is tiny, it computes.
#![no_main]

use std::ops::ControlFlow;
use std::sync::Arc;

use infer::engine::{self, DeviceChoice, Options};
use infer::gguf::File;
use infer::model::{Model, arch};
use infer::tokenizer::{ChatTemplate, Message, Special, Tokenizer};
use infer_fuzz::{plain, within};
use libfuzzer_sys::fuzz_target;

/// Bytes of data behind every header.
const DATA: usize = 48 << 10;

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    bytes.extend((0..DATA).map(|i| (i.wrapping_mul(37) >> 3) as u8 & 0x3b));
    let size = bytes.len();
    let file = match File::parse(bytes) {
        Ok(file) => file,
        Err(e) => return plain(&e),
    };
    within(16 * size + (2 << 20), || text(&file));
    within(64 << 20, || talk(&file));
    let _ = arch::spec(&file).map_err(|e| plain(&e));
    match within(16 * size + (64 << 10), || Model::from_file(file)) {
        Ok(model) => compute(Arc::new(model)),
        Err(e) => plain(&e),
    }
});

fn text(file: &File) {
    match Tokenizer::from_file(file) {
        Ok(tokenizer) => {
            let text = "Hello, w\u{f6}rld! <|im_end|> 123\n";
            for special in [Special::Recognise, Special::AsText] {
                let _ = tokenizer.encode_with_bos(text, special).map(|ids| tokenizer.decode(&ids));
            }
        }
        Err(e) => plain(&e),
    }
}

/// Rendering has a target of its own, and takes a thread: only what is short is rendered here.
fn talk(file: &File) {
    if let Some(template) = ChatTemplate::from_file(file)
        && file.get("tokenizer.chat_template").and_then(|t| t.as_bytes()).is_some_and(|t| t.len() < 200)
    {
        let hello = Message { role: "user".to_owned(), content: "Hello".to_owned() };
        let _ = template.render(&[hello], true).map_err(|e| plain(&e));
    }
}

fn compute(model: Arc<Model>) {
    let spec = &model.plan.spec;
    // The file's size bounds most of a model, but a layer's heads may be as wide as a key says.
    let most = [spec.vocab, spec.width, spec.ffn, spec.heads * spec.head_dim].into_iter().max();
    if most.is_none_or(|n| n > 4096) || spec.layers.len() > 4 {
        return;
    }
    let ids = [0, spec.vocab as u32 - 1];
    let options = Options {
        device: DeviceChoice::Cpu,
        context: Some(spec.context.min(4)),
        threads: Some(1),
        ..Options::default()
    };
    let fits = spec.context >= 2;
    let mut quiet = |_: usize, _: usize| ControlFlow::Continue(());
    let result = engine::open(Arc::clone(&model), &options, &mut quiet).and_then(|mut engine| {
        let mut rows = 0;
        engine.logits(&ids, true, &mut quiet, &mut |row| {
            assert_eq!(row.len(), model.plan.spec.vocab);
            rows += 1;
            Ok(())
        })?;
        assert_eq!(rows, ids.len());
        Ok(())
    });
    match result {
        Ok(()) => assert!(fits),
        Err(e) => plain(&e),
    }
}
