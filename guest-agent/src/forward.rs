//! A connection to a program that listens at a loopback address of the guest, as the host asks for it.
//!
//! ```text
//!  host ── vsock ── Forward ── TCP ── 127.0.0.1:PORT, or else [::1]:PORT
//! ```
//!
//! The end of one direction travels along, and the other direction goes on. What is lost on one side is
//! closed on the other.

use crate::poller::{Poller, Source};
use crate::stdio::Socket;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, connect, recv, send,
    shutdown, socket_with, sockopt,
};

/// Where a program may listen, in the order in which they are tried.
const ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// Bytes on their way in one direction.
const CHUNK: usize = 16 << 10;
/// Chunks moved for one connection before it is another one's turn.
const TURNS: usize = 16;

/// What has become of a connection.
pub(crate) enum News {
    Nothing,
    /// It stands.
    Connected,
    /// It cannot be made, and is closed.
    Failed(Errno),
    /// Both directions have ended, and it is closed.
    Over,
}

/// See the module.
pub(crate) struct Forward {
    /// The host's, to be answered when the connection stands.
    pub(crate) request: u64,
    pub(crate) port: u16,
    key: u32,
    host: Socket,
    /// The program's side.
    local: Option<OwnedFd>,
    /// Addresses that have been tried.
    tried: usize,
    /// Why the first one could not be connected to.
    refusal: Option<Errno>,
    connected: bool,
    to_host: Direction,
    to_local: Direction,
}

impl Forward {
    /// Begins to connect to a port; `host` is a connection that has begun, too. If there is nobody, that
    /// is closed.
    pub(crate) fn begin(
        request: u64,
        port: u16,
        host: Socket,
        poller: &Poller,
    ) -> Result<Self, Errno> {
        let mut forward = Self {
            request,
            port,
            key: host.key(),
            host,
            local: None,
            tried: 0,
            refusal: None,
            connected: false,
            to_host: Direction::default(),
            to_local: Direction::default(),
        };
        match forward.try_next(poller) {
            Ok(()) => Ok(forward),
            Err(errno) => {
                forward.close(poller);
                Err(errno)
            }
        }
    }

    /// An event on either side.
    pub(crate) fn handle(&mut self, source: Source, flags: EventFlags, poller: &Poller) -> News {
        let is_of_host = matches!(source, Source::Socket(_));
        if is_of_host && let Err(errno) = self.host.handle(flags) {
            self.close(poller);
            return if self.connected { News::Over } else { News::Failed(errno) };
        }
        if self.connected {
            return if self.carry(poller) { News::Over } else { News::Nothing };
        }
        if self.host.host_gone() {
            // It has stopped waiting.
            self.close(poller);
            return News::Failed(Errno::TIMEDOUT);
        }
        if is_of_host {
            self.arm_host(poller);
            return News::Nothing;
        }
        match self.look(poller) {
            Ok(true) => {
                self.connected = true;
                // What it carries is looked for at the next event, when the answer has been sent.
                self.arm(poller);
                News::Connected
            }
            Ok(false) => News::Nothing,
            Err(errno) => {
                self.close(poller);
                News::Failed(errno)
            }
        }
    }

    /// Whether the program's side is connected; goes on to the next address if it is refused.
    fn look(&mut self, poller: &Poller) -> Result<bool, Errno> {
        let Some(local) = &self.local else { return Err(Errno::CONNREFUSED) };
        match sockopt::socket_error(local)? {
            Ok(()) => Ok(true),
            Err(errno) => {
                poller.close(&mut self.local);
                self.refusal.get_or_insert(errno);
                self.try_next(poller).map(|()| false)
            }
        }
    }

    fn try_next(&mut self, poller: &Poller) -> Result<(), Errno> {
        while let Some(address) = ADDRESSES.get(self.tried) {
            self.tried = self.tried.saturating_add(1);
            match begin_connect(*address, self.port) {
                Ok(socket) => {
                    poller.add(socket.as_fd(), Source::Local(self.key), EventFlags::OUT)?;
                    self.local = Some(socket);
                    return Ok(());
                }
                Err(errno) => drop(self.refusal.get_or_insert(errno)),
            }
        }
        Err(self.refusal.unwrap_or(Errno::CONNREFUSED))
    }

