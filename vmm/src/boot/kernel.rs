//! The kernel: an ELF image for x86-64, entered in 64-bit mode at its physical entry address.
//!
//! The loadable segments are mapped from the file where file offset and guest address agree modulo
//! the page size, which is how the kernel's linker lays them out; their partial pages at either end
//! are copied, and what a segment has beyond its file bytes is guest memory, which is zero.

use crate::arch::layout::{HIGH_MEMORY, IDENTITY_MAPPED};
use crate::memory::{MemoryError, Ram, RamLayout, regions::PAGE};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes of an ELF64 header (ELF-64 object file format 1.5, §3).
const HEADER_SIZE: usize = 64;
/// Bytes of a program header (§6).
const PROGRAM_HEADER_SIZE: usize = 56;
/// Program headers that are read: a kernel has about five.
const MAX_PROGRAM_HEADERS: u16 = 64;

const MAGIC: [u8; 4] = *b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const MACHINE_X86_64: u16 = 62;
const TYPE_LOAD: u32 = 1;
const FLAG_WRITABLE: u32 = 2;

/// Why a file cannot be started as a kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file cannot be read.
    #[error("the kernel image cannot be read")]
    Read(#[source] io::Error),
    /// Another format.
    #[error(
        "the kernel image is not an ELF file (it starts with {first:02x?}); use an uncompressed \
         vmlinux"
    )]
    NotElf {
        /// Its first bytes.
        first: [u8; 4],
    },
    /// 32 bits or big-endian.
    #[error("the kernel image is an ELF file, but not of 64-bit little-endian code")]
    NotElf64,
    /// Another processor.
    #[error(
        "the kernel image is for another architecture: ELF machine {machine}, and not 62, x86-64"
    )]
    WrongMachine {
        /// `e_machine`.
        machine: u16,
    },
    /// The program headers make no sense.
    #[error("the kernel image has {count} program headers of {size} bytes, which is no kernel")]
    BadProgramHeaders {
        /// `e_phnum`.
        count: u16,
        /// `e_phentsize`.
        size: u16,
    },
    /// The file ends before what it announces.
    #[error("the kernel image is truncated: it has {size} bytes and announces {needed}")]
    Truncated {
        /// Bytes of the file.
        size: u64,
        /// Bytes that its headers refer to.
        needed: u64,
    },
    /// Nothing to load.
    #[error("the kernel image has no loadable segment")]
    NothingToLoad,
    /// A segment that no kernel has.
    #[error(
        "the kernel image has a segment of {memory_size} bytes at {address:#x} with {file_size} \
         bytes of content, which is not possible"
    )]
    BadSegment {
        /// `p_paddr`.
        address: u64,
        /// `p_filesz`.
        file_size: u64,
        /// `p_memsz`.
        memory_size: u64,
    },
    /// A segment where the boot structures are.
    #[error("the kernel image wants to be loaded at {address:#x}, below 1 MiB")]
    TooLow {
        /// `p_paddr`.
        address: u64,
    },
    /// It does not fit.
    #[error(
        "the kernel image reaches up to {end:#x}, but guest memory ends at {memory_end:#x}; give the \
         guest more memory"
    )]
    LargerThanMemory {
        /// First address after its last segment.
        end: u64,
        /// First address after low memory.
        memory_end: u64,
    },
    /// The entry is elsewhere.
    #[error("the kernel image's entry at {entry:#x} is not in a segment below 1 GiB")]
    BadEntry {
        /// `e_entry`.
        entry: u64,
    },
    /// Guest memory did not take it.
    #[error("the kernel could not be put into guest memory")]
    Memory(#[source] MemoryError),
}

/// A kernel in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedKernel {
    /// Physical address at which it is entered.
    pub entry: u64,
    /// From its first to its last byte.
    pub range: Range<u64>,
}

/// Puts the kernel of `file` into guest memory.
///
/// # Errors
/// [`KernelError`]; guest memory is of no use then.
pub fn load(file: &File, ram: &Ram, layout: &RamLayout) -> Result<LoadedKernel, KernelError> {
    let file_size = file.metadata().map_err(KernelError::Read)?.len();
    let header = Header::read(file, file_size)?;
    let segments = segments(file, file_size, &header)?;
    let kernel = check(&header, &segments, file_size, layout.low_end())?;
    for segment in &segments {
        load_segment(file, ram, segment)?;
    }
    Ok(kernel)
}

struct Header {
    entry: u64,
    program_headers: u64,
    count: u16,
}

impl Header {
    fn read(file: &File, file_size: u64) -> Result<Self, KernelError> {
        let mut first = [0; 4];
        let start = file.read_at(&mut first, 0).map_err(KernelError::Read)?;
        if first != MAGIC {
            return Err(if start == 0 {
                KernelError::Truncated { size: 0, needed: HEADER_SIZE as u64 }
            } else {
                KernelError::NotElf { first }
            });
        }
        let mut bytes = [0; HEADER_SIZE];
        read_exact(file, &mut bytes, 0, file_size)?;
        if bytes[4] != CLASS_64 || bytes[5] != LITTLE_ENDIAN {
            return Err(KernelError::NotElf64);
        }
        let machine = u16_at(&bytes, 18);
        if machine != MACHINE_X86_64 {
            return Err(KernelError::WrongMachine { machine });
        }
        let (size, count) = (u16_at(&bytes, 54), u16_at(&bytes, 56));
        if usize::from(size) != PROGRAM_HEADER_SIZE || count > MAX_PROGRAM_HEADERS {
            return Err(KernelError::BadProgramHeaders { count, size });
        }
        Ok(Self { entry: u64_at(&bytes, 24), program_headers: u64_at(&bytes, 32), count })
    }
}

