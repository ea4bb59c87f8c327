//! The binary and the system: signals that end it, and what it does where it may not have what it wants.
#![cfg(unix)]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/terminal.rs"]
mod terminal;

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use libc::{SIGHUP, SIGINT, SIGTERM, SIGXCPU};
use program::Infer;
use terminal::Terminal;

/// Files that are not finished.
fn unfinished(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".tmp")).count()
}

/// Commands that write files, long enough to be met at it, and how many files are then under way.
fn writers() -> Vec<(Vec<String>, usize)> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let ids = (0..1000).map(|i| (i * 7 % 4000).to_string()).collect::<Vec<_>>().join(",");
    let mut logits = words("logits --device cpu --threads 1 --all --out l --quiet --ids");
    logits.push(ids);
    vec![
        (logits, 1),
        (words("synth llama-3.2-1b s.gguf --quiet"), 1),
        (words("synth llama-3.2-1b s.gguf --quiet --split 4"), 2),
    ]
}

fn start(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn wait_for_unfinished(folder: &Path, count: usize, what: &dyn std::fmt::Debug) {
    for _ in 0..6000 {
        if unfinished(folder) >= count {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what:?} writes nothing");
}

fn send(child: &Child, signal: i32) {
    // SAFETY: takes numbers; the child is not waited for, so its number is its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

/// Lets a command begin with a signal ignored, as a shell's background jobs and `nohup` do.
fn ignoring(mut command: Command, signal: i32) -> Command {
    // SAFETY: may be called between fork and exec.
    unsafe {
        command.pre_exec(move || {
            libc::signal(signal, libc::SIG_IGN);
            Ok(())
        })
    };
    command
}

/// Lets a command begin with a limit, which the call sets.
fn limited(mut command: Command, most: u64, set: fn(*const libc::rlimit) -> i32) -> Command {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: may be called between fork and exec.
    unsafe {
        command.pre_exec(move || match set(&raw const limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    };
    command
}

/// Of the bytes of a file.
fn limit_files(limit: *const libc::rlimit) -> i32 {
    // SAFETY: the pointer is to a limit.
    unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, limit) }
}

/// Of the bytes of address space.
#[cfg(target_os = "linux")]
fn limit_addresses(limit: *const libc::rlimit) -> i32 {
    // SAFETY: the pointer is to a limit.
    unsafe { libc::setrlimit(libc::RLIMIT_AS, limit) }
}

#[test]
fn nothing_is_left_by_a_signal() {
    for (arguments, files) in writers() {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        for signal in [SIGTERM, SIGHUP, SIGINT, SIGXCPU] {
            let infer = Infer::new();
            let mut child = start(infer.command(&arguments));
            wait_for_unfinished(infer.folder.path(), files, &arguments);
            send(&child, signal);
            let status = child.wait().unwrap();
            // Whoever waits sees the signal, but for Ctrl-C, which has a code.
            let ended = if signal == SIGINT { (Some(130), None) } else { (None, Some(signal)) };
            assert_eq!((status.code(), status.signal()), ended, "{arguments:?}");
            assert_eq!(std::fs::read_dir(infer.folder.path()).unwrap().count(), 0, "{arguments:?}");
        }
    }
}

#[test]
fn what_the_parent_ignores_stays_ignored() {
    let (arguments, files) = &writers()[1];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let infer = Infer::new();
    let mut child = start(ignoring(infer.command(&arguments), SIGHUP));
    wait_for_unfinished(infer.folder.path(), *files, &arguments);
    // Signals that wait are told of in their numbers' order: SIGHUP comes first.
    send(&child, SIGHUP);
    send(&child, SIGTERM);
    assert_eq!(child.wait().unwrap().signal(), Some(SIGTERM));
    // A background job is sent its own Ctrl-C.
    let mut child = start(ignoring(infer.command(&arguments), SIGINT));
    wait_for_unfinished(infer.folder.path(), *files, &arguments);
    send(&child, SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // The terminal's is for others.
    let mut terminal = Terminal::start(ignoring(infer.command(&arguments), SIGINT));
    wait_for_unfinished(infer.folder.path(), *files, &arguments);
    terminal.send(&[3]);
    terminal.until("^C");
    terminal.signal(SIGTERM);
    let (status, text) = terminal.end();
    assert_eq!(status.signal(), Some(SIGTERM), "{text}");
    assert_eq!(std::fs::read_dir(infer.folder.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_may_not_grow_is_an_error() {
    for (arguments, _) in writers() {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let infer = Infer::new();
        let mut command = limited(infer.command(&arguments), 1 << 20, limit_files);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr}");
        assert_eq!(std::fs::read_dir(infer.folder.path()).unwrap().count(), 0, "{arguments:?}");
    }
}

/// A pipe that nobody closes is waited for, which is said, and Ctrl-C ends it.
#[test]
fn a_pipe_without_an_end_can_be_left() {
    let infer = Infer::new();
    let mut command = infer.command(&["run", "--device", "cpu", "--prompt", "x"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("note: waiting for the end of stdin"), "{line}");
    send(&child, SIGINT);
    // Which `wait` would close.
    let stdin = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(stdin);
}

/// Too few threads are a line and a code. Whoever may do everything has as many as there are, so the
/// binary runs as somebody else then.
#[cfg(target_os = "linux")]
#[test]
fn too_few_threads_are_an_error() {
    use std::os::unix::fs::PermissionsExt;
    const NOBODY: u32 = 65534;
    let infer = Infer::new();
    std::fs::set_permissions(infer.folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_infer"), infer.path("infer")).unwrap();
    let limit = |limit: *const libc::rlimit| {
        // SAFETY: the pointer is to a limit.
        unsafe { libc::setrlimit(libc::RLIMIT_NPROC, limit) }
    };
    for arguments in [
        &["logits", "--device", "cpu", "--ids", "1,2", "--out", "o", "--threads", "8"][..],
        &["synth", "smollm2-135m", "o", "--layers", "1"],
    ] {
        for most in [1, 2] {
            let mut command = Command::new(infer.path("infer"));
            command.current_dir(infer.folder.path()).args(arguments).stdin(Stdio::null());
            // SAFETY: asks for a number.
            if unsafe { libc::geteuid() } == 0 {
                command.uid(NOBODY).gid(NOBODY);
            }
            let output = limited(command, most, limit).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(
                matches!(output.status.code(), Some(1 | 5)),
                "{arguments:?} {most}: {}: {stderr}",
                output.status
            );
            assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr}");
            assert!(!infer.path("o").exists() && unfinished(infer.folder.path()) == 0, "{arguments:?}");
        }
    }
}

/// Too little address space is a line and a code, wherever it runs out.
#[cfg(target_os = "linux")]
#[test]
fn too_little_address_space_is_an_error() {
    let infer = Infer::new();
    for arguments in [
        &["run", "--device", "cpu", "--prompt", "hi", "-n", "3", "--quiet"][..],
        &["inspect", "--check"],
        &["tokenize", "--text", "hi"],
    ] {
        for kib in [90_000, 100_000, 150_000, 200_000, 400_000] {
            let mut command = limited(infer.command(arguments), kib << 10, limit_addresses);
            let output = command.stdin(Stdio::null()).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            match output.status.code() {
                Some(0) => assert!(!output.stdout.is_empty(), "{arguments:?}"),
                Some(1 | 5) => {
                    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr}")
                }
                _ => panic!("{arguments:?} in {kib} KiB: {}: {stderr}", output.status),
            }
        }
    }
}
