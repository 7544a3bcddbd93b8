//! The routing socket (rtnetlink(7)): one request, one answer.

use alloc::vec;
use alloc::vec::Vec;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// An answer that is an error, or none: number 0 (netlink(7)).
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// Bytes of an answer: an error repeats the request.
const MAX_ANSWER: usize = 8192;

/// A request: its type, the flags beside those of every request, and what follows the header.
#[derive(Debug)]
pub(super) struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        Self { kind, flags, body: fixed.to_vec() }
    }

    /// Adds an attribute (`struct rtattr`): length, type, data, and zeros up to four bytes.
    pub(super) fn attribute(mut self, kind: u16, data: &[u8]) -> Self {
        let length = u16::try_from(data.len().saturating_add(4)).unwrap_or(u16::MAX);
        self.body.extend(length.to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(data);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    /// The same if there is a value.
    pub(super) fn optional(self, kind: u16, data: Option<&[u8]>) -> Self {
        match data {
            Some(data) => self.attribute(kind, data),
            None => self,
        }
    }

    fn bytes(&self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(HEADER.saturating_add(self.body.len())).unwrap_or(u32::MAX);
        let flags = NLM_F_REQUEST | NLM_F_ACK | self.flags;
        let mut bytes = Vec::with_capacity(HEADER.saturating_add(self.body.len()));
        bytes.extend(length.to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&self.body);
        bytes
    }
}

pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> Result<Self, Errno> {
        // NETLINK_ROUTE is protocol 0.
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The kernel answers before send(2) returns.
    pub(super) fn request(&mut self, message: &Message) -> Result<(), Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.socket, &message.bytes(self.sequence), SendFlags::empty())?;
        let mut answer = vec![0; MAX_ANSWER];
        let (count, _) = recv(&self.socket, &mut answer, RecvFlags::DONTWAIT)?;
        parse(answer.get(..count).unwrap_or_default(), self.sequence)
    }
}

fn parse(answer: &[u8], sequence: u32) -> Result<(), Errno> {
    let word = |offset: usize| -> Option<[u8; 4]> { answer.get(offset..)?.first_chunk().copied() };
    let kind = answer.get(4..6).and_then(|bytes| bytes.first_chunk::<2>()).copied();
    let (Some(kind), Some(of), Some(error)) = (kind, word(8), word(HEADER)) else {
        return Err(Errno::PROTO);
    };
    if u16::from_ne_bytes(kind) != NLMSG_ERROR || u32::from_ne_bytes(of) != sequence {
        return Err(Errno::PROTO);
    }
    match i32::from_ne_bytes(error) {
        0 => Ok(()),
        error => Err(Errno::from_raw_os_error(error.wrapping_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded() {
        let message = Message::new(16, 0, &[1; 4]).attribute(3, b"lo\0").optional(4, None);
        let bytes = message.bytes(9);
        assert_eq!(bytes.len(), 16 + 4 + 8);
        assert_eq!(bytes[..4], 28u32.to_ne_bytes());
        assert_eq!(bytes[20..22], 7u16.to_ne_bytes());
        assert_eq!(bytes[24..], *b"lo\0\0");
    }

    #[test]
    fn answers_are_errors_or_none() {
        let answer = |kind: u16, sequence: u32, error: i32| {
            let mut bytes = vec![0; 4];
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 2]);
            bytes.extend(sequence.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(error.to_ne_bytes());
            bytes
        };
        assert_eq!(parse(&answer(2, 7, 0), 7), Ok(()));
        assert_eq!(parse(&answer(2, 7, -17), 7), Err(Errno::EXIST));
        assert_eq!(parse(&answer(2, 8, 0), 7), Err(Errno::PROTO));
        assert_eq!(parse(&answer(3, 7, 0), 7), Err(Errno::PROTO));
        assert_eq!(parse(&[0; 10], 7), Err(Errno::PROTO));
    }
}
