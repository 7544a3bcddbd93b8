//! Descriptors: which the process keeps, and which it opens before it can open nothing.

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// The directory of this process's own descriptors, by which the file server turns a descriptor
/// that is only a path into one for reading or writing.
///
/// # Errors
/// That of open(2), where `/proc` is not mounted.
pub fn proc_self_fd() -> Result<OwnedFd, Errno> {
    open("/proc/self/fd", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
