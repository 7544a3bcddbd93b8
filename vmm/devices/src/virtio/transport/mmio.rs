//! Virtio over MMIO (VIRTIO 1.2 §4.2), version 2 registers only.
//!
//! Every access is a VM exit, so registers that a running driver uses (interrupt status,
//! acknowledge, notify) take no lock. All others are behind one, together with the device.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::status::{self, Step};
use crate::bus::BusDevice;
use crate::fault::FaultSink;
use crate::interrupt::Interrupt;
use crate::memory::GuestRam;
use crate::virtio::device::{Activation, VirtioDevice};
use crate::virtio::queue::Virtqueue;
use crate::virtio::signal::DeviceSignal;
use crate::virtio::spec::feature;
use crate::virtio::spec::status::{DRIVER, DRIVER_OK, FAILED, FEATURES_OK};
use crate::virtio::state::{SavedQueue, TransportState};

/// Bytes of guest-physical address space that one device takes.
pub const MMIO_SIZE: u64 = 0x1000;

/// Offset of the register that the driver writes a queue's number to in order to notify it. The
/// hypervisor can turn such a write into an event (an ioeventfd with the number as its datamatch),
/// see [`MmioTransport::notifiers`].
pub const QUEUE_NOTIFY_OFFSET: u64 = register::QUEUE_NOTIFY;

/// Queues that one device may have: more than any device here needs, few enough that a driver
/// cannot make the transport search long.
const MAX_QUEUES: usize = 64;

/// Offsets of the registers, all four bytes wide (§4.2.2, table 4.1).
mod register {
    pub(super) const MAGIC_VALUE: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE_ID: u64 = 0x008;
    pub(super) const VENDOR_ID: u64 = 0x00c;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(super) const QUEUE_SEL: u64 = 0x030;
    pub(super) const QUEUE_NUM_MAX: u64 = 0x034;
    pub(super) const QUEUE_NUM: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACK: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x080;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x084;
    pub(super) const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub(super) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub(super) const SHM_LEN_LOW: u64 = 0x0b0;
    pub(super) const SHM_BASE_HIGH: u64 = 0x0bc;
    pub(super) const CONFIG_GENERATION: u64 = 0x0fc;
    pub(super) const CONFIG: u64 = 0x100;
}

/// "virt" (§4.2.2).
const MAGIC: u32 = 0x7472_6976;
/// Not the legacy register layout (§4.2.2).
const VERSION: u32 = 2;
/// "RNGF": no driver looks at it.
const VENDOR: u32 = 0x4647_4e52;

/// A virtio device on the MMIO bus.
pub struct MmioTransport {
    device_type: u32,
    memory: Arc<GuestRam>,
    signal: Arc<DeviceSignal>,
    /// One per queue; the driver's notification.
    kicks: Vec<Arc<EventFd>>,
    inner: Mutex<Inner>,
}

struct Inner {
    device: Box<dyn VirtioDevice>,
    /// The rings that no worker has at the moment.
    rings: Vec<Queue>,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    active: bool,
}

/// Why a transport could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No notification descriptor could be made.
    #[error("no event descriptor could be made for a queue")]
    Event(#[source] io::Error),
    /// The device asks for a queue that cannot exist.
    #[error("a device cannot have a queue of {size} entries")]
    QueueSize {
        /// Size asked for.
        size: u16,
        /// What is wrong with it.
        #[source]
        source: virtio_queue::Error,
    },
    /// The device has more queues than the transport serves.
    #[error("a device with {count} queues has more than the {MAX_QUEUES} that are supported")]
    QueueCount {
        /// Queues of the device.
        count: usize,
    },
    /// A saved state does not belong to this device, or cannot have been saved by it.
    #[error("the saved state of {device} is not valid: {reason}")]
    State {
        /// The device's name.
        device: String,
        /// What is wrong.
        reason: &'static str,
    },
}