    /// Moves what can be moved and says to the poller what is waited for. Returns whether that was all.
    fn carry(&mut self, poller: &Poller) -> bool {
        for _ in 0..TURNS {
            if !self.pass() {
                break;
            }
        }
        let is_over = self.to_host.closed && self.to_local.closed;
        if is_over {
            self.close(poller);
        } else {
            self.arm(poller);
        }
        is_over
    }

    /// Returns whether bytes moved.
    fn pass(&mut self) -> bool {
        let (Some(local), Some(host)) = (&self.local, self.host.fd()) else { return false };
        if !self.host.is_connected() {
            return false;
        }
        let local = local.as_fd();
        if self.host.host_gone() {
            self.to_host.abandon();
        }
        let up = self.to_host.pass(local, host);
        let down = self.to_local.pass(host, local);
        up || down
    }

    fn arm(&self, poller: &Poller) {
        self.arm_host(poller);
        if !self.host.is_connected() {
            return;
        }
        let interest = interest(&self.to_host, &self.to_local);
        // Nothing more is to be known of a program that only the host keeps waiting; an end of its own,
        // which the poller tells of unasked, would be told again and again.
        if let Some(local) = &self.local
            && !interest.is_empty()
        {
            poller.arm(local.as_fd(), Source::Local(self.key), interest);
        }
    }

    fn arm_host(&self, poller: &Poller) {
        if !self.host.is_connected() {
            self.host.arm(poller, EventFlags::OUT);
        } else if !self.host.host_gone() {
            let wanted = if self.connected {
                interest(&self.to_local, &self.to_host)
            } else {
                EventFlags::empty()
            };
            self.host.arm(poller, wanted);
        }
    }

    fn close(&mut self, poller: &Poller) {
        poller.close(&mut self.local);
        self.host.close(poller);
    }
}

/// What is waited for on a socket from which the one direction goes, and to which the other.
fn interest(from: &Direction, to: &Direction) -> EventFlags {
    let mut interest = EventFlags::empty();
    interest.set(EventFlags::IN, from.wants_more());
    interest.set(EventFlags::OUT, to.waits());
    interest
}

fn begin_connect(address: IpAddr, port: u16) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddr::new(address, port)) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// Bytes on their way from one socket to another.
#[derive(Default)]
struct Direction {
    bytes: Vec<u8>,
    /// Where those begin that are still to be sent.
    start: usize,
    /// Nothing more comes.
    ended: bool,
    /// Nothing more will be sent, and the other side knows it.
    closed: bool,
}

impl Direction {
    /// Returns whether bytes moved.
    fn pass(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
        let mut moved = false;
        if self.wants_more() {
            self.bytes.clear();
            self.bytes.reserve(CHUNK);
            self.start = 0;
            match recv(from, spare_capacity(&mut self.bytes), RecvFlags::DONTWAIT) {
                Ok((_, 0)) => self.ended = true,
                Ok(_) | Err(Errno::INTR) => moved = true,
                Err(Errno::AGAIN) => {}
                // Whoever is gone sends nothing more.
                Err(_) => self.ended = true,
            }
        }
        if self.waits() {
            let rest = self.bytes.get(self.start..).unwrap_or_default();
            match send(to, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => {
                    self.start = self.start.saturating_add(count);
                    moved = true;
                }
                Err(Errno::INTR) => moved = true,
                Err(Errno::AGAIN) => {}
                Err(_) => self.abandon(),
            }
        }
        if self.ended && !self.waits() && !self.closed {
            self.closed = true;
            let _ = shutdown(to, Shutdown::Write);
        }
        moved
    }

    fn wants_more(&self) -> bool {
        !self.ended && !self.waits()
    }

    fn waits(&self) -> bool {
        self.start < self.bytes.len()
    }

    /// Nobody takes it any more.
    fn abandon(&mut self) {
        *self = Self { ended: true, closed: true, ..Self::default() };
    }
}
