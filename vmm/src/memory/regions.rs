//! The mappings behind guest memory.
//!
//! Each range is one private anonymous mapping, reserved and not touched: a page costs the host
//! something when the guest uses it. Parts of files (kernel, initrd) are mapped privately over it,
//! so that their pages come from the page cache and are copied only where the guest writes.
//!
//! A file that is cut short while it is mapped makes its pages unreadable: the VMM dies of SIGBUS
//! or KVM_RUN fails, and the sandbox with it. Kernel and initrd are therefore part of the host's
//! trusted configuration: replace them by rename, never in place.

#![expect(unsafe_code, reason = "guest memory is mapped, and files are mapped over it, by address")]

use super::layout::RamLayout;
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion,
};

/// Alignment of a range in this process: with guest and host addresses congruent, KVM can map a
/// transparent huge page of the host as one.
pub const HUGE_PAGE: u64 = 2 << 20;
/// The same, as a size in this process.
const ALIGNMENT: usize = 2 << 20;
/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Why guest memory could not be made or filled.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host refused the address space.
    #[error("the host refused {bytes} bytes of address space for guest memory")]
    Map {
        /// How many bytes.
        bytes: u64,
        /// The error of mmap(2).
        #[source]
        source: io::Error,
    },
    /// A range cannot be expressed in this process.
    #[error("guest memory of {bytes} bytes cannot be addressed")]
    Unaddressable {
        /// How many bytes.
        bytes: u64,
    },
    /// The address is not in guest memory.
    #[error("{size} bytes at guest address {address:#x} are not within guest memory")]
    OutOfRange {
        /// First guest address.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// The host refused to map a file.
    #[error("the host refused to map {size} bytes of a file at guest address {address:#x}")]
    MapFile {
        /// First guest address.
        address: u64,
        /// Bytes.
        size: u64,
        /// The error of mmap(2).
        #[source]
        source: io::Error,
    },
}

/// Memory of one guest. The mappings stay until the process ends, as its sandbox does: devices
/// and KVM keep addresses of them.
#[derive(Clone, Debug)]
pub struct Ram {
    memory: GuestMemoryMmap,
}

impl Ram {
    /// Reserves the memory of a layout.
    ///
    /// # Errors
    /// [`MemoryError::Map`] if the host refuses, [`MemoryError::Unaddressable`] if a size does not
    /// fit in an address of this process.
    pub fn map(layout: &RamLayout) -> Result<Self, MemoryError> {
        let mut regions = Vec::with_capacity(layout.ranges().len());
        for range in layout.ranges() {
            let bytes = range.end - range.start;
            let unaddressable = || MemoryError::Unaddressable { bytes };
            let size = usize::try_from(bytes).map_err(|_| unaddressable())?;
            let region = reserve(size).map_err(|source| MemoryError::Map { bytes, source })?;
            regions.push(
                GuestRegionMmap::new(region, GuestAddress(range.start))
                    .ok_or_else(unaddressable)?,
            );
        }
        let bytes = layout.end();
        let memory = GuestMemoryMmap::from_regions(regions)
            .map_err(|_| MemoryError::Unaddressable { bytes })?;
        Ok(Self { memory })
    }

    /// The memory as devices see it.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Guest ranges with their first address in this process, for KVM's memory slots.
    pub fn slots(&self) -> impl Iterator<Item = (Range<u64>, u64)> {
        self.memory.iter().map(|region| {
            let start = region.start_addr().0;
            (start..start + region.len(), region.as_ptr().expose_provenance() as u64)
        })
    }

