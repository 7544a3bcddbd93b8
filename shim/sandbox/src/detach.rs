//! Leaving a supervisor behind: the program executes itself anew, in a session of its own, and says
//! over a socket when the container stands.
//!
//! The supervisor is a plain child. When the command that started it has ended, it becomes a child
//! of whoever reaps for that command's caller (PR_SET_CHILD_SUBREAPER of prctl(2)), as engines
//! expect of a container's process.
#![expect(unsafe_code, reason = "code between fork and exec, and a descriptor by its number")]

use crate::control::{self, Answer, ControlError, MAX_ANSWER};
use crate::error_kind::ErrorKind;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};

/// The program that runs, whatever has become of its file.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// Its name in lists of processes.
const NAME: &str = "ringfence";
/// The first descriptor after the standard streams.
const FIRST_OTHER: RawFd = 3;

/// Why no supervisor was left behind.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// It cannot be started.
    #[error("a supervisor cannot be started")]
    Start(#[source] io::Error),
    /// It has failed, and says why.
    #[error("{message}")]
    Failed {
        /// What kind of failure it was.
        kind: ErrorKind,
        /// What it said.
        message: String,
    },
    /// It has ended without a word.
    #[error("the supervisor ended before the container was ready: {0}")]
    Ended(ExitStatus),
    /// It cannot be understood.
    #[error("the supervisor cannot be understood")]
    Channel(#[source] ControlError),
    /// Somebody else has started this program as a supervisor.
    #[error("a supervisor is started by create and run only")]
    NotStarted,
    /// The command that started this supervisor is gone.
    #[error("the command that was to create the container has ended before it was ready")]
    Abandoned,
}

impl DetachError {
    /// What kind of failure it was.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Failed { kind, .. } => *kind,
            _ => ErrorKind::Refused,
        }
    }
}

/// Starts this program anew as `WORDS… NUMBER ARGUMENTS…`, where NUMBER is the descriptor for
/// [`Handover::take`], and waits until it has said that all is well. Each step of a supervisor has
/// a deadline of its own, but for a hook without one.
///
/// # Errors
/// [`DetachError`]; then nothing is left of it.
pub fn leave_supervisor(words: &[&str], arguments: Vec<OsString>) -> Result<(), DetachError> {
    let (ours, theirs) = UnixStream::pair().map_err(DetachError::Start)?;
    let mut command = Command::new(OWN_PROGRAM);
    command.arg0(NAME).args(words).arg(theirs.as_raw_fd().to_string()).args(arguments);
    prepare_child(&mut command, theirs.as_raw_fd());
    let mut child = command.spawn().map_err(DetachError::Start)?;
    drop(theirs);
    let error = match control::receive::<Answer>(&ours, MAX_ANSWER) {
        // It lives on, without this process.
        Ok((Answer::Done, _)) => return Ok(()),
        Ok((Answer::Refused { kind, message }, _)) => DetachError::Failed { kind, message },
        Ok(_) => DetachError::Channel(ControlError::WrongAnswer),
        Err(ControlError::Closed) => {
            return Err(DetachError::Ended(child.wait().map_err(DetachError::Start)?));
        }
        Err(error) => DetachError::Channel(error),
    };
    drop(child.wait());
    Err(error)
}

/// In the child: a session of its own, no other descriptor than the standard streams and this one,
/// and its end if the parent's comes before the container stands.
fn prepare_child(command: &mut Command, channel: RawFd) {
    let parent = rustix::process::getpid();
    let prepare = move || {
        rustix::process::setsid()?;
        end_with(parent)?;
        // SAFETY: the parent holds this descriptor open until the child has executed its program.
        let channel = unsafe { BorrowedFd::borrow_raw(channel) };
        Ok(fcntl_setfd(channel, FdFlags::empty())?)
    };
    // SAFETY: the closure runs between fork and execve and makes system calls only: it neither
    // allocates nor takes a lock that another thread could have held. This function keeps it so.
    unsafe {
        command.pre_exec(prepare);
    }
}

/// SIGTERM when the parent ends; it may have done so already.
fn end_with(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    if rustix::process::getppid() == Some(parent) {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::NotConnected))
    }
}

/// Set once, when nobody waits any more.
static HANDED_OVER: AtomicBool = AtomicBool::new(false);

