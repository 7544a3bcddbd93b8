//! Processes: clone, namespaces, signals, execve.

use super::{Result, call, owned, pointer, raw, signed, text};
use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ffi::{c_char, c_int};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;

/// Who returned from [`fork`].
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old one.
    Parent {
        /// Pid of the child in the caller's pid namespace.
        pid: u32,
        /// Its pid descriptor.
        pidfd: OwnedFd,
    },
}

/// Makes a child in a cgroup, or in the caller's, and in new namespaces (clone3(2), CLONE_NEW* in
/// `namespaces`).
pub(crate) fn fork(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Fork> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    #[repr(C)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    let into_cgroup = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let mut pidfd: c_int = -1;
    let arguments = CloneArgs {
        flags: namespaces | into_cgroup | u64::from(libc::CLONE_PIDFD.unsigned_abs()),
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD.unsigned_abs().into(),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, raw) as u64,
    };
    let arguments = [pointer(&arguments), size_of::<CloneArgs>(), 0, 0, 0, 0];
    // SAFETY: the kernel reads a structure of the given size and writes one descriptor. The child
    // has a copy of the memory (no CLONE_VM) and of the only thread, so it is as whole as the
    // parent.
    let pid = unsafe { call(libc::SYS_clone3, arguments) }?;
    if pid == 0 {
        return Ok(Fork::Child);
    }
    let pidfd = owned(usize::try_from(pidfd).map_err(|_| Errno::BADF)?)?;
    Ok(Fork::Parent { pid: u32::try_from(pid).unwrap_or(u32::MAX), pidfd })
}

/// setns(2): joins the namespaces `kinds` (CLONE_NEW*) of a pid or namespace descriptor.
pub(crate) fn join_namespaces(fd: BorrowedFd<'_>, kinds: c_int) -> Result<()> {
    // SAFETY: takes no pointer. The process has one thread, so no other is surprised.
    unsafe { call(libc::SYS_setns, [raw(fd), signed(kinds), 0, 0, 0, 0]) }.map(drop)
}

/// unshare(2).
pub(crate) fn unshare(kinds: c_int) -> Result<()> {
    // SAFETY: takes no pointer. The process has one thread, so no other is surprised.
    unsafe { call(libc::SYS_unshare, [signed(kinds), 0, 0, 0, 0, 0]) }.map(drop)
}

/// Arguments of execve(2), ready, so that the call needs no memory.
pub(crate) struct Image {
    path: CString,
    arguments: Strings,
    environment: Strings,
}

/// Strings and the array of pointers to them that ends with a null pointer.
struct Strings {
    pointers: Vec<*const c_char>,
    _owned: Vec<CString>,
}

impl Strings {
    fn new(owned: Vec<CString>) -> Self {
        let end = core::iter::once(core::ptr::null());
        // What a CString points to does not move with it.
        Self {
            pointers: owned.iter().map(|text| text.as_ptr()).chain(end).collect(),
            _owned: owned,
        }
    }
}

impl Image {
    pub(crate) fn new(path: CString, arguments: Vec<CString>, environment: Vec<CString>) -> Self {
        let (arguments, environment) = (Strings::new(arguments), Strings::new(environment));
        Self { path, arguments, environment }
    }

    /// execve(2); returns only if it failed.
    pub(crate) fn execute(&self) -> Errno {
        let arguments = [
            text(&self.path),
            self.arguments.pointers.as_ptr().expose_provenance(),
            self.environment.pointers.as_ptr().expose_provenance(),
            0,
            0,
            0,
        ];
        // SAFETY: both arrays end with a null pointer, and `self` owns what they point to.
        match unsafe { call(libc::SYS_execve, arguments) } {
            Ok(_) => Errno::IO,
            Err(error) => error,
        }
    }
}

/// Makes these the descriptors 0, 1 and 2, which are open in every process of the agent.
pub(crate) fn put_streams(
    stdin: BorrowedFd<'_>,
    stdout: BorrowedFd<'_>,
    stderr: BorrowedFd<'_>,
) -> Result<()> {
    for (number, stream) in [stdin, stdout, stderr].into_iter().enumerate() {
        // SAFETY: takes no pointer. Nothing in a child owns descriptors 0 to 2.
        unsafe { call(libc::SYS_dup3, [raw(stream), number, 0, 0, 0, 0]) }?;
    }
    Ok(())
}

