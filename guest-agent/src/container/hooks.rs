//! `startContainer` hooks: programs of the container that a first process runs before its own, in
//! its namespaces and root, with its streams out of reach and with what it may do itself.
//!
//! They are children of the first process, which waits for each. One that fails ends that process,
//! and with it the container and what the hook has left.

use super::channel::{self, ChildEnd, Executed, Word};
use super::child::{set_streams, to_c};
use super::program;
use crate::failure::{Outcome, failed, refused};
use crate::sys::{self, Fork};
use agent_protocol::{ErrorKind, HookPlan, StartHooks};
use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Display, Formatter};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, getpid, waitid};

/// Bytes of a hook's output that an error repeats: its end says why it failed.
const MAX_MESSAGES: usize = 2048;
/// SIGKILL as [`sys::send_signal`] takes it.
const KILL: u8 = 9;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// Runs hooks in order, until one fails. `limit` takes from each what the container's program must
/// not have.
pub(super) fn run(plan: &StartHooks, limit: impl Fn() -> Outcome<()>) -> Outcome<()> {
    let state = format!("{}{}}}", plan.state, getpid().as_raw_nonzero());
    plan.hooks.iter().try_for_each(|hook| run_one(hook, &state, &limit))
}

fn run_one(hook: &HookPlan, state: &str, limit: &impl Fn() -> Outcome<()>) -> Outcome<()> {
    let broken = |errno| failed(format_args!("{}: running {:?}", hook.name, hook.path), errno);
    // Files instead of pipes: nobody has to feed or drain them while the hook runs.
    let input = memory_file(state).map_err(broken)?;
    let output = memory_file("").map_err(broken)?;
    let (ours, theirs) = channel::pair().map_err(broken)?;
    match sys::fork(0, None) {
        Ok(Fork::Child) => become_hook(hook, [&input, &output], limit, &ChildEnd { fd: theirs }),
        Ok(Fork::Parent { pid: _, pidfd }) => {
            // Its end tells of an error only if nobody else has it.
            drop(theirs);
            let end = wait(&pidfd, hook.timeout_s).map_err(broken)?;
            if let Word::Error(mut error) = channel::receive(&ours) {
                error.kind = ErrorKind::Failed;
                error.message = format!("{}: {}", hook.name, error.message);
                return Err(error);
            }
            judge(hook, end, &output)
        }
        Err(errno) => Err(broken(errno)),
    }
}

/// In the child: executes the hook. Does not return.
fn become_hook(
    hook: &HookPlan,
    [input, output]: [&OwnedFd; 2],
    limit: &impl Fn() -> Outcome<()>,
    channel: &ChildEnd,
) -> ! {
    let execute = || -> Executed {
        set_streams([input.as_fd(), output.as_fd(), output.as_fd()])?;
        let strings = |list: &[String]| -> Outcome<Vec<CString>> {
            list.iter().map(|text| to_c(text)).collect()
        };
        let (arguments, environment) = (strings(&hook.args)?, strings(&hook.env)?);
        let image = sys::Image::new(to_c(&hook.path)?, arguments, environment);
        limit()?;
        Err(program::error(&hook.path, image.execute()))
    };
    match execute() {
        Ok(never) => match never {},
        Err(error) => channel.fail(error),
    }
    sys::exit(1)
}

/// How a hook ended; `None` if its time ran out, and it was killed.
fn wait(pidfd: &OwnedFd, timeout_s: u32) -> Result<Option<WaitIdStatus>, Errno> {
    let until = sys::boot_time_ns().saturating_add(u64::from(timeout_s) * NS_PER_SECOND);
    loop {
        let left = until.saturating_sub(sys::boot_time_ns());
        let timeout = Timespec {
            tv_sec: i64::try_from(left / NS_PER_SECOND).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(left % NS_PER_SECOND).unwrap_or(0),
        };
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) if sys::boot_time_ns() < until => {}
            Ok(0) | Err(Errno::INTR) => {
                sys::send_signal(pidfd.as_fd(), KILL)?;
                return Ok(None);
            }
            Ok(_) => return waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED),
            Err(errno) => return Err(errno),
        }
    }
}

fn judge(hook: &HookPlan, end: Option<WaitIdStatus>, output: &OwnedFd) -> Outcome<()> {
    let HookPlan { name, path, timeout_s, .. } = hook;
    let Some(status) = end else {
        return Err(refused(
            ErrorKind::Failed,
            format_args!("{name}: {path:?} did not end within {timeout_s} s, its timeout"),
        ));
    };
    if status.exit_status() == Some(0) {
        return Ok(());
    }
    let messages = last_messages(output).unwrap_or_default();
    let said = if messages.is_empty() { "" } else { "; it said: " };
    let end = Ending(&status);
    let message = format_args!("{name}: error running hook {path:?}: {end}{said}{messages}");
    Err(refused(ErrorKind::Failed, message))
}

/// A status in words.
struct Ending<'a>(&'a WaitIdStatus);

impl Display for Ending<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match (self.0.exit_status(), self.0.terminating_signal()) {
            (Some(status), _) => write!(formatter, "exit status {status}"),
            (None, Some(signal)) => match name_of(signal) {
                Some(name) => write!(formatter, "signal {signal}, {name}"),
                None => write!(formatter, "signal {signal}"),
            },
            (None, None) => write!(formatter, "no status"),
        }
    }
}

/// Words for the signals by which programs that fail end.
fn name_of(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGILL => "illegal instruction",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "arithmetic exception",
        libc::SIGKILL => "killed",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGSYS => "bad system call",
        _ => return None,
    })
}

fn memory_file(content: &str) -> Result<OwnedFd, Errno> {
    let file = memfd_create(c"hook", MemfdFlags::CLOEXEC)?;
    let mut rest = content.as_bytes();
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    seek(&file, SeekFrom::Start(0))?;
    Ok(file)
}

/// The end of what a hook has written, its lines joined.
fn last_messages(output: &OwnedFd) -> Result<String, Errno> {
    let length = seek(output, SeekFrom::End(0))?;
    let mut bytes = [0_u8; MAX_MESSAGES];
    let from = length.saturating_sub(u64::try_from(MAX_MESSAGES).unwrap_or(u64::MAX));
    let read = rustix::io::pread(output, &mut bytes, from)?;
    let text = String::from_utf8_lossy(bytes.get(..read).unwrap_or_default()).to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Ok(lines.join(" / "))
}
