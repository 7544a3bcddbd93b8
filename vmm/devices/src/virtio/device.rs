//! The border between a device and its transport.

use std::io;
use std::sync::Arc;

use super::queue::Virtqueue;
use super::signal::DeviceSignal;
use super::state::DeviceState;
use crate::memory::GuestRam;

/// The config side of a virtio device.
///
/// ```text
///            activate            stop (reset, pause)
///   idle ───────────────▶ active ─────────────────▶ idle
/// ```
/// In `idle` the device has no queues. Between a pause and the next `activate` nothing else is
/// called but `save`; between a reset and the next `activate`, `reset` has been called.
pub trait VirtioDevice: Send {
    /// The device type (§5), see [`super::spec::device_type`].
    fn device_type(&self) -> u32;

    /// The largest size of each queue, a power of two; its length is the number of queues.
    fn queue_sizes(&self) -> &[u16];

    /// The feature bits offered. The transport adds VERSION_1 and refuses a driver that takes
    /// what is not offered.
    fn features(&self) -> u64;

    /// Reads `data.len()` bytes of the configuration space at `offset`. `data` comes in as zeros;
    /// what lies outside the space stays zero ([`read_config_bytes`] does that).
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The driver writes to the configuration space. Most devices have nothing writable.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver is ready, or a paused device goes on: start serving the queues.
    ///
    /// # Errors
    /// The device cannot serve them; the transport sets DEVICE_NEEDS_RESET and logs the error.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Stops the worker and returns the queues it had, with their positions. Buffers that the
    /// worker has taken from a queue are returned to the driver or put back first. Idempotent: an
    /// idle device returns nothing.
    fn stop(&mut self) -> Vec<Virtqueue>;

    /// The driver has reset the device (§2.4): forget everything but the configuration. Called
    /// after `stop`.
    fn reset(&mut self) {}

    /// The device's own state, for a snapshot. Called when the device is stopped.
    fn save(&self) -> DeviceState;
}

/// Copies the part of `space` from `offset` that fits into `data`, for
/// [`VirtioDevice::read_config`].
pub fn read_config_bytes(space: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|offset| space.get(offset..));
    for (to, from) in data.iter_mut().zip(rest.unwrap_or_default()) {
        *to = *from;
    }
}

/// What a device gets when its driver is ready.
pub struct Activation {
    /// The guest's memory.
    pub memory: Arc<GuestRam>,
    /// The features that the driver accepted.
    pub features: u64,
    /// For configuration changes; queues send their own interrupts.
    pub signal: Arc<DeviceSignal>,
    queues: Vec<Option<Virtqueue>>,
}

impl Activation {
    /// An activation with the queues that the driver made ready, each at its number.
    pub fn new(
        memory: Arc<GuestRam>,
        features: u64,
        signal: Arc<DeviceSignal>,
        queues: Vec<Option<Virtqueue>>,
    ) -> Self {
        Self { memory, features, signal, queues }
    }

    /// Takes a queue that the device cannot do without.
    ///
    /// # Errors
    /// The driver has not made the queue ready.
    pub fn take_queue(&mut self, index: u16) -> Result<Virtqueue, ActivateError> {
        self.take_optional_queue(index).ok_or(ActivateError::QueueNotReady { index })
    }

    /// Takes a queue that the driver may leave out.
    pub fn take_optional_queue(&mut self, index: u16) -> Option<Virtqueue> {
        self.queues.get_mut(usize::from(index))?.take()
    }

    /// Whether the driver accepted all bits of `feature`.
    pub fn has_feature(&self, feature: u64) -> bool {
        self.features & feature == feature
    }
}

/// Why a device could not start to serve its driver.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver said DRIVER_OK without a queue that the device needs (§3.1.1, step 7).
    #[error("the driver is ready but has not set up queue {index}")]
    QueueNotReady {
        /// The queue's number.
        index: u16,
    },
    /// The worker could not be started.
    #[error("the device's worker could not be started")]
    Worker(#[source] io::Error),
    /// What the device serves is not there any more.
    #[error("the device has no back end: {reason}")]
    NoBackend {
        /// What is missing.
        reason: &'static str,
    },
}
