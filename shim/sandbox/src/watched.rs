//! Descriptors in the event loop.
#![expect(unsafe_code, reason = "tokio cannot see that an owner keeps its descriptor")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use tokio::io::unix::AsyncFd;
use vmm_api::Channel;

/// An owner that has one descriptor for as long as it lives. Only types of this module are.
pub(crate) trait Owner: AsRawFd + private::Sealed {}

mod private {
    pub(crate) trait Sealed {}
    impl Sealed for std::os::fd::OwnedFd {}
    impl Sealed for super::ChannelSocket {}
}

impl Owner for OwnedFd {}
impl Owner for ChannelSocket {}

/// A VMM's channel.
#[derive(Debug)]
pub(crate) struct ChannelSocket(pub(crate) Channel);

impl AsFd for ChannelSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for ChannelSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Registers a descriptor with the event loop of the current runtime.
///
/// # Errors
/// Those of epoll_ctl(2).
pub(crate) fn watch<T: Owner>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the descriptor must stay the same and open until it is deregistered: both owners have
    // one and never change it (the trait is sealed), and `AsyncFd` drops it after deregistering.
    unsafe { AsyncFd::register(owner) }.map_err(io::Error::from)
}
