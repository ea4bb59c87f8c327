//! A chat template and a conversation: whatever the template is, rendering ends soon, holds little, and
//! depends on nothing but what it was given.
#![no_main]

use std::time::{Duration, Instant};

use infer::Error;
use infer::tokenizer::{ChatTemplate, Message};
use infer_fuzz::{plain, within};
use libfuzzer_sys::fuzz_target;

/// More than a rendering may take by its own clock, fuzzers being slow.
const TIME: Duration = Duration::from_secs(3);
const MEMORY: usize = 200 << 20;

fuzz_target!(|data: &[u8]| {
    // The template, and behind each NUL what somebody says.
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('\0');
    let source = parts.next().unwrap_or_default();
    let mut messages: Vec<Message> = ["user", "assistant"]
        .iter()
        .cycle()
        .zip(parts)
        .map(|(role, content)| Message { role: (*role).to_owned(), content: content.to_owned() })
        .collect();
    if messages.is_empty() {
        messages.push(Message { role: "user".to_owned(), content: "Hello".to_owned() });
    }
    let template = ChatTemplate::new(source, "<s>", "</s>").at(1_700_000_000);
    let started = Instant::now();
    let first = within(MEMORY, || template.render(&messages, true));
    assert!(started.elapsed() < TIME, "{:?}", started.elapsed());
    match first {
        Ok(first) => match template.render(&messages, true) {
            Ok(second) => assert!(first == second || names_memory(&first), "{first:?}, then {second:?}"),
            Err(e) => panic!("rendered once, then: {e}"),
        },
        Err(Error::Request(text)) => {
            plain(&text);
            assert!(!text.contains("more time") && !text.contains("rendering it failed"), "{text}");
        }
        Err(e) => panic!("{e}"),
    }
});

/// Python's way of showing an object may name its place in memory.
fn names_memory(text: &str) -> bool {
    text.contains("0x")
}
