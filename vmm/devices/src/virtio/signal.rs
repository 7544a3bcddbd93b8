//! What a worker may say to the driver: interrupts, and that the device needs a reset.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::spec::{interrupt, status};
use crate::fault::FaultSink;
use crate::interrupt::Interrupt;

/// Log lines that one device may cause in its life. A guest can break the protocol, reset the
/// device and break it again as fast as it likes; what comes later is only counted.
const MAX_FAULT_LINES: u32 = 16;

/// The registers that the worker side and the transport share, without a lock, so that an
/// interrupt costs neither of them a wait.
pub struct DeviceSignal {
    name: String,
    status: AtomicU32,
    interrupt_status: AtomicU32,
    config_generation: AtomicU32,
    faults: AtomicU32,
    interrupt: Arc<dyn Interrupt>,
    sink: Arc<dyn FaultSink>,
}

impl DeviceSignal {
    /// The signal of a device that logs as `name`.
    pub fn new(
        name: impl Into<String>,
        interrupt: Arc<dyn Interrupt>,
        sink: Arc<dyn FaultSink>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            status: AtomicU32::new(0),
            interrupt_status: AtomicU32::new(0),
            config_generation: AtomicU32::new(0),
            faults: AtomicU32::new(0),
            interrupt,
            sink,
        })
    }

    /// Tells the driver that a queue has used buffers (§2.7.7).
    pub fn used_buffers(&self) {
        self.raise(interrupt::USED_BUFFER);
    }

    /// Tells the driver that the device's configuration has changed (§4.2.2, ConfigGeneration).
    pub fn config_changed(&self) {
        self.config_generation.fetch_add(1, Ordering::AcqRel);
        // §2.1.2: nothing is sent to a driver that has not said DRIVER_OK.
        if self.status() & status::DRIVER_OK != 0 {
            self.raise(interrupt::CONFIG_CHANGE);
        }
    }

    /// Records that `queue`, or the whole device, is no longer served because of `error`:
    /// DEVICE_NEEDS_RESET is set, the driver told (§2.1.2), the error counted and, the first time
    /// since the last reset, logged.
    pub fn fault(&self, queue: Option<u16>, error: &dyn Error) {
        let count = self.faults.fetch_add(1, Ordering::Relaxed);
        let before = self.status.fetch_or(status::DEVICE_NEEDS_RESET, Ordering::AcqRel);
        if before & status::DEVICE_NEEDS_RESET == 0 && count < MAX_FAULT_LINES {
            self.sink.fault(&self.name, queue, error);
        }
        if before & status::DRIVER_OK != 0 {
            self.raise(interrupt::CONFIG_CHANGE);
        }
    }

    /// How often the guest, or the host, made the device give up a queue.
    pub fn fault_count(&self) -> u32 {
        self.faults.load(Ordering::Relaxed)
    }

    /// The name in log lines.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    pub(crate) fn set_status_bits(&self, bits: u32) {
        self.status.fetch_or(bits, Ordering::AcqRel);
    }

    pub(crate) fn interrupt_status(&self) -> u32 {
        self.interrupt_status.load(Ordering::Acquire)
    }

    pub(crate) fn acknowledge(&self, bits: u32) {
        self.interrupt_status.fetch_and(!bits, Ordering::AcqRel);
    }

    pub(crate) fn config_generation(&self) -> u32 {
        self.config_generation.load(Ordering::Acquire)
    }

    /// Back to power-on, except for counters (§2.4.1). No worker may be running.
    pub(crate) fn reset(&self) {
        self.status.store(0, Ordering::Release);
        self.interrupt_status.store(0, Ordering::Release);
    }

    /// Takes over saved registers. An interrupt that was raised and not acknowledged is sent
    /// again by [`Self::resend`], since its edge may have been lost with the old machine.
    pub(crate) fn restore(&self, status: u32, interrupt_status: u32, config_generation: u32) {
        self.status.store(status, Ordering::Release);
        self.interrupt_status.store(interrupt_status, Ordering::Release);
        self.config_generation.store(config_generation, Ordering::Release);
    }

    pub(crate) fn resend(&self) {
        if self.interrupt_status() != 0 {
            self.interrupt.trigger();
        }
    }

    /// The status bit is set before the edge is sent, so a driver that sees the edge sees the bit.
    ///
    /// An edge is sent even if the bit is set already: the guest may have lost the last one, for
    /// example by masking the line, and would then wait for ever.
    fn raise(&self, bits: u32) {
        self.interrupt_status.fetch_or(bits, Ordering::AcqRel);
        self.interrupt.trigger();
    }
}
