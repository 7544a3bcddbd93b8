//! The worker side: frames in both directions, one after the other.

use std::io;
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use super::backend::{Link, Offloads};
use super::device::Shared;
use super::filter::Filter;
use super::pairs::Lane;
use super::{ETHERNET_HEADER, HEADER_SIZE, MAX_FRAME};
use crate::event_loop::{Watch, Worker};
use crate::limits::Limits;
use crate::memory::GuestRam;
use crate::virtio::{Chain, QueueFailed, Virtqueue};

/// Frames of one direction before the other, or another device, gets its turn.
const BUDGET: u16 = 64;

/// Buffers that one frame may be spread over: Linux gives such of 1.5 KiB and more.
const MAX_BUFFERS: usize = 64;

/// Where the header says how many buffers a frame takes.
const NUM_BUFFERS: std::ops::Range<usize> = 10..12;

/// Flag of the header: the checksum is still to be made.
const NEEDS_CSUM: u8 = 1;

const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const LINK: u32 = 2;
const SEND_AGAIN: u32 = 3;
const RECEIVE_AGAIN: u32 = 4;

/// What the driver takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    /// A frame in several buffers.
    pub(super) merged: bool,
    /// What the driver makes itself.
    pub(super) offloads: Offloads,
}

/// What the host allows.
pub(super) struct Rules {
    pub(super) mac: [u8; 6],
    pub(super) filter: Filter,
    pub(super) sent: Option<Limits>,
    pub(super) received: Option<Limits>,
}

/// Serves one pair of queues.
pub(super) struct NetWorker {
    /// Whether the driver uses the pair; `None` for the first one, which it always does.
    lane: Option<Arc<Lane>>,
    receive: Virtqueue,
    transmit: Virtqueue,
    memory: Arc<GuestRam>,
    link: Link,
    shared: Arc<Shared>,
    rules: Rules,
    accepted: Accepted,
    /// A frame of the network with its header.
    incoming: Vec<u8>,
    /// Bytes of it that wait for buffers of the driver; 0 if there is none.
    waiting: usize,
    /// A frame of the guest with its header.
    outgoing: Vec<u8>,
}

impl NetWorker {
    pub(super) fn new(
        lane: Option<Arc<Lane>>,
        (receive, transmit): (Virtqueue, Virtqueue),
        memory: Arc<GuestRam>,
        (link, shared): (Link, Arc<Shared>),
        rules: Rules,
        accepted: Accepted,
    ) -> Self {
        let (incoming, outgoing, waiting) = (vec![0; HEADER_SIZE + MAX_FRAME], Vec::new(), 0);
        Self {
            lane,
            receive,
            transmit,
            memory,
            link,
            shared,
            rules,
            accepted,
            incoming,
            waiting,
            outgoing,
        }
    }

    /// What it was made of. A frame that waits for buffers is lost.
    pub(super) fn into_parts(self) -> ([Virtqueue; 2], Link) {
        ([self.receive, self.transmit], self.link)
    }

    /// Gives the driver frames of the network, if it uses this pair.
    fn serve_receive(&mut self) -> Result<(), QueueFailed> {
        let Some(lane) = self.lane.clone() else { return self.receive_frames() };
        // Held meanwhile: when the driver is told that it has given up a pair, nothing comes by it.
        let is_attached = lane.lock();
        if *is_attached {
            return self.receive_frames();
        }
        self.waiting = 0;
        Ok(())
    }

    /// Takes frames from the network for as long as the driver has buffers.
    fn receive_frames(&mut self) -> Result<(), QueueFailed> {
        for _ in 0..BUDGET {
            match may_go_on(&mut self.rules.received) {
                Ok(true) => {}
                Ok(false) => return self.receive.notify(&self.memory),
                Err(_) => break,
            }
            if self.waiting == 0 {
                match self.link.receive(&mut self.incoming) {
                    Ok(count) if self.takes(count) => self.waiting = count,
                    Ok(_) => continue,
                    Err(error) => {
                        if error.kind() != io::ErrorKind::WouldBlock {
                            // The interface is gone, or the program, and the network with it.
                            self.shared.set_down();
                        }
                        return self.receive.notify(&self.memory);
                    }
                }
            }
            if !self.deliver()? {
                // The driver notifies the queue when it has buffers again.
                return self.receive.notify(&self.memory);
            }
            pay(&mut self.rules.received, self.incoming.get(..self.waiting).unwrap_or_default());
            self.waiting = 0;
        }
        self.receive.notify(&self.memory)?;
        self.receive.rekick();
        Ok(())
    }

    /// Whether the driver can do something with the frame that was read.
    fn takes(&self, count: usize) -> bool {
        let header = self.incoming.get(..count).and_then(|frame| frame.first_chunk::<2>());
        let Some([flags, segments]) = header else { return false };
        count >= HEADER_SIZE + ETHERNET_HEADER
            && (self.accepted.offloads.csum || flags & NEEDS_CSUM == 0)
            && self.accepted.offloads.takes(*segments)
    }

