//! The embedded model, end to end: the answer to each of its questions is known to the letter.

use std::path::{Path, PathBuf};
use std::time::Instant;

use infer::engine::generate::Stop;
use infer::engine::{DeviceChoice, Options};
use infer::kernels::Math;
use infer::tokenizer::Message;
use serde::Deserialize;
use serde::de::DeserializeOwned;

mod common;
#[path = "common/talk.rs"]
mod talk;

use talk::{Talk, argmax};

const DEMO: &str = "assets/demo.gguf";

#[derive(Deserialize)]
struct Fact {
    question: String,
    answer: String,
    prompt_tokens: usize,
    passes: Vec<String>,
    #[serde(default)]
    long: bool,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Message>,
    answer: String,
    prompt_tokens: usize,
}

#[derive(Deserialize)]
struct Reference {
    ids: Vec<u32>,
    top: Vec<(usize, f64)>,
    every_256th: Vec<f64>,
    argmax_of_last_positions: Vec<u32>,
}

#[derive(Deserialize)]
struct Story {
    prompt: String,
    text: std::collections::BTreeMap<String, String>,
}

fn lines<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

/// The large set of questions and the model's other files, where this machine has them.
fn shared() -> Option<PathBuf> {
    common::shared().map(|s| s.join("demo-model")).filter(|f| f.is_dir())
}

/// The questions: all that there are, where everything is to be tested.
fn data(file: &str) -> PathBuf {
    match shared() {
        Some(folder) if common::full() => folder.join(file),
        _ => common::repo("tests/data").join(file),
    }
}

fn user(text: &str) -> Message {
    Message { role: "user".to_owned(), content: text.to_owned() }
}

/// `n` of a list from all over it, its first among them, or all.
fn spread<T>(list: Vec<T>, n: usize) -> Vec<T> {
    let all = list.len();
    let n = n.min(all);
    list.into_iter().enumerate().filter(|(i, _)| i * n % all < n).map(|(_, item)| item).collect()
}

/// How much is asked.
struct Amount {
    facts: usize,
    long: usize,
    chats: usize,
}

const ALL: Amount = Amount { facts: usize::MAX, long: usize::MAX, chats: usize::MAX };

/// Asks the questions, and gives how many were asked. The history stays from one to the next:
/// what they share is computed once.
fn facts(talk: &mut Talk, amount: &Amount) -> (usize, usize) {
    let (mut long, mut short): (Vec<Fact>, Vec<Fact>) =
        lines(&data("facts.jsonl")).into_iter().partition(|f: &Fact| f.long);
    // The model does not know one of the longest, whoever asks.
    for list in [&mut short, &mut long] {
        list.retain(|f| f.passes.iter().any(|p| p == "demo-Q4_K_M.gguf"));
    }
    assert!(short.len() >= 200 && long.len() >= 20, "{} and {} questions", short.len(), long.len());
    let (short, long) = (spread(short, amount.facts), spread(long, amount.long));
    for fact in short.iter().chain(&long) {
        let question = &fact.question;
        let ids = talk.prompt(&[user(question)]);
        assert_eq!(ids.len(), fact.prompt_tokens, "{question}");
        let outcome = talk.go_on(&ids, Some(64));
        assert_eq!(talk.shown(&outcome.ids), fact.answer, "{question}");
        assert_eq!(outcome.stop, Stop::Eos, "{question}");
    }
    (short.len(), long.len())
}

