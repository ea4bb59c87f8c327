//! models.toml keeps to its own rules, so that the readers of it may be simple.

mod common;

use std::collections::BTreeMap;

use infer::gguf::File;
use serde_json::Value;

type Entry = BTreeMap<String, Value>;

fn entries() -> Vec<Entry> {
    let text = std::fs::read_to_string(common::repo("models.toml")).unwrap();
    let mut entries: Vec<Entry> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        match line.split_once(" = ") {
            _ if line.is_empty() || line.starts_with('#') => {}
            _ if line == "[[model]]" => entries.push(Entry::new()),
            Some((key, value)) => {
                let value =
                    serde_json::from_str(value).unwrap_or_else(|e| panic!("line {}: {e}", number + 1));
                let twice = entries.last_mut().expect("[[model]]").insert(key.to_owned(), value);
                assert!(twice.is_none(), "line {}: {key} stands twice", number + 1);
            }
            None => panic!("line {}: {line}", number + 1),
        }
    }
    entries
}

const NUMBERS: [&str; 9] =
    ["layers", "width", "ffn", "heads", "kv_heads", "head_dim", "vocab", "context", "rope_base"];

fn number(entry: &Entry, key: &str) -> u64 {
    entry.get(key).and_then(Value::as_u64).unwrap_or_else(|| panic!("{}: no {key}", entry["name"]))
}

#[test]
fn the_table_keeps_its_rules() {
    let entries = entries();
    let mut names: Vec<&str> = entries.iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert!(names.len() >= 13);
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), entries.len(), "a name stands twice");
    for entry in &entries {
        let name = &entry["name"];
        let of = |key| number(entry, key);
        for key in NUMBERS {
            assert!(of(key) > 0, "{name}: {key}");
        }
        assert!(of("heads").is_multiple_of(of("kv_heads")), "{name}: heads");
        assert!(of("width").is_multiple_of(32) && of("ffn").is_multiple_of(32), "{name}: width, ffn");
        assert!(entry["tied"].is_boolean(), "{name}: tied");
        assert!(entry["architecture"].as_str().is_some_and(|a| !a.is_empty()), "{name}: architecture");
        assert!(!entry["types"].as_array().unwrap().is_empty(), "{name}: types");
        let with_file = ["file", "bytes", "sha256", "parts"].map(|k| entry.contains_key(k));
        assert!(with_file == [true; 4] || with_file == [false; 4], "{name}: half a file");
        if entry.contains_key("file") {
            let sum = entry["sha256"].as_str().unwrap();
            assert!(sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit()), "{name}: sha256");
            for part in entry["parts"].as_array().unwrap() {
                let (package, member) = part.as_str().unwrap().split_once(' ').unwrap();
                assert!(package.contains("==") && member.contains('/'), "{name}: {part}");
            }
        }
    }
}

/// Where `make test-models` has fetched a file, it says of itself what its entry says.
#[test]
fn fetched_files_have_the_shape_of_their_entry() {
    let Some(cache) = std::env::var_os("INFER_TEST_MODELS").filter(|v| !v.is_empty()) else {
        common::note("SKIPPED: fetched_files_have_the_shape_of_their_entry: INFER_TEST_MODELS is not set");
        return;
    };
    for entry in entries().iter().filter(|e| e.contains_key("file")) {
        let path = std::path::Path::new(&cache).join(entry["file"].as_str().unwrap());
        if !path.exists() {
            common::note(&format!("SKIPPED: {} has not been fetched", entry["name"]));
            continue;
        }
        let file = File::open(&path).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(file.size(), number(entry, "bytes"));
        let architecture = entry["architecture"].as_str().unwrap();
        assert_eq!(file.get("general.architecture").unwrap().as_str(), Some(architecture));
        let key = |suffix: &str| file.get(&format!("{architecture}.{suffix}"));
        for (ours, theirs) in [
            ("layers", "block_count"),
            ("width", "embedding_length"),
            ("ffn", "feed_forward_length"),
            ("heads", "attention.head_count"),
            ("kv_heads", "attention.head_count_kv"),
            ("context", "context_length"),
        ] {
            assert_eq!(key(theirs).unwrap().as_u64(), Some(number(entry, ours)), "{}: {ours}", entry["name"]);
        }
        #[allow(clippy::cast_precision_loss, reason = "bases are far below 2^24")]
        let base = number(entry, "rope_base") as f32;
        assert_eq!(key("rope.freq_base").unwrap().as_f32(), Some(base));
        assert_eq!(file.tensor("token_embd.weight").unwrap().shape[1], number(entry, "vocab"));
        assert_eq!(
            file.tensor("blk.0.attn_q.weight").unwrap().shape[1],
            number(entry, "heads") * number(entry, "head_dim")
        );
        assert_eq!(file.tensor("output.weight").is_none(), entry["tied"] == Value::Bool(true));
    }
}
