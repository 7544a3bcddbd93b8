//! Boot: from the first instruction to the first request.
//!
//! 1. Connect to the host and say Hello: the host makes the next request while we go on.
//! 2. Make a root that can be exchanged. The initial RAM file system is the root of everything and
//!    pivot_root(2) does not work on it; a second mount of it over itself does not have that
//!    restriction and costs nothing.
//! 3. Mount proc, devices and cgroups, which the first container needs.
//!
//! `Configure` brings the rest: time, randomness, shares.

use crate::control::Control;
use crate::failure::{Outcome, failed, refused};
use crate::poller::{Poller, Source};
use crate::transport::Host;
use crate::{container, layout, sys};
use agent_protocol::{
    AGENT_VERSION_MARK, CONTROL_PORT, ErrorKind, GuestConfig, GuestMessage, MAX_GUEST_FRAME,
    SHARES_TAG, VERSION, encode,
};
use alloc::ffi::CString;
use core::ffi::CStr;
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

/// All signals: none of them may interrupt PID 1, and SIGCHLD is read from a descriptor.
const ALL_SIGNALS: u64 = u64::MAX;
/// SIGCHLD in a signal set.
const CHILD_SIGNAL: u64 = 1 << (libc::SIGCHLD - 1);

/// A guest that is up and connected.
pub(crate) struct Booted {
    pub(crate) control: Control,
    pub(crate) poller: Poller,
    /// Readable when a child has ended.
    pub(crate) signals: OwnedFd,
    pub(crate) own_pid_namespace: OwnedFd,
}

/// Brings the guest up and connects it.
pub(crate) fn boot(host: Host<'_>, start_ns: u64) -> Outcome<Booted> {
    sys::reserve_standard_descriptors();
    let stream = host
        .connect(CONTROL_PORT)
        .map_err(|errno| failed(format_args!("connecting to the host"), errno))?;
    say_hello(&stream, start_ns)?;
    rustix::io::ioctl_fionbio(&stream, true)
        .map_err(|errno| failed(format_args!("setting up the control stream"), errno))?;
    // Not even root in a container that shares the pid namespace may trace us without
    // CAP_SYS_PTRACE.
    let _ = sys::process_control(libc::PR_SET_DUMPABLE, 0, 0);
    let (poller, signals) = set_up_loop(&stream)
        .map_err(|errno| failed(format_args!("setting up the event loop"), errno))?;
    for directory in layout::DIRECTORIES {
        match mkdirat(CWD, directory, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(format_args!("making {directory:?}"), errno)),
        }
    }
    cover_root().map_err(|errno| failed(format_args!("covering the root"), errno))?;
    mount(c"proc", c"/proc", c"proc", libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC, c"")?;
    mount(c"dev", c"/dev", c"devtmpfs", libc::MS_NOSUID | libc::MS_NOEXEC, c"mode=755")?;
    mount(c"tmpfs", layout::EMPTY, c"tmpfs", libc::MS_RDONLY, c"")?;
    // A container must not raise its own limits (nsdelegate), and those of a cgroup that it makes
    // protect what is beneath (memory_recursiveprot).
    let options = c"nsdelegate,memory_recursiveprot";
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount(c"cgroup", layout::CGROUPS, c"cgroup2", flags, options)?;
    container::enable_controllers()
        .map_err(|errno| failed(format_args!("enabling cgroup controllers"), errno))?;
    let own_pid_namespace = openat(CWD, c"/proc/self/ns/pid", OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed(format_args!("opening the pid namespace"), errno))?;
    Ok(Booted { control: Control::new(stream), poller, signals, own_pid_namespace })
}

fn say_hello(stream: &OwnedFd, start_ns: u64) -> Outcome<()> {
    let name = rustix::system::uname();
    let hello = GuestMessage::Hello {
        version: VERSION,
        agent_start_ns: start_ns,
        now_ns: sys::boot_time_ns(),
        kernel_release: name.release().to_string_lossy().into_owned(),
    };
    let frame = encode(&hello, MAX_GUEST_FRAME)
        .map_err(|_| refused(ErrorKind::Failed, format_args!("Hello cannot be encoded")))?;
    let mut rest = frame.as_slice();
    while !rest.is_empty() {
        match rustix::io::write(stream, rest) {
            Ok(count) => rest = rest.get(count..).unwrap_or(&[]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(format_args!("saying Hello"), errno)),
        }
    }
    Ok(())
}

fn set_up_loop(stream: &OwnedFd) -> Result<(Poller, OwnedFd), Errno> {
    sys::block_signals(ALL_SIGNALS)?;
    let signals = sys::signal_fd(CHILD_SIGNAL)?;
    let poller = Poller::new()?;
    poller.watch(stream.as_fd(), Source::Control, EventFlags::IN)?;
    poller.watch(signals.as_fd(), Source::Signals, EventFlags::IN)?;
    Ok((poller, signals))
}

/// Mounts the root over itself and moves into the copy.
fn cover_root() -> Result<(), Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let copy = open_tree(CWD, c"/", flags)?;
    move_mount(&copy, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    rustix::process::fchdir(&copy)?;
    rustix::process::chroot(c".")
}

fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64, data: &CStr) -> Outcome<()> {
    sys::mount(Some(source), target, Some(kind), flags, Some(data))
        .map_err(|errno| failed(format_args!("mounting {kind:?} at {target:?}"), errno))
}

/// Executes the first request.
pub(crate) fn configure(config: &GuestConfig) -> Outcome<()> {
    if config.version != VERSION {
        return Err(refused(
            ErrorKind::InvalidArgument,
            // The mark has to be in the program; here it is of use, too.
            format_args!("{AGENT_VERSION_MARK} the host speaks version {}", config.version),
        ));
    }
    // 0 leaves the clock as it is.
    if config.realtime_ns != 0 {
        set_time(config.realtime_ns)?;
    }
    openat(CWD, c"/dev/urandom", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|device| sys::add_entropy(device.as_fd(), &config.seed))
        .map_err(|errno| failed(format_args!("seeding the random number generator"), errno))?;
    if config.shares {
        let tag = CString::new(SHARES_TAG).unwrap_or_default();
        let target = CString::new(layout::SHARES).unwrap_or_default();
        // No flags: set-user-ID programs and device nodes of a root have to work, as on the host.
        mount(&tag, &target, c"virtiofs", 0, c"")?;
    }
    if let Ok((_, hard)) = sys::limit(libc::RLIMIT_NOFILE) {
        let _ = sys::set_limit(libc::RLIMIT_NOFILE, hard, hard);
    }
    Ok(())
}

/// Sets the guest's clock.
pub(crate) fn set_time(realtime_ns: u64) -> Outcome<()> {
    sys::set_real_time(realtime_ns)
        .map_err(|errno| failed(format_args!("setting the clock to {realtime_ns} ns"), errno))
}
