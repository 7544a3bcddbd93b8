//! Requests that wait for a lock.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

/// Longest chain of owners that wait for each other which is followed; Linux's own bound
/// (`MAX_DEADLK_ITERATIONS`).
const MAX_CHAIN: usize = 10;

#[derive(Debug, Clone, Copy)]
struct Wait {
    owner: u64,
    /// The owner in this guest that it waits for; none if the lock is another's.
    holder: Option<u64>,
    interrupted: bool,
}

/// The waiting requests by their numbers. What waits is the device's affair; this says what becomes
/// of it.
#[derive(Debug, Default)]
pub(crate) struct Waits(Mutex<HashMap<u64, Wait>>);

impl Waits {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Wait>> {
        // Every change under the lock is complete before the next that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a request of `owner` waits.
    ///
    /// # Errors
    /// EINTR if the guest has interrupted it, EDEADLK if it would wait for itself, ENOLCK if as
    /// many wait as may. Then it does not wait.
    pub(crate) fn wait(
        &self,
        unique: u64,
        owner: u64,
        holder: Option<u64>,
        max: usize,
    ) -> Result<(), Errno> {
        let waits = &mut *self.lock();
        if waits.remove(&unique).is_some_and(|wait| wait.interrupted) {
            return Err(Errno::INTR);
        }
        if waits.len() >= max {
            return Err(Errno::NOLCK);
        }
        let mut next = holder;
        for _ in 0..MAX_CHAIN {
            let Some(current) = next else { break };
            if current == owner {
                return Err(Errno::DEADLK);
            }
            next = waits.values().find(|wait| wait.owner == current).and_then(|wait| wait.holder);
        }
        waits.insert(unique, Wait { owner, holder, interrupted: false });
        Ok(())
    }

    /// Notes that a request waits no longer.
    pub(crate) fn done(&self, unique: u64) {
        self.lock().remove(&unique);
    }

    /// Has a waiting request answered with EINTR when it comes back; true if it waits.
    pub(crate) fn interrupt(&self, unique: u64) -> bool {
        self.lock().get_mut(&unique).map(|wait| wait.interrupted = true).is_some()
    }

    /// Forgets all: the session has ended.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// Requests that wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_wait_that_would_never_end() {
        let waits = Waits::default();
        assert_eq!(waits.wait(1, 10, Some(20), 9), Ok(()));
        assert_eq!(waits.wait(2, 20, Some(30), 9), Ok(()));
        assert_eq!(waits.wait(3, 30, Some(10), 9), Err(Errno::DEADLK));
        assert_eq!(waits.wait(4, 40, Some(40), 9), Err(Errno::DEADLK));
        assert_eq!(waits.wait(3, 30, None, 9), Ok(()));
        // What holds it has changed since it began to wait.
        assert_eq!(waits.wait(1, 10, None, 9), Ok(()));
        assert_eq!(waits.wait(3, 30, Some(10), 9), Ok(()));
        assert_eq!(waits.len(), 3);
    }

    #[test]
    fn ends_a_loop_of_others() {
        let waits = Waits::default();
        assert_eq!(waits.wait(1, 10, Some(20), 9), Ok(()));
        // A guest can name any owner; two requests of one owner make loops possible.
        assert_eq!(waits.wait(2, 20, Some(20), 9), Err(Errno::DEADLK));
        assert_eq!(waits.wait(2, 20, None, 9), Ok(()));
        assert_eq!(waits.wait(3, 30, Some(10), 9), Ok(()));
    }

    #[test]
    fn interrupts_what_waits_and_nothing_else() {
        let waits = Waits::default();
        assert!(!waits.interrupt(1));
        waits.wait(1, 10, None, 1).unwrap();
        assert_eq!(waits.wait(2, 11, None, 1), Err(Errno::NOLCK));
        assert!(waits.interrupt(1));
        assert_eq!(waits.wait(1, 10, None, 1), Err(Errno::INTR));
        assert_eq!(waits.len(), 0);
    }
}