impl MmioTransport {
    /// Puts `device`, which logs as `name`, on a transport. It is inactive until a driver says
    /// DRIVER_OK.
    ///
    /// # Errors
    /// The device's queues cannot be made.
    pub fn new(
        name: impl Into<String>,
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestRam>,
        interrupt: Arc<dyn Interrupt>,
        faults: Arc<dyn FaultSink>,
    ) -> Result<Arc<Self>, TransportError> {
        let sizes = device.queue_sizes();
        if sizes.len() > MAX_QUEUES {
            return Err(TransportError::QueueCount { count: sizes.len() });
        }
        let ring =
            |&size| Queue::new(size).map_err(|source| TransportError::QueueSize { size, source });
        let rings = sizes.iter().map(ring).collect::<Result<Vec<_>, _>>()?;
        let kick = |_| EventFd::new(EFD_NONBLOCK).map(Arc::new);
        let kicks =
            sizes.iter().map(kick).collect::<Result<_, _>>().map_err(TransportError::Event)?;
        Ok(Arc::new(Self {
            device_type: device.device_type(),
            memory,
            signal: DeviceSignal::new(name, interrupt, faults),
            kicks,
            inner: Mutex::new(Inner {
                device,
                rings,
                device_features_select: 0,
                driver_features_select: 0,
                driver_features: 0,
                queue_select: 0,
                active: false,
            }),
        }))
    }

    /// The event of each queue, with the number that the driver writes at [`QUEUE_NOTIFY_OFFSET`]
    /// to signal it. A hypervisor that registers them saves a trip through [`BusDevice::write`],
    /// which signals the same events.
    pub fn notifiers(&self) -> impl Iterator<Item = (u32, &EventFd)> {
        (0..).zip(self.kicks.iter().map(AsRef::as_ref))
    }

    /// The device's interrupts and fault count.
    pub fn signal(&self) -> &Arc<DeviceSignal> {
        &self.signal
    }

    /// Stops the device's worker, so that nothing changes guest memory or the device until
    /// [`Self::resume`]. Does nothing to a device that is not active.
    ///
    /// vCPUs must be stopped already, so that no driver resets the device meanwhile.
    pub fn pause(&self) {
        self.lock().take_rings_back();
    }

    /// Lets a paused or restored device go on where it was.
    pub fn resume(&self) {
        let mut inner = self.lock();
        let live = self.signal.status() & DRIVER_OK != 0;
        if live && !inner.active {
            self.activate(&mut inner);
            // What the driver offered or signalled around the pause may be lost: look again.
            for kick in &self.kicks {
                let _ = kick.write(1);
            }
            self.signal.resend();
        }
    }

    /// The state of transport and device. The device must be paused, or never have been active.
    pub fn save(&self) -> TransportState {
        let inner = self.lock();
        debug_assert!(!inner.active, "a device is saved while its worker runs");
        let Inner {
            device,
            rings,
            device_features_select,
            driver_features_select,
            driver_features,
            queue_select,
            active: _, // Follows from the status.
        } = &*inner;
        TransportState {
            status: self.signal.status(),
            interrupt_status: self.signal.interrupt_status(),
            config_generation: self.signal.config_generation(),
            driver_features: *driver_features,
            device_features_select: *device_features_select,
            driver_features_select: *driver_features_select,
            queue_select: *queue_select,
            queues: rings.iter().map(SavedQueue::from).collect(),
            device: device.save(),
        }
    }

