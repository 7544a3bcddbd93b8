//! Owners in the guest and on the host.

use thiserror::Error;

/// What an id without a counterpart is shown as (`/proc/sys/kernel/overflowuid`).
pub const OVERFLOW_ID: u32 = 65534;
/// No id: "leave as it is" in chown and in ACL entries without a qualifier.
const NO_ID: u32 = u32::MAX;

/// A range of ids: `guest..guest + count` in the guest are `host..host + count` on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id in the guest.
    pub guest: u32,
    /// First id on the host.
    pub host: u32,
    /// Ids in the range.
    pub count: u32,
}

/// Why ranges are no map.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IdMapError {
    /// A range is empty, or reaches 2^32 - 1, which is no id.
    #[error("the id range {0:?} is empty or passes 4294967294")]
    Range(IdRange),
    /// Two ranges share an id on one side, so that the map has no reverse.
    #[error("the id ranges {0:?} and {1:?} overlap")]
    Overlap(IdRange, IdRange),
}

/// A one-to-one map of user or group ids. An id outside every range cannot own a new file (the
/// guest sees EOVERFLOW, as in a user namespace), and an owner outside is shown as [`OVERFLOW_ID`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    ranges: Vec<IdRange>,
}

impl IdMap {
    /// Every id is itself.
    #[must_use]
    pub fn identity() -> Self {
        Self { ranges: vec![IdRange { guest: 0, host: 0, count: NO_ID }] }
    }

    /// A map of the given ranges.
    ///
    /// # Errors
    /// [`IdMapError`] names the range that is empty, too long, or overlaps another.
    pub fn new(ranges: Vec<IdRange>) -> Result<Self, IdMapError> {
        let mut rest = ranges.as_slice();
        while let [a, others @ ..] = rest {
            if a.count == 0
                || end(a.guest, a.count) > NO_ID.into()
                || end(a.host, a.count) > NO_ID.into()
            {
                return Err(IdMapError::Range(*a));
            }
            let overlaps = |b: &&IdRange| {
                meet((a.guest, a.count), (b.guest, b.count))
                    || meet((a.host, a.count), (b.host, b.count))
            };
            if let Some(b) = others.iter().find(overlaps) {
                return Err(IdMapError::Overlap(*a, *b));
            }
            rest = others;
        }
        Ok(Self { ranges })
    }

    /// True if every id is itself, so that values which hold ids need no translation.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.ranges.iter().all(|range| range.guest == range.host)
            && self.ranges.iter().any(|range| range.guest == 0 && range.count == NO_ID)
    }

    /// The host's id for an id of the guest.
    #[must_use]
    pub fn to_host(&self, guest: u32) -> Option<u32> {
        self.ranges.iter().find_map(|range| {
            let offset = guest.checked_sub(range.guest).filter(|offset| *offset < range.count)?;
            range.host.checked_add(offset)
        })
    }

    /// The guest's id for an id of the host; [`OVERFLOW_ID`] for one that is not mapped.
    #[must_use]
    pub fn to_guest(&self, host: u32) -> u32 {
        self.to_guest_checked(host).unwrap_or(OVERFLOW_ID)
    }

    /// The guest's id for an id of the host; none for one that is not mapped.
    pub(crate) fn to_guest_checked(&self, host: u32) -> Option<u32> {
        self.ranges.iter().find_map(|range| {
            let offset = host.checked_sub(range.host).filter(|offset| *offset < range.count)?;
            range.guest.checked_add(offset)
        })
    }
}

/// The id after a range.
fn end(first: u32, count: u32) -> u64 {
    u64::from(first).saturating_add(count.into())
}

/// Whether two ranges of a first id and a count share an id.
fn meet(a: (u32, u32), b: (u32, u32)) -> bool {
    u64::from(a.0) < end(b.0, b.1) && u64::from(b.0) < end(a.0, a.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(guest: u32, host: u32, count: u32) -> IdRange {
        IdRange { guest, host, count }
    }

    #[test]
    fn identity_maps_every_id_to_itself() {
        let map = IdMap::identity();
        assert!(map.is_identity());
        for id in [0, 1, 65534, u32::MAX - 1] {
            assert_eq!((map.to_host(id), map.to_guest(id)), (Some(id), id));
        }
        assert_eq!(map.to_host(u32::MAX), None);
    }

    #[test]
    fn maps_ranges_both_ways_and_shows_others_as_overflow() {
        let map = IdMap::new(vec![range(0, 1000, 1), range(1, 100_000, 65535)]).unwrap();
        assert!(!map.is_identity());
        assert_eq!(map.to_host(0), Some(1000));
        assert_eq!(map.to_host(65535), Some(165_534));
        assert_eq!(map.to_host(65536), None);
        assert_eq!(map.to_guest(100_999), 1000);
        assert_eq!(map.to_guest(0), OVERFLOW_ID);
    }

    #[test]
    fn refuses_ranges_without_a_reverse() {
        let bad = |ranges| IdMap::new(ranges).unwrap_err();
        assert!(matches!(bad(vec![range(0, 0, 0)]), IdMapError::Range(_)));
        assert!(matches!(bad(vec![range(1, 0, u32::MAX)]), IdMapError::Range(_)));
        assert!(matches!(bad(vec![range(0, 0, 10), range(9, 20, 1)]), IdMapError::Overlap(..)));
        assert!(matches!(bad(vec![range(0, 5, 10), range(20, 14, 9)]), IdMapError::Overlap(..)));
    }
}
