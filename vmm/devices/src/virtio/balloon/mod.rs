//! The memory balloon (VIRTIO 1.2 §5.5) with free page reporting: guest memory that the guest does
//! not use goes back to the host.
//!
//! Two ways lead there. The host sets a target, and the guest gives that many pages away (inflate)
//! until the target falls again (deflate). And the guest reports free pages on its own (§5.5.6.7);
//! it may use them again at any time, and finds whatever the mapping has behind them: zeros in
//! anonymous memory.
//!
//! Nothing that the guest says makes the host keep memory or do more than give a range of the
//! guest's own memory back: a lying guest harms itself.

mod device;
mod release;
mod request;
mod state;
mod worker;

pub use device::{Balloon, BalloonHandle, BalloonSpec};
pub use state::BalloonState;

/// Pages that the guest gives away.
const INFLATE_QUEUE: u16 = 0;
/// Pages that it takes back.
const DEFLATE_QUEUE: u16 = 1;
/// Pages that it reports as free. §5.5.2 gives this queue the number 4, after those for statistics
/// and for hints; but a driver counts only queues whose features were negotiated, and the device
/// offers neither.
const REPORTING_QUEUE: u16 = 2;

/// Sizes of the queues. Linux has one request under way in each, and reports up to 32 ranges at
/// once.
const QUEUE_SIZES: [u16; 3] = [32, 32, 32];

/// The unit of page numbers (§5.5.6), whatever the guest's pages are.
const PAGE_SIZE: u64 = 4096;

/// Feature bits of the device (§5.5.3), as masks.
///
/// VIRTIO_BALLOON_F_PAGE_POISON is not offered: it would promise that a reported page comes back as
/// zeros (or another value), which memory that maps a file does not keep. A Linux guest that depends
/// on it (`init_on_free`, page poisoning) then does not report.
mod feature {
    /// The guest may take pages back when it runs out of memory.
    pub(super) const DEFLATE_ON_OOM: u64 = 1 << 2;
    /// The guest reports free pages.
    pub(super) const REPORTING: u64 = 1 << 5;
}

#[cfg(test)]
mod tests;
