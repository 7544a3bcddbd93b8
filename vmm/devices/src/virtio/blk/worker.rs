//! The worker side: one request after the other, no faster than the limits allow.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::timerfd::TimerFd;

use super::backend::Disk;
use super::request::{Geometry, serve};
use crate::event_loop::{Watch, Worker};
use crate::memory::GuestRam;
use crate::rate::{Rate, TokenBucket};
use crate::virtio::{QueueFailed, Virtqueue};

/// Requests served before a stop of the device gets its turn.
const BUDGET: u16 = 32;

/// Shortest wait for the limits, so that a limit of many small requests does not become a timer
/// interrupt for each.
const MIN_WAIT: Duration = Duration::from_millis(1);

const KICK: u32 = 0;
const TIMER: u32 = 1;

/// What a guest may ask of the host's disk.
struct Limits {
    operations: Option<TokenBucket>,
    bytes: Option<TokenBucket>,
    timer: TimerFd,
}

impl Limits {
    /// How long to wait before the next request, if at all.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let buckets = [&self.operations, &self.bytes].into_iter().flatten();
        buckets.filter_map(|bucket| bucket.check(now).err()).max()
    }

    fn pay(&mut self, bytes: u32, now: Instant) {
        // The last one may go over the limit; the next ones wait for it.
        let _ = self.operations.as_mut().map(|bucket| bucket.take(1, now));
        let _ = self.bytes.as_mut().map(|bucket| bucket.take(bytes.into(), now));
    }
}

pub(super) struct BlkWorker {
    queue: Virtqueue,
    memory: Arc<GuestRam>,
    disk: Disk,
    geometry: Geometry,
    limits: Option<Limits>,
}

impl BlkWorker {
    pub(super) fn new(
        queue: Virtqueue,
        memory: Arc<GuestRam>,
        disk: Disk,
        geometry: Geometry,
        (operations, bytes): (Option<Rate>, Option<Rate>),
    ) -> io::Result<Self> {
        let now = Instant::now();
        let bucket = |rate: Option<Rate>| rate.map(|rate| TokenBucket::new(rate, now));
        let limits = if operations.is_some() || bytes.is_some() {
            let timer = TimerFd::new()?;
            Some(Limits { operations: bucket(operations), bytes: bucket(bytes), timer })
        } else {
            None
        };
        Ok(Self { queue, memory, disk, geometry, limits })
    }

    pub(super) fn into_queue(self) -> Virtqueue {
        self.queue
    }

    fn serve(&mut self) -> Result<(), QueueFailed> {
        let Self { queue, memory, disk, geometry, limits } = self;
        for _ in 0..BUDGET {
            if let Some(limits) = limits
                && let Some(wait) = limits.wait(Instant::now())
            {
                // A timer that cannot be set would leave the queue unserved for ever.
                if limits.timer.reset(wait.max(MIN_WAIT), None).is_err() {
                    queue.rekick();
                }
                return Ok(());
            }
            let Some(chain) = queue.pop(memory)? else { return Ok(()) };
            let outcome = match serve(&chain, geometry, disk) {
                Ok(outcome) => outcome,
                Err(error) => return Err(queue.fail(&error)),
            };
            if let Some(limits) = limits {
                limits.pay(outcome.bytes, Instant::now());
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
            watch.add(&limits.timer, TIMER, events)?;
        }
        watch.add(self.queue.kick(), KICK, events)
    }

    fn ready(&mut self, _token: u32, _events: EventSet, _watch: &mut Watch<'_>) {
        // A failure has been reported and latched.
        let _ = self.serve();
    }
}
