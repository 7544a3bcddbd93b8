//! Connections of programs that ask for names by TCP (RFC 1035, section 4.2.2): each message stands behind
//! its length. One question of a connection is asked at a time; further ones wait in its socket.

use crate::poller::{Poller, Source};
use agent_protocol::MAX_NAME_MESSAGE;
use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddrV4;
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, listen, recv,
    send, socket_with,
};

/// Connections at once; the oldest is ended for a further one, so none has to be timed.
const MAX_CONNECTIONS: usize = 16;
/// Connections taken at a time.
const BUDGET: usize = 16;
/// Bytes of a length.
const LENGTH: usize = 2;

/// The listening socket, and what has connected to it.
pub(super) struct NameStreams {
    listener: OwnedFd,
    /// The oldest first.
    connections: Vec<Connection>,
    next_key: u32,
}

struct Connection {
    key: u32,
    socket: OwnedFd,
    state: State,
}

enum State {
    /// This much of a question has come, with its length.
    Asks(Vec<u8>),
    /// The host has been asked.
    Waits,
    /// This is left of the answer.
    Answers(Vec<u8>),
}

/// What has become of a connection.
enum Progress {
    /// It waits until this is possible.
    Until(EventFlags),
    /// A question is whole.
    Asked(Vec<u8>),
    /// It has ended, or what came is no question.
    Ended,
}

impl NameStreams {
    pub(super) fn listen(address: SocketAddrV4, poller: &Poller) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        bind(&listener, &address)?;
        let waiting = i32::try_from(MAX_CONNECTIONS).unwrap_or(i32::MAX);
        listen(&listener, waiting)?;
        poller.watch(listener.as_fd(), Source::NameListener, EventFlags::IN)?;
        Ok(Self { listener, connections: Vec::new(), next_key: 0 })
    }

    pub(super) fn accept(&mut self, poller: &Poller) {
        for _ in 0..BUDGET {
            let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC) else { return };
            let key = self.next_key;
            if poller.add(socket.as_fd(), Source::NameStream(key), EventFlags::IN).is_err() {
                continue;
            }
            // When the numbers have come round, the connection that had this one is gone.
            self.next_key = key.wrapping_add(1);
            if self.connections.len() >= MAX_CONNECTIONS {
                let oldest = self.connections.remove(0);
                poller.close(&mut Some(oldest.socket));
            }
            self.connections.push(Connection { key, socket, state: State::Asks(Vec::new()) });
        }
    }

    /// The next question of a connection, if it is whole.
    pub(super) fn handle(&mut self, key: u32, poller: &Poller) -> Option<Vec<u8>> {
        let connection = self.find(key)?;
        match connection.go_on() {
            Progress::Until(interest) => {
                poller.arm(connection.socket.as_fd(), Source::NameStream(key), interest);
                None
            }
            Progress::Asked(question) => Some(question),
            Progress::Ended => {
                self.end(key, poller);
                None
            }
        }
    }

    /// The host's answer for a connection; an empty one is its end.
    pub(super) fn answer(&mut self, key: u32, answer: &[u8], poller: &Poller) {
        let length = u16::try_from(answer.len()).unwrap_or_default();
        if length == 0 {
            return self.end(key, poller);
        }
        if let Some(connection) = self.find(key) {
            connection.state = State::Answers([&length.to_be_bytes(), answer].concat());
            poller.arm(connection.socket.as_fd(), Source::NameStream(key), EventFlags::OUT);
        }
    }

    /// Ends a connection.
    pub(super) fn end(&mut self, key: u32, poller: &Poller) {
        if let Some(place) = self.connections.iter().position(|connection| connection.key == key) {
            let ended = self.connections.remove(place);
            poller.close(&mut Some(ended.socket));
        }
    }

    pub(super) fn close(self, poller: &Poller) {
        for connection in self.connections {
            poller.close(&mut Some(connection.socket));
        }
        poller.close(&mut Some(self.listener));
    }

    fn find(&mut self, key: u32) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.key == key)
    }
}

impl Connection {
    /// Does what can be done now. It is called again when more can be.
    fn go_on(&mut self) -> Progress {
        match &mut self.state {
            // Only an end is told of one that waits.
            State::Waits => return Progress::Ended,
            State::Answers(rest) => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                match send(&self.socket, rest, flags) {
                    Ok(count) => drop(rest.drain(..count.min(rest.len()))),
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(_) => return Progress::Ended,
                }
                if !rest.is_empty() {
                    return Progress::Until(EventFlags::OUT);
                }
                self.state = State::Asks(Vec::new());
            }
            State::Asks(question) => match take_question(&self.socket, question) {
                Ok(Some(question)) => {
                    self.state = State::Waits;
                    return Progress::Asked(question);
                }
                Ok(None) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return Progress::Ended,
            },
        }
        Progress::Until(EventFlags::IN)
    }
}

/// Reads what is missing of a question and no more, so that the next one stays where it is; the question
/// when it is whole.
fn take_question(socket: &OwnedFd, taken: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Errno> {
    loop {
        let missing = match taken.split_first_chunk::<LENGTH>() {
            None => LENGTH.saturating_sub(taken.len()),
            Some((length, question)) => {
                let length = usize::from(u16::from_be_bytes(*length));
                if length == 0 || length > MAX_NAME_MESSAGE {
                    return Err(Errno::PROTO);
                }
                if question.len() >= length {
                    return Ok(Some(question.to_vec()));
                }
                length.saturating_sub(question.len())
            }
        };
        let mut buffer = vec![0; missing];
        match recv(socket, &mut buffer[..], RecvFlags::DONTWAIT)? {
            (_, 0) => return Err(Errno::PIPE),
            (_, count) => taken.extend(buffer.get(..count).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::socketpair;

    fn pair() -> (Connection, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        (Connection { key: 1, socket: ours, state: State::Asks(Vec::new()) }, theirs)
    }

    fn write(socket: &OwnedFd, bytes: &[u8]) {
        assert_eq!(send(socket, bytes, SendFlags::empty()), Ok(bytes.len()));
    }

    #[test]
    fn questions_are_taken_one_by_one_however_they_are_cut() {
        let (mut connection, program) = pair();
        for part in [&[0][..], &[3], b"ab"] {
            write(&program, part);
            assert!(matches!(connection.go_on(), Progress::Until(EventFlags::IN)));
        }
        // The next one is behind it.
        write(&program, b"c\0\x01d");
        let Progress::Asked(question) = connection.go_on() else { panic!("it is whole") };
        assert_eq!(question, b"abc");
        connection.state = State::Answers(b"answer".to_vec());
        assert!(matches!(connection.go_on(), Progress::Until(EventFlags::IN)));
        let mut answer = [0; 16];
        assert_eq!(recv(&program, &mut answer, RecvFlags::empty()).unwrap().1, 6);
        let Progress::Asked(question) = connection.go_on() else { panic!("it is whole") };
        assert_eq!(question, b"d");
        drop(program);
        connection.state = State::Asks(Vec::new());
        assert!(matches!(connection.go_on(), Progress::Ended));
    }

    #[test]
    fn what_is_no_question_ends_its_connection() {
        for length in [[0, 0], [0x10, 1], [0xff, 0xff]] {
            let (mut connection, program) = pair();
            write(&program, &length);
            assert!(matches!(connection.go_on(), Progress::Ended), "{length:?}");
        }
    }
}
