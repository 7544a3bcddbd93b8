//! The host's side of a stream.

use crate::poller::{Poller, Source};
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};

/// A connection to one of the host's ports.
pub(crate) struct Socket {
    key: u32,
    fd: Option<OwnedFd>,
    connected: bool,
    /// The host will send no more.
    host_ended: bool,
    /// The host takes nothing any more.
    host_gone: bool,
}

impl Socket {
    /// A connection that has begun.
    pub(crate) fn new(key: u32, fd: OwnedFd, poller: &Poller) -> Result<Self, Errno> {
        poller.add(fd.as_fd(), Source::Socket(key), EventFlags::OUT)?;
        Ok(Self { key, fd: Some(fd), connected: false, host_ended: false, host_gone: false })
    }

    pub(crate) fn key(&self) -> u32 {
        self.key
    }

    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    pub(super) fn host_ended(&self) -> bool {
        self.host_ended
    }

    pub(crate) fn host_gone(&self) -> bool {
        self.host_gone
    }

    pub(super) fn is_closed(&self) -> bool {
        self.fd.is_none()
    }

    /// Takes notice of an event; fails if the connection could not be made.
    pub(crate) fn handle(&mut self, flags: EventFlags) -> Result<(), Errno> {
        let Some(fd) = &self.fd else { return Ok(()) };
        if !self.connected {
            rustix::net::sockopt::socket_error(fd)??;
            self.connected = flags.contains(EventFlags::OUT);
        }
        if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
            self.host_gone = true;
        }
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP) {
            self.host_ended = true;
            // On vsock a host that closed looks like one that only ended its sending. Sending
            // nothing tells them apart: it fails if nobody will take it.
            let nothing = rustix::net::send(fd, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            if !matches!(nothing, Ok(_) | Err(Errno::AGAIN)) {
                self.host_gone = true;
            }
        }
        Ok(())
    }

    /// Waits for `interest`, and for the host's end unless that is known.
    pub(crate) fn arm(&self, poller: &Poller, interest: EventFlags) {
        if let Some(fd) = self.fd() {
            let end = if self.host_ended { EventFlags::empty() } else { EventFlags::RDHUP };
            poller.arm(fd, Source::Socket(self.key), interest | end);
        }
    }

    /// Nothing more will be sent. The socket stays until the host closes it, so that what is on
    /// its way arrives.
    pub(super) fn end_sending(&mut self, poller: &Poller) {
        if let Some(fd) = &self.fd {
            let _ = rustix::net::shutdown(fd, Shutdown::Write);
            if self.host_ended || self.host_gone {
                self.close(poller);
            }
        }
    }

    pub(crate) fn close(&mut self, poller: &Poller) {
        poller.close(&mut self.fd);
    }
}
