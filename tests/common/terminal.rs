//! The binary on a terminal: a pseudo-terminal, of which the tests hold the other end.
#![allow(dead_code, reason = "every test binary takes what it needs")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Nothing takes that long; a test that waits for what does not come ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program on a terminal of its own.
pub(crate) struct Terminal {
    child: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    /// What [`Terminal::until`] has gone over.
    read: usize,
}

impl Terminal {
    /// Starts a command with stdin, stdout and stderr on it.
    pub(crate) fn start(mut command: Command) -> Terminal {
        let (ours, its) = pair();
        let copy = || Stdio::from(its.try_clone().unwrap());
        command.env("TERM", "xterm").stdin(copy()).stdout(copy()).stderr(copy());
        // SAFETY: both calls may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                // Its first signal from the terminal: Ctrl-C.
                libc::ioctl(0, libc::TIOCSCTTY as _, 0);
                Ok(())
            })
        };
        let child = command.spawn().unwrap();
        drop((command, its));
        let keyboard = File::from(ours);
        let mut reader = keyboard.try_clone().unwrap();
        let (send, screen) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // At the end there is an error.
            while let Ok(n @ 1..) = reader.read(&mut bytes) {
                if send.send(bytes[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal { child, keyboard, screen, seen: Vec::new(), read: 0 }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.keyboard.write_all(bytes).unwrap();
    }

    /// True once the program has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Sends a signal to the program.
    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: takes numbers; the child is not waited for, so its number is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Waits until the program writes this behind what was waited for before; gives what comes with it.
    #[track_caller]
    pub(crate) fn until(&mut self, text: &str) -> String {
        loop {
            let new = &self.seen[self.read..];
            if let Some(at) = new.windows(text.len()).position(|w| w == text.as_bytes()) {
                let end = self.read + at + text.len();
                let found = String::from_utf8_lossy(&self.seen[self.read..end]).into_owned();
                self.read = end;
                return found;
            }
            match self.screen.recv_timeout(PATIENCE) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(_) => panic!("no {text:?} in {:?}", String::from_utf8_lossy(new)),
            }
        }
    }

    /// True while lines are edited by the terminal itself, as they are outside of a line editor.
    pub(crate) fn is_canonical(&self) -> bool {
        // SAFETY: all zero bits are a termios, which the call fills.
        unsafe {
            let mut state: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(self.keyboard.as_raw_fd(), &raw mut state), 0);
            state.c_lflag & libc::ICANON != 0 && state.c_lflag & libc::ECHO != 0
        }
    }

    /// Waits for the program's end; gives its status and everything it has written.
    pub(crate) fn end(&mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let text = String::from_utf8_lossy(&self.seen).into_owned();
                panic!("it does not end: {text:?}");
            }
            self.seen.extend(self.screen.recv_timeout(Duration::from_millis(20)).unwrap_or_default());
        };
        // The last of it may still be on its way.
        while let Ok(bytes) = self.screen.recv_timeout(Duration::from_millis(500)) {
            self.seen.extend(bytes);
        }
        (status, String::from_utf8_lossy(&self.seen).into_owned())
    }
}

/// Nothing outlives its test.
impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both ends of a terminal: ours and its.
fn pair() -> (OwnedFd, OwnedFd) {
    let (mut ours, mut its) = (0, 0);
    let null = std::ptr::null_mut();
    // SAFETY: the pointers are to two numbers or null, and what is made is nobody else's.
    unsafe {
        assert_eq!(libc::openpty(&raw mut ours, &raw mut its, null, null.cast(), null.cast()), 0);
        libc::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC);
        (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(its))
    }
}
