//! What keeps a file that shrinks while it is mapped from ending the process.
//!
//! Reading a page that the file no longer has raises SIGBUS. The handler looks the address up
//! among the maps that are watched; there it puts zeros in the place of the map's rest and marks
//! the map, and the read goes on. Whoever reads asks afterwards ([`Watch::damaged`]). What is not
//! in a map of ours is handed to whatever handled the signal before. So is a signal that somebody has sent:
//! it ends the process, unless it was ignored or handled before us, and then the maps stay under watch.
//!
//! The handler may run between any two instructions, so it touches atomics and calls the
//! system, and nothing else: no lock, no allocation. What it interrupts finds its `errno` as it was.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use libc::{c_int, c_void, siginfo_t};

/// Maps that can be watched at a time; a process may not open many more files than that.
const MOST: usize = 1 << 14;

/// A map. `start` is 0 while there is none: whoever sets it has set the rest before.
struct Slot {
    taken: AtomicBool,
    start: AtomicUsize,
    len: AtomicUsize,
    damaged: AtomicBool,
}

static SLOTS: [Slot; MOST] = [const {
    Slot {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        damaged: AtomicBool::new(false),
    }
}; MOST];

/// Bytes of a page; a power of two.
static PAGE: AtomicUsize = AtomicUsize::new(0);
/// What was done about the signal before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// A map under watch, until it is dropped. That must be before the map goes.
pub(super) struct Watch(&'static Slot);

impl Watch {
    /// Watches the map at these bytes.
    ///
    /// # Errors
    /// Where too many are watched, or the system lets nobody handle the signal.
    pub(super) fn new(map: &[u8]) -> io::Result<Watch> {
        static INSTALLED: OnceLock<bool> = OnceLock::new();
        if !*INSTALLED.get_or_init(install) {
            return Err(io::Error::other("the system lets nobody handle SIGBUS"));
        }
        let free = |slot: &&Slot| slot.taken.compare_exchange(false, true, SeqCst, SeqCst).is_ok();
        let slot = SLOTS.iter().find(free).ok_or_else(|| io::Error::other("too many files are open"))?;
        slot.damaged.store(false, SeqCst);
        slot.len.store(map.len(), SeqCst);
        slot.start.store(map.as_ptr().addr(), SeqCst);
        Ok(Watch(slot))
    }

    /// True once a page of the map was gone when it was read.
    pub(super) fn damaged(&self) -> bool {
        self.0.damaged.load(SeqCst)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.start.store(0, SeqCst);
        self.0.taken.store(false, SeqCst);
    }
}

/// Installs the handler; false where that fails.
fn install() -> bool {
    // SAFETY: asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let Some(page) = usize::try_from(page).ok().filter(|p| p.is_power_of_two()) else { return false };
    PAGE.store(page, SeqCst);
    // SAFETY: all zero bits are a sigaction (no handler, no signal blocked), the pointers are to
    // one or null, and the handler is of the kind that SA_SIGINFO asks for. On the alternative
    // stack it finds room even where the thread's own is used up.
    unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before) != 0 {
            return false;
        }
        // Known before the handler can need it.
        let _ = BEFORE.set(before);
        let mut ours: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_bus_error;
        ours.sa_sigaction = handler as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut ours.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const ours, std::ptr::null_mut()) == 0
    }
}

extern "C" fn on_bus_error(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let errno = errno::errno();
    // SAFETY: the system hands a signal's information over with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    // The codes of accesses that fail: these alone have an address. A signal that somebody has sent
    // has the sender in its place, and does not repeat itself.
    let is_access = matches!(code, 1..=5);
    if !is_access {
        hand_on(signal, info, context);
    } else if !repair_any(
        // SAFETY: the signal is of an access that failed.
        unsafe { (*info).si_addr() }.addr(),
    ) && let Some(before) = BEFORE.get()
    {
        // Not ours: returning repeats what has failed, and this time it ends as it would have.
        // SAFETY: the action is one that the system gave.
        unsafe { libc::sigaction(libc::SIGBUS, before, std::ptr::null_mut()) };
    }
    errno::set_errno(errno);
}

/// Does about a signal that repeats nothing what was done about it before.
///
/// That handler is called and not put back in our place: the standard library's, which expects an access that is
/// repeated, does nothing but choose the system's default and return, and the process would live on without
/// us. Where the default is chosen, the signal is raised once more, and ends the process.
fn hand_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let Some(before) = BEFORE.get() else { return };
    match before.sa_sigaction {
        libc::SIG_IGN => return,
        libc::SIG_DFL => {
            // SAFETY: the action is one that the system gave.
            unsafe { libc::sigaction(signal, before, std::ptr::null_mut()) };
        }
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: it is no constant, so with this flag it is a function of these three.
            let handler = unsafe {
                std::mem::transmute::<usize, extern "C" fn(c_int, *mut siginfo_t, *mut c_void)>(handler)
            };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: it is no constant, so without the flag it is a function of the signal alone.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(handler) };
            handler(signal);
        }
    }
    // SAFETY: all zero bits are a sigaction, and the pointers are to one and null. The signal that is sent
    // waits until the handler has returned, as it is blocked so long.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        let known = libc::sigaction(signal, std::ptr::null(), &raw mut now) == 0;
        if known && now.sa_sigaction == libc::SIG_DFL {
            libc::raise(signal);
        }
    }
}

/// Repairs the map that an address is in; false where it is in none.
fn repair_any(at: usize) -> bool {
    SLOTS.iter().any(|slot| repair(slot, at))
}

/// Puts zeros in the place of a map from an address on; false where the address is not in it.
fn repair(slot: &Slot, at: usize) -> bool {
    let start = slot.start.load(SeqCst);
    let len = slot.len.load(SeqCst);
    // A slot that changes hands meanwhile was not that of the address: that map is being read.
    if start == 0 || slot.start.load(SeqCst) != start || at.wrapping_sub(start) >= len {
        return false;
    }
    slot.damaged.store(true, SeqCst);
    let page = at & !PAGE.load(SeqCst).wrapping_sub(1);
    // What lies behind is gone as well, and a map per page would be more than the system has.
    let rest = len.wrapping_sub(page.wrapping_sub(start));
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED;
    let place = std::ptr::without_provenance_mut::<c_void>(page);
    // SAFETY: these are pages of a read-only map of ours, which lives for as long as it is watched.
    // Reads of them give zeros from now on, as the reader will find out by the mark.
    let zeros = unsafe { libc::mmap(place, rest, libc::PROT_READ, flags, -1, 0) };
    zeros != libc::MAP_FAILED
}
