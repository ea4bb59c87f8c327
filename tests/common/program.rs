//! The binary as users call it.
#![allow(dead_code, reason = "every test binary takes what it needs")]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

/// What a run left.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Asserts a failure: its code, nothing on stdout, and one line on stderr, which is given
    /// back.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        let line = self.stderr.strip_suffix('\n').unwrap_or_else(|| panic!("no whole line: {self:?}"));
        assert!(line.starts_with("error: ") && !line.contains(char::is_control), "{self:?}");
        line
    }

    /// Asserts success, and gives stdout.
    #[track_caller]
    pub(crate) fn works(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        &self.stdout
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.works()).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// The binary in an empty folder of its own.
pub(crate) struct Infer {
    pub(crate) folder: tempfile::TempDir,
}

impl Infer {
    pub(crate) fn new() -> Infer {
        Infer { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> &Infer {
        std::fs::write(self.path(name), bytes).unwrap();
        self
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_infer"));
        command.current_dir(self.folder.path()).args(arguments);
        // What is measured for tests is the tests' own.
        command.env("INFER_CACHE_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        self.piped(arguments, "")
    }

    /// Runs with a text on stdin.
    pub(crate) fn piped(&self, arguments: &[&str], stdin: &str) -> Run {
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

pub(crate) fn run(arguments: &[&str]) -> Run {
    Infer::new().run(arguments)
}
