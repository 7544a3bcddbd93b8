//! Signals that are meant for the container: taken out of the process and read from a descriptor.
#![expect(unsafe_code, reason = "sigprocmask(2) and signalfd(2)")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// Highest signal number of Linux.
const LAST: i32 = 64;

/// Not forwarded: those that cannot be, those of the process's own faults and children, and the two
/// that glibc keeps for itself.
const KEPT: [i32; 13] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGCHLD,
    libc::SIGPIPE,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGSYS,
    32,
    33,
];

/// A signal that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) number: u8,
    /// The kernel sent it of itself, as a terminal's driver does.
    pub(crate) by_kernel: bool,
}

/// The signals of this process, from now on read here. They stay blocked: the process ends soon
/// after, and a signal that comes in between must not cut its cleaning up short.
#[derive(Debug)]
pub(crate) struct Signals {
    descriptor: AsyncFd<OwnedFd>,
}

impl Signals {
    /// Blocks signals in this thread and those that it starts; call before any other is started,
    /// unless that has blocked them.
    ///
    /// # Errors
    /// Those of sigprocmask(2) and signalfd(2).
    pub(crate) fn take() -> io::Result<Self> {
        let set = forwarded();
        block()?;
        // SAFETY: `set` is initialized; -1 asks for a new descriptor.
        let raw =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above has just made this descriptor, and nobody else owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(Self { descriptor: crate::watched::watch(descriptor)? })
    }

    /// The next signal. Nothing is lost if the caller gives up waiting.
    pub(crate) async fn next(&self) -> io::Result<Received> {
        loop {
            let mut guard = self.descriptor.readable().await?;
            match read_one(guard.get_inner()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                other => return other,
            }
        }
    }
}

/// Blocks them in this thread and those that it starts.
///
/// # Errors
/// Those of sigprocmask(2).
pub(crate) fn block() -> io::Result<()> {
    let set = forwarded();
    // SAFETY: both arguments are valid; no old set is asked for.
    check(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) })
}

fn forwarded() -> libc::sigset_t {
    let mut set = empty_set();
    for signal in (1..=LAST).filter(|signal| !KEPT.contains(signal)) {
        // SAFETY: `set` is an initialized set of this function.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

fn read_one(descriptor: &OwnedFd) -> io::Result<Received> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the buffer is `size` bytes of this function; the kernel writes whole records.
    let read = unsafe { libc::read(descriptor.as_raw_fd(), info.as_mut_ptr().cast(), size) };
    if read < 0 {
        return Err(io::Error::last_os_error());
    }
    if usize::try_from(read).ok() != Some(size) {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    // SAFETY: the kernel has filled the whole record.
    let info = unsafe { info.assume_init() };
    let number =
        u8::try_from(info.ssi_signo).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // sigaction(2): SI_USER and the like are 0 or negative, the kernel's own are above.
    Ok(Received { number, by_kernel: info.ssi_code > 0 })
}

/// Lets every signal through, in a child before it executes its program.
pub(crate) fn unblock_all() {
    let set = empty_set();
    // SAFETY: both arguments are valid. It cannot fail with SIG_SETMASK and a valid set.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}

fn empty_set() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the pointer is to writable memory of the right size.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: sigemptyset has initialized it; it cannot fail for a valid pointer.
    unsafe { set.assume_init() }
}

fn check(code: i32) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}
