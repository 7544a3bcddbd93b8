//! The worker side: gives back what the guest gives away or reports.

use std::io;
use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::epoll::EventSet;

use super::PAGE_SIZE;
use super::release::Release;
use super::request::{PagesError, Run, read_runs};
use crate::event_loop::{Watch, Worker};
use crate::memory::GuestRam;
use crate::virtio::{Chain, QueueFailed, Virtqueue};

/// Requests handled before other devices on the same loop get their turn. Freeing the 64 MiB that
/// Linux reports at once takes the host some milliseconds.
const BUDGET: u16 = 4;

const INFLATE: u32 = 0;
const DEFLATE: u32 = 1;
const REPORTING: u32 = 2;

pub(super) struct BalloonWorker {
    pub(super) inflate: Virtqueue,
    pub(super) deflate: Virtqueue,
    pub(super) reporting: Option<Virtqueue>,
    pub(super) memory: Arc<GuestRam>,
    pub(super) release: Release,
}

/// Handles a bounded number of a queue's requests with `f`.
fn serve(
    queue: &mut Virtqueue,
    memory: &GuestRam,
    f: impl Fn(&Chain<'_>) -> Result<(), PagesError>,
) -> Result<(), QueueFailed> {
    for _ in 0..BUDGET {
        let Some(chain) = queue.pop(memory)? else { return queue.notify(memory) };
        if let Err(error) = f(&chain) {
            return Err(queue.fail(&error));
        }
        queue.push(memory, chain.head(), 0)?;
    }
    queue.notify(memory)?;
    queue.rekick();
    Ok(())
}

/// Gives back all pages of a list; none if one of them is not in memory.
fn inflate(chain: &Chain<'_>, memory: &GuestRam, release: &Release) -> Result<(), PagesError> {
    let mut slices = Vec::new();
    for Run { first, count } in read_runs(&mut chain.reader())? {
        let outside = PagesError::OutsideMemory { number: first };
        let address = u64::from(first).checked_mul(PAGE_SIZE);
        let len = u64::from(count).checked_mul(PAGE_SIZE).and_then(|len| usize::try_from(len).ok());
        let (Some(address), Some(len)) = (address, len) else { return Err(outside) };
        let in_memory: Result<Vec<_>, _> = memory.get_slices(GuestAddress(address), len).collect();
        slices.extend(in_memory.map_err(|_| outside)?);
    }
    slices.iter().for_each(|slice| release.release(slice));
    Ok(())
}

impl Worker for BalloonWorker {
    fn start(&mut self, watch: &mut Watch<'_>) -> io::Result<()> {
        let kick = EventSet::IN | EventSet::EDGE_TRIGGERED;
        watch.add(self.inflate.kick(), INFLATE, kick)?;
        watch.add(self.deflate.kick(), DEFLATE, kick)?;
        match &self.reporting {
            Some(queue) => watch.add(queue.kick(), REPORTING, kick),
            None => Ok(()),
        }
    }

    fn ready(&mut self, token: u32, _events: EventSet, _watch: &mut Watch<'_>) {
        let Self { inflate: inflate_queue, deflate, reporting, memory, release } = self;
        // A failure has been reported and latched; the other queues go on.
        let _ = match (token, reporting) {
            (INFLATE, _) => serve(inflate_queue, memory, |chain| inflate(chain, memory, release)),
            // The host gives a page when the guest touches it.
            (DEFLATE, _) => serve(deflate, memory, |_| Ok(())),
            // §5.5.6.7: the buffers are the free pages themselves.
            (REPORTING, Some(queue)) => serve(queue, memory, |chain| {
                chain.writable().iter().for_each(|slice| release.release(slice));
                Ok(())
            }),
            _ => Ok(()),
        };
    }
}
