//! The process itself: its channel, and its end.

#![expect(unsafe_code, reason = "an inherited descriptor is taken; the process ends at once")]

use std::os::fd::{FromRawFd, OwnedFd};
use vmm_api::{CHANNEL_FD, Channel};

/// Takes the channel from where the launcher put it. To be called once.
#[must_use]
pub fn channel() -> Channel {
    // SAFETY: the descriptor belongs to this process by the contract with its launcher, and nothing
    // else here names it. Where it is not open, the first use says so.
    Channel::from_socket(unsafe { OwnedFd::from_raw_fd(CHANNEL_FD) })
}

/// Ends the process now.
///
/// Nothing is unwound and no thread is joined: a virtual CPU may be in guest code, a worker in a
/// read from a slow disk, and neither has anything to save. The kernel stops all threads, unmaps the
/// guest's memory and closes every descriptor, which is the fastest way to give them back.
pub fn end(code: u8) -> ! {
    // SAFETY: no destructor of this process has an effect outside it.
    unsafe { libc::_exit(code.into()) }
}
