//! A program's terminal: the master side of a pty, both ways over one connection.

use super::TURNS;
use super::socket::Socket;
use crate::poller::{Poller, Source};
use alloc::vec::Vec;
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// What a terminal's line discipline holds.
const BUFFER_BYTES: usize = 4096;

/// Bytes on their way from one side to the other. Holds memory only while some wait.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.start >= self.bytes.len()
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or(&[])
    }

    fn take(&mut self, count: usize) {
        self.start = self.start.saturating_add(count);
        if self.is_empty() {
            self.bytes = Vec::new();
            self.start = 0;
        }
    }
}

#[derive(Default)]
pub(super) struct Terminal {
    master: Option<OwnedFd>,
    attached: bool,
    to_host: Buffer,
    to_program: Buffer,
    /// Nobody has the terminal open any more; all that was written to it has been read.
    hung_up: bool,
    /// The process has ended, and what it wrote may still be in the terminal.
    owed: bool,
}

/// What happened to one step of one direction.
enum Step {
    Moved,
    Waits,
    Nothing,
}

impl Terminal {
    pub(super) fn attach(&mut self, key: u32, master: OwnedFd, poller: &Poller) {
        let _ = poller.add(master.as_fd(), Source::Local(key), EventFlags::empty());
        self.master = Some(master);
        self.attached = true;
    }

    pub(super) fn master(&self) -> Option<&OwnedFd> {
        self.master.as_ref()
    }

    pub(super) fn run(&mut self, key: u32, socket: &mut Socket, poller: &Poller) -> bool {
        if !self.attached {
            return false;
        }
        let (mut moved, mut turn) = (false, 0);
        loop {
            let (mut master_interest, mut socket_interest) =
                (EventFlags::empty(), EventFlags::empty());
            let mut again = false;
            if let (Some(master), Some(fd)) = (self.master.as_ref().map(AsFd::as_fd), socket.fd())
                && !socket.host_gone()
            {
                let out = read_terminal(master, &mut self.to_host, &mut self.hung_up);
                match out {
                    Step::Moved => again = true,
                    Step::Waits => master_interest |= EventFlags::IN,
                    Step::Nothing => {}
                }
                if !matches!(out, Step::Moved) && self.to_host.is_empty() {
                    self.owed = false;
                }
                match send(fd, &mut self.to_host) {
                    Ok(Step::Moved) => again = true,
                    Ok(Step::Waits) => socket_interest |= EventFlags::OUT,
                    Ok(Step::Nothing) => {}
                    Err(_) => {
                        self.close(poller);
                        socket.close(poller);
                        return moved;
                    }
                }
                match receive(fd, &mut self.to_program) {
                    Step::Moved => again = true,
                    Step::Waits => socket_interest |= EventFlags::IN,
                    Step::Nothing => {}
                }
                match write_terminal(master, &mut self.to_program) {
                    Step::Moved => again = true,
                    Step::Waits => master_interest |= EventFlags::OUT,
                    Step::Nothing => {}
                }
            }
            self.finish(socket, poller);
            moved |= again;
            turn += 1;
            if again && turn < TURNS {
                continue;
            }
            if again {
                master_interest |= EventFlags::IN;
                socket_interest |= EventFlags::IN;
            }
            if let Some(master) = &self.master {
                poller.arm(master.as_fd(), Source::Local(key), master_interest);
            }
            socket.arm(poller, socket_interest);
            return moved;
        }
    }

    /// Closes what has come to its end.
    fn finish(&mut self, socket: &mut Socket, poller: &Poller) {
        if socket.host_gone() || socket.is_closed() {
            // Hangs the terminal up: its session gets SIGHUP.
            self.close(poller);
            socket.close(poller);
        } else if self.hung_up && self.to_host.is_empty() && self.master.is_some() {
            self.close(poller);
            socket.end_sending(poller);
        } else if self.master.is_none() && socket.host_ended() {
            socket.close(poller);
        }
    }

    pub(super) fn process_ended(&mut self) {
        self.owed = self.master.is_some();
    }

    pub(super) fn is_drained(&self) -> bool {
        self.master.is_none() || !self.owed
    }

    pub(super) fn is_closed(&self) -> bool {
        self.attached && self.master.is_none()
    }

    pub(super) fn close(&mut self, poller: &Poller) {
        self.owed = false;
        poller.close(&mut self.master);
    }
}

fn read_terminal(master: BorrowedFd<'_>, buffer: &mut Buffer, hung_up: &mut bool) -> Step {
    if !buffer.is_empty() || *hung_up {
        return Step::Nothing;
    }
    let mut bytes = [0_u8; BUFFER_BYTES];
    match rustix::io::read(master, &mut bytes) {
        Err(Errno::AGAIN) => Step::Waits,
        Err(Errno::INTR) => Step::Moved,
        // EIO: every other side of the terminal is closed, and everything was read.
        Ok(0) | Err(_) => {
            *hung_up = true;
            Step::Nothing
        }
        Ok(count) => {
            buffer.bytes.extend_from_slice(bytes.get(..count).unwrap_or(&[]));
            Step::Moved
        }
    }
}

fn send(socket: BorrowedFd<'_>, buffer: &mut Buffer) -> Result<Step, Errno> {
    if buffer.is_empty() {
        return Ok(Step::Nothing);
    }
    match rustix::net::send(socket, buffer.rest(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        Ok(count) => {
            buffer.take(count);
            Ok(Step::Moved)
        }
        Err(Errno::INTR) => Ok(Step::Moved),
        Err(Errno::AGAIN) => Ok(Step::Waits),
        Err(errno) => Err(errno),
    }
}

/// The host's end of file is none for the program: its terminal stays open for output, as with
/// any runtime whose input ends.
fn receive(socket: BorrowedFd<'_>, buffer: &mut Buffer) -> Step {
    if !buffer.is_empty() {
        return Step::Nothing;
    }
    let mut bytes = [0_u8; BUFFER_BYTES];
    match rustix::net::recv(socket, &mut bytes, RecvFlags::DONTWAIT) {
        Ok((_, 0)) => Step::Nothing,
        Ok((_, count)) => {
            buffer.bytes.extend_from_slice(bytes.get(..count).unwrap_or(&[]));
            Step::Moved
        }
        Err(Errno::INTR) => Step::Moved,
        Err(Errno::AGAIN) => Step::Waits,
        Err(_) => Step::Nothing,
    }
}

fn write_terminal(master: BorrowedFd<'_>, buffer: &mut Buffer) -> Step {
    if buffer.is_empty() {
        return Step::Nothing;
    }
    match rustix::io::write(master, buffer.rest()) {
        Ok(count) => {
            buffer.take(count);
            Step::Moved
        }
        Err(Errno::INTR) => Step::Moved,
        Err(Errno::AGAIN) => Step::Waits,
        // Nobody will read it.
        Err(_) => {
            buffer.take(usize::MAX);
            Step::Nothing
        }
    }
}
