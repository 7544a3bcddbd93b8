//! The file system device (VIRTIO 1.2 §5.11): carries FUSE requests between the driver and the
//! file server of the package `file-server`, which does not know queues.
//!
//! One device serves all shares of a sandbox. Requests of the high-priority queue (FORGET and
//! INTERRUPT, none of which has a reply) are served by the thread of the first request queue; every
//! other request queue has a thread of its own, so that one slow request does not hold up all. A
//! request that waits for a lock holds no thread: its chain is kept and served again until it is
//! answered.

mod device;
mod request;
mod state;
mod worker;

pub use device::{Fs, FsConfig, FsConfigError};
/// The server behind the device, for whoever makes both.
pub use file_server;
pub use state::{FsState, WaitingState};

/// The high-priority queue (§5.11.2).
const HIPRIO_QUEUE: u16 = 0;

/// The first request queue. VIRTIO_FS_F_NOTIFICATION is not offered, so no queue comes between.
const FIRST_REQUEST_QUEUE: u16 = 1;

/// Requests without a reply that may wait at once.
const HIPRIO_QUEUE_SIZE: u16 = 128;

/// Entries of a request queue. Linux bounds a request by this number of pages less four, so this
/// is the power of two that lets it send the 256 pages of one megabyte.
const REQUEST_QUEUE_SIZE: u16 = 512;

/// Bytes of a tag in the configuration space (§5.11.4).
const TAG_SIZE: usize = 36;

/// Request queues at most; each is a thread of the VMM. As many as a sandbox can have vCPUs.
const MAX_REQUEST_QUEUES: u8 = 32;

#[cfg(test)]
mod tests;
