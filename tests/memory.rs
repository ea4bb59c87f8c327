//! Long results are written while they are made: what is held does not grow with what comes out.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs the program; gives the bytes that it wrote, and the most memory that it held.
#[allow(clippy::zombie_processes, reason = "it is waited for by a call that tells what it held")]
fn run(arguments: &[&str], folder: &Path) -> (u64, u64) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_infer"));
    let mut child = command.current_dir(folder).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let written = std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    let (pid, mut status) = (libc::pid_t::try_from(child.id()).unwrap(), -1);
    // SAFETY: an all-zero `rusage` is a valid one, the call fills in what it is given, and the child has
    // not been waited for.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::wait4(pid, &raw mut status, 0, &raw mut usage), pid);
        usage
    };
    assert_eq!(status, 0);
    let held = u64::try_from(usage.ru_maxrss).unwrap() << 10;
    eprintln!("{arguments:?}: {written} bytes written, {held} held");
    (written, held)
}

/// A file of parts that are written one by one: what this process has ever held counts as its child's.
fn write(path: &Path, head: &[u8], part: &[u8], parts: u64) -> u64 {
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(head).unwrap();
    (0..parts).for_each(|_| file.write_all(part).unwrap());
    file.flush().unwrap();
    head.len() as u64 + parts * part.len() as u64
}

#[test]
fn results_are_not_held_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (_, least) = run(&["inspect", "--json"], folder.path());
    // A key with a list of texts, of characters that JSON writes as six.
    let strings = 250_000u64;
    let mut head = b"GGUF\x03\0\0\0".to_vec();
    head.extend([0, 1, 5].iter().flat_map(|n: &u64| n.to_le_bytes()));
    head.extend(b"texts\x09\0\0\0\x08\0\0\0");
    head.extend(strings.to_le_bytes());
    let part = [&40u64.to_le_bytes()[..], &[1; 40]].concat();
    let size = write(&folder.path().join("m.gguf"), &head, &part, strings);
    let (written, held) = run(&["inspect", "m.gguf", "--json"], folder.path());
    assert!(written > 5 * size, "{written} bytes");
    assert!(held < least + 2 * size, "{held} bytes held for {size}, {least} for none");
    // Two tokens for three bytes.
    let size = write(&folder.path().join("text.txt"), b"", b"q7 ", 1_000_000);
    for json in [&[][..], &["--json"]] {
        let flags = [&["tokenize", "--file", "text.txt", "--no-special"], json].concat();
        let (written, held) = run(&flags, folder.path());
        assert!(written > 8 * size, "{written} bytes");
        assert!(held < least + 6 * size, "{held} bytes held for {size}, {least} for none");
    }
}
