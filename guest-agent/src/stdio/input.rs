//! A program's standard input: from the host to a pipe.

use super::socket::Socket;
use super::{PIPE_BYTES, TURNS};
use crate::poller::{Poller, Source};
use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

pub(super) struct Input {
    pipe: Option<OwnedFd>,
}

impl Input {
    pub(super) fn new(key: u32, pipe: OwnedFd, poller: &Poller) -> Self {
        // Reports the end of its readers whatever it is armed for.
        let _ = poller.add(pipe.as_fd(), Source::Local(key), EventFlags::empty());
        Self { pipe: Some(pipe) }
    }

    pub(super) fn run(&mut self, key: u32, socket: &mut Socket, poller: &Poller) -> bool {
        let mut moved = false;
        for _ in 0..TURNS {
            let (Some(pipe), Some(fd)) = (&self.pipe, socket.fd()) else {
                // Nobody reads, or nothing comes: one end of the pipe is the end of the stream.
                self.close(poller);
                socket.close(poller);
                return moved;
            };
            match splice(fd, None, pipe, None, PIPE_BYTES, SpliceFlags::NONBLOCK) {
                // The end, or a host that is gone: both are an end to the program.
                Ok(0) => self.close(poller),
                Ok(_) => moved = true,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    match room(pipe) {
                        Room::Some => {
                            poller.arm(pipe.as_fd(), Source::Local(key), EventFlags::empty());
                            socket.arm(poller, EventFlags::IN);
                        }
                        Room::None => {
                            poller.arm(pipe.as_fd(), Source::Local(key), EventFlags::OUT);
                        }
                        Room::NoReader => {
                            self.close(poller);
                            continue;
                        }
                    }
                    return moved;
                }
                Err(_) => self.close(poller),
            }
        }
        socket.arm(poller, EventFlags::IN);
        moved
    }

    pub(super) fn is_closed(&self) -> bool {
        self.pipe.is_none()
    }

    pub(super) fn close(&mut self, poller: &Poller) {
        poller.close(&mut self.pipe);
    }
}

enum Room {
    Some,
    None,
    NoReader,
}

fn room(pipe: &OwnedFd) -> Room {
    let mut polled = [PollFd::new(pipe, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let _ = poll(&mut polled, Some(&now));
    let [state] = polled;
    if state.revents().contains(PollFlags::ERR) {
        Room::NoReader
    } else if state.revents().contains(PollFlags::OUT) {
        Room::Some
    } else {
        Room::None
    }
}
