//! Which pairs of queues frames go over: as many as the driver has asked for, the first ones.
//!
//! The host's kernel spreads the frames of a tap over all of its queues that are attached. So one that the
//! driver does not use is detached, or what came to it would be lost.
#![expect(unsafe_code, reason = "the ioctls of a tap have no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::rate::{Rate, TokenBucket};

/// How often a driver may ask for another number of pairs. The kernel takes a lock of the whole host to
/// attach or detach a queue, and a guest that asked as often as it can would keep it from others.
const CHANGES: Rate = Rate { per_second: 4, burst: 16 };

/// A pair of queues that the driver need not use, and its queue of the tap.
#[derive(Debug)]
pub(super) struct Lane {
    tap: Arc<File>,
    is_attached: Mutex<bool>,
}

impl Lane {
    /// Whether frames may come by it, for as long as this is held.
    pub(super) fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, attached: bool) -> io::Result<()> {
        let mut is_attached = self.lock();
        if *is_attached != attached {
            set_queue(&self.tap, attached)?;
            *is_attached = attached;
        }
        Ok(())
    }
}

/// Attaches or detaches a queue of a tap.
fn set_queue(tap: &File, attached: bool) -> io::Result<()> {
    // SAFETY: all of it may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let flag = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
    request.ifr_ifru.ifru_flags = i16::try_from(flag).map_err(io::Error::other)?;
    // SAFETY: the kernel reads the structure that this request takes.
    match unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETQUEUE, &raw const request) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // A pair of sockets that stands for a tap has no queues to attach.
            error if error.raw_os_error() == Some(libc::ENOTTY) => Ok(()),
            error => Err(error),
        },
    }
}

/// All pairs of a device.
#[derive(Debug)]
pub(super) struct Pairs {
    /// All but the first, which is always used.
    lanes: Vec<Arc<Lane>>,
    choice: Mutex<Choice>,
}

#[derive(Debug)]
struct Choice {
    active: u16,
    changes: TokenBucket,
}

impl Pairs {
    /// One, and one for each of these taps, which are detached.
    pub(super) fn new(taps: impl Iterator<Item = Arc<File>>) -> Self {
        let lane = |tap| Arc::new(Lane { tap, is_attached: Mutex::new(false) });
        let choice = Choice { active: 1, changes: TokenBucket::new(CHANGES, Instant::now()) };
        Self { lanes: taps.map(lane).collect(), choice: Mutex::new(choice) }
    }

    /// That of a pair by its number; `None` for the first.
    pub(super) fn lane(&self, pair: usize) -> Option<Arc<Lane>> {
        self.lanes.get(pair.checked_sub(1)?).cloned()
    }

    /// How many the driver uses.
    pub(super) fn active(&self) -> u16 {
        self.choice().active
    }

    /// The driver asks for as many.
    ///
    /// # Errors
    /// It has asked too often, or the kernel has refused; nothing has changed.
    pub(super) fn ask(&self, count: u16) -> io::Result<()> {
        let mut choice = self.choice();
        if count == choice.active {
            return Ok(());
        }
        if choice.changes.take(1, Instant::now()).is_err() {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let before = choice.active;
        let outcome = self.attach(count);
        match outcome {
            Ok(()) => choice.active = count,
            // Queues that were attached can be detached.
            Err(_) => drop(self.attach(before)),
        }
        outcome
    }

    /// The first one only, as a driver finds it that has not asked yet.
    pub(super) fn reset(&self) {
        let mut choice = self.choice();
        // None of them is read any more, whatever the kernel says.
        let _ = self.attach(1);
        choice.active = 1;
    }

    fn attach(&self, count: u16) -> io::Result<()> {
        (1..).zip(&self.lanes).try_for_each(|(pair, lane)| lane.set(pair < count))
    }

    fn choice(&self) -> MutexGuard<'_, Choice> {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_asks_too_often_is_refused() {
        let pairs = Pairs::new((0..2).map(|_| Arc::new(tempfile::tempfile().unwrap())));
        let states = || pairs.lanes.iter().map(|lane| *lane.lock()).collect::<Vec<_>>();
        pairs.ask(2).unwrap();
        assert_eq!((pairs.active(), states()), (2, vec![true, false]));
        for _ in 0..1000 {
            // It costs nothing.
            pairs.ask(2).unwrap();
        }
        let refused = (0..100).filter(|turn| pairs.ask(1 + turn % 3).is_err()).count();
        assert!((50..90).contains(&refused), "{refused}");
        pairs.reset();
        assert_eq!((pairs.active(), states()), (1, vec![false, false]));
    }
}
