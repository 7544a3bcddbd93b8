//! All connections of a guest: which packet belongs to which, and who speaks next.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;

use vm_memory::VolatileSlice;
use vmm_sys_util::epoll::EventSet;

use super::connection::{Connection, Key, Spoken, Violation};
use super::request::{Header, TYPE_STREAM, op};
use super::{HOST_CID, MAX_CONNECTIONS, MAX_LISTENERS, credit_for};
use crate::event_loop::Watch;
use crate::virtio::Reader;

/// Refusals that wait for a buffer of the guest's. A guest that asks for more without taking them
/// does not get them; its own time-outs tell it.
const MAX_REPLIES: usize = 256;

/// First port for connections from the host: far from the ports that people choose.
const FIRST_EPHEMERAL_PORT: u32 = 1 << 30;

/// A connection and what the table knows of it.
struct Slot {
    connection: Connection,
    /// It is in `speakers`.
    scheduled: bool,
    /// The socket is watched for room to write.
    watching_room: bool,
}

/// The connections of one guest.
pub(super) struct Table {
    guest_cid: u64,
    /// By epoll token.
    slots: Vec<Option<Slot>>,
    count: usize,
    /// Connections that the guest knows of.
    by_key: BTreeMap<Key, usize>,
    listeners: BTreeMap<u32, VecDeque<OwnedFd>>,
    listener_count: usize,
    /// Connections that may have something to say to the guest, in the order of their turn.
    speakers: VecDeque<usize>,
    replies: VecDeque<Header>,
    next_port: u32,
}

impl Table {
    pub(super) fn new(guest_cid: u64) -> Self {
        Self {
            guest_cid,
            slots: Vec::new(),
            count: 0,
            by_key: BTreeMap::new(),
            listeners: BTreeMap::new(),
            listener_count: 0,
            speakers: VecDeque::new(),
            replies: VecDeque::new(),
            next_port: FIRST_EPHEMERAL_PORT,
        }
    }

    /// Forgets all connections, as their guest has. Lent sockets stay for its next driver.
    pub(super) fn clear(&mut self) {
        self.slots = Vec::new();
        self.count = 0;
        self.by_key = BTreeMap::new();
        self.speakers = VecDeque::new();
        self.replies = VecDeque::new();
    }

    /// Waits for all sockets, on a new loop.
    pub(super) fn attach(&mut self, watch: &mut Watch<'_>) {
        for index in 0..self.slots.len() {
            self.watch_socket(index, watch);
        }
    }

    /// Lends a socket to a port. Closes it if too many are lent.
    pub(super) fn listen(&mut self, host_port: u32, socket: OwnedFd) {
        if self.listener_count < MAX_LISTENERS {
            self.listeners.entry(host_port).or_default().push_back(socket);
            self.listener_count = self.listener_count.saturating_add(1);
        }
    }

    /// Asks the guest for a connection. Closes the socket if there are too many already.
    pub(super) fn connect(&mut self, guest_port: u32, socket: OwnedFd, watch: &mut Watch<'_>) {
        let Some(key) = self.ephemeral_key(guest_port) else { return };
        let credit = credit_for(self.count);
        self.insert(Connection::requested(key, self.guest_cid, socket, credit), watch);
    }

    /// A key that is not in use. There are fewer connections than ports, so one is found soon.
    fn ephemeral_key(&mut self, guest_port: u32) -> Option<Key> {
        for _ in 0..=MAX_CONNECTIONS {
            let host_port = self.next_port;
            // The last port number stands for "any" (VMADDR_PORT_ANY).
            self.next_port = host_port
                .checked_add(1)
                .filter(|port| *port != u32::MAX)
                .unwrap_or(FIRST_EPHEMERAL_PORT);
            let key = Key { host_port, guest_port };
            if !self.by_key.contains_key(&key) {
                return Some(key);
            }
        }
        None
    }

    /// Takes a new connection in and waits for its socket; `false` if that cannot be done.
    fn insert(&mut self, connection: Connection, watch: &mut Watch<'_>) -> bool {
        if self.count >= MAX_CONNECTIONS {
            return false;
        }
        let key = connection.key;
        let slot = Some(Slot { connection, scheduled: false, watching_room: false });
        let index = match self.slots.iter().position(Option::is_none) {
            Some(index) => index,
            None => {
                self.slots.push(None);
                self.slots.len().saturating_sub(1)
            }
        };
        let Some(place) = self.slots.get_mut(index) else { return false };
        *place = slot;
        self.count = self.count.saturating_add(1);
        self.by_key.insert(key, index);
        if !self.watch_socket(index, watch) {
            self.remove(index, watch);
            return false;
        }
        self.settle(index, watch);
        true
    }

    fn watch_socket(&mut self, index: usize, watch: &mut Watch<'_>) -> bool {
        let Some(Some(slot)) = self.slots.get_mut(index) else { return false };
        slot.watching_room = slot.connection.wants_to_write();
        let events = interest(slot.watching_room);
        match (slot.connection.stream(), u32::try_from(index)) {
            (Some(stream), Ok(token)) => watch.add(stream, token, events).is_ok(),
            _ => true,
        }
    }

