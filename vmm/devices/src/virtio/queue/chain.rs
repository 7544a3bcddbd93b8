//! A descriptor chain, checked as a whole before a device sees any of it.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::cursor::{Reader, Writer};
use crate::memory::GuestRam;

/// Descriptors in one chain. §2.7.5.3.1 allows as many as the queue is long; without a bound an
/// indirect table could make the device walk 65,535 of them for each request. 1024 is also the
/// most that one vectored read or write takes (IOV_MAX).
pub const MAX_DESCRIPTORS: u16 = 1024;

/// Size of a descriptor in its table (§2.7.5).
const DESCRIPTOR_SIZE: u32 = 16;

/// What is wrong with a chain.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// A descriptor's number is not in the table.
    #[error("descriptor {index} is outside the table of {size}")]
    OutsideTable {
        /// The descriptor's number.
        index: u16,
        /// Entries in the table.
        size: u16,
    },
    /// The table is not in memory.
    #[error("descriptor {index} of the table at {table:#x} is not in memory")]
    TableOutsideMemory {
        /// The descriptor's number.
        index: u16,
        /// Guest address of the table.
        table: u64,
    },
    /// More descriptors than allowed, or a loop.
    #[error("the chain has more than {limit} descriptors or is a loop")]
    TooLong {
        /// The bound.
        limit: u16,
    },
    /// A buffer is not wholly in memory.
    #[error("the buffer of {len} bytes at {address:#x} is not in memory")]
    BufferOutsideMemory {
        /// Guest address.
        address: u64,
        /// Bytes.
        len: u32,
    },
    /// A buffer has no bytes. No driver has a use for that, and parsers trip over it.
    #[error("descriptor {index} has a buffer of no bytes")]
    EmptyBuffer {
        /// The descriptor's number.
        index: u16,
    },
    /// §2.7.4.2: device-readable parts come before device-writable ones.
    #[error("descriptor {index} is readable but follows a writable one")]
    ReadableAfterWritable {
        /// The descriptor's number.
        index: u16,
    },
    /// An indirect table without VIRTIO_F_INDIRECT_DESC, inside another, or with a successor
    /// (§2.7.5.3.1).
    #[error("descriptor {index} refers to an indirect table where none may be")]
    MisplacedIndirect {
        /// The descriptor's number.
        index: u16,
    },
    /// An indirect table that does not hold whole descriptors, or none.
    #[error("an indirect table has {len} bytes, not a positive multiple of {DESCRIPTOR_SIZE}")]
    IndirectLength {
        /// Bytes.
        len: u32,
    },
    /// §2.7.5.2: at most 2^32 bytes in all.
    #[error("the chain's buffers have more than 2^32 - 1 bytes in all")]
    TooManyBytes,
}

/// The buffers of one request: first what the device may read, then what it may write.
///
/// All lie in guest memory. The guest can still change their content at any time, so a device
/// reads a value once and checks what it has read.
#[derive(Debug)]
pub struct Chain<'m> {
    head: u16,
    slices: Vec<VolatileSlice<'m>>,
    readable: usize,
    readable_len: u32,
    writable_len: u32,
}

/// Where the walk is.
struct Table {
    address: GuestAddress,
    size: u16,
    indirect: bool,
}

impl<'m> Chain<'m> {
    /// Walks and checks the chain that starts with descriptor `head` of the table of `size`
    /// entries at `table`; `indirect` if the driver may use indirect tables.
    pub(crate) fn walk(
        memory: &'m GuestRam,
        table: GuestAddress,
        size: u16,
        head: u16,
        indirect: bool,
    ) -> Result<Self, ChainError> {
        let mut chain = Self {
            head,
            slices: Vec::with_capacity(4),
            readable: 0,
            readable_len: 0,
            writable_len: 0,
        };
        let mut table = Table { address: table, size, indirect: false };
        let mut index = head;
        // Without indirect tables a chain longer than the table is a loop.
        let limit = if indirect { MAX_DESCRIPTORS } else { size.min(MAX_DESCRIPTORS) };
        for _ in 0..limit {
            let descriptor = table.descriptor(memory, index)?;
            if descriptor.refers_to_indirect_table() {
                if !indirect || table.indirect || descriptor.has_next() {
                    return Err(ChainError::MisplacedIndirect { index });
                }
                table = Table::indirect(&descriptor)?;
                index = 0;
                continue;
            }
            chain.append(memory, index, &descriptor)?;
            if !descriptor.has_next() {
                return Ok(chain);
            }
            index = descriptor.next();
        }
        Err(ChainError::TooLong { limit })
    }

    fn append(
        &mut self,
        memory: &'m GuestRam,
        index: u16,
        descriptor: &Descriptor,
    ) -> Result<(), ChainError> {
        let (address, len) = (descriptor.addr(), descriptor.len());
        if len == 0 {
            return Err(ChainError::EmptyBuffer { index });
        }
        let outside = || ChainError::BufferOutsideMemory { address: address.raw_value(), len };
        address.checked_add(u64::from(len)).ok_or_else(outside)?;
        for slice in memory.get_slices(address, usize::try_from(len).map_err(|_| outside())?) {
            self.slices.push(slice.map_err(|_| outside())?);
        }
        let total = if descriptor.is_write_only() {
            &mut self.writable_len
        } else if self.writable_len == 0 {
            self.readable = self.slices.len();
            &mut self.readable_len
        } else {
            return Err(ChainError::ReadableAfterWritable { index });
        };
        *total = total.checked_add(len).ok_or(ChainError::TooManyBytes)?;
        self.readable_len.checked_add(self.writable_len).ok_or(ChainError::TooManyBytes)?;
        Ok(())
    }

    /// The chain's first descriptor, by which it is given back.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// What the device may read, in order.
    pub fn readable(&self) -> &[VolatileSlice<'m>] {
        self.slices.get(..self.readable).unwrap_or_default()
    }

    /// What the device may write, in order.
    pub fn writable(&self) -> &[VolatileSlice<'m>] {
        self.slices.get(self.readable..).unwrap_or_default()
    }

    /// Bytes the device may read.
    pub fn readable_len(&self) -> u32 {
        self.readable_len
    }

    /// Bytes the device may write.
    pub fn writable_len(&self) -> u32 {
        self.writable_len
    }

    /// A cursor over what the device may read.
    pub fn reader(&self) -> Reader<'_, 'm> {
        Reader::new(self.readable())
    }

    /// A cursor over what the device may write.
    pub fn writer(&self) -> Writer<'_, 'm> {
        Writer::new(self.writable())
    }
}

impl Table {
    fn indirect(descriptor: &Descriptor) -> Result<Self, ChainError> {
        let len = descriptor.len();
        let entries = len.checked_div(DESCRIPTOR_SIZE).unwrap_or_default();
        if entries == 0 || len.checked_rem(DESCRIPTOR_SIZE) != Some(0) {
            return Err(ChainError::IndirectLength { len });
        }
        // A longer table cannot be walked to its end; its first part can.
        let size = u16::try_from(entries).unwrap_or(u16::MAX);
        Ok(Self { address: descriptor.addr(), size, indirect: true })
    }

    fn descriptor(&self, memory: &GuestRam, index: u16) -> Result<Descriptor, ChainError> {
        if index >= self.size {
            return Err(ChainError::OutsideTable { index, size: self.size });
        }
        u64::from(index)
            .checked_mul(u64::from(DESCRIPTOR_SIZE))
            .and_then(|offset| self.address.checked_add(offset))
            .and_then(|address| memory.read_obj(address).ok())
            .ok_or(ChainError::TableOutsideMemory { index, table: self.address.raw_value() })
    }
}
