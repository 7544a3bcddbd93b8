//! One connection: two directions, their credit, and how they end.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::num::Wrapping;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use vm_memory::VolatileSlice;

use super::HOST_CID;
use super::request::{Header, TYPE_STREAM, op, shutdown};
use crate::iovec;
use crate::virtio::{Reader, ShortChain};

/// The two ports that name a connection; the addresses are the host's and the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) host_port: u32,
    pub(super) guest_port: u32,
}

/// Where a connection is in its life (diagram in `mod.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The guest has been asked and has not answered.
    Connecting,
    /// Data may flow.
    Open,
    /// The guest side is gone; what it sent is still being written to the socket.
    Draining,
    /// The host side is gone and the guest has been told; its answer is awaited.
    Closing,
}

/// What the guest is to be told, apart from data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Say {
    request: bool,
    response: bool,
    reset: bool,
    credit_update: bool,
    credit_request: bool,
    /// Flags of a SHUTDOWN that have not been sent.
    shutdown: u32,
}

/// What became of a packet slot offered to [`Connection::speak`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    /// There is nothing to say.
    Nothing,
    /// This header, with `header.len` bytes of data written behind it.
    Packet(Header),
    /// This header, and then the connection is over.
    Last(Header),
}

/// The guest broke the connection's rules; it is reset.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation;

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) key: Key,
    pub(super) phase: Phase,
    guest_cid: u64,
    /// `None` once it has been given up.
    stream: Option<UnixStream>,
    /// Nothing more is to be read from the stream, or written to it.
    stream_over: bool,
    say: Say,

    /// Bytes from the guest that the socket has not taken; at most `credit`.
    backlog: VecDeque<u8>,
    credit: u32,
    /// Bytes the guest has sent, and how many of them have left the backlog (§5.10.6.3).
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    /// What `forwarded` was when the guest was told last.
    told: Wrapping<u32>,
    /// SHUTDOWN flags that the guest has sent.
    guest_done: u32,
    /// The socket's writing side has been shut down, or has nobody behind it.
    write_ended: bool,

    peer_credit: u32,
    peer_forwarded: Wrapping<u32>,
    sent: Wrapping<u32>,
    /// The guest has been asked for credit since it last gave some.
    credit_asked: bool,
    /// There may be something to read.
    readable: bool,
    /// The peer has shut down its writing side (and maybe more).
    peer_ended: bool,
    /// The peer has closed the socket.
    hung_up: bool,
    /// The end of what the host sends has been reached.
    read_ended: bool,
}

impl Connection {
    /// A connection that the guest has asked for with `request`.
    pub(super) fn accepted(key: Key, request: &Header, stream: OwnedFd, credit: u32) -> Self {
        let mut connection = Self::new(key, Phase::Open, request.src_cid, stream, credit);
        connection.say.response = true;
        connection.learn_credit(request);
        connection
    }

    /// A connection that the host asks for.
    pub(super) fn requested(key: Key, guest_cid: u64, stream: OwnedFd, credit: u32) -> Self {
        let mut connection = Self::new(key, Phase::Connecting, guest_cid, stream, credit);
        connection.say.request = true;
        connection
    }

    fn new(key: Key, phase: Phase, guest_cid: u64, stream: OwnedFd, credit: u32) -> Self {
        Self {
            key,
            phase,
            guest_cid,
            stream: Some(stream.into()),
            stream_over: false,
            say: Say::default(),
            backlog: VecDeque::new(),
            credit,
            received: Wrapping(0),
            forwarded: Wrapping(0),
            told: Wrapping(0),
            guest_done: 0,
            write_ended: false,
            peer_credit: 0,
            peer_forwarded: Wrapping(0),
            sent: Wrapping(0),
            credit_asked: false,
            readable: true,
            peer_ended: false,
            hung_up: false,
            read_ended: false,
        }
    }

    /// The socket, while there is one to wait for.
    pub(super) fn stream(&self) -> Option<&UnixStream> {
        self.stream.as_ref()
    }

    /// The socket, if it is not needed any more. It has been shut down: whoever holds the other
    /// end sees that even if a copy of this descriptor is open elsewhere.
    pub(super) fn take_finished_stream(&mut self) -> Option<UnixStream> {
        let stream = self.stream.take_if(|_| self.stream_over)?;
        let _ = stream.shutdown(Shutdown::Both);
        Some(stream)
    }

