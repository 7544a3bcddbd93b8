//! Frames of JSON on a stream, with descriptors beside them.

use super::ControlError;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Bytes before the JSON.
const HEADER: usize = 4;
/// Descriptors beside a frame: the three streams of a process.
const MAX_FDS: usize = 3;

/// Sends a message; the stream's own time-out is the deadline for each of its parts.
///
/// # Errors
/// [`ControlError`].
pub(crate) fn send<T: Serialize>(
    mut stream: &UnixStream,
    message: &T,
    limit: usize,
    fds: &[BorrowedFd<'_>],
) -> Result<(), ControlError> {
    let payload = serde_json::to_vec(message).map_err(ControlError::Decode)?;
    let size = payload.len();
    let header = match u32::try_from(size) {
        Ok(length) if size <= limit => length.to_le_bytes(),
        _ => return Err(ControlError::TooLarge { size, limit }),
    };
    // Descriptors travel with the header, which a socket takes as a whole or not at all.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(ControlError::TooLarge { size: fds.len(), limit: MAX_FDS });
    }
    let parts = [IoSlice::new(&header)];
    loop {
        match sendmsg(stream, &parts, &mut control, SendFlags::NOSIGNAL) {
            Ok(HEADER) => break,
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Err(failed(io::Error::from(io::ErrorKind::WriteZero))),
            Err(errno) => return Err(failed(errno.into())),
        }
    }
    stream.write_all(&payload).map_err(failed)
}

/// Receives a message and the descriptors beside it; the stream's own time-out is the deadline for
/// each of its parts.
///
/// # Errors
/// [`ControlError::Closed`] at the end of the stream, [`ControlError::Silent`] after the time-out,
/// or another.
pub(crate) fn receive<T: DeserializeOwned>(
    stream: &UnixStream,
    limit: usize,
) -> Result<(T, Vec<OwnedFd>), ControlError> {
    let (payload, fds) = receive_bytes(stream, limit)?;
    Ok((serde_json::from_slice(&payload).map_err(ControlError::Decode)?, fds))
}

pub(super) fn receive_bytes(
    mut stream: &UnixStream,
    limit: usize,
) -> Result<(Vec<u8>, Vec<OwnedFd>), ControlError> {
    let mut header = [0; HEADER];
    let (count, fds) = receive_header(stream, &mut header)?;
    if let Some(rest) = header.get_mut(count..) {
        stream.read_exact(rest).map_err(failed)?;
    }
    let size = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
    if size > limit {
        return Err(ControlError::TooLarge { size, limit });
    }
    // The buffer grows with what arrives, not with what was announced.
    let mut payload = Vec::new();
    let wanted = u64::try_from(size).unwrap_or(u64::MAX);
    let read = stream.take(wanted).read_to_end(&mut payload).map_err(failed)?;
    if read < size {
        return Err(ControlError::Closed);
    }
    Ok((payload, fds))
}

fn receive_header(
    stream: &UnixStream,
    header: &mut [u8; HEADER],
) -> Result<(usize, Vec<OwnedFd>), ControlError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let count = loop {
        let mut parts = [IoSliceMut::new(header)];
        match recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
    };
    if count == 0 {
        return Err(ControlError::Closed);
    }
    let fds = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((count, fds))
}

fn failed(error: io::Error) -> ControlError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ControlError::Silent,
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::UnexpectedEof => ControlError::Closed,
        _ => ControlError::Stream(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Answer, Envelope, MAX_ANSWER, Request, VERSION};
    use std::os::fd::AsFd;
    use std::time::Duration;

    #[test]
    fn a_message_travels_with_its_descriptors() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let sent = Envelope { version: VERSION, request: Request::Start };
        send(&ours, &sent, 100, &[writer.as_fd()]).unwrap();
        drop(writer);
        let (received, fds) = receive::<Envelope<Request>>(&theirs, 100).unwrap();
        assert_eq!(received, sent);
        assert_eq!(fds.len(), 1);
        drop(fds);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_length_is_bounded_before_it_is_read() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&u32::MAX.to_le_bytes()).unwrap();
        let error = receive::<Answer>(&theirs, MAX_ANSWER).unwrap_err();
        assert!(matches!(error, ControlError::TooLarge { .. }), "{error}");
        let long = Answer::Refused {
            kind: crate::error_kind::ErrorKind::Refused,
            message: "x".repeat(MAX_ANSWER),
        };
        assert!(matches!(send(&ours, &long, MAX_ANSWER, &[]), Err(ControlError::TooLarge { .. })));
    }

    #[test]
    fn silence_and_an_end_are_told_apart() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        assert!(matches!(receive::<Answer>(&theirs, 10), Err(ControlError::Silent)));
        ours.write_all(&[4, 0, 0]).unwrap();
        assert!(matches!(receive::<Answer>(&theirs, 10), Err(ControlError::Silent)));
        drop(ours);
        assert!(matches!(receive::<Answer>(&theirs, 10), Err(ControlError::Closed)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_refused_or_decoded(bytes in proptest::collection::vec(0_u8.., 0..512)) {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(&bytes).unwrap();
            drop(ours);
            // Behind the bytes is the end: nothing waits.
            while receive::<Envelope<Request>>(&theirs, MAX_ANSWER).is_ok() {}
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"\x03\0\0\0{]}").unwrap();
        assert!(matches!(receive::<Answer>(&theirs, 10), Err(ControlError::Decode(_))));
    }
}
