//! Limits of a queue: how many operations and bytes it may take in a second, and the timer that wakes it.

use std::io;
use std::time::{Duration, Instant};

use vmm_sys_util::timerfd::TimerFd;

use crate::rate::{Rate, TokenBucket};

/// Shortest wait for the limits, so that a limit of many small requests does not become a timer
/// interrupt for each.
const MIN_WAIT: Duration = Duration::from_millis(1);

/// What a guest may ask of the host.
pub(crate) struct Limits {
    operations: Option<TokenBucket>,
    bytes: Option<TokenBucket>,
    timer: TimerFd,
}

impl Limits {
    /// `None` if nothing is limited.
    pub(crate) fn new(operations: Option<Rate>, bytes: Option<Rate>) -> io::Result<Option<Self>> {
        if operations.is_none() && bytes.is_none() {
            return Ok(None);
        }
        let now = Instant::now();
        let bucket = |rate: Option<Rate>| rate.map(|rate| TokenBucket::new(rate, now));
        let timer = TimerFd::new()?;
        Ok(Some(Self { operations: bucket(operations), bytes: bucket(bytes), timer }))
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
        let buckets = [&self.operations, &self.bytes].into_iter().flatten();
        let Some(wait) = buckets.filter_map(|bucket| bucket.check(now).err()).max() else {
            return Ok(true);
        };
        self.timer.reset(wait.max(MIN_WAIT), None)?;
        Ok(false)
    }

    /// Takes what was used. The last one may go over the limit; the next ones wait for it.
    pub(crate) fn pay(&mut self, operations: u64, bytes: u64) {
        let now = Instant::now();
        let _ = self.operations.as_mut().map(|bucket| bucket.take(operations, now));
        let _ = self.bytes.as_mut().map(|bucket| bucket.take(bytes, now));
    }
}
