//! Interfaces of the engine that go while a guest is connected to them: its peer is removed, or it is
//! moved to another namespace. The guest's tap does not show that.

use super::scan::Found;
use crate::watched::watch;
use rtnetlink::packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{RecvFlags, recv};
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::unix::AsyncFd;

/// RTMGRP_LINK (rtnetlink(7)).
const LINKS: u32 = 1;

/// Bytes of the messages that the kernel gives at once.
const MESSAGES: usize = 32 << 10;

/// What the kernel tells of the interfaces of a namespace.
#[derive(Debug)]
pub(super) struct Links {
    /// Not with an event loop yet: that is the one that waits.
    fresh: Option<OwnedFd>,
    socket: Option<AsyncFd<OwnedFd>>,
    /// Number and name of each that is connected, in the guest's order, while it is there.
    connected: Vec<Option<(u32, String)>>,
}

/// An interface that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    /// Its place among the guest's.
    pub(crate) place: u8,
    /// Its name.
    pub(crate) name: String,
}

impl Links {
    /// Listens in the calling thread's network namespace from now on.
    pub(super) fn listen(found: &[Found]) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, LINKS))?;
        socket.set_non_blocking(true)?;
        let fresh = fcntl_dupfd_cloexec(&socket, 3)?;
        let name = |found: &Found| Some((found.index, found.plan.name.clone()));
        let connected = found.iter().map(name).collect();
        Ok(Self { fresh: Some(fresh), socket: None, connected })
    }

    /// Tells of none any more.
    pub(super) fn close(&mut self) {
        self.socket = None;
    }

    /// Waits for the next one that goes; each is told once.
    pub(super) async fn gone(&mut self) -> io::Result<Gone> {
        if let Some(fresh) = self.fresh.take() {
            self.socket = Some(watch(fresh)?);
        }
        let Some(socket) = &self.socket else { return std::future::pending().await };
        loop {
            let mut ready = socket.readable().await?;
            let mut bytes = [0; MESSAGES];
            match recv(ready.get_inner(), &mut bytes, RecvFlags::DONTWAIT) {
                Ok((_, count)) => {
                    let numbers = deleted(bytes.get(..count).unwrap_or_default());
                    if let Some(gone) = take(&mut self.connected, &numbers) {
                        return Ok(gone);
                    }
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                // More has happened than the socket holds: what is lost is not told.
                Err(Errno::INTR | Errno::NOBUFS) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// The first connected one of these. The kernel tells of one in each message.
fn take(connected: &mut [Option<(u32, String)>], numbers: &[u32]) -> Option<Gone> {
    connected.iter_mut().zip(0..).find_map(|(entry, place)| {
        let (_, name) = entry.take_if(|(index, _)| numbers.contains(index))?;
        Some(Gone { place, name })
    })
}

/// Numbers of the interfaces that these messages say are gone.
fn deleted(mut bytes: &[u8]) -> Vec<u32> {
    let mut numbers = Vec::new();
    while let Ok(buffer) = NetlinkBuffer::new_checked(bytes) {
        let length = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes);
        if let Ok(message) = message
            && let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) =
                message.payload
        {
            numbers.push(link.header.index);
        }
        bytes = bytes.get(length.next_multiple_of(4).max(1)..).unwrap_or_default();
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_by_its_place() {
        let mut connected = vec![Some((7, "eth0".to_owned())), Some((9, "eth1".to_owned()))];
        assert_eq!(take(&mut connected, &[8]), None);
        let gone = Gone { place: 1, name: "eth1".to_owned() };
        assert_eq!(take(&mut connected, &[9]), Some(gone));
        assert_eq!(take(&mut connected, &[9]), None);
        assert!(deleted(&[0; 64]).is_empty());
        assert!(deleted(&[16, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_empty());
    }
}
