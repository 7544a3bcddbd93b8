//! The other commands' end.

use super::{
    Answer, ControlError, Envelope, MAX_ANSWER, MAX_CALL, SILENCE, VERSION, receive, send,
};
use crate::store::CONTROL;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Serialize;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a supervisor whose queue of connections is full is asked again.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How often.
const PAUSE: Duration = Duration::from_millis(5);

/// A connection to a supervisor.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
}

impl Connection {
    /// Connects to the supervisor of the container with this directory.
    ///
    /// # Errors
    /// [`ControlError::Connect`].
    pub(crate) fn open(directory: &Path) -> Result<Self, ControlError> {
        Self::open_within(directory, SILENCE)
    }

    /// As [`Self::open`], for a supervisor that may be silent for so long only.
    ///
    /// # Errors
    /// [`ControlError::Connect`].
    pub(crate) fn open_within(directory: &Path, silence: Duration) -> Result<Self, ControlError> {
        let path = directory.join(CONTROL);
        let failed = |source: io::Error| ControlError::Connect { path: path.clone(), source };
        let (address, _directory) = short_address(directory).map_err(failed)?;
        let until = Instant::now() + CONNECT_DEADLINE;
        let socket = loop {
            // A blocking connect(2) would wait for a full queue without a deadline.
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
                .map_err(|errno| failed(errno.into()))?;
            match connect(&socket, &address) {
                Ok(()) => break socket,
                Err(Errno::AGAIN | Errno::INTR) if Instant::now() < until => {
                    std::thread::sleep(PAUSE);
                }
                Err(errno) => return Err(failed(errno.into())),
            }
        };
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false).map_err(failed)?;
        stream.set_read_timeout(Some(silence)).map_err(failed)?;
        stream.set_write_timeout(Some(silence)).map_err(failed)?;
        Ok(Self { stream })
    }

    /// Asks, and waits for the answer for as long as the supervisor works on it.
    ///
    /// # Errors
    /// [`ControlError::Refused`] with the supervisor's words, or another.
    pub(crate) fn call<T: Serialize>(
        &self,
        request: T,
    ) -> Result<(Answer, Vec<OwnedFd>), ControlError> {
        let call = Envelope { version: VERSION, request };
        send(&self.stream, &call, MAX_CALL, &[])?;
        self.receive()
    }

    /// Waits for a further answer to a watch, for as long as the supervisor says that it is there.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(crate) fn next(&self) -> Result<Answer, ControlError> {
        self.receive().map(|(answer, _)| answer)
    }

    fn receive(&self) -> Result<(Answer, Vec<OwnedFd>), ControlError> {
        loop {
            match receive::<Answer>(&self.stream, MAX_ANSWER)? {
                (Answer::Working, _) => {}
                (Answer::Refused { kind, message }, _) => {
                    return Err(ControlError::Refused { kind, message });
                }
                answer => return Ok(answer),
            }
        }
    }

    /// Waits for the second answer to an `exec`, for as long as its process lives.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(crate) fn wait(&self) -> Result<Answer, ControlError> {
        self.stream.set_read_timeout(None).map_err(ControlError::Stream)?;
        match receive::<Answer>(&self.stream, MAX_ANSWER)?.0 {
            Answer::Refused { kind, message } => Err(ControlError::Refused { kind, message }),
            answer => Ok(answer),
        }
    }

    /// Asks for something that has no other answer than that it is done.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(crate) fn done<T: Serialize>(&self, request: T) -> Result<(), ControlError> {
        match self.call(request)? {
            (Answer::Done, _) => Ok(()),
            _ => Err(ControlError::WrongAnswer),
        }
    }
}

/// An address of the socket in `directory`, however long its path is: a socket's address has 108
/// bytes (unix(7)). It is good for as long as the descriptor is open.
pub(super) fn short_address(directory: &Path) -> io::Result<(SocketAddrUnix, OwnedFd)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{CONTROL}", directory.as_raw_fd()));
    Ok((SocketAddrUnix::new(&path)?, directory))
}
