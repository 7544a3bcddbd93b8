//! The control queue (VIRTIO 1.2 §5.1.6.5): how many pairs of queues the driver uses. Every other command
//! is refused.

use std::io;
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use super::pairs::Pairs;
use crate::event_loop::{Watch, Worker};
use crate::memory::GuestRam;
use crate::virtio::{Chain, QueueFailed, Virtqueue};

/// Commands before others on the thread get their turn.
const BUDGET: u16 = 16;

/// VIRTIO_NET_CTRL_MQ (§5.1.6.5.5).
const CLASS_MQ: u8 = 4;
/// VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET.
const VQ_PAIRS_SET: u8 = 0;

/// VIRTIO_NET_OK and VIRTIO_NET_ERR.
const OK: u8 = 0;
const ERR: u8 = 1;

/// Bytes of the only command: its class, its number, and how many.
const COMMAND: usize = 4;

/// The pairs that a command asks for; `None` if it is another one.
fn wanted_pairs(command: [u8; COMMAND]) -> Option<u16> {
    match command {
        [CLASS_MQ, VQ_PAIRS_SET, low, high] => Some(u16::from_le_bytes([low, high])),
        _ => None,
    }
}

/// Serves the control queue.
pub(super) struct ControlWorker {
    queue: Virtqueue,
    memory: Arc<GuestRam>,
    pairs: Arc<Pairs>,
    /// Pairs that the driver has set up.
    most: u16,
}

impl ControlWorker {
    pub(super) fn new(
        queue: Virtqueue,
        memory: Arc<GuestRam>,
        pairs: Arc<Pairs>,
        most: u16,
    ) -> Self {
        Self { queue, memory, pairs, most }
    }

    pub(super) fn into_queue(self) -> Virtqueue {
        self.queue
    }

    fn serve(&mut self) -> Result<(), QueueFailed> {
        for _ in 0..BUDGET {
            let Some(chain) = self.queue.pop(&self.memory)? else {
                return self.queue.notify(&self.memory);
            };
            let done = command(&chain)
                .and_then(wanted_pairs)
                .filter(|count| (1..=self.most).contains(count))
                .is_some_and(|count| self.pairs.ask(count).is_ok());
            let mut writer = chain.writer();
            // A command without room for an answer gets none.
            let _ = writer.write_all(&[if done { OK } else { ERR }]);
            let (head, written) = (chain.head(), writer.written());
            self.queue.push(&self.memory, head, written)?;
        }
        self.queue.notify(&self.memory)?;
        self.queue.rekick();
        Ok(())
    }
}

/// A command of the one length that is known.
fn command(chain: &Chain<'_>) -> Option<[u8; COMMAND]> {
    let mut command = [0; COMMAND];
    let is_long_enough = usize::try_from(chain.readable_len()) == Ok(COMMAND);
    (is_long_enough && chain.reader().read_exact(&mut command).is_ok()).then_some(command)
}

impl Worker for ControlWorker {
    fn start(&mut self, watch: &mut Watch<'_>) -> io::Result<()> {
        watch.add(self.queue.kick(), 0, EventSet::IN | EventSet::EDGE_TRIGGERED)
    }

    fn ready(&mut self, _token: u32, _events: EventSet, _watch: &mut Watch<'_>) {
        // A failure has been reported and latched.
        let _ = self.serve();
    }
}