/// The command that has started this process as a supervisor has been told that all is well:
/// standard error is the container's from now on.
#[must_use]
pub fn has_handed_over() -> bool {
    HANDED_OVER.load(Ordering::Relaxed)
}

/// The supervisor's end: how the command that started it learns what came of it.
#[derive(Debug)]
pub struct Handover {
    stream: UnixStream,
    leaves_streams: bool,
}

impl Handover {
    /// Takes the descriptor with this number, and closes all others but the standard streams: what
    /// the caller of the command has left open is not held for as long as a container lives. Call
    /// it first: nothing else may have opened a descriptor yet.
    ///
    /// # Errors
    /// [`DetachError::NotStarted`] if it is not what [`leave_supervisor`] gives.
    pub fn take(number: &str) -> Result<Self, DetachError> {
        // What ps(1) shows is else the name of the link that it was executed by.
        rustix::thread::set_name(c"ringfence").map_err(|errno| DetachError::Start(errno.into()))?;
        let number: RawFd = number.parse().map_err(|_| DetachError::NotStarted)?;
        if number < FIRST_OTHER {
            return Err(DetachError::NotStarted);
        }
        close_others(number);
        // SAFETY: it is no standard stream, and the only owner that it could have is this one: the
        // process has just begun, and opens descriptors with close-on-exec only after this.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        rustix::net::sockopt::socket_domain(borrowed).map_err(|_| DetachError::NotStarted)?;
        fcntl_setfd(borrowed, FdFlags::CLOEXEC).map_err(|_| DetachError::NotStarted)?;
        // SAFETY: as above, and the check has shown that it is an open socket.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        Ok(Self { stream: UnixStream::from(descriptor), leaves_streams: false })
    }

    /// For a container with a terminal of its own: from [`Self::ready`] on the supervisor has none of
    /// the caller's streams. containerd's shim waits until nobody has the pipe any more that it collects
    /// a command's output from.
    pub(crate) fn leave_streams(&mut self) {
        self.leaves_streams = true;
    }

    /// Says that all is well: from now on the supervisor lives on without its parent.
    ///
    /// # Errors
    /// [`DetachError::Abandoned`] if nobody has heard it.
    pub(crate) fn ready(self) -> Result<(), DetachError> {
        HANDED_OVER.store(true, Ordering::Relaxed);
        if self.leaves_streams {
            close_streams().map_err(DetachError::Start)?;
        }
        rustix::process::set_parent_process_death_signal(None)
            .map_err(|errno| DetachError::Start(errno.into()))?;
        control::send(&self.stream, &Answer::Done, MAX_ANSWER, &[])
            .map_err(|_| DetachError::Abandoned)
    }

    /// Says what went wrong.
    pub(crate) fn failed(self, kind: ErrorKind, message: String) {
        // A parent that is gone cannot be told.
        drop(control::send(&self.stream, &Answer::refused(kind, message), MAX_ANSWER, &[]));
    }
}

/// The numbers stay taken, so that no other file gets them.
fn close_streams() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

fn close_others(number: RawFd) {
    let close = |first: RawFd, last: u32| {
        let Ok(first) = u32::try_from(first) else { return };
        if first <= last {
            // SAFETY: nothing of this process has opened a descriptor yet, so that none of these
            // has an owner (the caller keeps that). What the range does not hold is no error.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    };
    close(FIRST_OTHER, u32::try_from(number - 1).unwrap_or(0));
    close(number + 1, u32::MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_no_handover_is_refused() {
        for number in ["", "x", "-1", "0", "2", "99999999999"] {
            let error = Handover::take(number).unwrap_err();
            assert!(matches!(error, DetachError::NotStarted), "{number:?}: {error}");
        }
    }

    #[test]
    fn what_a_handover_says_is_heard() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        Handover { stream: theirs, leaves_streams: false }
            .failed(ErrorKind::ProgramMissing, "no such program".into());
        let (answer, _) = control::receive::<Answer>(&ours, MAX_ANSWER).unwrap();
        let expected = Answer::Refused {
            kind: ErrorKind::ProgramMissing,
            message: "no such program".to_owned(),
        };
        assert_eq!(answer, expected);
    }
}