    /// A packet from the guest, with the bytes behind its header.
    pub(super) fn packet(
        &mut self,
        header: &Header,
        data: &mut Reader<'_, '_>,
        watch: &mut Watch<'_>,
    ) {
        // §5.10.6.4.1: a packet of an unknown type, or to an address that is not there, is refused.
        if header.src_cid != self.guest_cid {
            return;
        }
        if header.dst_cid != HOST_CID || header.socket_type != TYPE_STREAM {
            self.refuse(header);
            return;
        }
        let key = Key { host_port: header.dst_port, guest_port: header.src_port };
        let Some(index) = self.by_key.get(&key).copied() else {
            if header.op == op::REQUEST {
                self.accept(key, header, watch);
            } else {
                self.refuse(header);
            }
            return;
        };
        let Some(Some(Slot { connection, .. })) = self.slots.get_mut(index) else { return };
        let result = match header.op {
            op::RESPONSE => connection.answered(header),
            op::RST => {
                connection.guest_gone();
                self.by_key.remove(&key);
                Ok(())
            }
            operation => {
                connection.learn_credit(header);
                match operation {
                    op::RW => connection.data_from_guest(data, header.len),
                    op::SHUTDOWN => connection.guest_shutdown(header.flags),
                    op::CREDIT_UPDATE => Ok(()),
                    op::CREDIT_REQUEST => {
                        connection.credit_wanted();
                        Ok(())
                    }
                    // A second REQUEST, or no operation at all.
                    _ => Err(Violation),
                }
            }
        };
        if let (Err(_), Some(Some(slot))) = (result, self.slots.get_mut(index)) {
            slot.connection.reset();
        }
        self.settle(index, watch);
    }

    fn accept(&mut self, key: Key, request: &Header, watch: &mut Watch<'_>) {
        let socket = self.listeners.get_mut(&key.host_port).and_then(VecDeque::pop_front);
        let Some(socket) = socket else {
            self.refuse(request);
            return;
        };
        self.listener_count = self.listener_count.saturating_sub(1);
        self.listeners.retain(|_, sockets| !sockets.is_empty());
        let credit = credit_for(self.count);
        if !self.insert(Connection::accepted(key, request, socket, credit), watch) {
            self.refuse(request);
        }
    }

    /// §5.10.6.4: answers with RST, but never an RST.
    fn refuse(&mut self, header: &Header) {
        if header.op != op::RST && self.replies.len() < MAX_REPLIES {
            self.replies.push_back(header.reset_reply());
        }
    }

    /// The socket of connection `token` has an event.
    pub(super) fn socket_ready(&mut self, token: u32, events: EventSet, watch: &mut Watch<'_>) {
        let Ok(index) = usize::try_from(token) else { return };
        // A late event of a connection whose place another has taken is harmless: it looks, and
        // finds nothing.
        let Some(Some(Slot { connection, .. })) = self.slots.get_mut(index) else { return };
        let gone = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        if gone || events.intersects(EventSet::IN | EventSet::READ_HANG_UP) {
            connection.socket_ready(gone || events.contains(EventSet::READ_HANG_UP), gone);
        }
        if gone || events.contains(EventSet::OUT) {
            connection.flush();
        }
        self.settle(index, watch);
    }

    /// Draws the consequences of whatever has happened to a connection: its ends, what to wait
    /// for, whether it is over, whether it has something to say.
    fn settle(&mut self, index: usize, watch: &mut Watch<'_>) {
        let Some(Some(slot)) = self.slots.get_mut(index) else { return };
        slot.connection.settle();
        if let Some(stream) = slot.connection.take_finished_stream() {
            watch.remove(&stream);
        }
        if slot.connection.is_drained() {
            self.remove(index, watch);
            return;
        }
        let wants_room = slot.connection.wants_to_write();
        if let (Some(stream), Ok(token)) = (slot.connection.stream(), u32::try_from(index))
            && wants_room != slot.watching_room
        {
            // It is watched already, so this cannot fail.
            let _ = watch.modify(stream, token, interest(wants_room));
            slot.watching_room = wants_room;
        }
        if slot.connection.may_speak() && !slot.scheduled {
            slot.scheduled = true;
            self.speakers.push_back(index);
        }
    }

    fn remove(&mut self, index: usize, watch: &mut Watch<'_>) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::take) else { return };
        self.count = self.count.saturating_sub(1);
        if self.by_key.get(&slot.connection.key) == Some(&index) {
            self.by_key.remove(&slot.connection.key);
        }
        if slot.scheduled {
            self.speakers.retain(|speaker| *speaker != index);
        }
        if let Some(stream) = slot.connection.stream() {
            watch.remove(stream);
        }
    }

    /// Whether [`Self::speak`] may have something.
    pub(super) fn may_speak(&self) -> bool {
        !self.replies.is_empty() || !self.speakers.is_empty()
    }

    /// The next packet for the guest: its header, with the data in `room`. Connections take turns.
    pub(super) fn speak(
        &mut self,
        room: &[VolatileSlice<'_>],
        watch: &mut Watch<'_>,
    ) -> Option<Header> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        for _ in 0..self.speakers.len() {
            let index = self.speakers.pop_front()?;
            let Some(Some(slot)) = self.slots.get_mut(index) else { continue };
            slot.scheduled = false;
            let spoken = slot.connection.speak(room);
            if let Spoken::Last(_) = spoken {
                self.remove(index, watch);
            } else {
                self.settle(index, watch);
            }
            match spoken {
                Spoken::Nothing => (),
                Spoken::Packet(header) | Spoken::Last(header) => return Some(header),
            }
        }
        None
    }
}

/// Edge-triggered, so that a socket with bytes for which the guest has no room does not wake the
/// loop again and again. Room to write is waited for only when there is something to write.
fn interest(room: bool) -> EventSet {
    let events = EventSet::IN | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
    if room { events | EventSet::OUT } else { events }
}
