//! The devices of a machine: made from its specification, put on the buses, connected to KVM.

use super::builder::Surroundings;
use super::events::{EventSender, MachineEvent};
use super::spec::{
    ConsoleSpec, DeviceSpecs, DiskSpec, FsSpec, ImageSpec, NetBackendSpec, NetSpec, ShareSpec,
};
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
use devices::rate::Rate;
use devices::virtio::balloon::{Balloon, BalloonHandle, BalloonSpec};
use devices::virtio::blk::{Blk, BlkError, BlkSpec, DiskImage, DriveHandle, DriveSpec};
use devices::virtio::fs::file_server::{
    self, IdMap, Limits, Server, ServerConfig, ServerError, Share,
};
use devices::virtio::fs::{Fs, FsConfig, FsConfigError};
use devices::virtio::net::{self, Backend, Filter, FrameRate, Net, NetHandle};
use devices::virtio::rng::Rng;
use devices::virtio::transport::mmio::{MMIO_SIZE, QUEUE_NOTIFY_OFFSET, TransportError};
use devices::virtio::vsock::{Vsock, VsockError, VsockHandle};
use devices::virtio::{MmioTransport, VirtioDevice};
use rustix::process::{Resource, getrlimit};
use std::fs::File;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use vmm_api::{
    BalloonConfig, CachePolicy, GuestExit, LockPolicy, RateLimit, ShareKind, TokenBucket,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const _: () = assert!(MMIO_DEVICE_SIZE == MMIO_SIZE);
const _: () = assert!(vmm_api::NET_HEADER_BYTES as usize == net::HEADER_SIZE);
const _: () = assert!(vmm_api::MAX_NET_PAIRS as usize == net::MAX_PAIRS);

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
    /// The vsock device refused its configuration.
    #[error("the vsock device could not be made")]
    Vsock(#[source] VsockError),
    /// A disk cannot be used.
    #[error("a disk cannot be used")]
    Disk(#[source] BlkError),
    /// The file system device refused its configuration.
    #[error("the file system device could not be made")]
    FsDevice(#[source] FsConfigError),
    /// A share cannot be served.
    #[error("the shares cannot be served")]
    Shares(#[source] ServerError),
    /// More devices than interrupts; the specification has been checked for that.
    #[error("there is no interrupt left for {device}")]
    NoInterrupt {
        /// Which device.
        device: &'static str,
    },
}

/// The devices of a running machine.
pub(super) struct Devices {
    /// Bytes of console output written so far.
    pub(super) console_bytes: Arc<AtomicU64>,
    /// The host's side of vsock, if there is one.
    pub(super) vsock: Option<VsockHandle>,
    /// The host's side of the balloon, if there is one.
    pub(super) balloon: Option<BalloonHandle>,
    /// The host's side of each network.
    pub(super) nets: Vec<NetHandle>,
    /// The server behind the file system, if there is one.
    pub(super) files: Option<Arc<Server>>,
    /// Drives, in their order.
    pub(super) drives: Vec<DriveHandle>,
    /// Ports.
    pub(super) ports: Arc<Bus>,
    /// Memory-mapped registers.
    pub(super) mmio: Arc<Bus>,
    /// What the kernel is told of them, in order.
    pub(super) entries: Vec<MmioDevice>,
    /// All virtio devices, for pause and saved state.
    pub(super) transports: Vec<Arc<MmioTransport>>,
    /// How many threads they have.
    pub(super) threads: usize,
}

/// Makes all devices that `spec` names and connects them to `vm`. `file_backed` are the ranges of
/// guest memory that map a file.
///
/// # Errors
/// [`DeviceError`].
pub(super) fn build(
    spec: DeviceSpecs,
    surroundings: &Surroundings,
    vm: &Vm,
    memory: Arc<GuestRam>,
    file_backed: Vec<Range<u64>>,
    events: &EventSender,
) -> Result<Devices, DeviceError> {
    let hook = surroundings.hooks.device.as_ref();
    let (ports, console_bytes) = ports(spec.console, vm, events)?;
    let mut slots = Slots::new(vm, memory, events);
    // None of these waits for anything: they share one thread.
    let shared = event_loop("devices", hook)?;
    let queues = spec.fs.as_ref().map_or(0, |fs| usize::from(fs.queues));
    let pairs: usize = spec.nets.iter().map(|net| net.backend.pairs()).sum();
    let threads = 1 + queues + spec.disks.len() + spec.drives.len() + pairs;
    let mut vsock = None;
    if let Some(guest_cid) = spec.vsock {
        let (device, handle) =
            Vsock::new(guest_cid.into(), shared.clone()).map_err(DeviceError::Vsock)?;
        slots.add("virtio-vsock", Box::new(device))?;
        vsock = Some(handle);
    }
    let mut files = None;
    if let Some(fs) = spec.fs {
        let (device, server) = file_system(fs, surroundings)?;
        slots.add("virtio-fs", Box::new(device))?;
        files = Some(server);
    }
    for (index, disk) in spec.disks.into_iter().enumerate() {
        slots.add("virtio-blk", Box::new(self::disk(disk, index, hook)?))?;
    }
    let mut nets = Vec::new();
    let mut drives = Vec::new();
    for (index, limit) in spec.drives.into_iter().enumerate() {
        let (device, handle) = drive(limit, index, hook)?;
        slots.add("virtio-blk", Box::new(device))?;
        drives.push(handle);
    }
    for (index, net) in spec.nets.into_iter().enumerate() {
        let device = self::net(net, index, hook)?;
        nets.push(device.handle());
        slots.add("virtio-net", Box::new(device))?;
    }
    if spec.rng {
        slots.add("virtio-rng", Box::new(Rng::new(shared.clone())))?;
    }
    let mut balloon = None;
    if let Some(BalloonConfig { free_page_reporting }) = spec.balloon {
        let spec = BalloonSpec { kept: file_backed, reporting: free_page_reporting };
        let (device, handle) = Balloon::new(spec, shared);
        slots.add("virtio-balloon", Box::new(device))?;
        balloon = Some(handle);
    }
    let Slots { mmio, entries, transports, .. } = slots;
    let (ports, mmio) = (Arc::new(ports), Arc::new(mmio));
    Ok(Devices {
        console_bytes,
        vsock,
        balloon,
        nets,
        files,
        drives,
        ports,
        mmio,
        entries,
        transports,
        threads,
    })
}

fn event_loop(
    name: &'static str,
    hook: Option<&ThreadHook>,
) -> Result<Arc<EventLoop>, DeviceError> {
    EventLoop::new(name, hook.cloned())
        .map_err(|source| DeviceError::Host { device: "a device thread", source })
}

/// A disk waits for the host's disk: it has a thread of its own.
fn disk(spec: DiskSpec, index: usize, hook: Option<&ThreadHook>) -> Result<Blk, DeviceError> {
    let DiskSpec { images, serial, rate_limit } = spec;
    let limit = rate_limit.unwrap_or_default();
    let event_loop = EventLoop::new(format!("disk-{index}"), hook.cloned())
        .map_err(|source| DeviceError::Host { device: "a disk", source })?;
    let spec = BlkSpec {
        images: disk_images(images),
        id: serial,
        operations: limit.operations.map(rate),
        bytes: limit.bytes.map(rate),
    };
    Blk::new(spec, event_loop).map_err(DeviceError::Disk)
}

pub(super) fn disk_images(images: Vec<ImageSpec>) -> Vec<DiskImage> {
    let open = |ImageSpec { image, read_only, start }| DiskImage {
        file: File::from(image),
        read_only,
        start,
    };
    images.into_iter().map(open).collect()
}

/// A drive has a thread of its own even while it is empty: when a disk comes, the process is confined.
fn drive(
    limit: RateLimit,
    index: usize,
    hook: Option<&ThreadHook>,
) -> Result<(Blk, DriveHandle), DeviceError> {
    let event_loop = EventLoop::new(format!("drive-{index}"), hook.cloned())
        .map_err(|source| DeviceError::Host { device: "a drive", source })?;
    let spec = DriveSpec { operations: limit.operations.map(rate), bytes: limit.bytes.map(rate) };
    Ok(Blk::drive(spec, event_loop))
}

fn rate(bucket: TokenBucket) -> Rate {
    Rate { per_second: bucket.per_second, burst: bucket.burst }
}

/// A network can keep its threads busy: it has one of its own for each pair of queues.
fn net(spec: NetSpec, index: usize, hook: Option<&ThreadHook>) -> Result<Net, DeviceError> {
    let NetSpec { backend, mac, mtu, sources, metadata, sent, received } = spec;
    let event_loops = (0..backend.pairs())
        .map(|pair| {
            let name =
                if pair == 0 { format!("net-{index}") } else { format!("net-{index}.{pair}") };
            EventLoop::new(name, hook.cloned())
        })
        .collect::<Result<_, _>>()
        .map_err(|source| DeviceError::Host { device: "a network", source })?;
    let filter = Filter { sources, metadata };
    let frames = |limit: RateLimit| FrameRate {
        packets: limit.operations.map(rate),
        bytes: limit.bytes.map(rate),
    };
    let (sent, received) = (frames(sent), frames(received));
    let backend = match backend {
        NetBackendSpec::Tap { taps, uso } => {
            Backend::Tap { taps: taps.into_iter().map(File::from).collect(), uso }
        }
        NetBackendSpec::Stream(stream) => Backend::Stream(File::from(stream)),
    };
    let spec = net::NetSpec { backend, mac, mtu, filter, sent, received };
    Ok(Net::new(spec, event_loops))
}

fn file_system(
    spec: FsSpec,
    surroundings: &Surroundings,
) -> Result<(Fs, Arc<Server>), DeviceError> {
    let FsSpec { tag, queues, locks, shares, shares_later: _ } = spec;
    let device = "the file system";
    let proc_self_fd = surroundings
        .proc_self_fd
        .try_clone()
        .map_err(|source| DeviceError::Host { device, source })?;
    let config = ServerConfig {
        proc_self_fd,
        limits: Limits::within(descriptors()),
        uid_map: IdMap::identity(),
        gid_map: IdMap::identity(),
        locks: match locks {
            LockPolicy::Host => file_server::LockPolicy::Host,
            LockPolicy::Guest => file_server::LockPolicy::Guest,
            LockPolicy::Refused => file_server::LockPolicy::Refused,
        },
        shares: shares.into_iter().map(Share::from).collect(),
    };
    let server = Server::new(config).map_err(DeviceError::Shares)?;
    let fs = Fs::new(&FsConfig { tag, queues }, server.clone(), surroundings.hooks.device.clone())
        .map_err(DeviceError::FsDevice)?;
    Ok((fs, server))
}

/// How many descriptors this process may have open.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

impl From<ShareSpec> for Share {
    fn from(spec: ShareSpec) -> Self {
        let ShareSpec { name, root, kind, read_only, cache } = spec;
        Self {
            name,
            root,
            kind: match kind {
                ShareKind::Directory => file_server::ShareKind::Directory,
                ShareKind::File => file_server::ShareKind::File,
            },
            read_only,
            cache: match cache {
                CachePolicy::None => file_server::CachePolicy::None,
                CachePolicy::Auto => file_server::CachePolicy::Auto,
                CachePolicy::Always => file_server::CachePolicy::Always,
            },
            // An overlay in the guest may have its upper directory on a share that it can write.
            whiteouts: !read_only,
        }
    }
}

/// The serial console and the reset line, and the console's count of bytes.
fn ports(
    console: ConsoleSpec,
    vm: &Vm,
    events: &EventSender,
) -> Result<(Bus, Arc<AtomicU64>), DeviceError> {
    let mut ports = Bus::new();
    let device = "the serial console";
    let limits = ConsoleLimits { max_bytes: console.max_bytes, rate: rate(console.rate) };
    let interrupt = interrupt(vm, device, SERIAL_IRQ)?;
    let log = ConsoleLog::new(console.log, limits);
    let written = log.written();
    let serial = Serial::new(log, Some(interrupt));
    ports
        .insert(SERIAL_BASE, SERIAL_SIZE, Arc::new(serial))
        .map_err(|source| DeviceError::Bus { device, source })?;
    let events = events.clone();
    let reset = I8042Reset::new(move || events.send(MachineEvent::Exited(GuestExit::Reset)));
    ports
        .insert(I8042_BASE, I8042_SIZE, Arc::new(reset))
        .map_err(|source| DeviceError::Bus { device: "the reset line", source })?;
    Ok((ports, written))
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
}
