//! Limits on how much of the host a guest may use in a second.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A limit: so much per second, and how much may come at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Units (bytes, operations) per second; 0 is taken as 1.
    pub per_second: u64,
    /// Units that may be taken at once when none were taken for a while.
    pub burst: u64,
}

/// A bucket that fills at a rate and is emptied by takers.
///
/// Kept as the instant at which all that was taken will have been paid for. A taker may go on while
/// that lies no further ahead than the burst takes to fill, so one large request is let through and
/// paid for afterwards rather than refused for ever.
#[derive(Debug)]
pub struct TokenBucket {
    rate: Rate,
    paid_at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, paid_at: now }
    }

    /// Takes `units`.
    ///
    /// # Errors
    /// The bucket is empty; the time after which it is worth asking again.
    pub fn take(&mut self, units: u64, now: Instant) -> Result<(), Duration> {
        self.check(now)?;
        let start = self.paid_at.max(now);
        // Where the sum leaves the clock's range, the taker has taken all there will ever be.
        self.paid_at = start.checked_add(self.time_for(units)).unwrap_or(start);
        Ok(())
    }

    /// Whether a [`Self::take`] would be granted now.
    ///
    /// # Errors
    /// The bucket is empty; the time after which it is worth asking again.
    pub fn check(&self, now: Instant) -> Result<(), Duration> {
        let debt = self.paid_at.saturating_duration_since(now);
        match debt.checked_sub(self.time_for(self.rate.burst)) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(wait) => Err(wait),
        }
    }

    /// How long `units` take to flow in.
    fn time_for(&self, units: u64) -> Duration {
        const NANOS_PER_SECOND: u128 = 1_000_000_000;
        let nanos = u128::from(units)
            .saturating_mul(NANOS_PER_SECOND)
            .checked_div(u128::from(self.rate.per_second.max(1)))
            .unwrap_or_default();
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_the_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Rate { per_second: 10, burst: 5 }, start);
        let granted = |bucket: &mut TokenBucket, now| {
            (0..100).take_while(|_| bucket.take(1, now).is_ok()).count()
        };
        // One more than the burst: the last one is taken on credit.
        assert_eq!(granted(&mut bucket, start), 6);
        assert_eq!(bucket.take(1, start), Err(Duration::from_millis(100)));
        assert_eq!(granted(&mut bucket, start + Duration::from_millis(300)), 3);
        assert_eq!(granted(&mut bucket, start + Duration::from_secs(100)), 6);
    }

    #[test]
    fn lets_a_large_request_through_and_makes_the_next_wait() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Rate { per_second: 100, burst: 10 }, start);
        bucket.take(1000, start).unwrap();
        assert_eq!(bucket.take(1, start), Err(Duration::from_millis(9900)));
        bucket.take(1, start + Duration::from_millis(9900)).unwrap();
    }

    #[test]
    fn does_not_overflow_when_numbers_are_absurd() {
        let start = Instant::now();
        for rate in [Rate { per_second: 0, burst: 0 }, Rate { per_second: 1, burst: u64::MAX }] {
            let mut bucket = TokenBucket::new(rate, start);
            let _ = bucket.take(u64::MAX, start);
            let _ = bucket.take(u64::MAX, start);
        }
    }
}
