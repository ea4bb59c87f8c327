//! Perplexity, against the logits that it is made of.

mod common;
#[path = "common/program.rs"]
mod program;

use infer::gguf::writer::Writer;
use program::{Infer, run};

/// Some prose.
fn text() -> String {
    common::repo("tests/data/perplexity.txt").to_str().unwrap().to_owned()
}

/// The NLLs of the second half of a window, from what `infer logits` writes.
fn nlls(infer: &Infer, ids: &[u64]) -> Vec<f64> {
    let list = ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    infer.run(&["logits", "--device", "cpu", "--ids", &list, "--all", "--out", "l", "--quiet"]).works();
    let bytes = std::fs::read(infer.path("l")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor("logits").unwrap();
    let vocab = tensor.shape()[1];
    let logits: Vec<f64> =
        tensor.data().as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
    let rows = logits.chunks(vocab).zip(&ids[1..]).skip(ids.len() / 2);
    rows.map(|(row, next)| {
        let sum: f64 = row.iter().map(|v| v.exp()).sum();
        sum.ln() - row[usize::try_from(*next).unwrap()]
    })
    .collect()
}

#[test]
fn it_is_what_the_logits_say() {
    let infer = Infer::new();
    let flags = ["perplexity", "--file", &text(), "--device", "cpu", "--windows", "3"];
    for window in [33usize, 64] {
        let report = infer.run(&[&flags[..], &["--ctx", &window.to_string(), "--json"]].concat()).json();
        let ids = infer.run(&["tokenize", "--file", &text(), "--json"]).json()["ids"].clone();
        let ids: Vec<u64> = ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
        let windows: Vec<Vec<f64>> =
            ids.chunks(window).take(3).map(|ids| nlls(&infer, &[&[0], &ids[1..]].concat())).collect();
        let tokens = windows.concat().len();
        assert_eq!(tokens, 3 * (window - window / 2 - 1));
        let mean = windows.concat().iter().sum::<f64>() / tokens as f64;
        // Of three means: 4.3027 is Student's t for two degrees of freedom.
        let means = windows.iter().map(|w| w.iter().sum::<f64>() / w.len() as f64);
        let half = 4.3027 * (means.map(|m| (m - mean).powi(2)).sum::<f64>() / 2.0 / 3.0).sqrt();
        let near = |key: &str, want: f64| {
            let got = report[key].as_f64().unwrap();
            assert!((got / want - 1.0).abs() < 1e-6, "{key} is {got}, {want} is right");
        };
        near("nll", mean);
        near("perplexity", mean.exp());
        near("nll_half_width", half);
        near("half_width", half * mean.exp());
        assert_eq!((&report["tokens"], &report["windows"]), (&tokens.into(), &3.into()));
        assert_eq!((&report["context"], &report["model"]), (&window.into(), &"demo".into()));
        assert_eq!((&report["math"], &report["kv"]), (&"f32".into(), &"f32".into()));
    }
}

#[test]
fn it_is_one_line_for_people() {
    let infer = Infer::new();
    let flags = ["perplexity", "--device", "cpu", "--ctx", "32", "--windows", "2"];
    let run = infer.run(&[&flags[..], &["--file", &text()]].concat());
    let line = run.works();
    assert!(line.starts_with("perplexity ") && line.ends_with(" (95 %, 30 tokens in 2 windows)\n"), "{line}");
    assert!(line.contains(" ± ") && run.stderr.starts_with("CPU"), "{run:?}");
    // From a pipe; a window more than there is; one window has no interval.
    let story = "Once upon a time, there was a small boy named Oscar. He lived in a small village. One sunny \
                 day, Oscar found a red drum on the path.";
    let piped = infer.piped(&[&flags[..], &["--file", "-"]].concat(), story);
    assert!(piped.works().ends_with("(15 tokens in 1 window: no interval)\n"), "{piped:?}");
    assert!(piped.stderr.contains("note: the text has 1 windows, not 2"), "{piped:?}");
    let quiet = infer.piped(&[&flags[..], &["--file", "-", "--quiet"]].concat(), story);
    assert_eq!((quiet.works(), quiet.stderr.as_str()), (piped.works(), ""));
    // What the model knows well is likelier than what it does not.
    let strange = "The carbonate sediments of the Triassic were surveyed twice before the commission published \
                   its recommendations on mineral rights in coastal waters.";
    let strange = infer.piped(&[&flags[..], &["--file", "-", "--quiet"]].concat(), strange);
    let number = |line: &str| line.split(' ').nth(1).unwrap().parse::<f64>().unwrap();
    assert!(number(piped.works()) * 10.0 < number(strange.works()), "{strange:?}");
}

/// A GPU's answer is the CPU's.
#[test]
fn engines_agree() {
    if run(&["devices", "--json"]).json().as_array().unwrap().is_empty() {
        common::note("SKIPPED: engines_agree: there is no adapter");
        return;
    }
    let nll = |device: &[&str]| {
        let flags = ["perplexity", "--file", &text(), "--ctx", "64", "--windows", "2", "--json"];
        run(&[&flags[..], device].concat()).json()["nll"].as_f64().unwrap()
    };
    let exact = nll(&["--device", "cpu"]);
    let f32 = nll(&["--device", "gpu", "--math", "f32"]);
    assert!((f32 / exact - 1.0).abs() < 1e-4, "{f32}, {exact} is right");
    let usual = nll(&["--device", "gpu"]);
    assert!((usual / exact - 1.0).abs() < 5e-3, "{usual}, {exact} is right");
}

#[test]
fn what_cannot_be_predicted_is_refused() {
    let infer = Infer::new();
    infer.write("short.txt", b"Once upon a time").write("empty.txt", b"").write("latin1.txt", b"caf\xe9");
    let bare = Writer::new().str("general.architecture", "new").finish();
    infer.write("bare.gguf", &bare);
    let demo = std::fs::read(common::repo("assets/demo.gguf")).unwrap();
    let key = b"tokenizer.ggml.tokens";
    let at = demo.windows(key.len()).position(|w| w == key).unwrap();
    let mut without = demo.clone();
    without[at + key.len() - 1] = b'x';
    infer.write("without.gguf", &without);
    for (arguments, code, why) in [
        (&["--file", "short.txt"][..], 6, &["short.txt", "5 tokens", "512"][..]),
        (&["--file", "empty.txt"], 6, &["empty.txt", "1 tokens", "512"]),
        (&["--file", "short.txt", "--ctx", "2000"], 6, &["2000", "1024"]),
        (&["--file", "short.txt", "--ctx", "2"], 6, &["2 tokens"]),
        (&["--file", "missing.txt"], 3, &["missing.txt", "no such file"]),
        (&["--file", "latin1.txt"], 3, &["latin1.txt", "byte 3"]),
        (&["--file", "short.txt", "missing.gguf"], 3, &["missing.gguf"]),
        (&["--file", "short.txt", "bare.gguf"], 4, &["bare.gguf", "new"]),
        (&["--file", "short.txt", "without.gguf"], 4, &["without.gguf", "tokenizer"]),
        (&["--file", "short.txt", "--windows", "0"], 2, &["--windows"]),
        (&[], 2, &["--file"]),
    ] {
        let run = infer.run(&[&["perplexity"], arguments].concat());
        let line = run.fails(code);
        assert!(why.iter().all(|w| line.contains(w)), "{line}");
    }
    infer.run(&["perplexity", "--file", &text(), "--device", "99"]).fails(5);
}

/// Ctrl-C says what is known by then.
#[cfg(unix)]
#[test]
fn an_interruption_says_what_is_known() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Command, Stdio};
    let infer = Infer::new();
    let long = std::fs::read_to_string(text()).unwrap().repeat(20);
    infer.write("long.txt", long.as_bytes());
    let flags = ["perplexity", "--file", "long.txt", "--device", "cpu", "--threads", "1", "--ctx", "8"];
    let mut command = infer.command(&flags);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.starts_with("CPU"), "{line}");
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let (mut rest, mut stdout) = (String::new(), String::new());
    stderr.read_to_string(&mut rest).unwrap();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.starts_with("interrupted: perplexity ") && rest.lines().count() == 1, "{rest}");
    assert_eq!(stdout, "");
}

#[test]
fn the_help_states_the_definition() {
    let help = run(&["perplexity", "--help"]);
    for word in ["llama.cpp", "first half", "BOS", "Tokens of a window"] {
        assert!(help.works().contains(word), "{word}");
    }
}
