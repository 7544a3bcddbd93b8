//! The control stream: frames from the host, frames to the host.

use agent_protocol::{
    FrameError, GuestMessage, HEADER_BYTES, HostMessage, MAX_GUEST_FRAME, MAX_HOST_FRAME, decode,
    encode, frame_length,
};
use alloc::vec::Vec;
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// Bytes read at a time, on the stack.
const READ_BYTES: usize = 4096;

/// Bytes that wait for a host that does not read. Replies and exits are small and there is one for
/// each request and process, so a host that lets so many gather is broken.
const MAX_UNSENT: usize = 4 * 1024 * 1024;

/// Takes whole messages out of a stream of bytes. Grows with what arrives, not with what a length
/// announces.
#[derive(Default)]
pub(crate) struct FrameReader {
    bytes: Vec<u8>,
}

impl FrameReader {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, if all of it is here.
    pub(crate) fn next(&mut self) -> Result<Option<HostMessage>, FrameError> {
        let Some((header, rest)) = self.bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let length = frame_length(*header, MAX_HOST_FRAME)?;
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let message = decode(payload)?;
        if rest.len() == length {
            // What a large plan took is memory that containers can use.
            self.bytes = Vec::new();
        } else {
            self.bytes.drain(..HEADER_BYTES.saturating_add(length));
        }
        Ok(Some(message))
    }
}

/// Why the control stream cannot be used any further.
pub(crate) enum Broken {
    /// The host closed it.
    Closed,
    /// Reading or writing failed.
    Failed(Errno),
    /// The host sent no frame of this protocol.
    Frame,
    /// The host does not read.
    Unread,
}

/// The control stream; does not block.
pub(crate) struct Control {
    pub(crate) stream: OwnedFd,
    incoming: FrameReader,
    outgoing: Vec<u8>,
}

impl Control {
    pub(crate) fn new(stream: OwnedFd) -> Self {
        Self { stream, incoming: FrameReader::default(), outgoing: Vec::new() }
    }

    /// Reads what has arrived.
    pub(crate) fn fill(&mut self) -> Result<(), Broken> {
        let mut buffer = [0_u8; READ_BYTES];
        match rustix::io::read(&self.stream, &mut buffer) {
            Ok(0) => Err(Broken::Closed),
            Ok(count) => {
                self.incoming.push(buffer.get(..count).unwrap_or(&[]));
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(errno) => Err(Broken::Failed(errno)),
        }
    }

    /// The next message of what has been read.
    pub(crate) fn next(&mut self) -> Result<Option<HostMessage>, Broken> {
        self.incoming.next().map_err(|_| Broken::Frame)
    }

    /// Sends a message, as far as the stream takes it now.
    pub(crate) fn send(&mut self, message: &GuestMessage) -> Result<(), Broken> {
        // Every text in a message is bounded, so the frame is too.
        let frame = encode(message, MAX_GUEST_FRAME).map_err(|_| Broken::Frame)?;
        self.outgoing.extend_from_slice(&frame);
        self.flush()?;
        if self.outgoing.len() > MAX_UNSENT { Err(Broken::Unread) } else { Ok(()) }
    }

    /// Whether something waits for the stream.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub(crate) fn flush(&mut self) -> Result<(), Broken> {
        while !self.outgoing.is_empty() {
            match rustix::io::write(&self.stream, &self.outgoing) {
                Ok(count) => drop(self.outgoing.drain(..count.min(self.outgoing.len()))),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(Broken::Closed),
                Err(errno) => return Err(Broken::Failed(errno)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::Request;
    use std::prelude::v1::*;

    fn frame(id: u64) -> Vec<u8> {
        encode(&HostMessage { id, request: Request::Sync }, MAX_HOST_FRAME).unwrap()
    }

    #[test]
    fn finds_messages_however_they_are_cut() {
        let bytes: Vec<u8> = (0..3).flat_map(frame).collect();
        for size in 1..=bytes.len() {
            let mut reader = FrameReader::default();
            let mut ids = Vec::new();
            for part in bytes.chunks(size) {
                reader.push(part);
                while let Some(message) = reader.next().unwrap() {
                    ids.push(message.id);
                }
            }
            assert_eq!(ids, [0, 1, 2], "in parts of {size}");
        }
    }

    #[test]
    fn refuses_a_length_before_its_bytes_come() {
        let mut reader = FrameReader::default();
        reader.push(&u32::MAX.to_le_bytes());
        assert!(reader.next().is_err());
    }

    #[test]
    fn a_whole_frame_gives_its_memory_back() {
        let mut reader = FrameReader::default();
        reader.push(&frame(9));
        reader.next().unwrap().unwrap();
        assert_eq!(reader.bytes.capacity(), 0);
    }
}
