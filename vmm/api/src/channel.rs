//! Packets with descriptors over a `SOCK_SEQPACKET` Unix socket.

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes in one message. A configuration with [`MAX_FDS`] shares of 255-byte names fits.
pub const MAX_MESSAGE: usize = 128 * 1024;

/// Descriptors beside one message: what Linux passes in one call (SCM_MAX_FD, unix(7)).
pub const MAX_FDS: usize = 253;

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other side is gone.
    #[error("the other side of the VMM channel is gone")]
    Closed,
    /// The socket is non-blocking and not ready.
    #[error("the VMM channel is not ready")]
    WouldBlock,
    /// The message does not fit in a packet.
    #[error(
        "a message of {size} bytes to the VMM exceeds {MAX_MESSAGE} bytes; use fewer shares or a shorter kernel command line"
    )]
    TooLarge {
        /// Size of the encoded message.
        size: usize,
    },
    /// Too many descriptors.
    #[error("{count} descriptors to the VMM exceed {MAX_FDS}; use fewer shares and disks")]
    TooManyFds {
        /// How many there were.
        count: usize,
    },
    /// The packet or its descriptors were cut off on the way.
    #[error("a message on the VMM channel was truncated")]
    Truncated,
    /// The bytes are no message of this version.
    #[error("a message on the VMM channel could not be decoded")]
    Decode(#[source] postcard::Error),
    /// The message could not be encoded.
    #[error("a message for the VMM channel could not be encoded")]
    Encode(#[source] postcard::Error),
    /// The socket failed.
    #[error("the VMM channel failed")]
    Socket(#[source] Errno),
}

/// One end of the channel between a launcher and its VMM.
///
/// Calls block or answer [`ChannelError::WouldBlock`] as the socket is set.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

impl Channel {
    /// Two connected ends, both close-on-exec and blocking.
    ///
    /// # Errors
    /// The errno of socketpair(2).
    pub fn pair() -> Result<(Self, Self), Errno> {
        let (a, b) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self { socket: a }, Self { socket: b }))
    }

    /// Takes a connected `SOCK_SEQPACKET` socket.
    #[must_use]
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Gives the socket back.
    #[must_use]
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Sends one message with its descriptors.
    ///
    /// # Errors
    /// See [`ChannelError`]; nothing was sent then.
    pub fn send<T: Serialize>(
        &self,
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let bytes = postcard::to_stdvec(message).map_err(ChannelError::Encode)?;
        if bytes.len() > MAX_MESSAGE {
            return Err(ChannelError::TooLarge { size: bytes.len() });
        }
        if fds.len() > MAX_FDS {
            return Err(ChannelError::TooManyFds { count: fds.len() });
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(ChannelError::TooManyFds { count: fds.len() });
        }
        loop {
            match sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)
            {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(socket_error(errno)),
            }
        }
    }

    /// Receives one message with its descriptors, which are close-on-exec.
    ///
    /// # Errors
    /// See [`ChannelError`]; descriptors of a message that cannot be used are closed.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        let mut bytes = vec![0_u8; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(socket_error(errno)),
            }
        };
        let fds = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(ChannelError::Truncated);
        }
        // A SOCK_SEQPACKET peer that closes reads as an empty packet; no message is empty.
        if received.bytes == 0 {
            return Err(ChannelError::Closed);
        }
        let message = postcard::from_bytes(bytes.get(..received.bytes).unwrap_or_default())
            .map_err(ChannelError::Decode)?;
        Ok((message, fds))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn socket_error(errno: Errno) -> ChannelError {
    match errno {
        Errno::AGAIN => ChannelError::WouldBlock,
        Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => ChannelError::Closed,
        other => ChannelError::Socket(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FromVmm, Reply, Request, ToVmm};

    #[test]
    fn passes_a_message_with_its_descriptors() {
        let (a, b) = Channel::pair().unwrap();
        let (read, write) = std::io::pipe().unwrap();
        let sent = ToVmm { id: 7, request: Request::ListenVsock { port: 1024 } };
        a.send(&sent, &[write.as_fd()]).unwrap();
        drop(write);
        let (received, fds) = b.receive::<ToVmm>().unwrap();
        assert_eq!(received, sent);
        assert_eq!(fds.len(), 1);
        drop(fds);
        let mut end = Vec::new();
        std::io::Read::read_to_end(&mut &read, &mut end).unwrap();
        assert!(end.is_empty());
    }

    #[test]
    fn says_closed_when_the_peer_is_gone() {
        let (a, b) = Channel::pair().unwrap();
        drop(b);
        assert!(matches!(a.receive::<FromVmm>(), Err(ChannelError::Closed)));
        let message = FromVmm::Reply { id: 1, result: Ok(Reply::Done) };
        assert!(matches!(a.send(&message, &[]), Err(ChannelError::Closed)));
    }

    #[test]
    fn refuses_bytes_that_are_no_message() {
        let (a, b) = Channel::pair().unwrap();
        rustix::io::write(&a, &[0xff; 40]).unwrap();
        assert!(matches!(b.receive::<FromVmm>(), Err(ChannelError::Decode(_))));
    }

    #[test]
    fn refuses_a_message_larger_than_a_packet() {
        let (a, _b) = Channel::pair().unwrap();
        let name = "x".repeat(MAX_MESSAGE);
        let message = ToVmm { id: 1, request: Request::RemoveShare { name } };
        assert!(matches!(a.send(&message, &[]), Err(ChannelError::TooLarge { .. })));
    }
}
