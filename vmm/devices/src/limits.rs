//! Limits of queues: how many operations and bytes they may take in a second, and the timer that wakes
//! each.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::timerfd::TimerFd;

use crate::rate::{Rate, TokenBucket};

/// Shortest wait for the limits, so that a limit of many small requests does not become a timer
/// interrupt for each.
const MIN_WAIT: Duration = Duration::from_millis(1);

/// What a guest may ask of the host by one queue, and by those that share with it.
pub(crate) struct Limits {
    buckets: Arc<Mutex<Buckets>>,
    timer: TimerFd,
}

struct Buckets {
    operations: Option<TokenBucket>,
    bytes: Option<TokenBucket>,
}

impl Limits {
    /// `None` if nothing is limited.
    pub(crate) fn new(operations: Option<Rate>, bytes: Option<Rate>) -> io::Result<Option<Self>> {
        if operations.is_none() && bytes.is_none() {
            return Ok(None);
        }
        let now = Instant::now();
        let bucket = |rate: Option<Rate>| rate.map(|rate| TokenBucket::new(rate, now));
        let buckets = Buckets { operations: bucket(operations), bytes: bucket(bytes) };
        Ok(Some(Self { buckets: Arc::new(Mutex::new(buckets)), timer: TimerFd::new()? }))
    }

    /// The same limits for one more queue: what both take is bounded together.
    pub(crate) fn share(&self) -> io::Result<Self> {
        Ok(Self { buckets: self.buckets.clone(), timer: TimerFd::new()? })
    }

    /// Becomes ready when a wait is over.
    pub(crate) fn timer(&self) -> &TimerFd {
        &self.timer
    }

    /// Whether the queue may go on; if not, the timer tells when.
    ///
    /// # Errors
    /// The timer cannot be set: nobody would wake the queue.
    pub(crate) fn may_go_on(&mut self) -> io::Result<bool> {
        let now = Instant::now();
        let wait = {
            let Buckets { operations, bytes } = &*self.buckets();
            let buckets = [operations, bytes].into_iter().flatten();
            buckets.filter_map(|bucket| bucket.check(now).err()).max()
        };
        let Some(wait) = wait else { return Ok(true) };
        self.timer.reset(wait.max(MIN_WAIT), None)?;
        Ok(false)
    }

    /// Takes what was used. The last one may go over the limit; the next ones wait for it.
    pub(crate) fn pay(&self, operations: u64, bytes: u64) {
        let now = Instant::now();
        let mut buckets = self.buckets();
        let _ = buckets.operations.as_mut().map(|bucket| bucket.take(operations, now));
        let _ = buckets.bytes.as_mut().map(|bucket| bucket.take(bytes, now));
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