    /// Gives the frame that waits to the driver; `false` if there are not enough buffers yet.
    fn deliver(&mut self) -> Result<bool, QueueFailed> {
        let most = if self.accepted.merged { MAX_BUFFERS } else { 1 };
        let mut chains: Vec<Chain<'_>> = Vec::new();
        let mut space = 0usize;
        while space < self.waiting {
            if chains.len() == most {
                // It is too large for what the driver has given: it is lost, and the buffers stay.
                self.receive.unpop(count(&chains));
                return Ok(true);
            }
            match self.receive.pop(&self.memory)? {
                Some(chain) => {
                    space = space.saturating_add(writable(&chain));
                    chains.push(chain);
                }
                None => {
                    self.receive.unpop(count(&chains));
                    return Ok(false);
                }
            }
        }
        if let Some(place) = self.incoming.get_mut(NUM_BUFFERS) {
            place.copy_from_slice(&count(&chains).to_le_bytes());
        }
        let mut rest = self.incoming.get(..self.waiting).unwrap_or_default();
        for chain in chains {
            let (part, behind) = rest.split_at(rest.len().min(writable(&chain)));
            rest = behind;
            let mut writer = chain.writer();
            // It has as much room as was counted.
            let _ = writer.write_all(part);
            let (head, written) = (chain.head(), writer.written());
            self.receive.push(&self.memory, head, written)?;
        }
        Ok(true)
    }

    /// Sends what the guest has for the network.
    fn serve_transmit(&mut self) -> Result<(), QueueFailed> {
        for _ in 0..BUDGET {
            match may_go_on(&mut self.rules.sent) {
                Ok(true) => {}
                Ok(false) => return self.transmit.notify(&self.memory),
                Err(_) => break,
            }
            let Some(chain) = self.transmit.pop(&self.memory)? else {
                return self.transmit.notify(&self.memory);
            };
            if take(&chain, &mut self.outgoing)
                && self
                    .outgoing
                    .get(HEADER_SIZE..)
                    .is_some_and(|frame| self.rules.filter.allows(self.rules.mac, frame))
            {
                match self.link.send(&mut self.outgoing) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        // The network says when it takes more.
                        self.transmit.unpop(1);
                        return self.transmit.notify(&self.memory);
                    }
                    // A frame that the host refuses is lost, as on any network.
                    Ok(()) | Err(_) => pay(&mut self.rules.sent, &self.outgoing),
                }
            }
            self.transmit.push(&self.memory, chain.head(), 0)?;
        }
        self.transmit.notify(&self.memory)?;
        self.transmit.rekick();
        Ok(())
    }
}

/// Without its timer a queue would be left unserved for ever: it is to be tried again.
fn may_go_on(limits: &mut Option<Limits>) -> io::Result<bool> {
    limits.as_mut().map_or(Ok(true), Limits::may_go_on)
}

/// Pays for a frame with its header (§5.1.6), which tells into how many packets it is cut.
fn pay(limits: &mut Option<Limits>, frame: &[u8]) {
    let Some(limits) = limits else { return };
    let length = frame.len().saturating_sub(HEADER_SIZE);
    let size = match (frame.get(1), frame.get(4..6).and_then(|size| size.first_chunk())) {
        (Some(1..), Some(size)) => u16::from_le_bytes(*size).into(),
        _ => 0,
    };
    let packets = if size == 0 { 1 } else { length.div_ceil(size).max(1) };
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    limits.pay(number(packets), number(length));
}

/// Copies the guest's frame; `false` if it is none.
fn take(chain: &Chain<'_>, frame: &mut Vec<u8>) -> bool {
    let Ok(length) = usize::try_from(chain.readable_len()) else { return false };
    if !(HEADER_SIZE + ETHERNET_HEADER..=HEADER_SIZE + MAX_FRAME).contains(&length) {
        return false;
    }
    frame.resize(length, 0);
    chain.reader().read_exact(frame).is_ok()
}

fn writable(chain: &Chain<'_>) -> usize {
    usize::try_from(chain.writable_len()).unwrap_or(usize::MAX)
}

/// At most [`MAX_BUFFERS`].
fn count(chains: &[Chain<'_>]) -> u16 {
    u16::try_from(chains.len()).unwrap_or(u16::MAX)
}

impl Worker for NetWorker {
    fn start(&mut self, watch: &mut Watch<'_>) -> io::Result<()> {
        let kick = EventSet::IN | EventSet::EDGE_TRIGGERED;
        for (limits, token) in
            [(&self.rules.sent, SEND_AGAIN), (&self.rules.received, RECEIVE_AGAIN)]
        {
            if let Some(limits) = limits {
                watch.add(limits.timer(), token, kick)?;
            }
        }
        watch.add(self.receive.kick(), RECEIVE, kick)?;
        watch.add(self.transmit.kick(), TRANSMIT, kick)?;
        let both = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        watch.add(self.link.file(), LINK, both)
    }

    fn ready(&mut self, token: u32, events: EventSet, _watch: &mut Watch<'_>) {
        // A failure has been reported and latched.
        if matches!(token, RECEIVE | RECEIVE_AGAIN)
            || (token == LINK
                && events.intersects(EventSet::IN | EventSet::HANG_UP | EventSet::ERROR))
        {
            let _ = self.serve_receive();
        }
        if matches!(token, TRANSMIT | SEND_AGAIN)
            || (token == LINK && events.contains(EventSet::OUT))
        {
            // What is left of a frame goes first; it waits for the network if it has to.
            let _ = self.link.flush();
            let _ = self.serve_transmit();
        }
    }
}