    /// Copies `bytes` to a guest address.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`].
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .map_err(|_| MemoryError::OutOfRange { address, size: bytes.len() as u64 })
    }

    /// Asks the host to back a range with small pages: for one that the guest will use little of, a
    /// huge page would be zeroed and held for nothing. A wish that the host may not fulfil.
    pub fn prefer_small_pages(&self, range: Range<u64>) {
        self.advise(range, libc::MADV_NOHUGEPAGE);
    }

    /// Makes the pages of a range that maps a file the guest's own now, all at once: for parts that
    /// the guest will write in any case, where each page would otherwise cost it an exit for the
    /// first read, one for the first write, and one for the copy's place in its page tables. Where
    /// the host cannot (before Linux 5.14), pages come one by one.
    pub fn populate_for_writing(&self, range: Range<u64>) {
        self.advise(range, libc::MADV_POPULATE_WRITE);
    }

    /// Passes advice that changes no content.
    fn advise(&self, range: Range<u64>, advice: libc::c_int) {
        let end = range.end.min(self.memory.last_addr().0.saturating_add(1));
        let Ok(length) = usize::try_from(end.saturating_sub(range.start)) else { return };
        if let Ok(slice) = self.memory.get_slice(GuestAddress(range.start), length) {
            let start = slice.ptr_guard_mut().as_ptr().cast::<c_void>();
            // SAFETY: the range is in this guest's memory, which is never unmapped; none of the
            // advice given here changes what it reads as.
            unsafe { libc::madvise(start, length, advice) };
        }
    }

    /// Maps whole pages of a file privately over guest memory: `size` bytes from `offset`, all
    /// multiples of [`PAGE`] except that `size` may end within the file's last page, whose rest
    /// reads as zero.
    ///
    /// To be called before the guest runs and before any device has an address of the range.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`], [`MemoryError::MapFile`].
    pub fn map_file(
        &self,
        address: u64,
        file: &File,
        offset: u64,
        size: u64,
    ) -> Result<(), MemoryError> {
        let out_of_range = || MemoryError::OutOfRange { address, size };
        let padded = size.checked_next_multiple_of(PAGE).ok_or_else(out_of_range)?;
        let length = usize::try_from(padded).map_err(|_| out_of_range())?;
        if length == 0 || !address.is_multiple_of(PAGE) || !offset.is_multiple_of(PAGE) {
            return Err(out_of_range());
        }
        let target = self
            .memory
            .get_slice(GuestAddress(address), length)
            .map_err(|_| out_of_range())?
            .ptr_guard_mut()
            .as_ptr();
        let file_offset = i64::try_from(offset).map_err(|_| out_of_range())?;
        // SAFETY: `target` and `length` were checked just above to be whole pages within one region
        // of this guest's memory, which this module mapped and never unmaps; nothing in this
        // process holds a reference into guest memory, it is only accessed by volatile copies.
        let mapped = unsafe {
            libc::mmap(
                target.cast::<c_void>(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                file_offset,
            )
        };
        if mapped == libc::MAP_FAILED {
            let source = io::Error::last_os_error();
            return Err(MemoryError::MapFile { address, size, source });
        }
        leave_out_of_dumps(mapped, length);
        Ok(())
    }
}

/// Reserves `size` bytes of zero pages at an address aligned to [`ALIGNMENT`].
fn reserve(size: usize) -> io::Result<MmapRegion> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let padded =
        size.checked_add(ALIGNMENT).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    let start = unsafe { libc::mmap(ptr::null_mut(), padded, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let skipped = start.addr().next_multiple_of(ALIGNMENT) - start.addr();
    let aligned = start.wrapping_byte_add(skipped);
    trim(start, skipped);
    trim(aligned.wrapping_byte_add(size), ALIGNMENT - skipped);
    leave_out_of_dumps(aligned, size);
    // SAFETY: the range was mapped just above with this size and protection and is never unmapped.
    unsafe { MmapRegion::build_raw(aligned.cast::<u8>(), size, protection, flags) }
        .map_err(io::Error::other)
}

/// Gives back a part of a mapping that was made for alignment only.
fn trim(start: *mut c_void, length: usize) {
    if length > 0 {
        // SAFETY: the caller mapped the range, and nothing has seen its address. Failure leaves
        // address space reserved, which costs no memory.
        unsafe { libc::munmap(start, length) };
    }
}

/// A guest's memory is nobody's business but the guest's.
fn leave_out_of_dumps(start: *mut c_void, length: usize) {
    // SAFETY: MADV_DONTDUMP changes no content; the caller mapped the range. Where it fails the
    // process is still not dumpable (jail).
    unsafe { libc::madvise(start, length, libc::MADV_DONTDUMP) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(ram: &Ram, address: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        ram.memory().read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    #[test]
    fn ranges_are_aligned_for_huge_pages() {
        let ram = Ram::map(&RamLayout::new((3 << 30) + (8 << 20))).unwrap();
        let slots: Vec<_> = ram.slots().collect();
        assert_eq!(slots.len(), 2);
        for (range, host) in slots {
            assert_eq!((range.start % (2 << 20), host % (2 << 20)), (0, 0));
        }
    }

    #[test]
    fn mapped_file_reads_as_its_bytes_and_keeps_them() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 4096]).unwrap();
        file.write_all(&[2; 100]).unwrap();
        let ram = Ram::map(&RamLayout::new(32 << 20)).unwrap();
        ram.map_file(0x20_0000, &file, 0, 4196).unwrap();
        assert_eq!(read(&ram, 0x20_0000, 4096), [1; 4096]);
        assert_eq!(read(&ram, 0x20_1000, 101)[99..], [2, 0]);
        ram.write(0x20_0000, &[9]).unwrap();
        let mut first = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut first, 0).unwrap();
        assert_eq!(first, [1]);
    }

    #[test]
    fn refuses_what_is_not_in_memory() {
        let file = tempfile::tempfile().unwrap();
        let ram = Ram::map(&RamLayout::new(32 << 20)).unwrap();
        for (address, offset, size) in [
            (32 << 20, 0, 4096),
            ((32 << 20) - 4096, 0, 8192),
            (0x1001, 0, 4096),
            (0x1000, 1, 4096),
            (0x1000, 0, 0),
            (0x1000, 0, u64::MAX),
        ] {
            let result = ram.map_file(address, &file, offset, size);
            assert!(matches!(result, Err(MemoryError::OutOfRange { .. })));
        }
        assert!(ram.write((32 << 20) - 1, &[0, 0]).is_err());
    }
}
