//! The process itself: its channel, and its end.

#![expect(
    unsafe_code,
    reason = "an inherited descriptor is taken; the allocator is set up; the process ends at once"
)]

use std::os::fd::{FromRawFd, OwnedFd};
use vmm_api::{CHANNEL_FD, Channel};

/// Exit status after a panic, that of Rust's own runtime.
const PANICKED: u8 = 101;

/// Takes the channel from where the launcher put it. To be called once.
#[must_use]
pub fn channel() -> Channel {
    // SAFETY: the descriptor belongs to this process by the contract with its launcher, and nothing
    // else here names it. Where it is not open, the first use says so.
    Channel::from_socket(unsafe { OwnedFd::from_raw_fd(CHANNEL_FD) })
}

/// Makes all threads allocate from one heap. To be called before there are others.
///
/// glibc gives each thread a heap of its own, and opens /proc/sys/vm/overcommit_memory when it gives
/// such a heap's free end back: a system call that no confined thread may make, and that comes only
/// after large buffers were freed. It also costs memory. mallopt(3).
pub fn use_one_heap() {
    // SAFETY: mallopt has no memory-safety conditions; it takes the allocator's own lock.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
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

/// Makes a panic on any thread end the process, after its message. A worker that broke an invariant
/// of ours must not leave its guest half served; the supervisor sees the status.
pub fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        end(PANICKED);
    }));
}