/// Goes through chats turn by turn. Each turn is rendered as a whole, and of a later one only
/// what is new may be computed. Gives the chats and the share of tokens that were computed.
fn chats(talk: &mut Talk, amount: &Amount) -> (usize, f64) {
    let chats = spread(lines::<Chat>(&data("chats.jsonl")), amount.chats);
    let (mut computed, mut all, mut later) = (0, 0, 0);
    for chat in &chats {
        talk.history.clear();
        let mut known = 0;
        let turns: Vec<usize> =
            (0..chat.messages.len()).filter(|i| chat.messages[*i].role == "user").collect();
        for turn in &turns {
            let ids = talk.prompt(&chat.messages[..=*turn]);
            let last = turn == turns.last().unwrap();
            // What the file's assistant said goes into the next turn; here it only has to begin.
            let outcome = talk.go_on(&ids, Some(if last { 64 } else { 4 }));
            let new = ids.len() - known;
            assert!(outcome.prompt_tokens <= new, "{} of {new} new tokens computed", outcome.prompt_tokens);
            computed += outcome.prompt_tokens;
            all += ids.len();
            later += usize::from(known > 0);
            known = ids.len();
            if last {
                assert_eq!(ids.len(), chat.prompt_tokens);
                assert_eq!(talk.shown(&outcome.ids), chat.answer, "{:?}", chat.messages);
                assert_eq!(outcome.stop, Stop::Eos);
            }
        }
    }
    assert!(later > 0, "no chat has a second turn");
    (chats.len(), computed as f64 / all as f64)
}

/// A chat that the model holds by itself: its answers are history already, all but the last
/// token of each.
fn remembers(talk: &mut Talk) {
    talk.history.clear();
    let mut messages = vec![user("Remember: the key is in the blue box.")];
    let ids = talk.prompt(&messages);
    let first = talk.go_on(&ids, Some(64));
    assert_eq!(first.prompt_tokens, ids.len());
    messages.push(Message { role: "assistant".to_owned(), content: talk.shown(&first.ids) });
    messages.push(user("Where is the key?"));
    let again = talk.prompt(&messages);
    let second = talk.go_on(&again, Some(64));
    assert_eq!(talk.shown(&second.ids), "The key is in the blue box.");
    assert_eq!(second.prompt_tokens, again.len() - (ids.len() + first.ids.len() - 1));
}

/// Generation ends at token 1 in a plain text and at token 3 in a turn.
fn ends(talk: &mut Talk) {
    assert_eq!(talk.tokenizer.end_ids(), [1, 3]);
    let turn = talk.prompt(&[user("What is the capital of Japan?")]);
    let plain = talk.plain("Once upon a time");
    for (ids, end) in [(turn, 3), (plain, 1)] {
        let until = talk.go_on(&ids, None);
        assert_eq!(until.stop, Stop::Eos);
        let n = until.ids.len();
        assert!(!until.ids.contains(&1) && !until.ids.contains(&3));
        let beyond = talk.go_on_until(&ids, Some(n + 1), &[]);
        assert_eq!(beyond.ids[..n], until.ids);
        assert_eq!(beyond.ids[n], end);
    }
}

/// How far the logits are from the reference: the largest difference, the root mean square, and
/// the lowest share of equal first choices at the last positions of a prompt.
fn reference(talk: &mut Talk) -> (f64, f64, f64) {
    let references: Vec<Reference> = lines(&common::repo("tests/data/reference-logits.jsonl"));
    assert_eq!(references.len(), 5);
    let (mut worst, mut squares, mut n, mut lowest) = (0.0f64, 0.0, 0, 1.0f64);
    for reference in &references {
        let choices = &reference.argmax_of_last_positions;
        let first = reference.ids.len() - choices.len();
        let mut same = 0;
        let mut last = Vec::new();
        talk.rows(&reference.ids, |position, row| {
            same += usize::from(position >= first && argmax(row) == choices[position - first]);
            if position + 1 == reference.ids.len() {
                last = row.to_vec();
            }
        });
        assert_eq!(last.len(), 256 * reference.every_256th.len());
        let every = reference.every_256th.iter().enumerate().map(|(i, v)| (256 * i, *v));
        for (id, want) in reference.top.iter().copied().chain(every) {
            let error = f64::from(last[id]) - want;
            worst = worst.max(error.abs());
            squares += error * error;
            n += 1;
        }
        lowest = lowest.min(same as f64 / choices.len() as f64);
    }
    (worst, (squares / f64::from(n)).sqrt(), lowest)
}