    /// Whether to wait until the socket takes more.
    pub(super) fn wants_to_write(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Whether the guest side is gone and all its bytes are written.
    pub(super) fn is_drained(&self) -> bool {
        self.phase == Phase::Draining && self.backlog.is_empty()
    }

    /// Whether [`Self::speak`] may have something to say.
    pub(super) fn may_speak(&self) -> bool {
        self.phase != Phase::Draining && (self.say != Say::default() || self.may_read())
    }

    fn may_read(&self) -> bool {
        self.phase == Phase::Open
            && self.readable
            && !self.read_ended
            && self.guest_done & shutdown::RECEIVE == 0
            && (self.peer_room() > 0 || !self.credit_asked)
    }

    /// The socket has become readable, or its peer has ended or closed it.
    pub(super) fn socket_ready(&mut self, peer_ended: bool, hung_up: bool) {
        self.readable = true;
        self.peer_ended |= peer_ended;
        self.hung_up |= hung_up;
        if self.hung_up && self.read_ended && !self.write_ended {
            self.nobody_reads();
        }
    }

    /// The guest answers a request of ours.
    pub(super) fn answered(&mut self, response: &Header) -> Result<(), Violation> {
        if self.phase != Phase::Connecting || self.say.request {
            return Err(Violation);
        }
        self.phase = Phase::Open;
        self.learn_credit(response);
        Ok(())
    }

    /// Every packet tells how much the guest can take (§5.10.6.3).
    pub(super) fn learn_credit(&mut self, header: &Header) {
        self.peer_credit = header.buf_alloc;
        self.peer_forwarded = Wrapping(header.fwd_cnt);
        if self.peer_room() > 0 {
            self.credit_asked = false;
        }
    }

    /// The guest wants to know our credit.
    pub(super) fn credit_wanted(&mut self) {
        self.say.credit_update = true;
    }

    /// Bytes that the guest has room for. A guest that says nonsense gets nothing.
    fn peer_room(&self) -> u32 {
        let Wrapping(under_way) = self.sent - self.peer_forwarded;
        self.peer_credit.saturating_sub(under_way)
    }

    /// The guest sends `len` bytes, which `data` is at. After the host side has gone they are
    /// dropped: the guest cannot know yet, and a reset would cost it what it has not read.
    ///
    /// # Errors
    /// It may not: not open, said it would not send any more, or has no credit left. Without the
    /// check the backlog would grow as the guest likes.
    pub(super) fn data_from_guest(
        &mut self,
        data: &mut Reader<'_, '_>,
        len: u32,
    ) -> Result<(), Violation> {
        let Wrapping(under_way) = self.received - self.forwarded;
        let room = self.credit.saturating_sub(under_way);
        let open = matches!(self.phase, Phase::Open | Phase::Closing);
        if !open || self.guest_done & shutdown::SEND != 0 || len > room {
            return Err(Violation);
        }
        self.received += Wrapping(len);
        // The caller has checked that the chain has as many.
        let slices = usize::try_from(len).ok().and_then(|len| data.take_slices(len).ok());
        let taken = self.write_through(&slices.unwrap_or_default());
        self.pass_on(taken);
        self.note_credit();
        Ok(())
    }

    /// Writes guest memory to the socket as far as it goes and keeps the rest; the number of bytes
    /// that need not be kept.
    fn write_through(&mut self, slices: &[VolatileSlice<'_>]) -> usize {
        let len = slices.iter().fold(0usize, |sum, slice| sum.saturating_add(slice.len()));
        let mut done = 0usize;
        while done < len && self.backlog.is_empty() && !self.write_ended {
            let Some(stream) = &self.stream else { break };
            match iovec::send(stream.as_fd(), slices, done) {
                Ok(count) => done = done.saturating_add(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.nobody_reads(),
            }
        }
        if self.write_ended {
            return len;
        }
        let mut rest = Reader::new(slices);
        let kept = rest.skip(done).and_then(|()| read_all(&mut rest)).unwrap_or_default();
        self.backlog.extend(kept);
        done
    }

    /// Writes the backlog to the socket as far as it goes.
    pub(super) fn flush(&mut self) {
        while !self.backlog.is_empty() {
            let Some(stream) = &self.stream else { break };
            match iovec::send_bytes(stream.as_fd(), self.backlog.as_slices().0) {
                Ok(count) => {
                    self.backlog.drain(..count.min(self.backlog.len()));
                    self.pass_on(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.nobody_reads(),
            }
        }
        if self.backlog.is_empty() {
            // Most connections never have a backlog again.
            self.backlog = VecDeque::new();
        }
        self.note_credit();
    }

    /// What the guest sends finds no reader: it is dropped, as a pipe's would be, and the guest is
    /// told not to send more. What the host has sent can still be read.
    fn nobody_reads(&mut self) {
        self.write_ended = true;
        self.say.shutdown |= shutdown::RECEIVE;
        let dropped = self.backlog.len();
        self.backlog = VecDeque::new();
        self.pass_on(dropped);
    }

    fn pass_on(&mut self, bytes: usize) {
        // At most the credit, which is a u32.
        self.forwarded += Wrapping(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// §5.10.6.3: the guest must be told before it stands still, and not for every few bytes.
    fn note_credit(&mut self) {
        let Wrapping(news) = self.forwarded - self.told;
        let Wrapping(known_under_way) = self.received - self.told;
        let half = self.credit >> 1;
        let worth_it = news >= self.credit >> 3 || self.backlog.is_empty();
        if self.phase == Phase::Open && known_under_way > half && news > 0 && worth_it {
            self.say.credit_update = true;
        }
    }

    /// The guest will not send, or not receive, any more.
    pub(super) fn guest_shutdown(&mut self, flags: u32) -> Result<(), Violation> {
        if matches!(self.phase, Phase::Connecting) {
            return Err(Violation);
        }
        self.guest_done |= flags & shutdown::BOTH;
        if self.guest_done & shutdown::RECEIVE != 0
            && let Some(stream) = &self.stream
        {
            // Fails if the peer is gone, and then there is nothing to stop.
            let _ = stream.shutdown(Shutdown::Read);
        }
        Ok(())
    }

    /// The guest side is gone. Bytes that it sent before are still to be written.
    pub(super) fn guest_gone(&mut self) {
        self.phase = Phase::Draining;
        self.stream_over = self.backlog.is_empty();
    }

    /// The guest is to be told that the connection is over.
    pub(super) fn reset(&mut self) {
        self.say = Say { reset: true, ..Say::default() };
        self.stream_over = true;
        self.backlog = VecDeque::new();
    }

    /// Brings the ends of the two directions together, after anything has happened.
    pub(super) fn settle(&mut self) {
        if self.backlog.is_empty()
            && (self.guest_done & shutdown::SEND != 0 || self.phase == Phase::Draining)
            && !self.write_ended
            && let Some(stream) = &self.stream
        {
            let _ = stream.shutdown(Shutdown::Write);
            self.write_ended = true;
        }
        // Both directions ended by the guest, and all is written: §5.10.6.5, answered with RST.
        if self.guest_done == shutdown::BOTH && self.backlog.is_empty() && !self.say.reset {
            self.reset();
        }
        if self.is_drained() {
            self.stream_over = true;
        }
        if self.phase == Phase::Open && self.read_ended && self.write_ended {
            self.stream_over = true;
            if self.say.shutdown == 0 {
                self.phase = Phase::Closing;
            }
        }
    }

    /// Says one thing to the guest, if there is one: a header, and data written to `room`.
    pub(super) fn speak(&mut self, room: &[VolatileSlice<'_>]) -> Spoken {
        if self.phase == Phase::Draining {
            return Spoken::Nothing;
        }
        if self.say.reset {
            return Spoken::Last(self.header(op::RST, 0, 0));
        }
        if std::mem::take(&mut self.say.request) {
            return self.packet(op::REQUEST, 0);
        }
        if std::mem::take(&mut self.say.response) {
            return self.packet(op::RESPONSE, 0);
        }
        if self.may_read() {
            match self.read_into(room) {
                0 => (),
                len => {
                    self.sent += Wrapping(len);
                    let header = self.header(op::RW, len, 0);
                    return Spoken::Packet(header);
                }
            }
        }
        // Says "no more data", so it comes after the last of it.
        let flags = std::mem::take(&mut self.say.shutdown);
        if flags != 0 && self.guest_done != shutdown::BOTH {
            return self.packet(op::SHUTDOWN, flags);
        }
        if std::mem::take(&mut self.say.credit_request) {
            return self.packet(op::CREDIT_REQUEST, 0);
        }
        if std::mem::take(&mut self.say.credit_update) {
            return self.packet(op::CREDIT_UPDATE, 0);
        }
        Spoken::Nothing
    }

    /// Reads from the socket what the guest has room for; the number of bytes.
    fn read_into(&mut self, room: &[VolatileSlice<'_>]) -> u32 {
        let credit = self.peer_room();
        if credit == 0 {
            self.credit_asked = true;
            self.say.credit_request = true;
            return 0;
        }
        let space = room.iter().fold(0usize, |sum, slice| sum.saturating_add(slice.len()));
        let limit = usize::try_from(credit).unwrap_or(usize::MAX).min(space);
        let Some(stream) = self.stream.as_ref().filter(|_| limit > 0) else { return 0 };
        match iovec::receive(stream.as_fd(), room, limit) {
            Ok(count) if count > 0 => {
                // A short read has emptied the socket; the next byte brings an event. Not so the
                // end of the stream, whose event has been seen.
                self.readable = count == limit || self.peer_ended;
                u32::try_from(count).unwrap_or_default()
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                0
            }
            end => {
                // The end, or an error that a peer leaves when it closes with bytes unread.
                self.read_ended = true;
                self.say.shutdown |= shutdown::SEND;
                if self.hung_up || end.is_err() {
                    self.nobody_reads();
                }
                0
            }
        }
    }

    fn packet(&mut self, op: u16, flags: u32) -> Spoken {
        Spoken::Packet(self.header(op, 0, flags))
    }

    /// Every packet tells our credit, so an update that was due is not any more.
    fn header(&mut self, op: u16, len: u32, flags: u32) -> Header {
        self.told = self.forwarded;
        self.say.credit_update = false;
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: self.key.host_port,
            dst_port: self.key.guest_port,
            len,
            socket_type: TYPE_STREAM,
            op,
            flags,
            buf_alloc: self.credit,
            fwd_cnt: self.forwarded.0,
        }
    }
}

/// The bytes not yet read. They are within a connection's credit, so their number is bounded.
fn read_all(reader: &mut Reader<'_, '_>) -> Result<Vec<u8>, ShortChain> {
    let mut bytes = vec![0; reader.remaining()];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}
