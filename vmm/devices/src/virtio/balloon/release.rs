//! Giving ranges of guest memory back to the host.
#![expect(unsafe_code, reason = "madvise works on raw addresses")]

use std::ops::Range;

use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::PAGE_SIZE;
use crate::memory::GuestRam;

/// Gives memory back, except for ranges that must stay.
pub(super) struct Release {
    /// Host addresses that stay, ascending.
    kept: Vec<Range<usize>>,
}

impl Release {
    /// Leaves `kept`, ranges of guest addresses, alone. Parts that are not in memory do not matter.
    pub(super) fn new(memory: &GuestRam, kept: &[Range<u64>]) -> Self {
        let mut host: Vec<Range<usize>> = kept
            .iter()
            .filter_map(|range| {
                let len = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
                Some(memory.get_slices(GuestAddress(range.start), len))
            })
            .flatten()
            .filter_map(|slice| slice.ok().as_ref().and_then(addresses))
            .collect();
        host.sort_unstable_by_key(|range| range.start);
        Self { kept: host }
    }

    /// Gives the whole pages of `slice` back, as far as they need not stay. The guest finds what
    /// the mapping has behind them, zeros or the file it maps, when it touches them again.
    pub(super) fn release(&self, slice: &VolatileSlice<'_>) {
        let Some(range) = addresses(slice) else { return };
        let mut start = range.start;
        for kept in &self.kept {
            if kept.start >= range.end {
                break;
            }
            discard(slice, range.start, start..kept.start.min(range.end));
            start = start.max(kept.end);
        }
        discard(slice, range.start, start..range.end);
    }
}

fn addresses(slice: &VolatileSlice<'_>) -> Option<Range<usize>> {
    let start = slice.ptr_guard().as_ptr().addr();
    Some(start..start.checked_add(slice.len())?)
}

/// Discards the whole pages of `part`, which lies within `slice`, whose host address is `base`.
fn discard(slice: &VolatileSlice<'_>, base: usize, part: Range<usize>) {
    let Ok(page) = usize::try_from(PAGE_SIZE) else { return };
    let mask = page.wrapping_sub(1);
    let Some(start) = part.start.checked_add(mask).map(|address| address & !mask) else { return };
    let end = part.end & !mask;
    let (Some(len), Some(offset)) = (end.checked_sub(start), start.checked_sub(base)) else {
        return;
    };
    if len == 0 {
        return;
    }
    let Ok(pages) = slice.subslice(offset, len) else { return };
    let guard = pages.ptr_guard_mut();
    // SAFETY: the range is within `slice`, guest memory that `guard` keeps mapped and that nothing
    // in Rust borrows; MADV_DONTNEED changes its content, which only the guest relies on, and the
    // guest has just said that it does not.
    let _ = unsafe { libc::madvise(guard.as_ptr().cast(), len, libc::MADV_DONTNEED) };
    // A failure (locked memory) leaves the pages where they are, which costs memory and no more.
}
