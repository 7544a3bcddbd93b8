//! The initial RAM file system: a file, mapped at the top of low memory.

use crate::memory::{MemoryError, Ram, RamLayout, regions::PAGE};
use std::fs::File;
use std::io;
use std::ops::Range;

/// Why an initial RAM file system cannot be given to a guest.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// Its size cannot be read.
    #[error("the size of the initrd cannot be read")]
    Size(#[source] io::Error),
    /// There is nothing in it.
    #[error("the initrd is empty")]
    Empty,
    /// It does not fit beside the kernel.
    #[error(
        "the initrd of {size} bytes does not fit between the kernel, which ends at {kernel_end:#x}, \
         and the end of low memory at {memory_end:#x}; give the guest more memory"
    )]
    TooLarge {
        /// Bytes of the initrd.
        size: u64,
        /// First address after the kernel.
        kernel_end: u64,
        /// First address after low memory.
        memory_end: u64,
    },
    /// It could not be mapped.
    #[error("the initrd could not be put into guest memory")]
    Map(#[source] MemoryError),
}

/// Maps the file at the highest page below the end of low memory, and tells where.
///
/// # Errors
/// [`InitrdError`].
pub fn load(
    file: &File,
    ram: &Ram,
    layout: &RamLayout,
    kernel: &Range<u64>,
) -> Result<Range<u64>, InitrdError> {
    let size = file.metadata().map_err(InitrdError::Size)?.len();
    if size == 0 {
        return Err(InitrdError::Empty);
    }
    let range = place(size, kernel.end, layout.low_end())?;
    ram.map_file(range.start, file, 0, size).map_err(InitrdError::Map)?;
    Ok(range)
}

fn place(size: u64, kernel_end: u64, memory_end: u64) -> Result<Range<u64>, InitrdError> {
    size.checked_next_multiple_of(PAGE)
        .and_then(|padded| memory_end.checked_sub(padded))
        .filter(|start| *start >= kernel_end)
        .map(|start| start..start + size)
        .ok_or(InitrdError::TooLarge { size, kernel_end, memory_end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lies_at_the_top_on_a_page() {
        assert_eq!(place(1, 0x200_0000, 0x1000_0000).unwrap(), 0xfff_f000..0xfff_f001);
        assert_eq!(place(0x1000, 0x200_0000, 0x1000_0000).unwrap(), 0xfff_f000..0x1000_0000);
        assert_eq!(place(0x1001, 0x200_0000, 0x1000_0000).unwrap(), 0xfff_e000..0xfff_f001);
    }

    #[test]
    fn refuses_to_lie_on_the_kernel() {
        assert!(place(0x1000, 0xfff_f000, 0x1000_0000).is_ok());
        for size in [0x1001, 0x1000_0001, u64::MAX] {
            assert!(place(size, 0xfff_f000, 0x1000_0000).is_err());
        }
    }

    #[test]
    fn refuses_an_empty_file() {
        let layout = RamLayout::new(32 << 20);
        let ram = Ram::map(&layout).unwrap();
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(load(&file, &ram, &layout, &(0..0)), Err(InitrdError::Empty)));
    }
}
