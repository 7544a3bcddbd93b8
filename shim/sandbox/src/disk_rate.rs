//! How much a guest may read and write on its disks.

use crate::rate::{counters, lower_limit, put};
use serde::Deserialize;
use vmm_api::RateLimit;

/// A burst that is not given is no less than this for bytes, the largest request of Linux, ...
const LEAST_BURST_BYTES: u64 = 1 << 20;
/// ... and for operations, a queue's worth of small ones.
const LEAST_BURST_OPERATIONS: u64 = 64;

/// How much may be read and written on each disk, both together, as a text: words between commas of
/// which each is a counter, its rate in a second and, if wanted, its burst: `bytes=10000000/1048576`. The
/// counters are `bytes` and `operations`, requests of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct DiskRate(pub RateLimit);

impl DiskRate {
    /// Reads the text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut rate = RateLimit::default();
        counters(text, |name, value| {
            let (place, least) = match name {
                "bytes" => (&mut rate.bytes, LEAST_BURST_BYTES),
                "operations" => (&mut rate.operations, LEAST_BURST_OPERATIONS),
                _ => {
                    return Err(format!("{name:?} is no counter; they are bytes and operations"));
                }
            };
            put(place, (name, value), least)
        })?;
        Ok(Self(rate))
    }

    /// Of each counter the lower rate of the two.
    #[must_use]
    pub fn lower(self, other: Self) -> Self {
        Self(lower_limit(self.0, other.0))
    }

    /// `None` if nothing is limited.
    #[must_use]
    pub fn limit(self) -> Option<RateLimit> {
        (self != Self::default()).then_some(self.0)
    }
}

impl TryFrom<String> for DiskRate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::read(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_api::TokenBucket;

    #[test]
    fn a_rate_is_of_bytes_or_operations_or_both() {
        let rate = DiskRate::read("bytes=1000/2000,operations=7").unwrap();
        assert_eq!(rate.0.bytes, Some(TokenBucket { per_second: 1000, burst: 2000 }));
        let operations = TokenBucket { per_second: 7, burst: LEAST_BURST_OPERATIONS };
        assert_eq!(rate.0.operations, Some(operations));
        assert_eq!(DiskRate::read("").unwrap().limit(), None);
        for (text, problem) in [
            ("bytes", "COUNTER=RATE"),
            ("read=1", "is no counter"),
            ("bytes=0", "1 or more"),
            ("operations=1,operations=2", "twice"),
        ] {
            let error = DiskRate::read(text).unwrap_err();
            assert!(error.contains(problem), "{problem:?} in {error}");
        }
    }

    #[test]
    fn a_bundle_only_lowers_it() {
        let read = |text| DiskRate::read(text).unwrap();
        let both = read("bytes=1000").lower(read("bytes=2000,operations=5"));
        assert_eq!(both, read("bytes=1000,operations=5"));
    }
}
