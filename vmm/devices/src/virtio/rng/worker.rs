//! The worker side: fills each buffer and gives it back.

use std::io;
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use crate::event_loop::{Watch, Worker};
use crate::memory::GuestRam;
use crate::random;
use crate::virtio::{Chain, QueueFailed, Virtqueue};

/// Bytes that one request can get; a driver asks again for more (§5.4.6.2: the device writes one
/// byte or more). Without the bound a guest could keep the host's generator, and the thread that
/// other devices wait for, busy with gigabytes a request.
const MAX_BYTES: usize = 64 << 10;

/// Requests served before other devices on the same loop get their turn.
const BUDGET: u16 = 16;

const KICK: u32 = 0;

pub(super) struct RngWorker {
    queue: Virtqueue,
    memory: Arc<GuestRam>,
}

impl RngWorker {
    pub(super) fn new(queue: Virtqueue, memory: Arc<GuestRam>) -> Self {
        Self { queue, memory }
    }

    pub(super) fn into_queue(self) -> Virtqueue {
        self.queue
    }

    fn serve(&mut self) -> Result<(), QueueFailed> {
        for _ in 0..BUDGET {
            let Some(chain) = self.queue.pop(&self.memory)? else {
                return self.queue.notify(&self.memory);
            };
            let written = fill(&chain);
            self.queue.push(&self.memory, chain.head(), written)?;
        }
        self.queue.notify(&self.memory)?;
        self.queue.rekick();
        Ok(())
    }
}

/// Fills the writable part of a request, up to the bound; the number of bytes written. A request
/// with none gets none (§5.4.6.1 forbids it, and there is nothing to refuse it with).
fn fill(chain: &Chain<'_>) -> u32 {
    let mut written = 0usize;
    for slice in chain.writable() {
        let count = slice.len().min(MAX_BYTES.saturating_sub(written));
        // Where the generator fails, the request ends with what it has got.
        let Some(Ok(slice)) = (count > 0).then(|| slice.subslice(0, count)) else { break };
        let Ok(()) = random::fill(&slice) else { break };
        written = written.saturating_add(count);
    }
    u32::try_from(written).unwrap_or_default()
}

impl Worker for RngWorker {
    fn start(&mut self, watch: &mut Watch<'_>) -> io::Result<()> {
        watch.add(self.queue.kick(), KICK, EventSet::IN | EventSet::EDGE_TRIGGERED)
    }

    fn ready(&mut self, _token: u32, _events: EventSet, _watch: &mut Watch<'_>) {
        // A failure has been reported and latched.
        let _ = self.serve();
    }
}
