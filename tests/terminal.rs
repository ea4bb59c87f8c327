//! The binary on a terminal: chats, what is shown of texts that a terminal would act upon, and the
//! state that it is left in.
#![cfg(unix)]

use std::os::unix::process::ExitStatusExt;

mod common;
#[path = "common/edit.rs"]
mod edit;
#[path = "common/program.rs"]
mod program;
#[path = "common/terminal.rs"]
mod terminal;

use infer::gguf::File;
use infer::gguf::writer::Writer;
use program::Infer;
use terminal::Terminal;

const JAPAN: &str = "What is the capital of Japan?";
const FRANCE: &str = "What is the capital of France?";
/// Written once for each line that is waited for: that pastes are to be marked.
const PROMPT: &str = "\u{1b}[?2004h";

fn chat(infer: &Infer, flags: &[&str]) -> Terminal {
    let flags = [&["run", "--device", "cpu", "--temperature", "0"], flags].concat();
    let mut terminal = Terminal::start(infer.command(&flags));
    terminal.until(PROMPT);
    terminal
}

/// The demo, which says something else instead of a word.
fn demo_saying(text: &str, instead_of: &str) -> Vec<u8> {
    let demo = File::open(&common::repo("assets/demo.gguf")).unwrap();
    let list = |key: &str| -> Vec<String> {
        let list = demo.get(key).and_then(|v| v.as_array()).unwrap().strings().unwrap();
        list.map(|text| String::from_utf8(text.to_vec()).unwrap()).collect()
    };
    let (tokens, merges) = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges");
    let word = spelt(instead_of);
    let mut texts = list(tokens);
    *texts.iter_mut().find(|token| **token == word).expect("the word is one token") = spelt(text);
    // Nothing becomes that token, or comes of it, any more.
    let has_word =
        |merge: &String| merge.replace(' ', "") == word || merge.split(' ').any(|half| half == word);
    let mut pairs = list(merges);
    pairs.retain(|merge| !has_word(merge));
    let mut writer = Writer::new();
    edit::copy_metadata(&demo, &mut writer, &[tokens, merges]);
    writer.strings(tokens, &texts).strings(merges, &pairs);
    for t in demo.tensors() {
        writer.tensor(&t.name, t.ty, &t.shape[..t.n_dims], demo.data(t));
    }
    writer.finish()
}

/// A text as byte-level vocabularies spell it: a byte that is no visible character is one from 256 on.
fn spelt(text: &str) -> String {
    let visible = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let char = |byte: u8| match visible(&byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|byte| !visible(byte)).count();
            char::from_u32(256 + u32::try_from(before).unwrap()).unwrap()
        }
    };
    text.bytes().map(char).collect()
}

#[test]
fn a_chat_answers_and_ends() {
    let infer = Infer::new();
    let mut chat = chat(&infer, &[]);
    chat.send(format!("{JAPAN}\r").as_bytes());
    chat.until("The capital of Japan is Tokyo.");
    chat.until(PROMPT);
    assert!(!chat.is_canonical(), "a line is being edited");
    chat.send(b"/exit\r");
    let (status, text) = chat.end();
    assert!(status.success(), "{text}");
}

/// Several lines at once, whether they come at the prompt or while an answer does.
#[test]
fn every_line_is_a_message() {
    let infer = Infer::new();
    let mut chat = chat(&infer, &["--quiet"]);
    // As a terminal sends what is pasted where pastes are not marked.
    chat.send(format!("{JAPAN}\r{FRANCE}\r/reset\r{JAPAN}\r").as_bytes());
    for city in ["Tokyo", "Paris", "Tokyo"] {
        chat.until(&format!(" is {city}."));
    }
    chat.until(PROMPT);
    // An answer without an end, and what is typed meanwhile.
    chat.send(b"/reset\rTell me a story.\r");
    chat.until("story.");
    chat.send(format!("{FRANCE}\r/reset\r{FRANCE}\r/exit\r").as_bytes());
    let (status, text) = chat.end();
    assert!(status.success(), "{text}");
    assert_eq!(text.matches("Paris").count(), 3, "{text}");
}

