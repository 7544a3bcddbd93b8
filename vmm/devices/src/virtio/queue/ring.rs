//! One split virtqueue (VIRTIO 1.2 §2.7) as its device uses it.

use std::error::Error;
use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::chain::{Chain, ChainError};
use crate::memory::GuestRam;
use crate::virtio::signal::DeviceSignal;
use crate::virtio::spec::feature;

/// Offset of the first entry in the available ring: flags and index (§2.7.6).
const AVAIL_RING_OFFSET: u64 = 4;
/// Bytes of an available ring entry.
const AVAIL_ENTRY_SIZE: u64 = 2;

/// Why a ring cannot be served any longer.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The driver offers more entries than the ring has (§2.7.13.1).
    #[error("the driver offers {pending} buffers in a ring of {size}")]
    TooManyAvailable {
        /// Entries between the device's position and the driver's index.
        pending: u16,
        /// Size of the ring.
        size: u16,
    },
    /// The ring is not in memory. It was when the queue was made ready.
    #[error("the ring could not be accessed")]
    Inaccessible(#[source] virtio_queue::Error),
    /// The entry that is next in the available ring lies outside memory.
    #[error("entry {position} of the available ring could not be read")]
    UnreadableEntry {
        /// Position in the ring.
        position: u16,
    },
    /// The chain that the driver offered is malformed.
    #[error("descriptor chain {head} is malformed")]
    Chain {
        /// The chain's first descriptor.
        head: u16,
        /// What is wrong with it.
        #[source]
        source: ChainError,
    },
}

/// A queue was given up: the driver broke the protocol. It has been reported; the worker stops
/// touching the queue until it is stopped itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is not served until the driver resets the device")]
pub struct QueueFailed;

/// A virtqueue that a device's worker owns while the device is active.
///
/// The first error latches it ([`QueueFailed`]): the fault is reported through
/// [`DeviceSignal::fault`] and every later call fails at once, without looking at guest memory.
pub struct Virtqueue {
    index: u16,
    ring: Queue,
    kick: Arc<EventFd>,
    signal: Arc<DeviceSignal>,
    indirect: bool,
    failed: bool,
}

impl Virtqueue {
    /// Queue `index` of a device whose driver accepted `features`. `ring` has been found valid in
    /// the memory that later calls are given.
    pub fn new(
        index: u16,
        mut ring: Queue,
        features: u64,
        kick: Arc<EventFd>,
        signal: Arc<DeviceSignal>,
    ) -> Self {
        ring.set_event_idx(features & feature::RING_EVENT_IDX != 0);
        let indirect = features & feature::RING_INDIRECT_DESC != 0;
        Self { index, ring, kick, signal, indirect, failed: false }
    }

    /// The queue's number in its device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The size that the driver chose.
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// Written to when the driver notifies the queue. Watch it edge-triggered; it is never read.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// Notifies the queue in the driver's stead: its worker has not finished with it.
    pub fn rekick(&self) {
        // Fails only at the counter's maximum, where the notification is pending already.
        let _ = self.kick.write(1);
    }

    /// The ring back, with its positions, for the transport.
    pub fn into_ring(self) -> Queue {
        self.ring
    }

    /// Whether the queue has been given up.
    pub fn is_failed(&self) -> bool {
        self.failed
    }

