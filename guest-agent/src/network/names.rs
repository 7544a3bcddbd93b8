//! The engine's name server, which is at a loopback address of the host's namespace, at the same
//! address in the guest.
//!
//! ```text
//!  program ── 127.0.0.11:53 ─(rewritten)─> socket ── frames ──> host ── the engine's name server
//! ```
//!
//! Port 53 stays free for name servers in containers, as it is with an engine that redirects: programs
//! of the kernel's change the port of what is sent there to the socket's, and back.

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
        redirection::install(address, PORT, bound.port()).map_err(failure)?;
        let stream = host.connect(plan.port).map_err(|errno| {
            failed(format_args!("connecting to port {} of the host", plan.port), errno)
        })?;
        poller.watch(socket.as_fd(), Source::Questions, EventFlags::IN).map_err(failure)?;
        poller.watch(stream.as_fd(), Source::Answers, EventFlags::IN).map_err(failure)?;
        let asked = Asked::default();
        Ok(Self { socket, stream, asked, outgoing: Vec::new(), incoming: Vec::new() })
    }

    /// An error is the stream's end.
    pub(crate) fn handle(
        &mut self,
        source: Source,
        flags: EventFlags,
        poller: &Poller,
    ) -> Result<(), Errno> {
        if source == Source::Questions {
            self.take_questions();
        } else if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.take_answers()?;
        }
        self.flush()?;
        let mut interest = EventFlags::IN;
        interest.set(EventFlags::OUT, !self.outgoing.is_empty());
        poller.rewatch(self.stream.as_fd(), Source::Answers, interest);
        Ok(())
    }

    pub(crate) fn close(self, poller: &Poller) {
        poller.close(&mut Some(self.socket));
        poller.close(&mut Some(self.stream));
    }

    fn take_questions(&mut self) {
        let mut buffer = vec![0; MAX_NAME_MESSAGE];
        for _ in 0..BUDGET {
            // With TRUNC the whole length is told, also of what is too long.
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            let Ok((_, length, from)) = recvfrom(&self.socket, &mut buffer[..], flags) else {
                return;
            };
            let from = from.and_then(|from| SocketAddrV4::try_from(from).ok());
            let (Some(from), Some(question)) = (from, buffer.get(..length)) else { continue };
            let Ok(length) = u16::try_from(length) else { continue };
            if self.outgoing.len() < MAX_UNSENT {
                let header = NameHeader { number: self.asked.note(from), length };
                self.outgoing.extend(header.bytes());
                self.outgoing.extend(question);
            }
        }
    }

    fn take_answers(&mut self) -> Result<(), Errno> {
        let mut buffer = vec![0; MAX_NAME_MESSAGE];
        match recv(&self.stream, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Err(Errno::PIPE),
            Ok((_, count)) => self.incoming.extend(buffer.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        while let Some((header, answer)) = split(&self.incoming)? {
            if let Some(to) = self.asked.take(header.number) {
                // Who has stopped waiting gets nothing.
                let _ = sendto(&self.socket, answer, SendFlags::DONTWAIT, &to);
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

/// Who waits for an answer. Each question has a number, and its place by that; a later one at the same
/// place has given it up.
struct Asked {
    next: u16,
    places: Vec<Option<(u16, SocketAddrV4)>>,
}

impl Default for Asked {
    fn default() -> Self {
        Self { next: 0, places: vec![None; MAX_NAME_QUESTIONS] }
    }
}

impl Asked {
    fn place(&mut self, number: u16) -> Option<&mut Option<(u16, SocketAddrV4)>> {
        self.places.get_mut(usize::from(number) % MAX_NAME_QUESTIONS)
    }

    fn note(&mut self, from: SocketAddrV4) -> u16 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        if let Some(place) = self.place(number) {
            *place = Some((number, from));
        }
        number
    }

    /// Once for each question.
    fn take(&mut self, number: u16) -> Option<SocketAddrV4> {
        let place = self.place(number)?;
        let (_, from) = place.take_if(|(waits, _)| *waits == number)?;
        Some(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
    }

    #[test]
    fn an_answer_goes_to_who_has_asked_and_once() {
        let mut asked = Asked { next: u16::MAX, ..Asked::default() };
        let (first, second) = (asked.note(from(1)), asked.note(from(2)));
        assert_eq!((first, second), (u16::MAX, 0));
        assert_eq!((asked.take(second), asked.take(second)), (Some(from(2)), None));
        assert_eq!(asked.take(first), Some(from(1)));
        assert_eq!(asked.take(7), None);
        // The oldest of too many is given up.
        let old = asked.note(from(3));
        for port in 0..64 {
            asked.note(from(port));
        }
        assert_eq!(asked.take(old), None);
    }

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let mut bytes = NameHeader { number: 7, length: 3 }.bytes().to_vec();
        bytes.extend(b"abc");
        for length in 0..bytes.len() {
            assert_eq!(split(&bytes[..length]), Ok(None));
        }
        let header = NameHeader { number: 7, length: 3 };
        assert_eq!(split(&bytes), Ok(Some((header, &b"abc"[..]))));
        assert_eq!(split(&[0, 0, 0xff, 0xff]), Err(Errno::PROTO));
    }
}
