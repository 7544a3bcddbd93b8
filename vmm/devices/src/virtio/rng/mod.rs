//! The entropy device (VIRTIO 1.2 §5.4): the host kernel's random bytes, a bounded number of them
//! per request.

mod device;
mod worker;

pub use device::Rng;

/// The only queue: buffers to fill.
const REQUEST_QUEUE: u16 = 0;

/// Buffers that may wait at once. Linux has one in flight.
const QUEUE_SIZE: u16 = 64;

#[cfg(test)]
mod tests;
