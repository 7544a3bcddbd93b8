//! The block device (VIRTIO 1.2 §5.2) over open files or block devices, raw.
//!
//! Data goes between the file and guest memory without a copy. The device works on one request
//! after the other, on a loop of its own, so that a slow disk holds up nothing else.
//!
//! A disk can have several images, each at a place of its own: a guest that has to have many has them in
//! one device. What lies between two images can be neither read nor written, and no request can be for
//! two of them.
//!
//! A drive is a device whose disk comes and goes while the machine runs: without one its capacity is
//! 0, and every request for data fails. The driver is told of each change (§5.2.5.2), and has to let
//! go of a disk before it is taken away.

mod backend;
mod device;
mod medium;
mod request;
mod state;
mod worker;

pub use device::{Blk, BlkError, BlkSpec, DriveSpec};
pub use medium::{DiskImage, DriveDisk, DriveHandle};
pub use state::BlkState;

/// The only queue.
const REQUEST_QUEUE: u16 = 0;

/// Descriptors, and with them requests, that the driver may have under way.
const QUEUE_SIZE: u16 = 128;

/// The same of a drive, of which a guest has many that are mostly empty: its kernel keeps memory for
/// each request that can be under way.
const DRIVE_QUEUE_SIZE: u16 = 32;

/// Descriptors of a request that are not data: header and status.
const FRAMING: u16 = 2;

/// The unit of all sizes and positions (§5.2.4), whatever the disk's own block is.
const SECTOR_SIZE: u64 = 512;

/// Bytes in the identity of a disk (§5.2.6).
const ID_SIZE: usize = 20;

/// Bytes of data in one request. Linux asks for 1.25 MiB at most; without a bound a guest could
/// keep its worker busy with 4 GiB, and whoever wants to stop the device waiting.
const MAX_DATA: u32 = 64 << 20;

/// Ranges in one DISCARD or WRITE_ZEROES request.
const MAX_RANGES: u32 = 16;

/// Sectors in one range: 1 GiB.
const MAX_RANGE_SECTORS: u32 = 1 << 21;

/// Feature bits of the device (§5.2.3), as masks.
mod feature {
    /// `seg_max` is valid.
    pub(super) const SEG_MAX: u64 = 1 << 2;
    /// The disk cannot be written.
    pub(super) const RO: u64 = 1 << 5;
    /// There is a cache, and a FLUSH.
    pub(super) const FLUSH: u64 = 1 << 9;
    /// DISCARD is there.
    pub(super) const DISCARD: u64 = 1 << 13;
    /// WRITE_ZEROES is there.
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

#[cfg(test)]
mod tests;
