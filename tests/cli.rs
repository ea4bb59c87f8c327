//! The binary as users meet it: what it prints where, and with which code it ends. Every run
//! is in an empty folder of its own.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use infer::gguf::writer::Writer;
use serde_json::Value;

/// What a run left.
#[derive(Debug)]
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    /// Asserts a failure: its code, nothing on stdout, and one line on stderr, which is given
    /// back.
    #[track_caller]
    fn fails(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        let line = self.stderr.strip_suffix('\n').unwrap_or_else(|| panic!("no whole line: {self:?}"));
        assert!(line.starts_with("error: ") && !line.contains(char::is_control), "{self:?}");
        line
    }

    /// Asserts success, and gives stdout.
    #[track_caller]
    fn works(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        &self.stdout
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(self.works()).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// The binary in an empty folder.
struct Infer {
    folder: tempfile::TempDir,
}

impl Infer {
    fn new() -> Infer {
        Infer { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> &Infer {
        std::fs::write(self.path(name), bytes).unwrap();
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_infer"));
        command.current_dir(self.folder.path()).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        self.piped(arguments, "")
    }

    /// Runs with a text on stdin.
    fn piped(&self, arguments: &[&str], stdin: &str) -> Run {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that does not read it closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        Run {
            code: output.status.code().unwrap_or_else(|| panic!("{arguments:?}: {}", output.status)),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn run(arguments: &[&str]) -> Run {
    Infer::new().run(arguments)
}

const COMMANDS: [&str; 6] = ["run", "inspect", "bench", "tokenize", "logits", "devices"];

#[test]
fn help_and_version_are_results() {
    let version = run(&["--version"]);
    let expected = concat!("infer ", env!("CARGO_PKG_VERSION"), " (");
    assert!(version.works().starts_with(expected) && version.stdout.ends_with(")\n"), "{version:?}");
    let help = run(&["--help"]);
    for command in COMMANDS {
        assert!(help.works().contains(&format!("\n  {command} ")), "{help:?}");
        let own = run(&[command, "--help"]);
        assert!(own.works().contains("--json") || command == "logits", "{own:?}");
        assert_eq!(own.stderr, "");
    }
}

/// What is not done is neither promised nor accepted.
#[test]
fn what_is_not_done_is_unknown() {
    for command in ["verify", "perplexity", "synth", "quantize", "convert", "pull", "serve"] {
        run(&[command]).fails(2);
    }
    for flags in [&["--math", "int8"][..], &["--math", "int16"], &["--kv", "q8_0"]] {
        run(&[&["run", "--prompt", "x"], flags].concat()).fails(2);
        assert!(!run(&["run", "--help"]).works().contains(flags[1]));
    }
    run(&["bench", "--profile"]).fails(2);
}

#[test]
fn usage_errors_end_with_2() {
    for arguments in [
        &["run", "--no-such-flag"][..],
        &["run", "a.gguf", "b.gguf"],
        &["run", "--prompt", "x", "--file", "y"],
        &["run", "--prompt", "x", "--raw", "--system", "y"],
        &["run", "--prompt", "x", "--temperature", "-0.5"],
        &["run", "--prompt", "x", "--temperature", "nan"],
        &["run", "--prompt", "x", "--temperature", "inf"],
        &["run", "--prompt", "x", "--top-p", "1.5"],
        &["run", "--prompt", "x", "--min-p", "-1"],
        &["run", "--prompt", "x", "--top-k", "-1"],
        &["run", "--prompt", "x", "--repeat-penalty", "0"],
        &["run", "--prompt", "x", "--seed", "1.5"],
        &["run", "--prompt", "x", "--stop", ""],
        &["run", "--prompt", "x", "--tokens", "many"],
        &["run", "--prompt", "x", "--ctx", "0"],
        &["run", "--prompt", "x", "--memory", "0"],
        &["run", "--prompt", "x", "--threads", "0"],
        &["run", "--prompt", "x", "--device", ""],
        &["run", "--prompt", "x", "--math", "f64"],
        &["logits"],
        &["logits", "--ids", "1"],
        &["logits", "--ids", "", "--out", "x"],
        &["logits", "--ids", "1,a", "--out", "x"],
        &["logits", "--ids", "-1", "--out", "x"],
        &["logits", "--ids", "1", "--out", "."],
        &["tokenize", "--text", "x", "--decode", "1"],
        &["tokenize", "--decode", "x"],
        &["inspect", "--ctx", "0"],
        &["bench", "--repeat", "0"],
        &["bench", "--synthetic", "no-such-shape"],
        &["bench", "--synthetic", "smollm2-135m:Q9_9"],
        &["bench", "x.gguf", "--synthetic", "smollm2-135m"],
    ] {
        run(arguments).fails(2);
    }
    // Without anything there is help, and it is no result.
    let bare = run(&[]);
    assert!(bare.code == 2 && bare.stdout.is_empty() && bare.stderr.contains("Usage:"), "{bare:?}");
}

#[test]
fn every_command_says_what_is_wrong_with_a_file() {
    let infer = Infer::new();
    let demo = std::fs::read(common::repo("assets/demo.gguf")).unwrap();
    infer.write("empty.gguf", b"").write("image.gguf", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
    infer.write("short.gguf", &demo[..demo.len() / 2]);
    std::fs::create_dir(infer.path("folder.gguf")).unwrap();
    for (file, why) in [
        ("missing.gguf", "no such file"),
        ("empty.gguf", "is empty"),
        ("image.gguf", "is no GGUF file"),
        ("short.gguf", "do not lie in the file"),
        ("folder.gguf", "is a directory"),
    ] {
        for arguments in [
            &["inspect", file][..],
            &["inspect", "--check", "--json", file],
            &["run", file, "--prompt", "x"],
            &["run", file, "--prompt", "x", "--device", "cpu", "--json"],
            &["tokenize", file, "--text", "x"],
            &["logits", file, "--ids", "1", "--out", "x.safetensors"],
            &["bench", file],
        ] {
            let run = infer.run(arguments);
            let line = run.fails(3);
            assert!(line.contains(file) && line.contains(why), "{line}");
        }
    }
    assert!(!infer.path("x.safetensors").exists());
    // The prompt's file is a file as well.
    infer.run(&["run", "--file", "missing.txt"]).fails(3);
    infer.write("latin1.txt", b"caf\xe9");
    assert!(infer.run(&["run", "--file", "latin1.txt"]).fails(3).contains("byte 3"));
    infer.run(&["tokenize", "--file", "folder.gguf"]).fails(3);
}

#[test]
fn an_unknown_architecture_can_be_inspected_but_not_run() {
    let infer = Infer::new();
    let file = Writer::new().str("general.architecture", "\u{1b}[31mnew\nthing").u32("a.b", 7).finish();
    infer.write("new.gguf", &file);
    let report = infer.run(&["inspect", "new.gguf", "--json"]).json();
    assert_eq!(report["architecture"], "\u{1b}[31mnew\nthing");
    assert_eq!(report["metadata"]["a.b"], 7);
    assert_eq!(report["supported"], false);
    let human = infer.run(&["inspect", "new.gguf"]);
    assert!(human.works().contains("\\u{1b}[31mnew\\nthing") && !human.stdout.contains('\u{1b}'));
    for arguments in [
        &["run", "new.gguf", "--prompt", "x"][..],
        &["logits", "new.gguf", "--ids", "1", "--out", "x"],
        &["bench", "new.gguf"],
    ] {
        assert!(infer.run(arguments).fails(4).contains("new.gguf"));
    }
    assert!(run(&["bench", "--synthetic", "gemma-3-1b"]).fails(4).contains("gemma3"));
}

/// What the file alone decides comes before any device is looked for: none has this name.
#[test]
fn requests_that_do_not_fit_the_model_end_with_6() {
    let infer = Infer::new();
    let long = "Once upon a time ".repeat(400);
    infer.write("long.txt", long.as_bytes());
    for (arguments, counts) in [
        (&["run", "--prompt", ""][..], &["empty"][..]),
        (&["run"], &["empty"]),
        (&["run", "--raw", "--prompt", "", "--json"], &["empty"]),
        (&["run", "--file", "long.txt"], &["1024"]),
        (&["run", "--raw", "--file", "long.txt"], &["1602", "1024"]),
        (&["run", "--raw", "--prompt", "Once upon a time", "--ctx", "4"], &["5", "4"]),
        (&["run", "--prompt", "x", "--ctx", "2000"], &["2000", "1024"]),
        (&["inspect", "--ctx", "2000"], &["2000", "1024"]),
        (&["logits", "--ids", "1,5000", "--out", "x"], &["5000", "4096"]),
        (&["logits", "--ids", "1,2,3", "--ctx", "2", "--out", "x"], &["3", "2"]),
        (&["tokenize", "--decode", "1,5000"], &["5000", "4096"]),
        (&["bench", "--depth", "1000"], &["1512", "1024"]),
    ] {
        let device = ["run", "logits", "bench"].contains(&arguments[0]);
        let nowhere: &[&str] = if device { &["--device", "no such device"] } else { &[] };
        let run = infer.run(&[arguments, nowhere].concat());
        let line = run.fails(6);
        assert!(counts.iter().all(|c| line.contains(c)), "{line}");
    }
    assert_eq!(std::fs::read_dir(infer.folder.path()).unwrap().count(), 1, "something was left");
}

#[test]
fn a_device_that_is_not_there_ends_with_5() {
    let infer = Infer::new();
    infer.run(&["run", "--prompt", "x", "--device", "no such device"]).fails(5);
    infer.run(&["run", "--prompt", "x", "--device", "99"]).fails(5);
    infer.run(&["logits", "--ids", "1", "--out", "x", "--device", "99"]).fails(5);
    assert_eq!(std::fs::read_dir(infer.folder.path()).unwrap().count(), 0, "something was left");
}

#[test]
fn devices_are_listed_even_if_there_are_none() {
    let list = run(&["devices", "--json"]).json();
    for device in list.as_array().unwrap() {
        for key in ["index", "name", "type", "backend", "driver", "memory_bytes", "subgroup_min", "features"]
        {
            assert!(device.get(key).is_some(), "{key}: {device}");
        }
        assert!(device["auto"].is_boolean());
    }
    let human = run(&["devices"]);
    human.works();
    assert_eq!(human.stdout.is_empty(), list.as_array().unwrap().is_empty());
    assert_eq!(human.stderr.is_empty(), !list.as_array().unwrap().is_empty(), "{human:?}");
}

#[test]
fn inspect_tells_all_about_the_demo() {
    let report = run(&["inspect", "--json", "--check", "--ctx", "512"]).json();
    assert_eq!(report["version"], 3);
    assert_eq!(report["architecture"], "llama");
    assert_eq!(report["parameters"], 5_770_496);
    assert_eq!(report["types"]["Q4_K"], 38);
    assert_eq!(report["metadata"]["llama.context_length"], 1024);
    assert_eq!(report["metadata"]["tokenizer.ggml.tokens"].as_array().unwrap().len(), 4096);
    assert_eq!(report["memory"]["kv"], 2 * 6 * 4 * 32 * 2 * 512);
    assert_eq!(report["problems"], serde_json::json!([]));
    assert_eq!(report["supported"], true);
    // Offsets are absolute, and nothing lies outside of the file.
    let bytes = std::fs::read(common::repo("assets/demo.gguf")).unwrap();
    let tensors = report["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 56);
    let end = |t: &Value| t["offset"].as_u64().unwrap() + t["bytes"].as_u64().unwrap();
    assert_eq!(tensors.iter().map(end).max(), Some(bytes.len() as u64));
    let norm = tensors.iter().find(|t| t["name"] == "output_norm.weight").unwrap();
    assert_eq!((&norm["type"], &norm["shape"]), (&"F32".into(), &serde_json::json!([256])));

    let human = run(&["inspect", "demo", "--tensors"]);
    assert!(human.works().contains("blk.5.ffn_down.weight") && human.stdout.contains("no problems"));
    assert!(!run(&["inspect"]).works().contains("blk.5.ffn_down.weight"));
}

#[test]
fn check_finds_what_is_not_finite() {
    let infer = Infer::new();
    let mut file = std::fs::read(common::repo("assets/demo.gguf")).unwrap();
    let report = run(&["inspect", "--json"]).json();
    let of = |name: &str| {
        let tensors = report["tensors"].as_array().unwrap();
        let tensor = tensors.iter().find(|t| t["name"] == name).unwrap();
        usize::try_from(tensor["offset"].as_u64().unwrap()).unwrap()
    };
    let (q, norm) = (of("blk.3.attn_q.weight"), of("output_norm.weight"));
    file[q..q + 2].copy_from_slice(&[0x00, 0x7c]); // the first block's d is infinite
    file[norm + 8..norm + 12].copy_from_slice(&f32::NAN.to_le_bytes());
    infer.write("bad.gguf", &file);
    assert_eq!(infer.run(&["inspect", "bad.gguf", "--json"]).json()["problems"], serde_json::json!([]));
    let checked = infer.run(&["inspect", "bad.gguf", "--check", "--json"]).json();
    let problems = checked["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().any(|p| p.as_str().unwrap().contains("blk.3.attn_q.weight: 1 of 256 ")));
    assert!(problems.iter().any(|p| p.as_str().unwrap().contains("output_norm.weight: 1 of 256 ")));
    assert_ne!(checked["sha256"], run(&["inspect", "--check", "--json"]).json()["sha256"]);
}

#[test]
fn tokenize_goes_both_ways() {
    let ids = |run: Run| run.json()["ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
    let all: Vec<u64> = ids(run(&["tokenize", "--text", "Hello<|im_end|>", "--json"]));
    assert_eq!(all, [0, 1561, 3]);
    let no_bos: Vec<u64> = ids(run(&["tokenize", "--text", "Hello<|im_end|>", "--json", "--no-bos"]));
    assert_eq!(no_bos, [1561, 3]);
    let plain: Vec<u64> = ids(run(&["tokenize", "--text", "Hello<|im_end|>", "--json", "--no-special"]));
    assert!(plain[0] == 1561 && plain.len() > 3 && !plain.contains(&3));
    let list = plain.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    assert_eq!(run(&["tokenize", "--decode", &list]).works(), "Hello<|im_end|>\n");

    let infer = Infer::new();
    infer.write("text.txt", "Hello\n".as_bytes());
    let file = infer.run(&["tokenize", "--file", "text.txt"]);
    assert_eq!(file.works(), "     0  \"<|bos|>\"\n  1561  \"Hello\"\n   202  \"\\n\"\n");
    assert_eq!(infer.piped(&["tokenize"], "Hello\n").works(), file.works());
    assert_eq!(
        infer.run(&["tokenize", "--text", "", "--json"]).json(),
        serde_json::json!({"ids": [0], "pieces": ["<|bos|>"]})
    );
    assert_eq!(infer.run(&["tokenize", "--text", "-x", "--no-bos", "--json"]).json()["pieces"][0], "-");
}

/// A full disk is one line and a code; a reader who has gone is no failure.
#[cfg(target_os = "linux")]
#[test]
fn stdout_may_be_full_or_closed() {
    let infer = Infer::new();
    for arguments in [&["inspect"][..], &["inspect", "--json"], &["--help"], &["tokenize", "--text", "a"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = infer.command(arguments).stdin(Stdio::null()).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with("error: stdout: ") && stderr.lines().count() == 1, "{stderr}");

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = infer.command(arguments).stdin(Stdio::null()).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{arguments:?}");
    }
}

/// The damaged files: how `inspect` and `run` end, each within seconds.
#[test]
fn damaged_files_are_refused_as_their_cases_say() {
    let infer = Infer::new();
    let folder = common::fixtures().join("malformed");
    let cases: Vec<Value> =
        serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    assert!(cases.len() >= 20);
    for case in cases {
        let path = folder.join(case["file"].as_str().unwrap());
        one_case(&infer, &case, &path);
    }
}

fn one_case(infer: &Infer, case: &Value, path: &Path) {
    let path = path.to_str().unwrap();
    let start = Instant::now();
    let report = infer.run(&["inspect", "--json", path]);
    let checked = infer.run(&["inspect", "--check", path]);
    assert_eq!(report.code, checked.code, "{case}");
    // Everything that is wrong with a file shows before a device is looked for.
    let nowhere = ["--device", "no such device"];
    let run = infer.run(&[&["run", path, "--prompt", "hi"][..], &nowhere].concat());
    let raw = infer.run(&[&["run", path, "--prompt", "hi", "--raw"][..], &nowhere].concat());
    assert!(start.elapsed() < Duration::from_secs(10), "{case}: {:?}", start.elapsed());
    match case["expect"].as_str().unwrap() {
        "refuse_container" => {
            for run in [report, checked, run, raw] {
                run.fails(3);
            }
        }
        "refuse_model" => {
            let report = report.json();
            assert_eq!(report["supported"], false, "{case}");
            assert!(!report["problems"].as_array().unwrap().is_empty(), "{case}");
            assert!(checked.works().contains("\nproblems\n"), "{case}");
            if case["raw"] == "load" {
                run.fails(6);
                raw.fails(5);
            } else {
                run.fails(4);
                raw.fails(4);
            }
        }
        "load" => {
            assert_eq!(report.json()["supported"], true, "{case}");
            assert!(checked.works().contains("no problems"), "{case}");
            assert!(!checked.stdout.contains(|c: char| c.is_control() && c != '\n'), "{case}");
            run.fails(5);
            raw.fails(5);
        }
        other => panic!("{other}: {case}"),
    }
}