#[test]
fn what_cannot_be_taken_is_refused_and_the_chat_goes_on() {
    let infer = Infer::new();
    let mut chat = chat(&infer, &["--quiet", "--ctx", "64"]);
    // Bytes that are no text, with what stands around them.
    chat.send(b"is this \xff\xfe\x80 sent?\r");
    chat.until("refused");
    chat.until(PROMPT);
    chat.send("Tokyo or Paris? ".repeat(60).as_bytes());
    chat.send(b"\r");
    chat.until("refused");
    let why = chat.until("raise --ctx");
    assert!(why.contains("the context holds 64"), "{why}");
    chat.until(PROMPT);
    // Neither is in the conversation, which has room.
    chat.send(format!("{JAPAN}\r").as_bytes());
    chat.until("The capital of Japan is Tokyo.");
    chat.until(PROMPT);
    // Until it is full, which is said.
    chat.send(b"Tell me a long story.\r");
    let answer = chat.until("the context holds 64 (/reset");
    assert!(answer.contains("the answer ends here: the conversation has 65 tokens"), "{answer}");
    chat.until(PROMPT);
    chat.send(b"And then?\r");
    chat.until("refused");
    chat.until(PROMPT);
    chat.send(format!("/reset\r{FRANCE}\r").as_bytes());
    chat.until("The capital of France is Paris.");
    chat.until(PROMPT);
    chat.send(&[4]); // Ctrl-D
    let (status, text) = chat.end();
    assert!(status.success(), "{text}");
}

#[test]
fn ctrl_c_stops_an_answer_and_then_leaves() {
    let infer = Infer::new();
    let mut chat = chat(&infer, &["--repeat-penalty", "3", "--threads", "1"]);
    chat.send(b"Tell me a story.\r");
    chat.until("story.\u{1b}[?2004l\r\n");
    chat.until(" ");
    chat.send(&[3]);
    chat.until("decode: ");
    chat.until(PROMPT);
    chat.send(format!("{JAPAN}\r").as_bytes());
    chat.until("decode: ");
    chat.until(PROMPT);
    chat.send(&[3]);
    chat.until("once more");
    chat.until(PROMPT);
    chat.send(&[3]);
    let (status, text) = chat.end();
    assert_eq!(status.code(), Some(130), "{text}");
}

/// Whatever ends a chat at its prompt, the terminal is as it was, and pastes are not marked any more.
#[test]
fn a_terminal_is_left_as_it_was() {
    let infer = Infer::new();
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT] {
        let mut chat = chat(&infer, &[]);
        assert!(!chat.is_canonical());
        // Of Ctrl-C it takes two, and two that come at once are one.
        while !chat.has_ended() {
            chat.signal(signal);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let (status, text) = chat.end();
        let ended = if signal == libc::SIGINT { (Some(130), None) } else { (None, Some(signal)) };
        assert_eq!((status.code(), status.signal()), ended, "{text:?}");
        assert!(chat.is_canonical(), "signal {signal}");
        assert!(text.ends_with("\u{1b}[?2004l\r\n"), "signal {signal}: {text:?}");
    }
}

/// Sets the title, colours, deletes, returns, turns: nothing of it reaches a terminal, all of it a pipe.
#[test]
fn texts_of_a_model_are_harmless_on_a_terminal() {
    let infer = Infer::new();
    let harm = "\u{1b}]0;title\u{7}\u{1b}[31m\u{7f}\r\u{9b}2J\u{202e}\tx\ny";
    let shown = r"\u{1b}]0;title\u{7}\u{1b}[31m\u{7f}\r\u{9b}2J\u{202e}".to_owned() + "\tx\r\ny";
    infer.write("harm.gguf", &demo_saying(harm, " Tokyo"));
    let ids = infer.run(&["tokenize", "--text", " Tokyo", "--no-bos", "--json"]).json()["ids"].to_string();
    let id = ids.trim_matches(['[', ']']);
    let decode = ["tokenize", "harm.gguf", "--decode", id];
    let run = ["run", "harm.gguf", "--device", "cpu", "--temperature", "0", "--quiet", "--prompt", JAPAN];
    for (arguments, before, after) in [(&decode[..], "", "\n"), (&run[..], "The capital of Japan is", ".\n")]
    {
        assert_eq!(infer.run(arguments).works(), format!("{before}{harm}{after}"));
        let (status, text) = Terminal::start(infer.command(arguments)).end();
        assert!(status.success(), "{text:?}");
        assert_eq!(text, format!("{before}{shown}{}", after.replace('\n', "\r\n")));
    }
    let mut chat = Terminal::start(infer.command(&run[..run.len() - 2]));
    chat.until(PROMPT);
    chat.send(format!("{JAPAN}\r").as_bytes());
    chat.until(&format!("is{shown}."));
    chat.until(PROMPT);
    chat.send(b"/exit\r");
    assert!(chat.end().0.success());
}
