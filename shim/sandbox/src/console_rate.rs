//! How fast a guest's kernel messages are kept.

use crate::rate::{counters, lower, put};
use serde::Deserialize;
use vmm_api::TokenBucket;

/// A burst that is not given is no less than this, a line.
const LEAST_BURST_BYTES: u64 = 512;

/// Enough for a kernel that boots and says all that it can; a guest that has not done anything but print
/// for a while has a part of a log that is worth reading, and not more.
const DEFAULT: TokenBucket = TokenBucket { per_second: 16 << 10, burst: 256 << 10 };

/// How many bytes of a console are written to its log in a second, as a text: `bytes=16384/262144`, the
/// rate and, if wanted, the burst. What is more is dropped and counted in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ConsoleRate(pub TokenBucket);

impl Default for ConsoleRate {
    fn default() -> Self {
        Self(DEFAULT)
    }
}

impl ConsoleRate {
    /// Reads the text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut bytes = None;
        counters(text, |name, value| {
            if name != "bytes" {
                return Err(format!("{name:?} is no counter; the only one is bytes"));
            }
            put(&mut bytes, (name, value), LEAST_BURST_BYTES)
        })?;
        // There is none without: a console without a bound would be the host's disk and processor.
        bytes.map(Self).ok_or_else(|| "it has no rate, as bytes=16384/262144".to_owned())
    }

    /// The lower rate of the two.
    #[must_use]
    pub fn lower(self, other: Option<Self>) -> Self {
        lower(Some(self.0), other.map(|other| other.0)).map_or(self, Self)
    }
}

impl TryFrom<String> for ConsoleRate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::read(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_bytes_and_cannot_be_left_out() {
        let rate = ConsoleRate::read("bytes=1000/2000").unwrap();
        assert_eq!(rate.0, TokenBucket { per_second: 1000, burst: 2000 });
        assert_eq!(ConsoleRate::read("bytes=1").unwrap().0.burst, LEAST_BURST_BYTES);
        for (text, problem) in [
            ("", "no rate"),
            ("fast", "COUNTER=RATE"),
            ("lines=1", "is no counter"),
            ("bytes=0", "1 or more"),
            ("bytes=1,bytes=2", "twice"),
        ] {
            let error = ConsoleRate::read(text).unwrap_err();
            assert!(error.contains(problem), "{problem:?} in {error}");
        }
    }

    #[test]
    fn a_bundle_only_lowers_it() {
        let (host, low, high) = ("bytes=1000", "bytes=10", "bytes=100000");
        let read = |text| ConsoleRate::read(text).unwrap();
        assert_eq!(read(host).lower(Some(read(low))), read(low));
        assert_eq!(read(host).lower(Some(read(high))), read(host));
        assert_eq!(read(host).lower(None), read(host));
    }
}
