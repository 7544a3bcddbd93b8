//! Standard streams: one vsock connection each, joined with a pipe or a terminal of the program.
//!
//! ```text
//!  program ──pipe──> Output ──socket──> host        end of file and "nobody reads" travel along
//!  program <──pipe── Input  <──socket── host
//!  program <─terminal─> Terminal <─socket─> host
//! ```
//!
//! A pipe holds its data until the socket takes it (splice(2)): the agent has no buffers of its
//! own for them, and a host that does not read blocks the writer and nobody else.

mod input;
mod output;
mod socket;
mod terminal;

pub(crate) use socket::Socket;

use crate::poller::{Poller, Source};
use input::Input;
use output::Output;
use rustix::event::epoll::EventFlags;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use terminal::Terminal;

/// Bytes moved by one system call: what a pipe holds.
const PIPE_BYTES: usize = 65536;

/// System calls for one stream before it is another one's turn.
const TURNS: usize = 16;

/// What joins a socket and a stream of a program.
enum Joint {
    Input(Input),
    Output(Output),
    Terminal(Terminal),
}

/// One stream.
pub(crate) struct Relay {
    pub(crate) key: u32,
    /// Key of the process that it was made for.
    pub(crate) process: u32,
    socket: Socket,
    joint: Joint,
}

impl Relay {
    /// From the host to `pipe`, which the program reads.
    pub(crate) fn input(process: u32, socket: Socket, pipe: OwnedFd, poller: &Poller) -> Self {
        let key = socket.key();
        Self { key, process, socket, joint: Joint::Input(Input::new(key, pipe, poller)) }
    }

    /// From `pipe`, which the program writes, to the host.
    pub(crate) fn output(process: u32, socket: Socket, pipe: OwnedFd, poller: &Poller) -> Self {
        let key = socket.key();
        Self { key, process, socket, joint: Joint::Output(Output::new(key, pipe, poller)) }
    }

    /// Both ways; the terminal comes later, from the program's own file system.
    pub(crate) fn terminal(process: u32, socket: Socket) -> Self {
        let key = socket.key();
        Self { key, process, socket, joint: Joint::Terminal(Terminal::default()) }
    }

    /// Gives a [`Self::terminal`] its terminal.
    pub(crate) fn attach_terminal(&mut self, master: OwnedFd, poller: &Poller) {
        if let Joint::Terminal(terminal) = &mut self.joint {
            terminal.attach(self.key, master, poller);
            self.run(poller);
        }
    }

    /// The terminal, if this has one.
    pub(crate) fn master(&self) -> Option<&OwnedFd> {
        match &self.joint {
            Joint::Terminal(terminal) => terminal.master(),
            Joint::Input(_) | Joint::Output(_) => None,
        }
    }

    /// Whether the host has accepted the connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.socket.is_connected()
    }

    /// An event on the socket or, with [`Source::Local`], on the program's side. Fails if the
    /// connection could not be made. Returns whether bytes moved.
    pub(crate) fn handle(
        &mut self,
        source: Source,
        flags: EventFlags,
        poller: &Poller,
    ) -> Result<bool, Errno> {
        if matches!(source, Source::Socket(_)) {
            self.socket.handle(flags)?;
        }
        Ok(self.run(poller))
    }

    /// Moves what can be moved and says to the poller what is waited for. Returns whether bytes
    /// moved.
    fn run(&mut self, poller: &Poller) -> bool {
        if !self.socket.is_connected() {
            self.socket.arm(poller, EventFlags::OUT);
            return false;
        }
        match &mut self.joint {
            Joint::Input(input) => input.run(self.key, &mut self.socket, poller),
            Joint::Output(output) => output.run(self.key, &mut self.socket, poller),
            Joint::Terminal(terminal) => terminal.run(self.key, &mut self.socket, poller),
        }
    }

    /// The process has ended: what it has written until now is owed to the host before its exit is
    /// reported.
    pub(crate) fn process_ended(&mut self, poller: &Poller) {
        match &mut self.joint {
            Joint::Input(_) => {}
            Joint::Output(output) => output.process_ended(),
            Joint::Terminal(terminal) => terminal.process_ended(),
        }
        self.run(poller);
    }

    /// Whether nothing is owed.
    pub(crate) fn is_drained(&self) -> bool {
        match &self.joint {
            Joint::Input(_) => true,
            Joint::Output(output) => output.is_drained(),
            Joint::Terminal(terminal) => terminal.is_drained(),
        }
    }

    /// Whether both sides are closed.
    pub(crate) fn is_finished(&self) -> bool {
        let local_closed = match &self.joint {
            Joint::Input(input) => input.is_closed(),
            Joint::Output(output) => output.is_closed(),
            Joint::Terminal(terminal) => terminal.is_closed(),
        };
        local_closed && self.socket.is_closed()
    }

    /// Closes both sides.
    pub(crate) fn close(mut self, poller: &Poller) {
        match &mut self.joint {
            Joint::Input(input) => input.close(poller),
            Joint::Output(output) => output.close(poller),
            Joint::Terminal(terminal) => terminal.close(poller),
        }
        self.socket.close(poller);
    }
}
