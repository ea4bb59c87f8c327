//! Signals that end a process: one that ends by one of them is seen to, by its exit status.

use std::io;

use libc::{SIG_IGN, SIGHUP, SIGINT, SIGTERM, SIGXCPU, SIGXFSZ, c_int, siginfo_t};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithRawSiginfo;
use signal_hook::low_level;

use crate::cli::terminal;

/// Starts the thread that waits for signals.
///
/// SIGQUIT is left alone: it asks for a dump of all there is, temporary files included.
pub(super) fn listen() -> io::Result<()> {
    // A file that grows too large is an error of writing it, as on a full disk.
    // SAFETY: to ignore a signal runs no code.
    unsafe { libc::signal(SIGXFSZ, SIG_IGN) };
    let in_background = is_ignored(SIGINT);
    // What the parent lets us ignore stays ignored: SIGHUP under `nohup`, say.
    let heard = [SIGTERM, SIGHUP, SIGXCPU].into_iter().filter(|signal| !is_ignored(*signal));
    let mut signals = SignalsInfo::<WithRawSiginfo>::new(heard.chain([SIGINT]))?;
    let wait = move || signals.forever().for_each(|info| on_signal(&info, in_background));
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(|_| ())
}

fn on_signal(info: &siginfo_t, in_background: bool) {
    match info.si_signo {
        // A shell's background job: the terminal's Ctrl-C is for others, but a signal that
        // somebody sends to this process is meant.
        SIGINT if in_background && !is_sent(info) => {}
        SIGINT => super::on_interrupt(),
        signal => {
            super::clean_up();
            terminal::new_line();
            // Whoever waits for this process sees the signal. What cannot be ended so ends as shells say it.
            let _ = low_level::emulate_default_handler(signal);
            exit(128 + signal);
        }
    }
}

/// Ends the process now: drivers' threads may be at work, for which nothing is torn down.
pub(super) fn exit(code: i32) -> ! {
    low_level::exit(code)
}

/// True of a signal that a process has sent, not the system.
fn is_sent(info: &siginfo_t) -> bool {
    // `SI_USER`, which libc has for some systems only.
    const BY_KILL: c_int = if cfg!(target_vendor = "apple") { 0x10001 } else { 0 };
    info.si_code <= 0 || info.si_code == BY_KILL
}

fn is_ignored(signal: c_int) -> bool {
    // SAFETY: all zero bits are a sigaction, and the pointers are to one and null.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == SIG_IGN
    }
}
