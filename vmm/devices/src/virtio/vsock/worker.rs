//! The worker side: moves packets between the queues and the table of connections.

use std::io;
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use super::handle::{Command, Commands};
use super::request::{HEADER_SIZE, Header};
use super::table::Table;
use crate::event_loop::{Watch, Worker};
use crate::memory::GuestRam;
use crate::virtio::{QueueFailed, ShortChain, Virtqueue};

/// Packets handled in each direction before other devices on the same loop get their turn: with
/// the largest packets that Linux sends, 2 MiB.
const BUDGET: u16 = 32;

/// Tokens below these are connections.
const RX_KICK: u32 = u32::MAX;
const TX_KICK: u32 = RX_KICK - 1;
const EVENT_KICK: u32 = RX_KICK - 2;
const COMMAND: u32 = RX_KICK - 3;

/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET (§5.10.6.7).
const TRANSPORT_RESET: u32 = 0;

/// How the guest broke the protocol beyond an answer.
#[derive(Debug, thiserror::Error)]
enum PacketError {
    #[error("a packet from the guest has no whole header")]
    Header(#[source] ShortChain),
    #[error("a packet from the guest announces {announced} bytes of data and has {present}")]
    Data { announced: u32, present: usize },
    #[error("a buffer for packets to the guest has {len} bytes, no more than a header")]
    Buffer { len: u32 },
    #[error("a buffer for events has {len} bytes")]
    Event { len: u32 },
}

/// What outlives the queues: it goes back to the device when the worker stops.
pub(super) struct Sockets {
    pub(super) table: Table,
    pub(super) commands: Commands,
    /// The driver has to be told that its connections are gone.
    pub(super) announce_reset: bool,
}

pub(super) struct VsockWorker {
    pub(super) rx: Virtqueue,
    pub(super) tx: Virtqueue,
    pub(super) event: Virtqueue,
    pub(super) memory: Arc<GuestRam>,
    pub(super) sockets: Sockets,
}

impl VsockWorker {
    /// Takes what the guest has sent.
    fn receive(&mut self, watch: &mut Watch<'_>) -> Result<(), QueueFailed> {
        let Self { tx, memory, sockets, .. } = self;
        for _ in 0..BUDGET {
            let Some(chain) = tx.pop(memory)? else { return tx.notify(memory) };
            let mut reader = chain.reader();
            let mut header = [0; HEADER_SIZE];
            if let Err(error) = reader.read_exact(&mut header) {
                return Err(tx.fail(&PacketError::Header(error)));
            }
            // From here on only this copy is looked at: the guest can change the original.
            let header = Header::from_bytes(&header);
            let present = reader.remaining();
            if usize::try_from(header.len).map_or(true, |announced| announced > present) {
                return Err(tx.fail(&PacketError::Data { announced: header.len, present }));
            }
            sockets.table.packet(&header, &mut reader, watch);
            tx.push(memory, chain.head(), 0)?;
        }
        tx.notify(memory)?;
        tx.rekick();
        Ok(())
    }

    /// Says to the guest what there is to say, as far as it has buffers.
    fn send(&mut self, watch: &mut Watch<'_>) -> Result<(), QueueFailed> {
        const HEADER_LEN: u32 = 44;
        let Self { rx, memory, sockets, .. } = self;
        let mut sent = false;
        for _ in 0..BUDGET {
            if !sockets.table.may_speak() {
                break;
            }
            let Some(chain) = rx.pop(memory)? else { break };
            let mut writer = chain.writer();
            let room = writer
                .skip(HEADER_SIZE)
                .and_then(|()| writer.take_slices(writer.remaining()))
                .unwrap_or_default();
            if room.is_empty() {
                return Err(rx.fail(&PacketError::Buffer { len: chain.writable_len() }));
            }
            let Some(header) = sockets.table.speak(&room, watch) else {
                rx.unpop(1);
                break;
            };
            // The header was seen to fit.
            let _ = chain.writer().write_all(&header.to_bytes());
            rx.push(memory, chain.head(), header.len.saturating_add(HEADER_LEN))?;
            sent = true;
        }
        if sent {
            rx.notify(memory)?;
        }
        // Either there is no more, or no buffer, and then a notification comes: unless the budget
        // was the reason.
        if sockets.table.may_speak() && rx.has_available(memory)? {
            rx.rekick();
        }
        Ok(())
    }

    /// Tells the driver of a restored device that all its connections are gone.
    fn announce_reset(&mut self) -> Result<(), QueueFailed> {
        let Self { event, memory, sockets, .. } = self;
        if !sockets.announce_reset {
            return Ok(());
        }
        let Some(chain) = event.pop(memory)? else { return Ok(()) };
        if chain.writer().write_all(&TRANSPORT_RESET.to_le_bytes()).is_err() {
            return Err(event.fail(&PacketError::Event { len: chain.writable_len() }));
        }
        sockets.announce_reset = false;
        event.push(memory, chain.head(), 4)?;
        event.notify(memory)
    }

    fn take_commands(&mut self, watch: &mut Watch<'_>) {
        let Sockets { table, commands, .. } = &mut self.sockets;
        // Bounded by the channel, which the host side alone fills.
        while let Some(command) = commands.next() {
            match command {
                Command::Listen { host_port, socket } => table.listen(host_port, socket),
                Command::Connect { guest_port, socket } => {
                    table.connect(guest_port, socket, watch);
                }
            }
        }
    }
}

impl Worker for VsockWorker {
    fn start(&mut self, watch: &mut Watch<'_>) -> io::Result<()> {
        let kick = EventSet::IN | EventSet::EDGE_TRIGGERED;
        watch.add(self.sockets.commands.wake(), COMMAND, kick)?;
        watch.add(self.rx.kick(), RX_KICK, kick)?;
        watch.add(self.tx.kick(), TX_KICK, kick)?;
        watch.add(self.event.kick(), EVENT_KICK, kick)?;
        self.sockets.table.attach(watch);
        if self.sockets.announce_reset {
            self.event.rekick();
        }
        Ok(())
    }

    fn ready(&mut self, token: u32, events: EventSet, watch: &mut Watch<'_>) {
        // Failures of a queue have been reported and latched; the other queues go on, so that what
        // was received before is still written.
        match token {
            RX_KICK => (),
            TX_KICK => {
                // A socket may just have been lent, and the guest, which was told of it by other
                // means, connect to it at once.
                self.take_commands(watch);
                let _ = self.receive(watch);
            }
            EVENT_KICK => {
                let _ = self.announce_reset();
            }
            COMMAND => self.take_commands(watch),
            connection => self.sockets.table.socket_ready(connection, events, watch),
        }
        let _ = self.send(watch);
    }
}
