//! The config side.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::release::Release;
use super::state::BalloonState;
use super::worker::BalloonWorker;
use super::{DEFLATE_QUEUE, INFLATE_QUEUE, QUEUE_SIZES, REPORTING_QUEUE, feature};
use crate::event_loop::{EventLoop, WorkerHandle};
use crate::virtio::spec::{self, device_type};
use crate::virtio::state::DeviceState;
use crate::virtio::{
    ActivateError, Activation, DeviceSignal, VirtioDevice, Virtqueue, read_config_bytes,
};

/// Where `actual` is in the configuration space (§5.5.4); `num_pages` is before it.
const ACTUAL_OFFSET: u64 = 4;

/// What a balloon is made of.
#[derive(Clone, Debug, Default)]
pub struct BalloonSpec {
    /// Ranges of guest addresses that are never given back: those whose mapping would bring up
    /// other content than the guest last saw and may count on, such as pages of the kernel image
    /// mapped from its file.
    pub kept: Vec<Range<u64>>,
    /// Whether free page reporting is offered.
    pub reporting: bool,
}

/// What config side, handle and driver share.
#[derive(Default)]
struct Shared {
    target: AtomicU32,
    actual: AtomicU32,
    /// While a driver is there.
    signal: Mutex<Option<Arc<DeviceSignal>>>,
}

impl Shared {
    fn set_signal(&self, signal: Option<Arc<DeviceSignal>>) {
        *self.signal.lock().unwrap_or_else(PoisonError::into_inner) = signal;
    }
}

/// Sets the balloon's size, from any thread.
#[derive(Clone)]
pub struct BalloonHandle(Arc<Shared>);

impl BalloonHandle {
    /// Asks the guest to give `pages` of 4 KiB away, or to take back what is above that.
    pub fn set_target(&self, pages: u32) {
        self.0.target.store(pages, Ordering::Release);
        let signal = self.0.signal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signal) = signal.as_ref() {
            signal.config_changed();
        }
    }

    /// Pages of 4 KiB that the guest says it has given away.
    pub fn actual(&self) -> u32 {
        self.0.actual.load(Ordering::Acquire)
    }
}

/// The memory balloon.
pub struct Balloon {
    spec: BalloonSpec,
    shared: Arc<Shared>,
    event_loop: Arc<EventLoop>,
    worker: Option<WorkerHandle<BalloonWorker>>,
}

impl Balloon {
    /// An empty balloon whose worker runs on `event_loop`, and the handle to fill it.
    pub fn new(spec: BalloonSpec, event_loop: Arc<EventLoop>) -> (Self, BalloonHandle) {
        let shared = Arc::new(Shared::default());
        let handle = BalloonHandle(shared.clone());
        (Self { spec, shared, event_loop, worker: None }, handle)
    }

    /// The balloon that `state` was taken from. Its numbers are the host's wish and the guest's
    /// word: any are possible.
    pub fn restore(
        state: &BalloonState,
        spec: BalloonSpec,
        event_loop: Arc<EventLoop>,
    ) -> (Self, BalloonHandle) {
        let BalloonState { target_pages, actual_pages } = *state;
        let (balloon, handle) = Self::new(spec, event_loop);
        balloon.shared.target.store(target_pages, Ordering::Release);
        balloon.shared.actual.store(actual_pages, Ordering::Release);
        (balloon, handle)
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        device_type::BALLOON
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        let reporting = if self.spec.reporting { feature::REPORTING } else { 0 };
        spec::feature::RING_EVENT_IDX | feature::DEFLATE_ON_OOM | reporting
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let target = u64::from(self.shared.target.load(Ordering::Acquire));
        let actual = u64::from(self.shared.actual.load(Ordering::Acquire));
        read_config_bytes(&(actual << 32 | target).to_le_bytes(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        // §5.5.4: the driver writes nothing but how much it has given.
        if let (ACTUAL_OFFSET, Ok(data)) = (offset, <[u8; 4]>::try_from(data)) {
            self.shared.actual.store(u32::from_le_bytes(data), Ordering::Release);
        }
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let inflate = activation.take_queue(INFLATE_QUEUE)?;
        let deflate = activation.take_queue(DEFLATE_QUEUE)?;
        let reporting = if activation.has_feature(feature::REPORTING) {
            activation.take_optional_queue(REPORTING_QUEUE)
        } else {
            None
        };
        let release = Release::new(&activation.memory, &self.spec.kept);
        let memory = activation.memory;
        let worker = BalloonWorker { inflate, deflate, reporting, memory, release };
        self.worker = Some(self.event_loop.start(worker).map_err(ActivateError::Worker)?);
        self.shared.set_signal(Some(activation.signal));
        Ok(())
    }

    fn stop(&mut self) -> Vec<Virtqueue> {
        self.shared.set_signal(None);
        let Some(worker) = self.worker.take().and_then(WorkerHandle::stop) else {
            return Vec::new();
        };
        let BalloonWorker { inflate, deflate, reporting, memory: _, release: _ } = worker;
        [Some(inflate), Some(deflate), reporting].into_iter().flatten().collect()
    }

    fn reset(&mut self) {
        // §5.5.5: the pages are the guest's again.
        self.shared.actual.store(0, Ordering::Release);
    }

    fn save(&self) -> DeviceState {
        let Shared { target, actual, signal: _ } = &*self.shared;
        DeviceState::Balloon(BalloonState {
            target_pages: target.load(Ordering::Acquire),
            actual_pages: actual.load(Ordering::Acquire),
        })
    }
}
