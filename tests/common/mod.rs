//! Where the tests find their data, and how much of it they take.
#![allow(dead_code, reason = "every test binary takes what it needs")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Once;

/// A file or folder of this repository.
pub(crate) fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The large set of fixtures, where this machine has it: `INFER_SHARED`, else `shared` beside
/// the repository.
pub(crate) fn shared() -> Option<PathBuf> {
    match std::env::var_os("INFER_SHARED").filter(|v| !v.is_empty()) {
        Some(named) => {
            let path = PathBuf::from(named);
            // A mistyped name must not turn the large set into the small one.
            assert!(path.is_dir(), "INFER_SHARED is {}, which is no directory", path.display());
            Some(path)
        }
        None => Some(repo("../shared")).filter(|p| p.join("fixtures").is_dir()),
    }
}

/// The fixtures: the large set, or the small one that every clone has. Its folders are `models`,
/// `blocks` and `malformed`.
pub(crate) fn fixtures() -> PathBuf {
    static SAID: Once = Once::new();
    match shared() {
        Some(shared) => shared.join("fixtures"),
        None => {
            SAID.call_once(|| {
                note(
                    "SKIPPED: most fixtures (55 models, 118 malformed files): INFER_SHARED is \
                     not set; testing with those in tests/data/fixtures",
                );
            });
            repo("tests/data/fixtures")
        }
    }
}

/// A prompt of a fixture, and the exact logits after its tokens.
pub(crate) fn golden(path: &Path, prompt: &str, logits: &str) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(path.with_extension("golden.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| -> Vec<u32> {
        let tensor = file.tensor(name).unwrap();
        tensor.data().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
    };
    (words(prompt), words(logits).into_iter().map(f32::from_bits).collect())
}

/// True when everything is to be tested, not only what is quick.
pub(crate) fn full() -> bool {
    match std::env::var("INFER_TEST_FULL").as_deref() {
        Ok("1") => true,
        Ok("" | "0") | Err(_) => false,
        // Whoever means all should not get some.
        Ok(other) => panic!("INFER_TEST_FULL={other}: must be 1 (on) or 0 (off)"),
    }
}

/// Says something on the real stderr: what goes through `eprintln!` is only shown of a test
/// that fails, and a skip must always be seen.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The files of a folder with an extension, sorted by name.
pub(crate) fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut found: Vec<PathBuf> = entries
        .map(|e| e.expect("a directory entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    found.sort();
    found
}
