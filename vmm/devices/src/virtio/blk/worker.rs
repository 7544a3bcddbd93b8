//! The worker side: one request after the other, no faster than the limits allow.

use std::io;
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use super::backend::Disk;
use super::medium::Slot;
use super::request::{Absent, serve};
use crate::event_loop::{Watch, Worker};
use crate::limits::Limits;
use crate::memory::GuestRam;
use crate::rate::Rate;
use crate::virtio::{QueueFailed, Virtqueue};

/// Requests served before a stop of the device gets its turn.
const BUDGET: u16 = 32;

const KICK: u32 = 0;
const TIMER: u32 = 1;

pub(super) struct BlkWorker {
    queue: Virtqueue,
    memory: Arc<GuestRam>,
    slot: Arc<Slot>,
    /// The driver does not flush.
    write_through: bool,
    limits: Option<Limits>,
}

impl BlkWorker {
    pub(super) fn new(
        queue: Virtqueue,
        memory: Arc<GuestRam>,
        slot: Arc<Slot>,
        write_through: bool,
        (operations, bytes): (Option<Rate>, Option<Rate>),
    ) -> io::Result<Self> {
        let limits = Limits::new(operations, bytes)?;
        Ok(Self { queue, memory, slot, write_through, limits })
    }

    pub(super) fn into_queue(self) -> Virtqueue {
        self.queue
    }

    fn serve(&mut self) -> Result<(), QueueFailed> {
        let Self { queue, memory, slot, write_through, limits } = self;
        for _ in 0..BUDGET {
            match limits.as_mut().map_or(Ok(true), Limits::may_go_on) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                // Without its timer the queue would be left unserved for ever.
                Err(_) => break,
            }
            let Some(chain) = queue.pop(memory)? else { return Ok(()) };
            let medium = slot.medium();
            let served = match medium.images.as_slice() {
                [] => serve(&chain, &medium.geometry, &mut Absent),
                images => {
                    let mut disk = Disk { images, write_through: *write_through };
                    serve(&chain, &medium.geometry, &mut disk)
                }
            };
            drop(medium);
            let outcome = match served {
                Ok(outcome) => outcome,
                Err(error) => return Err(queue.fail(&error)),
            };
            if let Some(limits) = limits {
                limits.pay(1, outcome.bytes.into());
            }
            queue.push(memory, chain.head(), chain.writable_len())?;
            // At once: the next request may keep the disk busy for long.
            queue.notify(memory)?;
        }
        queue.rekick();
        Ok(())
    }
}

impl Worker for BlkWorker {
    fn start(&mut self, watch: &mut Watch<'_>) -> io::Result<()> {
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        if let Some(limits) = &self.limits {
            watch.add(limits.timer(), TIMER, events)?;
        }
        watch.add(self.queue.kick(), KICK, events)
    }

    fn ready(&mut self, _token: u32, _events: EventSet, _watch: &mut Watch<'_>) {
        // A failure has been reported and latched.
        let _ = self.serve();
    }
}
