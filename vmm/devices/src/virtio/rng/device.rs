//! The config side.

use std::sync::Arc;

use super::worker::RngWorker;
use super::{QUEUE_SIZE, REQUEST_QUEUE};
use crate::event_loop::{EventLoop, WorkerHandle};
use crate::virtio::spec::{device_type, feature};
use crate::virtio::state::DeviceState;
use crate::virtio::{ActivateError, Activation, VirtioDevice, Virtqueue};

/// The entropy device.
pub struct Rng {
    event_loop: Arc<EventLoop>,
    worker: Option<WorkerHandle<RngWorker>>,
}

impl Rng {
    /// A device whose worker runs on `event_loop`.
    pub fn new(event_loop: Arc<EventLoop>) -> Self {
        Self { event_loop, worker: None }
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        device_type::ENTROPY
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        feature::RING_EVENT_IDX
    }

    // §5.4.4: the device has no configuration.
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let queue = activation.take_queue(REQUEST_QUEUE)?;
        let worker = RngWorker::new(queue, activation.memory);
        self.worker = Some(self.event_loop.start(worker).map_err(ActivateError::Worker)?);
        Ok(())
    }

    fn stop(&mut self) -> Vec<Virtqueue> {
        let worker = self.worker.take().and_then(WorkerHandle::stop);
        worker.map(RngWorker::into_queue).into_iter().collect()
    }

    fn save(&self) -> DeviceState {
        DeviceState::Stateless
    }
}
