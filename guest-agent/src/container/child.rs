//! What a child does between clone and execve: it builds the container around itself, or joins
//! one, and becomes its process. The order is that of the runtime spec and of the kernel; each
//! step has its own error, which goes back through the channel.
#![expect(unsafe_code, reason = "closes the agent's descriptors")]

use super::channel::{ChildEnd, Executed};
use super::{credentials, devices, hooks, mounts, namespaces, rootfs, terminal, user_namespace};
use super::{keeper, program};
use crate::failure::{Outcome, failed, of_kind};
use crate::sys;
use agent_protocol::{
    ContainerPlan, ErrorKind, Namespaces, ProcessPlan, RootSource, SeccompPlan, StartHooks,
};
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, makedev, openat};
use rustix::io::Errno;

/// A child's ends of the pipes for its standard streams; the agent's /dev/null where there is none.
pub(crate) type Streams = [Option<OwnedFd>; 3];

/// What a further process joins.
pub(super) struct Joined<'a> {
    /// Pid descriptor of the container's first process.
    pub(super) init: BorrowedFd<'a>,
    pub(super) namespaces: Namespaces,
    pub(super) seccomp: Option<&'a SeccompPlan>,
}

/// What the agent has prepared for a first process.
pub(super) struct Given<'a> {
    /// Device nodes that were made for it.
    pub(super) nodes: Vec<OwnedFd>,
    /// Pid descriptor of the container whose namespaces it shares.
    pub(super) sharer: Option<BorrowedFd<'a>>,
}

/// In the child of a clone: becomes a container's first process. Does not return.
pub(super) fn become_init(
    plan: &ContainerPlan,
    streams: Streams,
    given: Given<'_>,
    channel: ChildEnd,
) -> ! {
    close_others(&streams, &channel, given.nodes.iter().map(AsFd::as_fd).chain(given.sharer));
    let error = match build(plan, streams, given, &channel) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    channel.fail(error);
    sys::exit(1)
}

/// In the child of a clone: becomes a further process. Does not return.
pub(super) fn become_process(
    plan: &ProcessPlan,
    joined: &Joined<'_>,
    streams: Streams,
    channel: ChildEnd,
) -> ! {
    close_others(&streams, &channel, [joined.init].into_iter());
    let error = match join(plan, joined, streams, &channel) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    channel.fail(error);
    sys::exit(1)
}

/// Closes everything but what the child needs: copies of the agent's descriptors would hold other
/// containers' streams open.
fn close_others<'a>(
    streams: &'a Streams,
    channel: &'a ChildEnd,
    other: impl Iterator<Item = BorrowedFd<'a>>,
) {
    let mut keep: Vec<u32> = streams
        .iter()
        .flatten()
        .map(AsFd::as_fd)
        .chain([channel.fd.as_fd()])
        .chain(other)
        .filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok())
        .collect();
    keep.sort_unstable();
    // The agent's own 0 to 2 are replaced later.
    let mut first = 3;
    for fd in keep {
        if fd > first {
            // SAFETY: this is a copy of the agent whose server is never used again: the child
            // leaves by execve or exit, without dropping what it has copied.
            let _ = unsafe { sys::close_range(first, fd - 1) };
        }
        first = first.max(fd.saturating_add(1));
    }
    // SAFETY: as above.
    let _ = unsafe { sys::close_range(first, u32::MAX) };
}

