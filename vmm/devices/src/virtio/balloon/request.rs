//! What the guest sends: lists of page numbers (VIRTIO 1.2 §5.5.6).

use crate::virtio::{Reader, ShortChain};

/// Page numbers in one request. Linux sends 256; without a bound a guest could make the worker
/// keep a list of a thousand million.
const MAX_PAGES: usize = 4096;

/// Bytes of a page number.
const PAGE_NUMBER_SIZE: usize = 4;

/// Why a list of pages is no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum PagesError {
    #[error("a balloon request of {bytes} bytes does not hold up to {MAX_PAGES} page numbers")]
    Length { bytes: usize },
    #[error("page {number:#x} of a balloon request is not in memory")]
    OutsideMemory { number: u32 },
    #[error("a balloon request could not be read")]
    Short(#[source] ShortChain),
}

/// A run of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u32,
    pub(super) count: u32,
}

/// Reads a list of page numbers as runs, in ascending order.
///
/// # Errors
/// The list is too long, or has a part of a number at its end.
pub(super) fn read_runs(reader: &mut Reader<'_, '_>) -> Result<Vec<Run>, PagesError> {
    let bytes = reader.remaining();
    let count = bytes.checked_div(PAGE_NUMBER_SIZE).unwrap_or_default();
    if bytes.checked_rem(PAGE_NUMBER_SIZE) != Some(0) || count > MAX_PAGES {
        return Err(PagesError::Length { bytes });
    }
    let mut numbers = Vec::with_capacity(count);
    for _ in 0..count {
        numbers.push(u32::from_le(reader.read_obj().map_err(PagesError::Short)?));
    }
    // One call to the kernel for a run is far cheaper than one for each page.
    numbers.sort_unstable();
    numbers.dedup();
    let mut runs: Vec<Run> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.first.checked_add(run.count) == Some(number) => {
                run.count = run.count.saturating_add(1);
            }
            _ => runs.push(Run { first: number, count: 1 }),
        }
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use vm_memory::VolatileSlice;

    use super::*;

    fn runs(numbers: &[u32]) -> Result<Vec<Run>, PagesError> {
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let slices = [VolatileSlice::from(bytes.as_mut_slice())];
        read_runs(&mut Reader::new(&slices))
    }

    #[test]
    fn joins_neighbours_in_any_order() {
        let expected = [
            Run { first: 2, count: 3 },
            Run { first: 7, count: 1 },
            Run { first: u32::MAX - 1, count: 2 },
        ];
        let numbers = [u32::MAX, 4, 3, 7, 2, 3, u32::MAX - 1];
        assert_eq!(runs(&numbers).unwrap(), expected);
        assert_eq!(runs(&[]).unwrap(), []);
    }

    #[test]
    fn refuses_lists_that_are_too_long_or_cut() {
        assert!(runs(&[0; 4096]).is_ok());
        assert!(matches!(runs(&[0; 4097]), Err(PagesError::Length { bytes: 16388 })));
        let mut bytes = [0; 7];
        let slices = [VolatileSlice::from(bytes.as_mut_slice())];
        let result = read_runs(&mut Reader::new(&slices));
        assert!(matches!(result, Err(PagesError::Length { bytes: 7 })));
    }
}
