//! What happens inside a machine by itself, told to the controlling thread.

use crate::boot::entry::EntryError;
use crate::causes::with_causes;
use devices::fault::FaultSink;
use rustix::event::{EventfdFlags, eventfd};
use std::error::Error;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use vmm_api::GuestExit;

/// Events that may wait. Each device fails once, each virtual CPU ends once: more cannot come in a
/// short time, and what does is dropped rather than waited for.
const CAPACITY: usize = 128;
/// Failures of devices that are reported: a guest can reset a device and break it again for as long as it
/// runs, and must fill neither the host's log with that nor the queue that also tells of its end.
const MAX_FAULTS: u32 = 32;

/// Something that happened.
#[derive(Debug)]
pub enum MachineEvent {
    /// The boot processor runs guest code: it is on its way into the kernel.
    Entered {
        /// When its first instruction began, CLOCK_MONOTONIC nanoseconds.
        start_ns: u64,
        /// When it had reported.
        end_ns: u64,
    },
    /// The boot processor did not get to the kernel.
    NotEntered(EntryError),
    /// The guest stopped.
    Exited(GuestExit),
    /// A device stopped serving its guest.
    DeviceFailed {
        /// Its name.
        device: String,
        /// Why, with causes.
        reason: String,
    },
}

/// The sending side; any thread may have one.
#[derive(Clone, Debug)]
pub struct EventSender {
    queue: SyncSender<MachineEvent>,
    wake: Arc<OwnedFd>,
    /// Failures of devices that were reported so far.
    faults: Arc<AtomicU32>,
}

/// The receiving side.
#[derive(Debug)]
pub struct Events {
    queue: Receiver<MachineEvent>,
    wake: Arc<OwnedFd>,
}

/// A queue of events.
///
/// # Errors
/// No descriptor is left.
pub(super) fn queue() -> io::Result<(EventSender, Events)> {
    let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
    let (sender, receiver) = sync_channel(CAPACITY);
    let faults = Arc::new(AtomicU32::new(0));
    let sender = EventSender { queue: sender, wake: wake.clone(), faults };
    Ok((sender, Events { queue: receiver, wake }))
}

impl EventSender {
    /// Sends without ever waiting: the sender may hold what the receiver is about to want.
    pub fn send(&self, event: MachineEvent) {
        if self.queue.try_send(event).is_ok() {
            // The only failure is a full counter, and that is readable too.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }
}

impl FaultSink for EventSender {
    fn fault(&self, device: &str, queue: Option<u16>, error: &dyn Error) {
        // The counter stops there, so it does not come round.
        let counted = |count| (count < MAX_FAULTS).then_some(count + 1);
        let Ok(before) = self.faults.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted)
        else {
            return;
        };
        let mut reason = match queue {
            Some(queue) => format!("queue {queue}: {}", with_causes(error)),
            None => with_causes(error),
        };
        if before + 1 == MAX_FAULTS {
            reason.push_str("; further failures are not told");
        }
        self.send(MachineEvent::DeviceFailed { device: device.to_owned(), reason });
    }
}

impl Events {
    /// Readable when there are events.
    #[must_use]
    pub fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// The next event, if there is one.
    #[must_use]
    pub fn next(&self) -> Option<MachineEvent> {
        self.queue.try_recv().ok()
    }

    /// The next event, waited for.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> Option<MachineEvent> {
        self.queue.recv_timeout(timeout).ok()
    }

    /// Makes [`Self::wake`] unreadable, before the queue is emptied.
    pub fn clear_wake(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_fault_with_its_causes() {
        let (sender, events) = queue().unwrap();
        let error = EntryError::Kvm(crate::kvm::KvmError::NotKvm);
        sender.fault("vda", Some(0), &error);
        let Some(MachineEvent::DeviceFailed { device, reason }) = events.next() else {
            panic!("no event");
        };
        assert_eq!(device, "vda");
        assert_eq!(
            reason,
            "queue 0: the boot processor cannot be run: the descriptor given for /dev/kvm is not a \
             KVM device"
        );
        assert_eq!(rustix::io::read(events.wake(), &mut [0; 8]), Ok(8));
    }

    #[test]
    fn a_guest_that_breaks_its_devices_again_and_again_hides_nothing() {
        let (sender, events) = queue().unwrap();
        let error = EntryError::Kvm(crate::kvm::KvmError::NotKvm);
        for _ in 0..2 * CAPACITY {
            sender.fault("virtio-fs", None, &error);
        }
        // There is room for what matters more.
        sender.send(MachineEvent::Exited(GuestExit::Reset));
        let all: Vec<MachineEvent> = std::iter::from_fn(|| events.next()).collect();
        assert_eq!(all.len(), usize::try_from(MAX_FAULTS).unwrap() + 1);
        let Some([MachineEvent::DeviceFailed { reason, .. }, MachineEvent::Exited(_)]) =
            all.last_chunk::<2>()
        else {
            panic!("{all:?}");
        };
        assert!(reason.ends_with("not told"), "{reason}");
    }

    #[test]
    fn drops_rather_than_waits_when_nobody_listens() {
        let (sender, events) = queue().unwrap();
        for _ in 0..2 * CAPACITY {
            sender.send(MachineEvent::Exited(GuestExit::Reset));
        }
        assert_eq!(std::iter::from_fn(|| events.next()).count(), CAPACITY);
    }
}