    /// Takes over the registers and rings of `state`; the device was made from `state.device`
    /// before. [`Self::resume`] starts it.
    ///
    /// # Errors
    /// The state is not one that this device could have been in.
    pub fn restore(&self, state: &TransportState) -> Result<(), TransportError> {
        let TransportState {
            status,
            interrupt_status,
            config_generation,
            driver_features,
            device_features_select,
            driver_features_select,
            queue_select,
            queues,
            device: _, // Given to the device's constructor.
        } = state;
        let mut inner = self.lock();
        let invalid =
            |reason| TransportError::State { device: self.signal.name().to_owned(), reason };
        if !status::is_reachable(*status) {
            return Err(invalid("its status register has an impossible value"));
        }
        if *status & FEATURES_OK != 0 && !inner.accepts(*driver_features) {
            return Err(invalid("its driver has features that this device does not offer"));
        }
        if queues.len() != inner.rings.len() {
            return Err(invalid("it has another number of queues"));
        }
        let mut rings = Vec::with_capacity(queues.len());
        for (saved, ring) in queues.iter().zip(&inner.rings) {
            let restored = Queue::try_from(saved).map_err(|_| invalid("a queue is malformed"))?;
            if restored.max_size() != ring.max_size() {
                return Err(invalid("a queue has another largest size"));
            }
            if restored.ready() && !restored.is_valid(self.memory.as_ref()) {
                return Err(invalid("a queue is not in guest memory"));
            }
            rings.push(restored);
        }
        inner.rings = rings;
        inner.driver_features = *driver_features;
        inner.device_features_select = *device_features_select;
        inner.driver_features_select = *driver_features_select;
        inner.queue_select = *queue_select;
        self.signal.restore(*status, *interrupt_status, *config_generation);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            register::MAGIC_VALUE => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => self.device_type,
            register::VENDOR_ID => VENDOR,
            register::INTERRUPT_STATUS => self.signal.interrupt_status(),
            register::STATUS => self.signal.status(),
            register::CONFIG_GENERATION => self.signal.config_generation(),
            // §4.2.2: a shared memory region that does not exist has the length (and address) -1.
            register::SHM_LEN_LOW..=register::SHM_BASE_HIGH => u32::MAX,
            register::DEVICE_FEATURES => {
                let inner = self.lock();
                half(inner.offered(), inner.device_features_select)
            }
            register::QUEUE_NUM_MAX => self.lock().ring().map_or(0, |r| u32::from(r.max_size())),
            register::QUEUE_READY => self.lock().ring().map_or(0, |r| u32::from(r.ready())),
            // Write-only, reserved or legacy.
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        match offset {
            register::QUEUE_NOTIFY => self.notify(value),
            register::INTERRUPT_ACK => self.signal.acknowledge(value),
            register::STATUS => self.write_status(value),
            register::DEVICE_FEATURES_SEL => self.lock().device_features_select = value,
            register::DRIVER_FEATURES_SEL => self.lock().driver_features_select = value,
            register::DRIVER_FEATURES => self.write_driver_features(value),
            register::QUEUE_SEL => self.lock().queue_select = value,
            register::QUEUE_NUM..=register::QUEUE_READY
            | register::QUEUE_DESC_LOW..=register::QUEUE_DEVICE_HIGH => {
                self.write_queue_register(offset, value);
            }
            // Read-only, reserved or legacy.
            _ => (),
        }
    }

    fn notify(&self, queue: u32) {
        // §2.9: without VIRTIO_F_NOTIFICATION_DATA the value is the queue's number.
        let kick = usize::try_from(queue).ok().and_then(|queue| self.kicks.get(queue));
        if let Some(kick) = kick {
            let _ = kick.write(1);
        }
    }

    fn write_driver_features(&self, value: u32) {
        let mut inner = self.lock();
        // §3.1.1, steps 4 and 5: features are chosen between DRIVER and FEATURES_OK.
        if self.signal.status() & (DRIVER | FEATURES_OK) != DRIVER {
            return;
        }
        let (low, high) = (half(inner.driver_features, 0), half(inner.driver_features, 1));
        inner.driver_features = match inner.driver_features_select {
            0 => u64::from(high) << 32 | u64::from(value),
            1 => u64::from(value) << 32 | u64::from(low),
            // No device offers a bit from 64 on, so what is written there is a refusal of nothing.
            _ => inner.driver_features,
        };
    }

    fn write_queue_register(&self, offset: u64, value: u32) {
        let mut inner = self.lock();
        // §3.1.1, step 7: queues are set up between FEATURES_OK and DRIVER_OK. After that their
        // rings are the worker's.
        if self.signal.status() & (FEATURES_OK | DRIVER_OK | FAILED) != FEATURES_OK {
            return;
        }
        let Some(ring) = inner.ring_mut() else { return };
        // §4.2.2.2: nothing but QueueReady may be written while QueueReady is 1.
        if ring.ready() && offset != register::QUEUE_READY {
            return;
        }
        match offset {
            // A size that is no power of two or too large is dropped by the queue, which then
            // keeps its largest; a driver that went on with its own finds its rings unserved.
            register::QUEUE_NUM => {
                if let Ok(size) = u16::try_from(value) {
                    ring.set_size(size);
                }
            }
            // §4.2.2: a driver that reads back 0 knows that its queue was not accepted.
            register::QUEUE_READY => {
                ring.set_ready(value == 1);
                let valid = ring.is_valid(self.memory.as_ref());
                ring.set_ready(value == 1 && valid);
            }
            register::QUEUE_DESC_LOW => ring.set_desc_table_address(Some(value), None),
            register::QUEUE_DESC_HIGH => ring.set_desc_table_address(None, Some(value)),
            register::QUEUE_DRIVER_LOW => ring.set_avail_ring_address(Some(value), None),
            register::QUEUE_DRIVER_HIGH => ring.set_avail_ring_address(None, Some(value)),
            register::QUEUE_DEVICE_LOW => ring.set_used_ring_address(Some(value), None),
            register::QUEUE_DEVICE_HIGH => ring.set_used_ring_address(None, Some(value)),
            _ => (),
        }
    }

