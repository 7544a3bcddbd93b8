//! The ranges of one file that one owner has locked: pure bookkeeping.
//!
//! The host's kernel keeps the locks themselves. What is kept here says how many ranges there are,
//! which program of the guest holds one, and through which handle it was taken.

/// A locked range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    /// First byte.
    pub(crate) start: i64,
    /// Last byte; `i64::MAX` is the end of the file, however long it gets.
    pub(crate) end: i64,
    /// Whether nobody else may hold any lock on it, `F_WRLCK`.
    pub(crate) exclusive: bool,
    /// The guest's process, by its number in the guest's first process namespace.
    pub(crate) pid: u32,
    /// The handle through which it was locked.
    pub(crate) handle: u64,
}

impl Range {
    /// Whether both have a byte in common.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// Whether `next` goes on where `self` ends, in all but its place the same.
    fn joins(&self, next: &Self) -> bool {
        let alike = |range: &Self| (range.exclusive, range.pid, range.handle);
        alike(self) == alike(next) && self.end.checked_add(1) == Some(next.start)
    }
}

/// Disjoint ranges in ascending order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<Range>);

impl Ranges {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Range> {
        self.0.iter()
    }

    /// The ranges after `gone` has been unlocked: what reaches beyond it on either side stays.
    pub(crate) fn without(&self, gone: &Range) -> Self {
        let mut left = Vec::with_capacity(self.0.len().saturating_add(2));
        for range in &self.0 {
            if !range.meets(gone) {
                left.push(*range);
                continue;
            }
            if range.start < gone.start {
                left.push(Range { end: gone.start.saturating_sub(1), ..*range });
            }
            if range.end > gone.end {
                left.push(Range { start: gone.end.saturating_add(1), ..*range });
            }
        }
        Self(left)
    }

    /// The ranges after `new` has been locked in place of what was there.
    pub(crate) fn with(&self, new: Range) -> Self {
        let Self(mut all) = self.without(&new);
        let place = all.partition_point(|range| range.start < new.start);
        all.insert(place, new);
        all.dedup_by(|next, range| {
            let joins = range.joins(next);
            if joins {
                range.end = next.end;
            }
            joins
        });
        Self(all)
    }

    /// The ranges that were locked through other handles, and those through `handle`.
    pub(crate) fn split(&self, handle: u64) -> (Self, Self) {
        let (through, others) = self.0.iter().partition(|range| range.handle == handle);
        (Self(others), Self(through))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: i64, end: i64, exclusive: bool) -> Range {
        Range { start, end, exclusive, pid: 1, handle: 1 }
    }

    #[test]
    fn splits_joins_and_converts() {
        let one = Ranges::default().with(range(10, 19, true));
        assert_eq!(one.without(&range(12, 14, true)).len(), 2);
        assert_eq!(one.without(&range(0, i64::MAX, true)), Ranges::default());
        assert_eq!(one.with(range(20, 29, true)), Ranges(vec![range(10, 29, true)]));
        let shared = one.with(range(12, 14, false));
        let parts = [range(10, 11, true), range(12, 14, false), range(15, 19, true)];
        assert_eq!(shared, Ranges(parts.to_vec()));
        assert_eq!(shared.with(range(12, 14, true)), one);
        // The last byte has no successor.
        let end = Ranges::default().with(range(5, i64::MAX, true));
        assert_eq!(end.with(range(0, 4, true)), Ranges(vec![range(0, i64::MAX, true)]));
        assert_eq!(end.without(&range(i64::MAX, i64::MAX, true)).len(), 1);
    }

    #[test]
    fn keeps_what_was_locked_through_other_handles() {
        let other = Range { handle: 2, ..range(5, 9, true) };
        let ranges = Ranges::default().with(range(0, 4, true)).with(other);
        assert_eq!(ranges.len(), 2);
        let (others, through) = ranges.split(1);
        assert_eq!((others, through), (Ranges(vec![other]), Ranges(vec![range(0, 4, true)])));
    }

    proptest! {
        /// Byte by byte, the ranges say what the last call for that byte said.
        #[test]
        fn agrees_with_a_map_of_bytes(
            steps in prop::collection::vec((0i64..40, 0i64..12, 0u8..3, 0u64..2), 1..40),
        ) {
            let mut ranges = Ranges::default();
            let mut bytes = [None; 64];
            for (start, len, kind, handle) in steps {
                let new = Range { handle, ..range(start, start + len, kind == 1) };
                ranges = if kind == 2 { ranges.without(&new) } else { ranges.with(new) };
                for byte in start..=start + len {
                    let place = usize::try_from(byte).unwrap();
                    bytes[place] = (kind != 2).then_some((kind == 1, handle));
                }
                let mut seen = [None; 64];
                for range in ranges.iter() {
                    for byte in range.start..=range.end {
                        let place = usize::try_from(byte).unwrap();
                        prop_assert!(seen[place].is_none());
                        seen[place] = Some((range.exclusive, range.handle));
                    }
                }
                prop_assert_eq!(seen, bytes);
                let apart = ranges.0.windows(2).all(|pair| {
                    pair[0].end < pair[1].start && !pair[0].joins(&pair[1])
                });
                prop_assert!(apart);
            }
        }
    }
}
