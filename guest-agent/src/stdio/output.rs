//! A program's standard output or error: from a pipe to the host.

use super::socket::Socket;
use super::{PIPE_BYTES, TURNS};
use crate::poller::{Poller, Source};
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

pub(super) struct Output {
    pipe: Option<OwnedFd>,
    /// After the process has ended: bytes that it had written and that have not been sent.
    owed: Option<u64>,
}

impl Output {
    pub(super) fn new(key: u32, pipe: OwnedFd, poller: &Poller) -> Self {
        let _ = poller.add(pipe.as_fd(), Source::Local(key), EventFlags::empty());
        Self { pipe: Some(pipe), owed: None }
    }

    pub(super) fn run(&mut self, key: u32, socket: &mut Socket, poller: &Poller) -> bool {
        let mut moved = false;
        for _ in 0..TURNS {
            if socket.host_gone() {
                // The program gets SIGPIPE at its next write.
                self.close(poller);
                socket.close(poller);
            }
            let Some(fd) = socket.fd() else { return moved };
            let Some(pipe) = &self.pipe else {
                // Everything was sent; once the host has closed, so can we.
                if socket.host_ended() {
                    socket.close(poller);
                } else {
                    socket.arm(poller, EventFlags::empty());
                }
                return moved;
            };
            match splice(pipe, None, fd, None, PIPE_BYTES, SpliceFlags::NONBLOCK) {
                Ok(0) => {
                    self.close(poller);
                    socket.end_sending(poller);
                }
                Ok(count) => {
                    moved = true;
                    let count = u64::try_from(count).unwrap_or(u64::MAX);
                    self.owed = self.owed.map(|owed| owed.saturating_sub(count));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if waiting(pipe) == 0 {
                        poller.arm(pipe.as_fd(), Source::Local(key), EventFlags::IN);
                        socket.arm(poller, EventFlags::empty());
                    } else {
                        socket.arm(poller, EventFlags::OUT);
                    }
                    return moved;
                }
                Err(_) => {
                    self.close(poller);
                    socket.close(poller);
                }
            }
        }
        if let Some(pipe) = &self.pipe {
            poller.arm(pipe.as_fd(), Source::Local(key), EventFlags::IN);
        }
        socket.arm(poller, EventFlags::empty());
        moved
    }

    pub(super) fn process_ended(&mut self) {
        self.owed = self.pipe.as_ref().map(waiting);
    }

    pub(super) fn is_drained(&self) -> bool {
        self.pipe.is_none() || self.owed == Some(0)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.pipe.is_none()
    }

    pub(super) fn close(&mut self, poller: &Poller) {
        poller.close(&mut self.pipe);
    }
}

/// Bytes in a pipe.
fn waiting(pipe: &OwnedFd) -> u64 {
    rustix::io::ioctl_fionread(pipe).unwrap_or(0)
}