    /// Takes the next chain that the driver offers, wholly checked. After `None` the driver
    /// notifies the queue when it offers one.
    ///
    /// # Errors
    /// The ring or the chain is malformed, now or before.
    pub fn pop<'m>(&mut self, memory: &'m GuestRam) -> Result<Option<Chain<'m>>, QueueFailed> {
        self.check()?;
        match self.try_pop(memory) {
            Ok(chain) => Ok(chain),
            Err(error) => Err(self.fail(&error)),
        }
    }

    /// The chain that starts with descriptor `head`, which [`Self::pop`] gave before the device was
    /// stopped and which was not given to [`Self::push`]. The number is distrusted, and so is what
    /// memory holds by now.
    ///
    /// # Errors
    /// The chain is malformed, or the queue failed before.
    pub fn take_again<'m>(
        &mut self,
        memory: &'m GuestRam,
        head: u16,
    ) -> Result<Chain<'m>, QueueFailed> {
        self.check()?;
        let table = GuestAddress(self.ring.desc_table());
        Chain::walk(memory, table, self.ring.size(), head, self.indirect)
            .map_err(|source| self.fail(&RingError::Chain { head, source }))
    }

    /// Puts the `count` chains that [`Self::pop`] gave last back, unused: the device has nothing for
    /// them yet. None of them, nor any that was popped after them, may have been given to
    /// [`Self::push`].
    pub fn unpop(&mut self, count: u16) {
        self.ring.set_next_avail(self.ring.next_avail().wrapping_sub(count));
    }

    /// Whether the driver offers a chain, without taking it. After `false` the driver notifies the
    /// queue when it offers one.
    ///
    /// # Errors
    /// The ring is malformed, now or before.
    pub fn has_available(&mut self, memory: &GuestRam) -> Result<bool, QueueFailed> {
        self.check()?;
        match self.pending_or_armed(memory) {
            Ok(pending) => Ok(pending),
            Err(error) => Err(self.fail(&error)),
        }
    }

    /// Gives the chain that starts with descriptor `head` back to the driver, with `written` bytes
    /// written to its writable part from the start on (§2.7.8). [`Self::notify`] must follow.
    ///
    /// # Errors
    /// The used ring cannot be written, or the queue failed before.
    pub fn push(&mut self, memory: &GuestRam, head: u16, written: u32) -> Result<(), QueueFailed> {
        self.check()?;
        match self.ring.add_used(memory, head, written) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fail(&RingError::Inaccessible(error))),
        }
    }

    /// Sends an interrupt if the driver wants one for the chains pushed since the last call.
    ///
    /// # Errors
    /// The ring cannot be read, or the queue failed before.
    pub fn notify(&mut self, memory: &GuestRam) -> Result<(), QueueFailed> {
        self.check()?;
        match self.ring.needs_notification(memory) {
            Ok(true) => self.signal.used_buffers(),
            Ok(false) => (),
            Err(error) => return Err(self.fail(&RingError::Inaccessible(error))),
        }
        Ok(())
    }

    /// Gives the queue up: the guest broke the device's own protocol in a way for which that has
    /// no answer. Reports `error` and latches the queue.
    pub fn fail(&mut self, error: &(dyn Error + 'static)) -> QueueFailed {
        if !self.failed {
            self.failed = true;
            self.signal.fault(Some(self.index), error);
        }
        QueueFailed
    }

    fn check(&self) -> Result<(), QueueFailed> {
        if self.failed { Err(QueueFailed) } else { Ok(()) }
    }

    /// How many chains the driver offers. §2.7.13.1: never more than the ring has entries; a guest
    /// that says so would make the device serve entries twice, without end.
    fn pending(&self, memory: &GuestRam) -> Result<u16, RingError> {
        // Acquire: the entries were written before the index that covers them.
        let index =
            self.ring.avail_idx(memory, Ordering::Acquire).map_err(RingError::Inaccessible)?;
        let Wrapping(pending) = index - Wrapping(self.ring.next_avail());
        if pending > self.ring.size() {
            return Err(RingError::TooManyAvailable { pending, size: self.ring.size() });
        }
        Ok(pending)
    }

    /// Whether the driver offers a chain; if not, notifications have been asked for (§2.7.10).
    ///
    /// With VIRTIO_F_EVENT_IDX that is the only time: while there is work, the index that the
    /// driver compares with lies behind it, and it does not notify.
    fn pending_or_armed(&mut self, memory: &GuestRam) -> Result<bool, RingError> {
        if self.pending(memory)? != 0 {
            return Ok(true);
        }
        // The driver may have offered one before it saw the request, and not notified.
        if self.ring.enable_notification(memory).map_err(RingError::Inaccessible)? {
            return Ok(self.pending(memory)? != 0);
        }
        Ok(false)
    }

    fn try_pop<'m>(&mut self, memory: &'m GuestRam) -> Result<Option<Chain<'m>>, RingError> {
        if !self.pending_or_armed(memory)? {
            return Ok(None);
        }
        let next = self.ring.next_avail();
        // The size is a power of two, never 0 (the transport and `Queue` both see to it).
        let position = next.checked_rem(self.ring.size()).unwrap_or_default();
        let head: u16 = u64::from(position)
            .checked_mul(AVAIL_ENTRY_SIZE)
            .and_then(|bytes| bytes.checked_add(AVAIL_RING_OFFSET))
            .and_then(|offset| GuestAddress(self.ring.avail_ring()).checked_add(offset))
            .and_then(|address| memory.read_obj(address).map(u16::from_le).ok())
            .ok_or(RingError::UnreadableEntry { position })?;
        let table = GuestAddress(self.ring.desc_table());
        let chain = Chain::walk(memory, table, self.ring.size(), head, self.indirect)
            .map_err(|source| RingError::Chain { head, source })?;
        self.ring.set_next_avail(next.wrapping_add(1));
        Ok(Some(chain))
    }
}
