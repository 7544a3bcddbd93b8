//! The pair of sockets between the agent and a child that becomes a process of a container.
//!
//! ```text
//!  agent: go ──────────────────────> child     with a user namespace: its ids are mapped
//!  child: ready (with its terminal) ─> agent
//!  agent: go ──────────────────────> child     after the host has asked for the start
//!  child: passed ──────────────────> agent     all its hooks have succeeded, if it has any
//!  child: execve(2) closes its end ─> agent    it runs
//!  child: error ───────────────────> agent     at any step, then it exits
//! ```

use crate::failure::Outcome;
use agent_protocol::{AgentError, ErrorKind, HEADER_BYTES, decode, encode};
use alloc::vec;
use alloc::vec::Vec;
use core::mem::MaybeUninit;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

/// Bytes of an error's message; paths in it may be long.
const MAX_MESSAGE: usize = 8 * 1024;
/// Bytes of one packet.
const MAX_PACKET: usize = MAX_MESSAGE + 64;

const READY: u8 = 0;
const ERROR: u8 = 1;
const PASSED: u8 = 2;

/// What a child said.
pub(crate) enum Word {
    /// It stands; with the master side of its terminal.
    Ready(Option<OwnedFd>),
    /// Its hooks have succeeded.
    Passed,
    /// It cannot go on.
    Error(AgentError),
    /// It has closed its end: it executes a program, or it is dead.
    End,
    /// Nothing yet.
    Nothing,
}

/// The agent's end (does not block) and the child's (blocks).
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (agent, child) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&agent, true)?;
    Ok((agent, child))
}

/// The next word of a child. The child's own code is the agent's, but from "ready" on it shares its
/// fate with the container, so nothing it says can fail the agent.
pub(crate) fn receive(channel: &OwnedFd) -> Word {
    let mut bytes = vec![0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        channel,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
    );
    let count = match received {
        Ok(message) if message.flags.contains(ReturnFlags::TRUNC) => 0,
        Ok(message) => message.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Word::Nothing,
        Err(_) => 0,
    };
    let terminal = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match bytes.get(..count) {
        Some([READY]) => Word::Ready(terminal),
        Some([PASSED]) => Word::Passed,
        Some([ERROR, error @ ..]) => match decode(error) {
            Ok(error) => Word::Error(error),
            Err(_) => Word::End,
        },
        _ => Word::End,
    }
}

/// Tells the child to execute its program.
pub(crate) fn go(channel: &OwnedFd) -> Result<(), Errno> {
    rustix::net::send(channel, &[READY], SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
}

/// The child's end.
pub(super) struct ChildEnd {
    pub(super) fd: OwnedFd,
}

impl ChildEnd {
    /// Says that everything is done that can be done before the start, and waits for it. `Ok(false)`
    /// if the agent has given up.
    pub(super) fn ready(&self, terminal: Option<BorrowedFd<'_>>) -> Result<bool, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = terminal.into_iter().collect();
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        sendmsg(&self.fd, &[IoSlice::new(&[READY])], &mut control, SendFlags::NOSIGNAL)?;
        self.wait()
    }

    /// Waits for the agent's word. `Ok(false)` if it has given up.
    pub(super) fn wait(&self) -> Result<bool, Errno> {
        let mut byte = [0];
        loop {
            match rustix::io::read(&self.fd, &mut byte) {
                Ok(count) => return Ok(count == 1),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Says that no hook keeps the program from being executed.
    pub(super) fn passed(&self) -> Result<(), Errno> {
        rustix::net::send(&self.fd, &[PASSED], SendFlags::NOSIGNAL).map(drop)
    }

    /// Says that it runs, as the execution of a program would.
    pub(super) fn end(&self) -> Result<(), Errno> {
        rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both)
    }

    /// Says why there will be no process.
    pub(super) fn fail(&self, mut error: AgentError) {
        if error.message.len() > MAX_MESSAGE {
            let end = error.message.floor_char_boundary(MAX_MESSAGE);
            error.message.truncate(end);
        }
        let Ok(mut packet) = encode(&error, MAX_PACKET) else { return };
        // The packet is its own frame: one byte in the place of the header.
        packet.drain(..HEADER_BYTES - 1);
        if let Some(first) = packet.first_mut() {
            *first = ERROR;
        }
        let _ = rustix::net::send(self.fd.as_fd(), &packet, SendFlags::NOSIGNAL);
    }
}

/// The error for a child that ended without a word.
pub(crate) fn died_silently() -> AgentError {
    AgentError {
        kind: ErrorKind::Failed,
        message: "the process was killed before it was ready".into(),
        errno: 0,
    }
}

/// The error for a child that ended while it waited for a hook.
pub(crate) fn died_in_hooks() -> AgentError {
    AgentError {
        kind: ErrorKind::Failed,
        message: "the container was killed while a startContainer hook ran".into(),
        errno: 0,
    }
}

/// Never: a child either executes its program or has an error.
pub(super) type Executed = Outcome<core::convert::Infallible>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_arrive() {
        let (agent, child) = pair().unwrap();
        assert!(matches!(receive(&agent), Word::Nothing));
        let child = ChildEnd { fd: child };
        go(&agent).unwrap();
        assert!(child.ready(Some(agent.as_fd())).unwrap());
        assert!(matches!(receive(&agent), Word::Ready(Some(_))));
        child.passed().unwrap();
        assert!(matches!(receive(&agent), Word::Passed));
        let error = AgentError {
            kind: ErrorKind::ProgramMissing,
            message: "é".repeat(MAX_MESSAGE),
            errno: 2,
        };
        child.fail(error);
        let Word::Error(error) = receive(&agent) else { panic!("no error") };
        assert_eq!((error.kind, error.errno), (ErrorKind::ProgramMissing, 2));
        assert_eq!(error.message.len(), MAX_MESSAGE);
        drop(child);
        assert!(matches!(receive(&agent), Word::End));
    }
}
