//! The engine's name server, which is at a loopback address of the host's namespace, at the same
//! address in the guest.
//!
//! ```text
//!  program ── 127.0.0.11:53 ─(rewritten)─> socket ── frames ──> host ── the engine's name server
//! ```
//!
//! By UDP and by TCP: what has no room in a datagram is asked for again by the other (RFC 7766).
//!
//! Port 53 stays free for name servers in containers, as it is with an engine that redirects: programs
//! of the kernel's change the port of what is sent there to the socket's, and back.

use super::name_streams::NameStreams;
use super::redirection;
use crate::failure::{Outcome, failed, invalid};
use crate::poller::{Poller, Source};
use crate::transport::Host;
use agent_protocol::{MAX_NAME_MESSAGE, MAX_NAME_QUESTIONS, NameHeader, NameServerPlan};
use alloc::vec;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getsockname, recv,
    recvfrom, send, sendto, socket_with,
};

/// Where programs ask (RFC 1035, section 4.2).
const PORT: u16 = 53;
/// Questions or answers taken at a time.
const BUDGET: usize = 32;
/// Bytes of questions that wait for the host; what is asked then is lost, as by any network.
const MAX_UNSENT: usize = 64 << 10;

/// Questions on their way to the host, and answers back.
pub(crate) struct NameRelay {
    socket: OwnedFd,
    streams: NameStreams,
    stream: OwnedFd,
    asked: Asked,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl NameRelay {
    /// From now on programs of this network namespace reach the host at the server's address.
    pub(crate) fn open(host: Host<'_>, plan: NameServerPlan, poller: &Poller) -> Outcome<Self> {
        let address = Ipv4Addr::from(plan.address);
        if !address.is_loopback() {
            return Err(invalid(format_args!("{address} is no loopback address")));
        }
        let failure = |errno| failed(format_args!("being a name server at {address}"), errno);
        let socket =
            socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                .map_err(failure)?;
        bind(&socket, &SocketAddrV4::new(address, 0)).map_err(failure)?;
        let bound = getsockname(&socket).and_then(SocketAddrV4::try_from).map_err(failure)?;
        // Both have one number, since what is redirected is not told apart.
        let streams = NameStreams::listen(SocketAddrV4::new(address, bound.port()), poller)
            .map_err(failure)?;
        redirection::install(address, PORT, bound.port()).map_err(failure)?;
        let stream = host.connect(plan.port).map_err(|errno| {
            failed(format_args!("connecting to port {} of the host", plan.port), errno)
        })?;
        poller.watch(socket.as_fd(), Source::Questions, EventFlags::IN).map_err(failure)?;
        poller.watch(stream.as_fd(), Source::Answers, EventFlags::IN).map_err(failure)?;
        let asked = Asked::default();
        Ok(Self { socket, streams, stream, asked, outgoing: Vec::new(), incoming: Vec::new() })
    }

    /// An error is the stream's end.
    pub(crate) fn handle(
        &mut self,
        source: Source,
        flags: EventFlags,
        poller: &Poller,
    ) -> Result<(), Errno> {
        match source {
            Source::Questions => self.take_questions(poller),
            Source::NameListener => self.streams.accept(poller),
            Source::NameStream(key) => {
                if let Some(question) = self.streams.handle(key, poller) {
                    self.ask(Asker::Stream(key), &question, poller);
                }
            }
            _ if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) => {
                self.take_answers(poller)?;
            }
            _ => {}
        }
        self.flush()?;
        let mut interest = EventFlags::IN;
        interest.set(EventFlags::OUT, !self.outgoing.is_empty());
        poller.rewatch(self.stream.as_fd(), Source::Answers, interest);
        Ok(())
    }

    pub(crate) fn close(self, poller: &Poller) {
        self.streams.close(poller);
        poller.close(&mut Some(self.socket));
        poller.close(&mut Some(self.stream));
    }

    /// Asks the host. Who asks too much gets no answer.
    fn ask(&mut self, asker: Asker, question: &[u8], poller: &Poller) {
        let by_tcp = matches!(asker, Asker::Stream(_));
        let given_up = match u16::try_from(question.len()) {
            Ok(length) if self.outgoing.len() < MAX_UNSENT => {
                let (number, given_up) = self.asked.note(asker);
                self.outgoing.extend(NameHeader { number, by_tcp, length }.bytes());
                self.outgoing.extend(question);
                given_up
            }
            _ => Some(asker),
        };
        if let Some(Asker::Stream(key)) = given_up {
            self.streams.end(key, poller);
        }
    }

