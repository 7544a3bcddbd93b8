//! Descriptors: which the process keeps, and which it opens before it can open nothing.

#![expect(unsafe_code, reason = "close_range has no safe wrapper: it closes what others may own")]

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use vmm_api::CHANNEL_FD;

/// Closes every descriptor but stdio and the channel: what a launcher left open by mistake would be
/// open to whoever takes this process over. To be called first in `main`.
///
/// # Errors
/// That of close_range(2) (Linux 5.9).
pub fn close_others() -> io::Result<()> {
    let first = CHANNEL_FD.cast_unsigned() + 1;
    // SAFETY: nothing in this process has opened a descriptor yet.
    match unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The directory of this process's own descriptors, by which the file server turns a descriptor
/// that is only a path into one for reading or writing.
///
/// # Errors
/// That of open(2), where `/proc` is not mounted.
pub fn proc_self_fd() -> Result<OwnedFd, Errno> {
    open("/proc/self/fd", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