/// Makes sure that descriptors 0 to 2 are taken: what is opened next must not become a standard
/// stream. They are open already if the initial file system has a /dev/console.
pub(crate) fn reserve_standard_descriptors() {
    for number in 0..3 {
        // SAFETY: takes no pointer.
        if unsafe { call(libc::SYS_fcntl, [number, signed(libc::F_GETFD), 0, 0, 0, 0]) }.is_err() {
            let arguments = [signed(libc::AT_FDCWD), text(c"/"), 0, 0, 0, 0];
            // SAFETY: the kernel reads a string. The lowest free number is the one that was
            // missing, and it stays open for the life of the process.
            let _ = unsafe { call(libc::SYS_openat, arguments) };
        }
    }
}

/// Writes to descriptor 2, the console of PID 1, as far as there is one.
pub(crate) fn write_error(line: &[u8]) {
    let arguments = [2, line.as_ptr().expose_provenance(), line.len(), 0, 0, 0];
    // SAFETY: the kernel reads `line.len()` bytes.
    let _ = unsafe { call(libc::SYS_write, arguments) };
}

/// Ends the process at once.
pub(crate) fn exit(status: u8) -> ! {
    loop {
        // SAFETY: takes no pointer and does not return; nothing of a forked child needs unwinding.
        let _ = unsafe { call(libc::SYS_exit_group, [usize::from(status), 0, 0, 0, 0, 0]) };
    }
}

/// Bytes of the kernel's signal set.
const SIGNAL_SET: usize = 8;

/// Blocks these signals (bit n - 1 is signal n) and no others.
pub(crate) fn block_signals(set: u64) -> Result<()> {
    let arguments = [signed(libc::SIG_SETMASK), pointer(&set), 0, SIGNAL_SET, 0, 0];
    // SAFETY: the kernel reads a set of the given size.
    unsafe { call(libc::SYS_rt_sigprocmask, arguments) }.map(drop)
}

/// Gives SIGPIPE its default effect.
pub(crate) fn restore_pipe_signal() -> Result<()> {
    // SIG_DFL, no flags, an empty mask; the kernel's structure is at most as large.
    let action = [0_u64; 4];
    let arguments = [signed(libc::SIGPIPE), pointer(&action), 0, SIGNAL_SET, 0, 0];
    // SAFETY: the kernel reads its structure from a larger one and runs no code of ours for it.
    unsafe { call(libc::SYS_rt_sigaction, arguments) }.map(drop)
}

/// Has the kernel reap the children of this process by itself.
pub(crate) fn ignore_children() -> Result<()> {
    // SIG_IGN, no flags, an empty mask, as above.
    let action = [1_u64, 0, 0, 0];
    let arguments = [signed(libc::SIGCHLD), pointer(&action), 0, SIGNAL_SET, 0, 0];
    // SAFETY: the kernel reads its structure from a larger one and runs no code of ours for it.
    unsafe { call(libc::SYS_rt_sigaction, arguments) }.map(drop)
}

/// signalfd(2) for these signals.
pub(crate) fn signal_fd(set: u64) -> Result<OwnedFd> {
    let flags = signed(libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
    let arguments = [usize::MAX, pointer(&set), SIGNAL_SET, flags, 0, 0];
    // SAFETY: the kernel reads a set of the given size.
    owned(unsafe { call(libc::SYS_signalfd4, arguments) }?)
}

/// pidfd_send_signal(2); `signal` may be one of the real-time signals, which rustix does not name.
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: u8) -> Result<()> {
    let arguments = [raw(pidfd), usize::from(signal), 0, 0, 0, 0];
    // SAFETY: takes no pointer that is not null.
    unsafe { call(libc::SYS_pidfd_send_signal, arguments) }.map(drop)
}

/// kill(2) for one process.
pub(crate) fn kill(pid: u32, signal: u8) -> Result<()> {
    let pid = c_int::try_from(pid).ok().filter(|pid| *pid > 1).ok_or(Errno::INVAL)?;
    // SAFETY: takes no pointer.
    unsafe { call(libc::SYS_kill, [signed(pid), usize::from(signal), 0, 0, 0, 0]) }.map(drop)
}