/// Quantised weights are this far from their F16 originals, whoever computes.
fn quantised(talk: &mut Talk) -> String {
    let (worst, rms, same) = reference(talk);
    assert!(worst < 1.0 && rms < 0.4 && same > 0.88, "largest {worst:.2}, rms {rms:.3}, {same}");
    format!("{worst:.2} (rms {rms:.3}) from those of the F16 file")
}

/// The same weights in F16: what is left of the difference is the computation's. `bound` is of
/// the largest one.
fn exact(folder: &Path, options: &Options, bound: f64, stories: usize) -> String {
    let mut talk = Talk::open(&folder.join("demo-F16.gguf"), options);
    let (worst, rms, same) = reference(&mut talk);
    assert!(worst < bound, "largest difference {worst:.2e}, rms {rms:.2e}");
    assert!(same == 1.0, "{same} of the first choices");
    // Another program, in F32 and on the same file, has told these to the last letter.
    let mut all: Vec<Story> = lines(&folder.join("stories.jsonl"));
    all.retain(|s| s.text.contains_key("torch"));
    assert_eq!(all.len(), 6);
    let told = spread(all, stories);
    for story in &told {
        let ids = talk.plain(&story.prompt);
        let outcome = talk.go_on(&ids, None);
        assert_eq!(talk.shown(&outcome.ids), story.text["torch"]);
        assert_eq!(outcome.stop, Stop::Eos);
    }
    format!("of the F16 file {worst:.1e} (rms {rms:.1e}) off, {} stories told", told.len())
}

fn run(what: &str, options: &Options, amount: &Amount, bound: f64, stories: usize) {
    let start = Instant::now();
    let mut talk = Talk::open(&common::repo(DEMO), options);
    ends(&mut talk);
    remembers(&mut talk);
    let (short, long) = facts(&mut talk, amount);
    let (chats, share) = chats(&mut talk, amount);
    let logits = match shared() {
        Some(folder) => exact(&folder, options, bound, stories),
        None => quantised(&mut talk),
    };
    common::note(&format!(
        "demo model, {what}: {short} facts, {long} long passages, {chats} chats ({:.0} % of their tokens \
         computed), all exact; logits: {logits}; {:.0} s",
        100.0 * share,
        start.elapsed().as_secs_f64()
    ));
}

fn cpu_options() -> Options {
    Options { device: DeviceChoice::Cpu, ..Options::default() }
}

fn gpu_options(math: Option<Math>) -> Options {
    Options { device: DeviceChoice::Gpu, math, ..Options::default() }
}

/// All, where everything is asked.
fn part(amount: Amount) -> Amount {
    if common::full() { ALL } else { amount }
}

#[test]
fn cpu() {
    run("cpu", &cpu_options(), &ALL, 1e-3, if common::full() { 6 } else { 2 });
    if shared().is_some() {
        quantised(&mut Talk::open(&common::repo(DEMO), &cpu_options()));
    }
}

#[test]
fn gpu() {
    run("gpu", &gpu_options(None), &part(Amount { facts: 40, long: 4, chats: 3 }), 3e-2, 0);
}

#[test]
fn gpu_f32() {
    run("gpu f32", &gpu_options(Some(Math::F32)), &part(Amount { facts: 10, long: 1, chats: 1 }), 1e-3, 0);
}

#[test]
fn every_device_knows_the_capital_of_japan() {
    let mut answers = Vec::new();
    for options in [cpu_options(), gpu_options(None)] {
        let mut talk = Talk::open(&common::repo(DEMO), &options);
        let ids = talk.prompt(&[user("What is the capital of Japan?")]);
        let outcome = talk.go_on(&ids, None);
        assert_eq!(talk.shown(&outcome.ids), "The capital of Japan is Tokyo.");
        answers.push(outcome.ids);
    }
    assert_eq!(answers[0], answers[1]);
}
