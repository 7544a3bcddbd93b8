//! The devices of a machine: made from its specification, put on the buses, connected to KVM.

use super::events::{EventSender, MachineEvent};
use super::spec::{ConsoleSpec, DeviceSpecs};
use crate::arch::layout::{DEVICE_IRQS, MMIO_DEVICE_SIZE, MMIO_DEVICES};
use crate::boot::cmdline::MmioDevice;
use crate::kvm::{KvmError, Vm};
use devices::bus::{Bus, BusError};
use devices::event_loop::{EventLoop, ThreadHook};
use devices::legacy::{
    ConsoleLimits, ConsoleLog, I8042_BASE, I8042_SIZE, I8042Reset, SERIAL_BASE, SERIAL_IRQ,
    SERIAL_SIZE, Serial,
};
use devices::memory::GuestRam;
use devices::virtio::transport::mmio::{MMIO_SIZE, QUEUE_NOTIFY_OFFSET, TransportError};
use devices::virtio::{MmioTransport, VirtioDevice, rng::Rng};
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use vmm_api::GuestExit;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const _: () = assert!(MMIO_DEVICE_SIZE == MMIO_SIZE);

/// Why the devices of a machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Two devices at one address: a mistake in the address map.
    #[error("the address of {device} is taken")]
    Bus {
        /// Which device.
        device: &'static str,
        /// The bus's word.
        #[source]
        source: BusError,
    },
    /// No descriptor for an interrupt, or no thread.
    #[error("the host refused what {device} needs")]
    Host {
        /// Which device.
        device: &'static str,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// KVM refused the device's interrupt or notification.
    #[error("{device} could not be connected")]
    Kvm {
        /// Which device.
        device: &'static str,
        /// Its error.
        #[source]
        source: KvmError,
    },
    /// The virtio transport could not be made.
    #[error("{device} could not be made")]
    Transport {
        /// Which device.
        device: &'static str,
        /// Its error.
        #[source]
        source: TransportError,
    },
    /// More devices than interrupts; the specification has been checked for that.
    #[error("there is no interrupt left for {device}")]
    NoInterrupt {
        /// Which device.
        device: &'static str,
    },
}

/// The devices of a running machine.
pub struct Devices {
    /// Ports.
    pub ports: Arc<Bus>,
    /// Memory-mapped registers.
    pub mmio: Arc<Bus>,
    /// What the kernel is told of them, in order.
    pub entries: Vec<MmioDevice>,
    /// All virtio devices, for pause and saved state.
    pub transports: Vec<Arc<MmioTransport>>,
}

/// Makes all devices that `spec` names, with their threads, and connects them to `vm`.
///
/// # Errors
/// [`DeviceError`].
pub fn build(
    spec: DeviceSpecs,
    vm: &Vm,
    memory: Arc<GuestRam>,
    events: &EventSender,
    hook: Option<&ThreadHook>,
) -> Result<Devices, DeviceError> {
    let ports = ports(spec.console, vm, events)?;
    let shared = EventLoop::new("devices", hook.cloned())
        .map_err(|source| DeviceError::Host { device: "the device thread", source })?;
    let mut slots = Slots::new(vm, memory, events);
    if spec.rng {
        slots.add("virtio-rng", Box::new(Rng::new(shared.clone())))?;
    }
    Ok(slots.finish(ports))
}

/// The serial console and the reset line.
fn ports(console: ConsoleSpec, vm: &Vm, events: &EventSender) -> Result<Bus, DeviceError> {
    let mut ports = Bus::new();
    let device = "the serial console";
    let limits = ConsoleLimits { max_bytes: console.max_bytes, ..ConsoleLimits::default() };
    let interrupt = interrupt(vm, device, SERIAL_IRQ)?;
    let serial = Serial::new(ConsoleLog::new(console.log, limits), Some(interrupt));
    ports
        .insert(SERIAL_BASE, SERIAL_SIZE, Arc::new(serial))
        .map_err(|source| DeviceError::Bus { device, source })?;
    let events = events.clone();
    let reset = I8042Reset::new(move || events.send(MachineEvent::Exited(GuestExit::Reset)));
    ports
        .insert(I8042_BASE, I8042_SIZE, Arc::new(reset))
        .map_err(|source| DeviceError::Bus { device: "the reset line", source })?;
    Ok(ports)
}

/// An event that is interrupt `gsi` in the guest.
fn interrupt(vm: &Vm, device: &'static str, gsi: u32) -> Result<Arc<EventFd>, DeviceError> {
    let event =
        EventFd::new(EFD_NONBLOCK).map_err(|source| DeviceError::Host { device, source })?;
    vm.connect_interrupt(&event, gsi).map_err(|source| DeviceError::Kvm { device, source })?;
    Ok(Arc::new(event))
}

/// Gives addresses and interrupts to virtio devices, in order.
struct Slots<'a> {
    vm: &'a Vm,
    memory: Arc<GuestRam>,
    events: Arc<EventSender>,
    irqs: RangeInclusive<u32>,
    next_address: u64,
    mmio: Bus,
    entries: Vec<MmioDevice>,
    transports: Vec<Arc<MmioTransport>>,
}

impl<'a> Slots<'a> {
    fn new(vm: &'a Vm, memory: Arc<GuestRam>, events: &EventSender) -> Self {
        Self {
            vm,
            memory,
            events: Arc::new(events.clone()),
            irqs: DEVICE_IRQS,
            next_address: MMIO_DEVICES,
            mmio: Bus::new(),
            entries: Vec::new(),
            transports: Vec::new(),
        }
    }

    fn add(
        &mut self,
        name: &'static str,
        device: Box<dyn VirtioDevice>,
    ) -> Result<(), DeviceError> {
        let irq = self.irqs.next().ok_or(DeviceError::NoInterrupt { device: name })?;
        let address = self.next_address;
        self.next_address += MMIO_DEVICE_SIZE;
        let interrupt = interrupt(self.vm, name, irq)?;
        let transport =
            MmioTransport::new(name, device, self.memory.clone(), interrupt, self.events.clone())
                .map_err(|source| DeviceError::Transport { device: name, source })?;
        self.mmio
            .insert(address, MMIO_DEVICE_SIZE, transport.clone())
            .map_err(|source| DeviceError::Bus { device: name, source })?;
        for (queue, event) in transport.notifiers() {
            self.vm
                .connect_notification(event, address + QUEUE_NOTIFY_OFFSET, Some(queue))
                .map_err(|source| DeviceError::Kvm { device: name, source })?;
        }
        self.entries.push(MmioDevice { address, irq });
        self.transports.push(transport);
        Ok(())
    }

    fn finish(self, ports: Bus) -> Devices {
        Devices {
            ports: Arc::new(ports),
            mmio: Arc::new(self.mmio),
            entries: self.entries,
            transports: self.transports,
        }
    }
}