fn build(
    plan: &ContainerPlan,
    streams: Streams,
    Given { nodes, sharer }: Given<'_>,
    channel: &ChildEnd,
) -> Executed {
    let has_users = plan.namespaces.user;
    let spare_null = begin(&plan.init, has_users)?;
    if has_users {
        if !matches!(channel.wait(), Ok(true)) {
            // The agent has given up on this process and nobody listens.
            sys::exit(1);
        }
        user_namespace::become_root()?;
    }
    if let (Some(sharer), Some(shared)) = (sharer, &plan.shared) {
        namespaces::join_shared(sharer, shared)?;
    }
    namespaces::set_up(plan.namespaces)?;
    if plan.root.source == RootSource::Nothing {
        return keeper::keep(plan, channel);
    }
    let root = rootfs::attach(&plan.root)?;
    let deferred = mounts::mount_all(root.as_fd(), plan)?;
    if !mounts::dev_is_shared(plan) {
        devices::make_all(root.as_fd(), plan, &nodes)?;
    }
    drop(nodes);
    if plan.init.stdio.terminal.is_some() {
        terminal::make_console(root.as_fd())?;
    }
    rootfs::make_working_directory(root.as_fd(), &plan.init.cwd)?;
    mounts::finish(root.as_fd(), &deferred)?;
    namespaces::set_names(plan)?;
    rootfs::write_sysctl(&plan.sysctl)?;
    rootfs::make_read_only(root.as_fd(), plan)?;
    rootfs::mask(root.as_fd(), plan)?;
    rootfs::enter(root.as_fd(), &plan.root)?;
    drop(root);
    let streams = complete(streams, spare_null)?;
    let how = How { hooks: Some(&plan.start_hooks), limits_itself: !has_users };
    execute(&plan.init, plan.seccomp.as_ref(), &streams, channel, how)
}

fn join(plan: &ProcessPlan, joined: &Joined<'_>, streams: Streams, channel: &ChildEnd) -> Executed {
    let has_users = joined.namespaces.user;
    let spare_null = begin(plan, has_users)?;
    namespaces::join(joined.init, joined.namespaces)?;
    if has_users {
        user_namespace::become_root()?;
    }
    let streams = complete(streams, spare_null)?;
    let how = How { hooks: None, limits_itself: !has_users };
    execute(plan, joined.seccomp, &streams, channel, how)
}

/// The steps that need the agent's file system. In a user namespace what needs privilege is the
/// agent's, see [`credentials::Limits`].
/// Returns the agent's /dev/null.
fn begin(plan: &ProcessPlan, has_users: bool) -> Outcome<Option<OwnedFd>> {
    sys::block_signals(0).map_err(|errno| failed(format_args!("unblocking signals"), errno))?;
    // Only a test runner leaves it ignored, and that survives execve(2).
    sys::restore_pipe_signal().map_err(|errno| failed(format_args!("restoring SIGPIPE"), errno))?;
    restore_descriptor_limit();
    rustix::process::setsid().map_err(|errno| failed(format_args!("making a session"), errno))?;
    if !has_users && let Some(score) = plan.oom_score_adj {
        credentials::set_oom_score_adj(None, score)?;
    }
    Ok(open_null())
}

/// The agent has raised its own limit; a container starts with what the kernel gives to its first
/// process.
fn restore_descriptor_limit() {
    const INITIAL: u64 = 1024;
    if let Ok((_, hard)) = sys::limit(libc::RLIMIT_NOFILE) {
        let _ = sys::set_limit(libc::RLIMIT_NOFILE, INITIAL.min(hard), hard);
    }
}

fn open_null() -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let null = openat(CWD, c"/dev/null", flags, Mode::empty()).ok()?;
    let stat = fstat(&null).ok()?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == makedev(1, 3);
    is_null.then_some(null)
}

/// Puts /dev/null in the place of streams that are missing: the container's own, or the agent's if
/// there is none.
fn complete(streams: Streams, spare: Option<OwnedFd>) -> Outcome<[OwnedFd; 3]> {
    let null = if streams.iter().any(Option::is_none) { open_null().or(spare) } else { None };
    let or_null = |stream: Option<OwnedFd>| match (stream, &null) {
        (Some(stream), _) => Ok(stream),
        (None, Some(null)) => rustix::io::fcntl_dupfd_cloexec(null, 3),
        (None, None) => Err(Errno::NODEV),
    };
    let [stdin, stdout, stderr] = streams;
    let all = || Ok([or_null(stdin)?, or_null(stdout)?, or_null(stderr)?]);
    all().map_err(|errno| failed(format_args!("opening /dev/null"), errno))
}