    fn write_status(&self, value: u32) {
        let mut inner = self.lock();
        match status::step(self.signal.status(), value) {
            Step::Accept => self.signal.set_status_bits(value),
            Step::CheckFeatures => {
                // §2.2.2, §6.2: a device that cannot work with the driver's choice leaves
                // FEATURES_OK clear, and the driver sees that when it reads the register.
                if inner.accepts(inner.driver_features) {
                    self.signal.set_status_bits(value);
                }
            }
            Step::Activate => {
                self.signal.set_status_bits(value);
                self.activate(&mut inner);
            }
            Step::Fail => self.signal.set_status_bits(FAILED),
            Step::Reset => self.reset(&mut inner),
            Step::Ignore => (),
        }
    }

    fn activate(&self, inner: &mut Inner) {
        let features = inner.driver_features;
        let mut queues = Vec::with_capacity(inner.rings.len());
        for ((index, kick), ring) in (0..).zip(&self.kicks).zip(&inner.rings) {
            // The ring is copied by its state, so that the transport still has the set-up of
            // queues that the device does not take, or loses.
            let ring = Queue::try_from(ring.state()).ok().filter(|ring| ring.ready());
            queues.push(ring.map(|ring| {
                Virtqueue::new(index, ring, features, kick.clone(), self.signal.clone())
            }));
        }
        let activation =
            Activation::new(self.memory.clone(), features, self.signal.clone(), queues);
        match inner.device.activate(activation) {
            Ok(()) => inner.active = true,
            Err(error) => self.signal.fault(None, &error),
        }
    }

    /// §2.4.1: the device is as after power-on, and touches nothing of the driver's any more.
    fn reset(&self, inner: &mut Inner) {
        inner.take_rings_back();
        inner.device.reset();
        for ring in &mut inner.rings {
            ring.reset();
        }
        inner.device_features_select = 0;
        inner.driver_features_select = 0;
        inner.driver_features = 0;
        inner.queue_select = 0;
        self.signal.reset();
    }
}

impl Inner {
    fn offered(&self) -> u64 {
        self.device.features() | feature::VERSION_1
    }

    fn accepts(&self, features: u64) -> bool {
        features & feature::VERSION_1 != 0 && features & !self.offered() == 0
    }

    fn ring(&self) -> Option<&Queue> {
        self.rings.get(usize::try_from(self.queue_select).ok()?)
    }

    fn ring_mut(&mut self) -> Option<&mut Queue> {
        self.rings.get_mut(usize::try_from(self.queue_select).ok()?)
    }

    fn take_rings_back(&mut self) {
        for queue in self.device.stop() {
            let index = usize::from(queue.index());
            if let Some(ring) = self.rings.get_mut(index) {
                *ring = queue.into_ring();
            }
        }
        self.active = false;
    }
}

impl Drop for MmioTransport {
    fn drop(&mut self) {
        drop(self.lock().device.stop());
    }
}

impl BusDevice for MmioTransport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(register::CONFIG) {
            self.lock().device.read_config(offset, data);
        } else if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            // §4.2.2.2: the driver uses aligned 32-bit accesses for registers; others read 0.
            *data = self.read_register(offset).to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(register::CONFIG) {
            // §2.5: the driver may write configuration only once it drives the device.
            if self.signal.status() & (DRIVER | FAILED) == DRIVER {
                self.lock().device.write_config(offset, data);
            }
        } else if let Ok(data) = <[u8; 4]>::try_from(data) {
            self.write_register(offset, u32::from_le_bytes(data));
        }
    }
}

/// Bits 0 to 31 (`select` 0), 32 to 63 (1) or none of a feature set.
fn half(features: u64, select: u32) -> u32 {
    let [b7, b6, b5, b4, b3, b2, b1, b0] = features.to_be_bytes();
    match select {
        0 => u32::from_be_bytes([b3, b2, b1, b0]),
        1 => u32::from_be_bytes([b7, b6, b5, b4]),
        _ => 0,
    }
}
