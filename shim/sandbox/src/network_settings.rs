//! What holds for every interface of a guest: how much may go over it, and what a guest may send.

use crate::rate::{counters, lower_limit, put};
use serde::Deserialize;
use vmm_api::RateLimit;

/// A burst that is not given is no less than this for bytes, the largest frame, ...
const LEAST_BURST_BYTES: u64 = 65_553;
/// ... and for packets, those that such a frame is cut into.
const LEAST_BURST_PACKETS: u64 = 45;

/// The network of a container whose bundle names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    /// A loopback device.
    #[default]
    None,
    /// passt's.
    Passt,
}

impl NetworkKind {
    /// Reads its name; the error is what is wrong with it.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "passt" => Ok(Self::Passt),
            _ => Err("it must be none or passt".to_owned()),
        }
    }
}

/// Settings of the interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkSettings {
    /// How much may go over each.
    pub rate: NetworkRate,
    /// A guest may send from any address.
    pub any_source: bool,
    /// A guest may send to 169.254.169.254.
    pub metadata: bool,
}

/// How much may go over an interface in each direction, as a text: words between commas of which
/// each is a counter, its rate in a second and, if wanted, its burst: `sent_bytes=1000000/65536`. The
/// counters are `sent_bytes`, `sent_packets`, `received_bytes` and `received_packets`, of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct NetworkRate {
    /// What the guest sends; operations are packets.
    pub sent: RateLimit,
    /// What it receives.
    pub received: RateLimit,
}

impl NetworkRate {
    /// Reads the text; the error is what is wrong with it.
    ///
    /// # Errors
    /// The problem.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut rate = Self::default();
        counters(text, |name, value| {
            let (place, least) = match name {
                "sent_bytes" => (&mut rate.sent.bytes, LEAST_BURST_BYTES),
                "sent_packets" => (&mut rate.sent.operations, LEAST_BURST_PACKETS),
                "received_bytes" => (&mut rate.received.bytes, LEAST_BURST_BYTES),
                "received_packets" => (&mut rate.received.operations, LEAST_BURST_PACKETS),
                _ => {
                    return Err(format!(
                        "{name:?} is no counter; they are sent_bytes, sent_packets, \
                         received_bytes and received_packets"
                    ));
                }
            };
            put(place, (name, value), least)
        })?;
        Ok(rate)
    }

    /// Of each counter the lower rate of the two.
    #[must_use]
    pub fn lower(self, other: Self) -> Self {
        Self {
            sent: lower_limit(self.sent, other.sent),
            received: lower_limit(self.received, other.received),
        }
    }
}

impl TryFrom<String> for NetworkRate {
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
    fn a_rate_has_its_counters() {
        let rate = NetworkRate::read("sent_bytes=1000000/7,received_packets=1000").unwrap();
        assert_eq!(rate.sent.bytes, Some(TokenBucket { burst: 7, per_second: 1_000_000 }));
        assert_eq!(rate.received.operations, Some(TokenBucket { burst: 100, per_second: 1000 }));
        assert_eq!((rate.sent.operations, rate.received.bytes), (None, None));
        assert_eq!(NetworkRate::read("").unwrap(), NetworkRate::default());
        for (text, problem) in [
            ("fast", "COUNTER=RATE"),
            ("bytes=1", "is no counter"),
            ("sent_bytes=0", "1 or more"),
            ("sent_bytes=1/0", "1 or more"),
            ("sent_bytes=1M", "1 or more"),
            ("sent_bytes=1,sent_bytes=2", "twice"),
            ("sent_bytes=1,", "COUNTER=RATE"),
        ] {
            let error = NetworkRate::read(text).unwrap_err();
            assert!(error.contains(problem), "{problem:?} in {error}");
        }
    }

    #[test]
    fn of_two_rates_the_lower_counts() {
        let host = NetworkRate::read("sent_bytes=1000,sent_packets=10").unwrap();
        let bundle = NetworkRate::read("sent_bytes=500,sent_packets=99,received_bytes=7").unwrap();
        let both = host.lower(bundle);
        let rates = [both.sent.bytes, both.sent.operations, both.received.bytes];
        assert_eq!(rates.map(|bucket| bucket.unwrap().per_second), [500, 10, 7]);
    }
}