/// What differs between the processes that [`execute`] serves.
#[derive(Clone, Copy)]
struct How<'a> {
    /// Only a first process has hooks, or none of them.
    hooks: Option<&'a StartHooks>,
    /// It may set its own limits; else the agent does, when it is ready.
    limits_itself: bool,
}

/// Everything from the streams to execve; the root is the container's.
fn execute(
    plan: &ProcessPlan,
    seccomp: Option<&SeccompPlan>,
    streams: &[OwnedFd; 3],
    channel: &ChildEnd,
    how: How<'_>,
) -> Executed {
    let master = match &plan.stdio.terminal {
        Some(terminal_plan) => {
            let terminal = terminal::open(terminal_plan, &plan.user)?;
            if how.hooks.is_some() {
                terminal::bind_console(terminal.slave.as_fd())?;
            }
            let slave = terminal.slave.as_fd();
            set_streams([slave, slave, slave])?;
            Some(terminal.master)
        }
        None => {
            set_streams(streams.each_ref().map(AsFd::as_fd))?;
            None
        }
    };
    if how.limits_itself {
        credentials::limit(None, &plan.rlimits, plan.scheduler, plan.io_priority)?;
    }
    credentials::set_personality(plan)?;
    let mut environment = plan.env.clone();
    if program::variable(&environment, "HOME").is_none_or(str::is_empty) {
        environment.retain(|entry| !entry.starts_with("HOME="));
        environment.push(format!("HOME={}", program::home(plan.user.uid)));
    }
    let entered = change_directory(plan, false)?;
    credentials::change_user(plan)?;
    if !entered {
        change_directory(plan, true)?;
    }
    let first = plan.args.first().map_or("", |program| program.as_str());
    let path = program::find(first, &environment)?;
    let strings =
        |list: &[String]| -> Outcome<Vec<CString>> { list.iter().map(|text| to_c(text)).collect() };
    // Made before the filter, which may not allow memory to be had.
    let image = sys::Image::new(to_c(&path)?, strings(&plan.args)?, strings(&environment)?);
    match channel.ready(master.as_ref().map(AsFd::as_fd)) {
        Ok(true) => {}
        // The agent has given up on this process and nobody listens.
        Ok(false) | Err(_) => sys::exit(1),
    }
    if let Some(hooks) = how.hooks.filter(|hooks| !hooks.hooks.is_empty()) {
        hooks::run(hooks, || credentials::finish(plan, seccomp))?;
        if channel.passed().is_err() {
            sys::exit(1);
        }
    }
    credentials::finish(plan, seccomp)?;
    Err(program::error(&path, image.execute()))
}

pub(super) fn to_c(text: &str) -> Outcome<CString> {
    CString::new(text).map_err(|_| {
        of_kind(ErrorKind::InvalidArgument, format_args!("a zero byte in {text:?}"), Errno::INVAL)
    })
}

/// Enters the working directory; `Ok(false)` if that may succeed as the container's user.
fn change_directory(plan: &ProcessPlan, is_user: bool) -> Outcome<bool> {
    match rustix::process::chdir(plan.cwd.as_str()) {
        Ok(()) => Ok(true),
        Err(Errno::ACCESS | Errno::PERM) if !is_user => Ok(false),
        Err(errno) => {
            Err(failed(format_args!("changing to the working directory {}", plan.cwd), errno))
        }
    }
}

pub(super) fn set_streams(streams: [BorrowedFd<'_>; 3]) -> Outcome<()> {
    let place = || {
        // First out of the way, in case that one of them is 0, 1 or 2.
        let [stdin, stdout, stderr] = streams;
        let copy = |fd| rustix::io::fcntl_dupfd_cloexec(fd, 3);
        let (stdin, stdout, stderr) = (copy(stdin)?, copy(stdout)?, copy(stderr)?);
        sys::put_streams(stdin.as_fd(), stdout.as_fd(), stderr.as_fd())
    };
    place().map_err(|errno| failed(format_args!("setting the standard streams"), errno))
}
