//! Virtqueues: the ring, checked descriptor chains, and cursors over their bytes.
//!
//! The split ring's bookkeeping is `virtio-queue`'s. Taking entries from it is ours, because that
//! crate answers a malformed ring or chain with the same `None` as an empty one, and a device must
//! tell "nothing to do" from "the guest broke the protocol".

mod chain;
mod cursor;
mod ring;

pub use chain::{Chain, ChainError, MAX_DESCRIPTORS};
pub use cursor::{Reader, ShortChain, Writer};
pub use ring::{QueueFailed, RingError, Virtqueue};

#[cfg(test)]
mod bounded_proof;
#[cfg(test)]
mod tests;
