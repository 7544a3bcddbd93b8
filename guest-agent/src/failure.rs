//! Errors that travel to the host.

use agent_protocol::{AgentError, ErrorKind};
use alloc::format;
use core::fmt::Arguments;
use rustix::io::Errno;

pub(crate) type Outcome<T> = Result<T, AgentError>;

/// A step failed by a system call.
pub(crate) fn failed(step: Arguments<'_>, errno: Errno) -> AgentError {
    of_kind(ErrorKind::Failed, step, errno)
}

/// [`failed`] with another kind.
pub(crate) fn of_kind(kind: ErrorKind, step: Arguments<'_>, errno: Errno) -> AgentError {
    let number = errno.raw_os_error();
    let message = match name(errno) {
        Some(name) => format!("{step}: {name}"),
        None => format!("{step}: errno {number}"),
    };
    AgentError { kind, message, errno: number }
}

/// The request does not fit: nothing was tried.
pub(crate) fn refused(kind: ErrorKind, message: Arguments<'_>) -> AgentError {
    AgentError { kind, message: format!("{message}"), errno: 0 }
}

/// The plan is wrong.
pub(crate) fn invalid(message: Arguments<'_>) -> AgentError {
    refused(ErrorKind::InvalidArgument, message)
}

/// Words for the errors that plans and images cause; the number goes along with each.
fn name(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::PERM => "operation not permitted",
        Errno::NOENT => "no such file or directory",
        Errno::SRCH => "no such process",
        Errno::IO => "input/output error",
        Errno::TOOBIG => "argument list too long",
        Errno::NOEXEC => "exec format error",
        Errno::AGAIN => "resource temporarily unavailable",
        Errno::NOMEM => "out of memory",
        Errno::ACCESS => "permission denied",
        Errno::BUSY => "device or resource busy",
        Errno::EXIST => "file exists",
        Errno::NODEV => "no such device",
        Errno::NOTDIR => "not a directory",
        Errno::ISDIR => "is a directory",
        Errno::INVAL => "invalid argument",
        Errno::MFILE => "too many open files",
        Errno::TXTBSY => "text file busy",
        Errno::NOSPC => "no space left on device",
        Errno::ROFS => "read-only file system",
        Errno::NAMETOOLONG => "name too long",
        Errno::NOSYS => "not supported by the guest's kernel",
        Errno::NOTEMPTY => "directory not empty",
        Errno::LOOP => "too many levels of symbolic links",
        Errno::OPNOTSUPP => "operation not supported",
        Errno::CONNREFUSED => "connection refused",
        Errno::CONNRESET => "connection reset",
        Errno::TIMEDOUT => "timed out",
        _ => return None,
    })
}