/// A loadable segment with bytes in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
    writable: bool,
}

fn segments(file: &File, file_size: u64, header: &Header) -> Result<Vec<Segment>, KernelError> {
    let mut bytes = vec![0; usize::from(header.count) * PROGRAM_HEADER_SIZE];
    read_exact(file, &mut bytes, header.program_headers, file_size)?;
    let (entries, _) = bytes.as_chunks::<PROGRAM_HEADER_SIZE>();
    Ok(entries
        .iter()
        .filter(|entry| u32_at(entry, 0) == TYPE_LOAD)
        .map(|entry| Segment {
            offset: u64_at(entry, 8),
            address: u64_at(entry, 24),
            file_size: u64_at(entry, 32),
            memory_size: u64_at(entry, 40),
            writable: u32_at(entry, 4) & FLAG_WRITABLE != 0,
        })
        .filter(|segment| segment.memory_size > 0)
        .collect())
}

/// Checks every number that the image chose, before anything is loaded.
fn check(
    header: &Header,
    segments: &[Segment],
    file_size: u64,
    memory_end: u64,
) -> Result<LoadedKernel, KernelError> {
    let (mut start, mut end) = (u64::MAX, 0);
    for segment in segments {
        let Segment { offset, address, file_size: content, memory_size, .. } = *segment;
        let bad = KernelError::BadSegment { address, file_size: content, memory_size };
        if content > memory_size {
            return Err(bad);
        }
        let (Some(file_end), Some(segment_end)) =
            (offset.checked_add(content), address.checked_add(memory_size))
        else {
            return Err(bad);
        };
        if file_end > file_size {
            return Err(KernelError::Truncated { size: file_size, needed: file_end });
        }
        if address < HIGH_MEMORY {
            return Err(KernelError::TooLow { address });
        }
        (start, end) = (start.min(address), end.max(segment_end));
    }
    if end == 0 {
        return Err(KernelError::NothingToLoad);
    }
    if end > memory_end {
        return Err(KernelError::LargerThanMemory { end, memory_end });
    }
    let entry = header.entry;
    let entered = segments
        .iter()
        .any(|segment| (segment.address..segment.address + segment.file_size).contains(&entry));
    if !entered || entry >= IDENTITY_MAPPED {
        return Err(KernelError::BadEntry { entry });
    }
    Ok(LoadedKernel { entry, range: start..end })
}

fn load_segment(file: &File, ram: &Ram, segment: &Segment) -> Result<(), KernelError> {
    let Segment { offset, address, file_size, writable, .. } = *segment;
    let end = address + file_size;
    // Whole pages of the file's bytes; empty if the segment lies within one page.
    let (first, last) = (address.next_multiple_of(PAGE), end - end % PAGE);
    if offset % PAGE != address % PAGE || first >= last {
        return copy(file, ram, offset, address..end);
    }
    copy(file, ram, offset, address..first)?;
    ram.map_file(first, file, offset + (first - address), last - first)
        .map_err(KernelError::Memory)?;
    if writable {
        ram.populate_for_writing(first..last);
    }
    copy(file, ram, offset + (last - address), last..end)
}

/// Copies file bytes from `offset` to a guest range, in pieces: a segment may be tens of MiB.
fn copy(file: &File, ram: &Ram, mut offset: u64, to: Range<u64>) -> Result<(), KernelError> {
    let mut buffer = [0; 4096];
    let mut at = to.start;
    while at < to.end {
        let piece = usize::try_from(to.end - at).unwrap_or(usize::MAX).min(buffer.len());
        let piece = &mut buffer[..piece];
        file.read_exact_at(piece, offset).map_err(KernelError::Read)?;
        ram.write(at, piece).map_err(KernelError::Memory)?;
        at += piece.len() as u64;
        offset += piece.len() as u64;
    }
    Ok(())
}

/// Reads all of `bytes`, or says that the file, which has `size` bytes, ends before.
fn read_exact(file: &File, bytes: &mut [u8], offset: u64, size: u64) -> Result<(), KernelError> {
    let needed = offset.saturating_add(bytes.len() as u64);
    if needed > size {
        return Err(KernelError::Truncated { size, needed });
    }
    file.read_exact_at(bytes, offset).map_err(KernelError::Read)
}

// Offsets are constants within arrays of known size.

fn u16_at(bytes: &[u8; HEADER_SIZE], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

fn u32_at<const N: usize>(bytes: &[u8; N], offset: usize) -> u32 {
    bytes[offset..].first_chunk().copied().map_or(0, u32::from_le_bytes)
}

fn u64_at<const N: usize>(bytes: &[u8; N], offset: usize) -> u64 {
    bytes[offset..].first_chunk().copied().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests;
