//! Whether virtual CPUs run: paused at first, running, paused again, never restarted after a stop.
//!
//! ```text
//!   Paused ──resume──▶ Running ──pause──▶ Paused        any ──stop──▶ Stopped
//! ```
//! The controlling thread changes the state; the threads of virtual CPUs look at it between two
//! runs, park while it is `Paused` and end when it is `Stopped`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What the controlling thread wants of all virtual CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// To stand still.
    Paused,
    /// To run.
    Running,
    /// To end.
    Stopped,
}

/// The request that is not possible now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongState {
    /// Resume while running.
    #[error("the machine is running already")]
    AlreadyRunning,
    /// Saving while running.
    #[error("the machine is running; pause it first")]
    Running,
    /// Pause while paused.
    #[error("the machine is paused already")]
    AlreadyPaused,
    /// Anything after the end.
    #[error("the machine has stopped")]
    Stopped,
}

/// The state of a machine's virtual CPUs, shared by all their threads.
#[derive(Debug)]
pub(super) struct RunState {
    /// Set when `wanted` is not `Running`: what [`crate::kvm::Vcpu::run`] looks at.
    leave: AtomicBool,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner {
    wanted: Wanted,
    /// Threads that do not run their virtual CPU now and will not before the state changes.
    parked: usize,
}

impl RunState {
    /// Paused.
    #[must_use]
    pub(super) fn paused() -> Self {
        Self {
            leave: AtomicBool::new(true),
            inner: Mutex::new(Inner { wanted: Wanted::Paused, parked: 0 }),
            changed: Condvar::new(),
        }
    }

    /// Set while virtual CPUs shall not run.
    #[must_use]
    pub(super) fn leave(&self) -> &AtomicBool {
        &self.leave
    }

    /// For the thread of a virtual CPU: returns when it may run, with `true`, or shall end, with
    /// `false`.
    #[must_use]
    pub(super) fn wait_to_run(&self) -> bool {
        let mut inner = self.lock();
        if inner.wanted == Wanted::Paused {
            inner.parked += 1;
            self.changed.notify_all();
            while inner.wanted == Wanted::Paused {
                inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
            inner.parked -= 1;
        }
        inner.wanted == Wanted::Running
    }

    /// For the thread of a virtual CPU that ends by itself: it counts as parked from now on.
    pub(super) fn retire(&self) {
        self.lock().parked += 1;
        self.changed.notify_all();
    }

    /// Whether all virtual CPUs shall stand still.
    pub(super) fn is_paused(&self) -> bool {
        self.lock().wanted == Wanted::Paused
    }

    /// Changes what is wanted. Threads in a run must be interrupted after this.
    ///
    /// # Errors
    /// [`WrongState`] if the machine is in that state already, or stopped.
    pub(super) fn want(&self, wanted: Wanted) -> Result<(), WrongState> {
        let mut inner = self.lock();
        check(inner.wanted, wanted)?;
        inner.wanted = wanted;
        self.leave.store(wanted != Wanted::Running, Ordering::SeqCst);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until `threads` threads are parked.
    pub(super) fn wait_until_parked(&self, threads: usize) {
        let mut inner = self.lock();
        while inner.parked < threads && inner.wanted == Wanted::Paused {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// May the state change from `now` to `wanted`?
fn check(now: Wanted, wanted: Wanted) -> Result<(), WrongState> {
    match (now, wanted) {
        (Wanted::Paused, Wanted::Running)
        | (Wanted::Running, Wanted::Paused)
        | (_, Wanted::Stopped) => Ok(()),
        (Wanted::Running, Wanted::Running) => Err(WrongState::AlreadyRunning),
        (Wanted::Paused, Wanted::Paused) => Err(WrongState::AlreadyPaused),
        (Wanted::Stopped, _) => Err(WrongState::Stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn allows_each_change_once() {
        use Wanted::{Paused, Running, Stopped};
        let table = [
            (Paused, Running, Ok(())),
            (Running, Running, Err(WrongState::AlreadyRunning)),
            (Running, Paused, Ok(())),
            (Paused, Paused, Err(WrongState::AlreadyPaused)),
            (Running, Stopped, Ok(())),
            (Paused, Stopped, Ok(())),
            (Stopped, Stopped, Ok(())),
            (Stopped, Running, Err(WrongState::Stopped)),
            (Stopped, Paused, Err(WrongState::Stopped)),
        ];
        for (now, wanted, expected) in table {
            assert_eq!(check(now, wanted), expected, "{now:?} to {wanted:?}");
        }
    }

    #[test]
    fn parks_threads_until_they_may_run_and_ends_them() {
        let state = Arc::new(RunState::paused());
        let thread = {
            let state = state.clone();
            std::thread::spawn(move || {
                let mut runs = 0;
                while state.wait_to_run() {
                    runs += 1;
                    while !state.leave().load(Ordering::SeqCst) {
                        std::hint::spin_loop();
                    }
                }
                runs
            })
        };
        for _ in 0..3 {
            state.wait_until_parked(1);
            state.want(Wanted::Running).unwrap();
            state.want(Wanted::Paused).unwrap();
        }
        state.wait_until_parked(1);
        state.want(Wanted::Running).unwrap();
        state.want(Wanted::Stopped).unwrap();
        assert!(thread.join().unwrap() <= 4);
    }
}