    fn take_questions(&mut self, poller: &Poller) {
        let mut buffer = vec![0; MAX_NAME_MESSAGE];
        for _ in 0..BUDGET {
            // With TRUNC the whole length is told, also of what is too long.
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            let Ok((_, length, from)) = recvfrom(&self.socket, &mut buffer[..], flags) else {
                return;
            };
            let from = from.and_then(|from| SocketAddrV4::try_from(from).ok());
            let (Some(from), Some(question)) = (from, buffer.get(..length)) else { continue };
            self.ask(Asker::Datagram(from), question, poller);
        }
    }

    fn take_answers(&mut self, poller: &Poller) -> Result<(), Errno> {
        let mut buffer = vec![0; MAX_NAME_MESSAGE];
        match recv(&self.stream, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Err(Errno::PIPE),
            Ok((_, count)) => self.incoming.extend(buffer.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        while let Some((header, answer)) = split(&self.incoming)? {
            match self.asked.take(header.number) {
                // Who has stopped waiting gets nothing.
                Some(Asker::Datagram(to)) => {
                    let _ = sendto(&self.socket, answer, SendFlags::DONTWAIT, &to);
                }
                Some(Asker::Stream(key)) => self.streams.answer(key, answer, poller),
                None => {}
            }
            let taken = NameHeader::BYTES.saturating_add(answer.len());
            self.incoming.drain(..taken);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        while !self.outgoing.is_empty() {
            match send(&self.stream, &self.outgoing, flags) {
                Ok(count) => drop(self.outgoing.drain(..count.min(self.outgoing.len()))),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// The first whole message, if it is there.
fn split(bytes: &[u8]) -> Result<Option<(NameHeader, &[u8])>, Errno> {
    let Some((header, rest)) = bytes.split_first_chunk() else { return Ok(None) };
    let header = NameHeader::read(*header).ok_or(Errno::PROTO)?;
    Ok(rest.get(..usize::from(header.length)).map(|message| (header, message)))
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// A socket at this address.
    Datagram(SocketAddrV4),
    /// The connection with this key.
    Stream(u32),
}

/// Who waits for which answer. Each question has a number, and its place by that; a later one at the
/// same place has given it up.
struct Asked {
    next: u16,
    places: Vec<Option<(u16, Asker)>>,
}

impl Default for Asked {
    fn default() -> Self {
        Self { next: 0, places: vec![None; MAX_NAME_QUESTIONS] }
    }
}

impl Asked {
    fn place(&mut self, number: u16) -> Option<&mut Option<(u16, Asker)>> {
        self.places.get_mut(usize::from(number) % MAX_NAME_QUESTIONS)
    }

    /// The number of a question, and whose earlier one is given up for it.
    fn note(&mut self, asker: Asker) -> (u16, Option<Asker>) {
        let number = self.next;
        self.next = number.wrapping_add(1);
        let before = self.place(number).and_then(|place| place.replace((number, asker)));
        (number, before.map(|(_, asker)| asker))
    }

    /// Once for each question.
    fn take(&mut self, number: u16) -> Option<Asker> {
        let place = self.place(number)?;
        let (_, asker) = place.take_if(|(waits, _)| *waits == number)?;
        Some(asker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(port: u16) -> Asker {
        Asker::Datagram(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
    }

    #[test]
    fn an_answer_goes_to_who_has_asked_and_once() {
        let mut asked = Asked { next: u16::MAX, ..Asked::default() };
        let ((first, _), (second, _)) = (asked.note(from(1)), asked.note(from(2)));
        assert_eq!((first, second), (u16::MAX, 0));
        assert_eq!((asked.take(second), asked.take(second)), (Some(from(2)), None));
        assert_eq!(asked.take(first), Some(from(1)));
        assert_eq!(asked.take(7), None);
        // The oldest of too many is given up.
        let (old, _) = asked.note(Asker::Stream(3));
        let given_up: Vec<_> = (0..64).filter_map(|port| asked.note(from(port)).1).collect();
        assert_eq!((asked.take(old), given_up), (None, vec![Asker::Stream(3)]));
    }

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let mut bytes = NameHeader { number: 7, by_tcp: false, length: 3 }.bytes().to_vec();
        bytes.extend(b"abc");
        for length in 0..bytes.len() {
            assert_eq!(split(&bytes[..length]), Ok(None));
        }
        let header = NameHeader { number: 7, by_tcp: false, length: 3 };
        assert_eq!(split(&bytes), Ok(Some((header, &b"abc"[..]))));
        assert_eq!(split(&[0, 0, 0, 0xff, 0xff]), Err(Errno::PROTO));
    }
}
