//! How an amount of memory is laid out around the devices' hole.

use crate::arch::layout::{HIGH_MEMORY_RESUMES, LOW_MEMORY_END};
use std::ops::Range;

/// The ranges of guest-physical addresses that are memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamLayout {
    ranges: Vec<Range<u64>>,
}

impl RamLayout {
    /// Lays out `bytes` of memory, low memory first.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let low = bytes.min(LOW_MEMORY_END);
        let high = bytes - low;
        let mut ranges = Vec::with_capacity(2);
        ranges.push(0..low);
        if high > 0 {
            ranges.push(HIGH_MEMORY_RESUMES..HIGH_MEMORY_RESUMES.saturating_add(high));
        }
        Self { ranges }
    }

    /// The ranges in ascending order; the first starts at 0.
    #[must_use]
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// First address above low memory.
    #[must_use]
    pub fn low_end(&self) -> u64 {
        self.ranges.first().map_or(0, |range| range.end)
    }

    /// First address above all memory.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.ranges.last().map_or(0, |range| range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_memory_is_one_range() {
        let ram = RamLayout::new(256 << 20);
        assert_eq!((ram.ranges().len(), ram.ranges()[0].clone()), (1, 0..256 << 20));
        assert_eq!((ram.low_end(), ram.end()), (256 << 20, 256 << 20));
    }

    #[test]
    fn memory_up_to_the_hole_is_one_range() {
        let ram = RamLayout::new(3 << 30);
        assert_eq!((ram.ranges().len(), ram.end()), (1, 3 << 30));
    }

    #[test]
    fn larger_memory_continues_above_the_hole() {
        let ram = RamLayout::new((3 << 30) + 4096);
        assert_eq!(ram.ranges(), [0..3 << 30, 4 << 30..(4 << 30) + 4096]);
        assert_eq!(ram.low_end(), 3 << 30);
    }
}
