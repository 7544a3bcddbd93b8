//! Virtio 1.2 devices.
//!
//! [`MmioTransport`] is what a vCPU talks to; it owns one [`VirtioDevice`]. [`Virtqueue`] and
//! [`Chain`] are the only way for a device to reach a ring or a guest buffer. Each device is a
//! folder of the same shape: `mod.rs` (exports, queue numbers, feature bits), `device.rs` (config
//! side), `worker.rs` (owns the queues), `request.rs` (parsing, pure), `state.rs` (saved form).

pub mod balloon;
pub mod blk;
mod device;
pub mod fs;
pub mod net;
pub mod queue;
pub mod rng;
mod signal;
pub mod spec;
pub mod state;
pub mod transport;
pub mod vsock;

pub use device::{ActivateError, Activation, VirtioDevice, read_config_bytes};
pub use queue::{Chain, QueueFailed, Reader, ShortChain, Virtqueue, Writer};
pub use signal::DeviceSignal;
pub use transport::mmio::MmioTransport;
