//! Real models against golden outputs of another program: its F32 run, which is what the file
//! means. `INFER_TEST_MODELS` names the folder with the files (`make test-models` sets it).

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use infer::engine::device::list;
use infer::engine::{DeviceChoice, Options};
use infer::gguf::File;
use infer::kernels::Math;
use infer::tokenizer::{Message, Special, Tokenizer};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization;

mod common;
#[path = "common/talk.rs"]
mod talk;

use talk::{Talk, argmax};

const SMOLLM2: &str = "smollm2-135m";
const QWEN: &str = "qwen2.5-coder-0.5b";
const GEMMA: &str = "gemma3-270m";

#[derive(Deserialize)]
struct Golden {
    model: Identity,
    tokenize: Vec<Tokenized>,
    chat: Vec<Chat>,
    greedy: Vec<Greedy>,
    logits: Vec<Logits>,
    perplexity: Perplexity,
}

#[derive(Deserialize)]
struct Identity {
    sha256: String,
    eog_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Tokenized {
    text: String,
    ids: Vec<u32>,
    ids_special: Vec<u32>,
    ids_add_special: Vec<u32>,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Message>,
    prompt: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Greedy {
    id: String,
    kind: String,
    prompt: String,
    #[serde(default)]
    messages: Vec<Message>,
    prompt_ids: Vec<u32>,
    f32: GreedyRun,
}

#[derive(Deserialize)]
struct GreedyRun {
    ids: Vec<u32>,
    text: String,
    margins: Vec<f64>,
    stop: String,
}

#[derive(Deserialize)]
struct Logits {
    id: String,
    text: String,
    ids: Vec<u32>,
    f32: Row,
    /// Where F32 in that program is no exact reference.
    f64: Option<Row>,
}

impl Logits {
    fn exact(&self) -> &Row {
        self.f64.as_ref().unwrap_or(&self.f32)
    }
}

#[derive(Deserialize)]
struct Row {
    top: Vec<(usize, f64)>,
    logsumexp: f64,
}

#[derive(Deserialize)]
struct Perplexity {
    text: String,
    ids: Vec<u32>,
    f32: Nll,
}

#[derive(Deserialize)]
struct Nll {
    mean_nll: f64,
    nll: Vec<f64>,
}

/// A model's file, if it has been fetched; `models.toml` says what it is called.
fn fetched(name: &str) -> Option<PathBuf> {
    let table = std::fs::read_to_string(common::repo("models.toml")).unwrap();
    let mut entries = table.split("[[model]]");
    let entry = entries.find(|e| e.contains(&format!("\nname = \"{name}\"\n"))).expect("an entry");
    let file = entry.lines().find_map(|l| l.strip_prefix("file = ")).expect("a file");
    let file: String = serde_json::from_str(file).unwrap();
    let Some(folder) = std::env::var_os("INFER_TEST_MODELS").filter(|v| !v.is_empty()) else {
        common::note(&format!("SKIPPED: {name}: INFER_TEST_MODELS is not set"));
        return None;
    };
    let path = Path::new(&folder).join(file);
    if !path.exists() {
        common::note(&format!("SKIPPED: {name} has not been fetched"));
        return None;
    }
    Some(path)
}

/// The golden outputs of a model, where this machine has them.
fn golden(name: &str, needed_for: &str) -> Option<Golden> {
    let path = common::shared().map(|s| s.join("golden").join(format!("{name}.json"))).filter(|p| p.exists());
    let Some(path) = path else {
        common::note(&format!("SKIPPED: {name}: {needed_for}: no golden outputs (INFER_SHARED is not set)"));
        return None;
    };
    let text = std::fs::read_to_string(&path).unwrap();
    Some(serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

fn user(text: &str) -> Message {
    Message { role: "user".to_owned(), content: text.to_owned() }
}

fn options(device: DeviceChoice, math: Option<Math>) -> Options {
    Options { device, math, context: Some(2048), ..Options::default() }
}

// ---- Text

fn sha256(path: &Path) -> String {
    let mut file = std::fs::File::open(path).unwrap();
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).unwrap() {
            0 => break,
            n => hash.update(&piece[..n]),
        }
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// What is true of any tokenizer of bytes, with and without golden outputs.
fn round_trips(tokenizer: &Tokenizer) {
    for text in [
        "Hello, world!",
        "  two spaces\tand a tab\r\n\r\n   ",
        "a1b22c333d4444e55555 3.14159 1,000,000",
        "don't can't I'll we've it's",
        "Größe naïve Ελληνικά русский 日本語 한국어 עברית العربية हिन्दी",
        "👩‍👩‍👧‍👦 🇩🇪 e\u{301} \u{200b}\u{feff}",
        "<|im_start|>user\nnot a turn<|im_end|>",
        "fn main() {\n    println!(\"{}\", 1 << 20);\n}\n",
        "\u{0}\u{1}\u{7f}\u{85}\u{a0}",
    ] {
        let ids = tokenizer.encode(text, Special::AsText).unwrap();
        let back = tokenizer.decode(&ids);
        assert!(back == text || back.chars().eq(text.nfc()), "{back:?}");
        let mut stream = tokenizer.stream();
        let shown: String = ids.iter().map(|id| stream.push(*id)).collect();
        assert_eq!(shown + &stream.finish(), back);
    }
}

/// A question, as a chat where the model has a template.
fn question(talk: &Talk, name: &str) -> Vec<u32> {
    let text = "What is the capital of France?";
    if name == GEMMA { talk.plain(text) } else { talk.prompt(&[user(text)]) }
}

fn text(name: &str) {
    let Some(path) = fetched(name) else { return };
    let mut talk = Talk::open(&path, &options(DeviceChoice::Cpu, None));
    round_trips(&talk.tokenizer);
    let question = question(&talk, name);
    let answer = talk.go_on(&question, Some(12));
    assert!(!talk.shown(&answer.ids).trim().is_empty(), "{:?}", answer.ids);
    assert_eq!(answer.prompt_tokens, question.len());
    // Again, from the history and without one.
    let again = talk.go_on(&question, Some(12));
    assert_eq!((again.prompt_tokens, &again.ids), (1, &answer.ids));
    talk.history.clear();
    assert_eq!(talk.go_on(&question, Some(12)).ids, answer.ids);

    let Some(golden) = golden(name, "tokens and templates") else { return };
    assert_eq!(sha256(&path), golden.model.sha256, "{}", path.display());
    let tokenizer = &talk.tokenizer;
    assert_eq!(golden.tokenize.len(), 40);
    for case in &golden.tokenize {
        let text = &case.text;
        if *text != tokenizer.decode(&tokenizer.encode(text, Special::AsText).unwrap()) {
            // Qwen's own tokenizer composes, and the other engine does not.
            assert!(name == QWEN && text.nfc().ne(text.chars()), "{text:?}");
            continue;
        }
        // Gemma's file says that `</s>` is text, and the other engine that it is none.
        if name != GEMMA || !text.contains("</s>") {
            assert_eq!(tokenizer.encode(text, Special::AsText).unwrap(), case.ids, "{text:?}");
        }
        assert_eq!(tokenizer.encode(text, Special::Recognise).unwrap(), case.ids_special, "{text:?}");
        let added = tokenizer.encode_with_bos(text, Special::Recognise).unwrap();
        assert_eq!(added, case.ids_add_special, "{text:?}");
        assert_eq!(tokenizer.decode(&case.ids), *text);
    }
    let whole = &golden.perplexity;
    assert_eq!(tokenizer.encode_with_bos(&whole.text, Special::AsText).unwrap(), whole.ids);
    for case in &golden.logits {
        assert_eq!(talk.plain(&case.text), case.ids, "{}", case.id);
    }
    assert!(golden.chat.len() >= 4 || name == GEMMA);
    for case in &golden.chat {
        assert_eq!(talk.text(&case.messages), case.prompt);
        assert_eq!(talk.prompt(&case.messages), case.ids);
    }
    for case in &golden.greedy {
        assert_eq!(talk.plain(&case.prompt), case.prompt_ids, "{}", case.id);
        if case.kind == "chat" {
            assert_eq!(talk.prompt(&case.messages), case.prompt_ids, "{}", case.id);
        }
        let made = &case.f32.ids[..case.f32.ids.len() - usize::from(case.f32.stop == "eog")];
        assert!(!made.iter().any(|id| tokenizer.end_ids().contains(id)), "{}", case.id);
        let end = case.f32.ids.get(made.len());
        assert!(end.is_none_or(|id| tokenizer.end_ids().contains(id)), "{}: {end:?}", case.id);
    }
    let ends = golden.model.eog_ids.iter().filter(|id| tokenizer.piece(**id) != "</s>");
    assert!(tokenizer.end_ids().iter().eq(ends));
    common::note(&format!(
        "{name}, text: {} texts in 3 ways, {} templates, {} prompts",
        golden.tokenize.len(),
        golden.chat.len(),
        golden.greedy.len() + golden.logits.len()
    ));
}

// ---- Numbers

/// What may differ, and how much is computed.
struct Way {
    name: &'static str,
    device: DeviceChoice,
    math: Option<Math>,
    /// Largest difference of a logit, of their sum, and of the distance between the first two.
    logits: f64,
    /// Largest difference of a token's NLL, and of their mean.
    nll: f64,
    mean_nll: f64,
    /// A choice with a smaller margin may be another one.
    margin: f64,
    /// How far the reference's own F32 is off, in NLL and margins.
    noise: f64,
    amount: Amount,
}

/// How much is computed.
#[derive(Clone, Copy)]
struct Amount {
    /// Tokens of the longest text of `logits`.
    logits: usize,
    /// Tokens of the long text.
    nll: usize,
    /// Greedy runs of each kind that are computed in one piece.
    forced: usize,
    /// Greedy runs that are made token by token.
    decoded: usize,
}

const ALL: Amount = Amount { logits: usize::MAX, nll: usize::MAX, forced: usize::MAX, decoded: usize::MAX };

/// The largest of some errors, and their root mean square.
#[derive(Default)]
struct Errors {
    worst: f64,
    squares: f64,
    n: u32,
}

impl Errors {
    fn add(&mut self, got: f64, want: f64) {
        let error = (got - want).abs();
        // A comparison with NaN is false: it must not pass for small.
        self.worst = if error.is_nan() { f64::INFINITY } else { self.worst.max(error) };
        self.squares += error * error;
        self.n += 1;
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1e} (rms {:.1e})", self.worst, (self.squares / f64::from(self.n)).sqrt())
    }
}

/// ln of the sum of all exponentials.
fn logsumexp(row: &[f32]) -> f64 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(most) + row.iter().map(|v| f64::from(v - most).exp()).sum::<f64>().ln()
}

/// How far a token is ahead of the best other one.
fn lead(row: &[f32], id: u32) -> f64 {
    let others = row.iter().enumerate().filter(|(i, _)| *i != id as usize);
    let best = others.map(|(_, v)| *v).fold(f32::NEG_INFINITY, f32::max);
    f64::from(row[id as usize]) - f64::from(best)
}

/// The shortest `n` runs of each kind, the kinds in turn.
fn of_each_kind(golden: &Golden, n: usize) -> Vec<&Greedy> {
    let mut chosen = Vec::new();
    for kind in ["raw", "chat"] {
        let mut cases: Vec<&Greedy> = golden.greedy.iter().filter(|c| c.kind == kind).collect();
        // A base model has no chats.
        assert!(!cases.is_empty() || (kind == "chat" && golden.chat.is_empty()), "{kind}");
        cases.sort_by_key(|c| c.prompt_ids.len() + c.f32.ids.len());
        chosen.extend(cases.into_iter().take(n).enumerate());
    }
    chosen.sort_by_key(|(place, _)| *place);
    chosen.into_iter().map(|(_, case)| case).collect()
}

/// What can be said without golden outputs: after a question a GPU gives the CPU's logits.
fn against_cpu(name: &str, path: &Path, way: &Way) {
    if way.device == DeviceChoice::Cpu {
        return;
    }
    let mut cpu = Talk::open(path, &options(DeviceChoice::Cpu, None));
    let mut talk = Talk::open(path, &options(way.device.clone(), way.math));
    let question = question(&talk, name);
    let (want, got) = (cpu.last_row(&question), talk.last_row(&question));
    let mut best: Vec<usize> = (0..want.len()).collect();
    best.sort_by(|a, b| want[*b].total_cmp(&want[*a]));
    let mut errors = Errors::default();
    for id in &best[..20] {
        errors.add(got[*id].into(), want[*id].into());
    }
    assert!(errors.worst < way.logits, "{name}, {}: {errors}", way.name);
    common::note(&format!(
        "{name}, {}: 20 logits after {} tokens: {errors} from the CPU's",
        way.name,
        question.len()
    ));
}

/// Some drivers fail where a thread opens a device while another closes its own.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn numbers(name: &str, way: &Way) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(path) = fetched(name) else { return };
    let Some(golden) = golden(name, way.name) else {
        return against_cpu(name, &path, way);
    };
    let start = Instant::now();
    let mut talk = Talk::open(&path, &options(way.device.clone(), way.math));
    let opened = start.elapsed();
    let amount = way.amount;
    let mut tokens = 0;

    let mut logits = Errors::default();
    let mut sums = Errors::default();
    let cases: Vec<&Logits> = golden.logits.iter().filter(|c| c.ids.len() <= amount.logits).collect();
    assert!(!cases.is_empty());
    for case in &cases {
        let row = talk.last_row(&case.ids);
        tokens += case.ids.len();
        let (mut of_case, mut sum) = (Errors::default(), Errors::default());
        for (id, want) in &case.exact().top {
            for errors in [&mut logits, &mut of_case] {
                errors.add(row[*id].into(), *want);
            }
        }
        for errors in [&mut sums, &mut sum] {
            errors.add(logsumexp(&row), case.exact().logsumexp);
        }
        assert!(of_case.worst < way.logits, "{name}, {}, {}: logits: {of_case}", way.name, case.id);
        assert!(sum.worst < way.logits, "{name}, {}, {}: logsumexp: {sum}", way.name, case.id);
    }

    let mut nll = Errors::default();
    let text = &golden.perplexity;
    let n = text.ids.len().min(amount.nll);
    assert_eq!(text.f32.nll.len(), text.ids.len() - 1);
    let (mut sum, mut wanted) = (0.0, 0.0);
    talk.rows(&text.ids[..n], |position, row| {
        if position + 1 < n {
            let got = logsumexp(row) - f64::from(row[text.ids[position + 1] as usize]);
            let want = text.f32.nll[position];
            nll.add(got, want);
            assert!(
                nll.worst < way.nll + way.noise,
                "{name}, {}: NLL of token {}: {got}, not {want}",
                way.name,
                position + 1
            );
            sum += got;
            wanted += want;
        }
    });
    tokens += n;
    let scored = f64::from(nll.n);
    let (mean, wanted) = (sum / scored, wanted / scored);
    if n == text.ids.len() {
        assert!((wanted - text.f32.mean_nll).abs() < 1e-5);
    }
    let mean_error = (mean - wanted).abs();
    assert!(
        mean_error < way.mean_nll + way.noise / 100.0,
        "{name}, {}: mean NLL {mean:.6}, not {wanted:.6}",
        way.name
    );

    let mut margins = Errors::default();
    let (mut choices, mut other) = (0, 0);
    let forced = of_each_kind(&golden, amount.forced);
    for case in &forced {
        let run = &case.f32;
        let prompt = case.prompt_ids.len();
        let all: Vec<u32> = case.prompt_ids.iter().chain(&run.ids[..run.ids.len() - 1]).copied().collect();
        tokens += all.len();
        talk.rows(&all, |position, row| {
            let Some(step) = (position + 1).checked_sub(prompt) else { return };
            let (id, margin) = (run.ids[step], run.margins[step]);
            let got = argmax(row);
            choices += 1;
            other += usize::from(got != id);
            let what = format!("{name}, {}, {}, step {step}, margin {margin}", way.name, case.id);
            assert!(got == id || margin < way.margin, "{what}: {got}, not {id}");
            margins.add(lead(row, id), margin);
            assert!(margins.worst < way.logits + way.noise, "{what}: got {}", lead(row, id));
        });
    }

    // The same token by token: other kernels, and the steps are chained on the device.
    let mut decoded = 0;
    for case in forced.iter().take(amount.decoded) {
        let run = &case.f32;
        let sure = run.margins.iter().take_while(|m| **m >= way.margin).count();
        if sure == 0 {
            continue;
        }
        talk.history.clear();
        let outcome = talk.go_on_until(&case.prompt_ids, Some(sure), &[]);
        assert_eq!(outcome.ids, run.ids[..sure], "{name}, {}, {}", way.name, case.id);
        decoded += sure;
        tokens += case.prompt_ids.len() + sure;
    }
    assert!(choices > 0 && decoded > 0);
    common::note(&format!(
        "{name}, {}: logits of {} texts up to {} tokens: {logits}, logsumexp {sums}; NLL of {} tokens: {nll}, \
         mean {mean:.6} (off by {mean_error:.1e}); {choices} choices of {} runs: {other} others, margins {margins}; \
         {decoded} tokens decoded, all the same; opened in {:.1} s, {tokens} tokens in {:.0} s",
        way.name,
        cases.len(),
        cases.iter().map(|c| c.ids.len()).max().unwrap_or(0),
        nll.n,
        forced.len(),
        opened.as_secs_f64(),
        (start.elapsed() - opened).as_secs_f64(),
    ));
}

/// Measured, with one order of summation on one machine: logits 4e-5, NLL 3e-4, mean 5e-7.
fn cpu(amount: Amount) -> Way {
    Way {
        name: "cpu",
        device: DeviceChoice::Cpu,
        math: None,
        logits: 0.001,
        nll: 0.002,
        mean_nll: 0.0001,
        margin: 0.02,
        noise: 0.0,
        amount,
    }
}

fn gpu_f32(amount: Amount) -> Way {
    Way {
        name: "gpu f32",
        device: DeviceChoice::Gpu,
        math: Some(Math::F32),
        logits: 0.01,
        nll: 0.01,
        mean_nll: 0.0005,
        ..cpu(amount)
    }
}

/// Measured, keys and values being F16: of SmolLM2, over 3 texts, 47 scored tokens and 39 choices,
/// logits 3.8e-3 (rms 1.5e-3), NLL 2.3e-3 (rms 1.0e-3), mean NLL 1.9e-4, and not one other choice
/// at any margin; of Qwen, over less, 4.2e-3, 4.5e-3, 1.7e-5. The bounds are F16's, which leave
/// room for other orders of summation and longer texts.
fn gpu_int16(amount: Amount) -> Way {
    Way {
        name: "gpu int16",
        device: DeviceChoice::Gpu,
        math: Some(Math::Int16),
        logits: 0.2,
        nll: 0.05,
        mean_nll: 0.001,
        margin: 0.1,
        noise: 0.0,
        amount,
    }
}

/// How much a GPU computes: all where it is one, and where it is software so much that nobody
/// waits for it, or `more` where everything is asked.
fn part(quick: Amount, more: Amount) -> Amount {
    if list().iter().any(|d| d.kind != "cpu") {
        ALL
    } else if common::full() {
        more
    } else {
        quick
    }
}

fn smollm2_part() -> Amount {
    let quick = Amount { logits: 33, nll: 48, forced: 1, decoded: 1 };
    part(quick, Amount { logits: 300, nll: 512, forced: 8, decoded: 2 })
}

fn qwen_part() -> Amount {
    let quick = Amount { logits: 5, nll: 16, forced: 1, decoded: 1 };
    part(quick, Amount { logits: 33, nll: 64, forced: 2, decoded: 1 })
}

/// Windows of 512 show in texts beyond them: on software a GPU gets one such text at most.
fn gemma_part() -> Amount {
    let quick = Amount { logits: 5, nll: 24, forced: 1, decoded: 1 };
    part(quick, Amount { logits: 33, nll: 640, forced: 2, decoded: 1 })
}

/// The reference's GELU is a table of halves: its own F32 is up to 0.03 off in a logit.
fn gemma(way: Way) -> Way {
    Way { margin: if way.logits < 0.1 { 0.1 } else { 0.3 }, noise: 0.1, ..way }
}

#[test]
fn gemma_text() {
    text(GEMMA);
}

#[test]
fn gemma_cpu() {
    numbers(GEMMA, &gemma(cpu(ALL)));
}

#[test]
fn gemma_gpu_f32() {
    numbers(GEMMA, &gemma(gpu_f32(gemma_part())));
}

#[test]
fn gemma_gpu_int16() {
    numbers(GEMMA, &gemma(gpu_int16(gemma_part())));
}

#[test]
fn smollm2_text() {
    text(SMOLLM2);
}

#[test]
fn smollm2_cpu() {
    numbers(SMOLLM2, &cpu(ALL));
}

#[test]
fn smollm2_gpu_f32() {
    numbers(SMOLLM2, &gpu_f32(smollm2_part()));
}

#[test]
fn smollm2_gpu_int16() {
    numbers(SMOLLM2, &gpu_int16(smollm2_part()));
}

#[test]
fn qwen_text() {
    text(QWEN);
}

#[test]
fn qwen_cpu() {
    numbers(QWEN, &cpu(ALL));
}

#[test]
fn qwen_gpu_f32() {
    numbers(QWEN, &gpu_f32(qwen_part()));
}

#[test]
fn qwen_gpu_int16() {
    numbers(QWEN, &gpu_int16(qwen_part()));
}

// ---- The program

/// Chats through the program itself: what it prints is the golden text, up to the first choice
/// that may be another one.
fn answers(name: &str) {
    let Some(path) = fetched(name) else { return };
    let Some(golden) = golden(name, "answers") else { return };
    let tokenizer = Tokenizer::from_file(&File::open(&path).unwrap()).unwrap();
    let mut whole = 0;
    let chats: Vec<&Greedy> = golden.greedy.iter().filter(|c| c.kind == "chat").collect();
    assert!(chats.len() >= 3);
    for case in &chats {
        let (system, asked) = match &case.messages[..] {
            [system, asked] if system.role == "system" => (Some(&system.content), &asked.content),
            [asked] => (None, &asked.content),
            _ => panic!("{}: more than a question", case.id),
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_infer"));
        command.arg("run").arg(&path).args(["--device", "cpu", "--temperature", "0", "-n", "64", "--quiet"]);
        command.args(["--prompt", asked]);
        if let Some(system) = system {
            command.args(["--system", system]);
        }
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{}: {errors}", case.id);
        let text = String::from_utf8(output.stdout).unwrap();
        let sure = case.f32.margins.iter().take_while(|m| **m >= 0.02).count();
        if sure == case.f32.ids.len() {
            assert_eq!(text, case.f32.text.clone() + "\n", "{}", case.id);
            whole += 1;
        } else {
            let begin = tokenizer.decode(&case.f32.ids[..sure]);
            let begin = begin.trim_end_matches('\u{fffd}');
            assert!(text.starts_with(begin), "{}: {text:?} does not begin with {begin:?}", case.id);
        }
    }
    common::note(&format!("{name}, infer run: {} chats, {whole} of them to the end", chats.len()));
}

#[test]
fn smollm2_answers() {
    answers(SMOLLM2);
}

#[test]
fn qwen_answers() {
    answers(QWEN);
}
