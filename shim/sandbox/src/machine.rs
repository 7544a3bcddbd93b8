//! A plan and opened files to the VMM's configuration and the descriptors beside it.

use crate::config::HostConfig;
use crate::disk::{OpenDisk, OpenImage};
use crate::disk_rate::DiskRate;
use crate::host_files::OpenShare;
use crate::network::{Interface, InterfaceBackend};
use crate::network_settings::NetworkSettings;
use crate::spec::VmPlan;
use agent_protocol::SHARES_TAG;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use vmm_api::{
    BalloonConfig, BootConfig, ConsoleConfig, DiskConfig, DriveConfig, FdSlot, FsConfig,
    ImageConfig, InsertedDisk, MachineConfig, NetBackend, NetConfig, Request, ShareConfig,
    VsockConfig, WallsConfig,
};

/// Each VMM has its own vsock device, so one number does for all guests. 0 to 2 are taken
/// (VIRTIO 1.2 §5.10.4).
const GUEST_CID: u32 = 3;

/// Request queues of the file system at most; each is a thread of the VMM, so that a program that
/// waits for the disk does not hold up one on another virtual CPU.
const MAX_FS_QUEUES: u8 = 4;

/// Parameters of every guest kernel: messages to the console, errors only, since each byte is an
/// exit from the guest; a panic resets the machine at once, by the keyboard controller, so that its
/// supervisor sees it; grace periods do not wait for a tick.
///
/// Two are there for pages that a guest would touch for nothing. On one CPU the kernel takes the lock
/// prefixes out of 8 000 instructions, and with them writes to every page of its text, which it shares
/// with other guests until then. And memory for each CPU comes by the page and not by the 2 MiB.
///
/// A guest has no dummy network device that nobody has asked for.
const KERNEL_PARAMETERS: &str = "console=ttyS0 quiet panic=-1 reboot=k rcupdate.rcu_expedited=1 \
                                 noreplace-smp percpu_alloc=page dummy.numdummies=0";

/// What a machine is made of, opened.
#[derive(Debug)]
pub(crate) struct MachineFiles {
    pub(crate) kvm: OwnedFd,
    pub(crate) kernel: OwnedFd,
    pub(crate) initrd: OwnedFd,
    pub(crate) console: OwnedFd,
    pub(crate) shares: Vec<OpenShare>,
    /// Disks, the first of which is the container's root.
    pub(crate) disks: Vec<OpenDisk>,
    /// How many further ones may be in the machine at once while it runs.
    pub(crate) drives: usize,
    /// Further shares may come while the machine runs.
    pub(crate) shares_later: bool,
    pub(crate) interfaces: Vec<Interface>,
}

impl MachineFiles {
    /// The same for another machine, on other networks, that has no disks.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(crate) fn without_interfaces(&self) -> io::Result<Self> {
        Ok(Self {
            kvm: self.kvm.try_clone()?,
            kernel: self.kernel.try_clone()?,
            initrd: self.initrd.try_clone()?,
            console: self.console.try_clone()?,
            shares: self.shares.iter().map(OpenShare::try_clone).collect::<io::Result<_>>()?,
            disks: Vec::new(),
            drives: 0,
            shares_later: false,
            interfaces: Vec::new(),
        })
    }
}

/// Descriptors in the order of their slots.
#[derive(Default)]
struct Slots<'f> {
    descriptors: Vec<BorrowedFd<'f>>,
}

impl<'f> Slots<'f> {
    fn add(&mut self, descriptor: &'f OwnedFd) -> FdSlot {
        // Their number is bounded far below (`host_files::MAX_SHARES`).
        let slot = FdSlot(u16::try_from(self.descriptors.len()).unwrap_or(u16::MAX));
        self.descriptors.push(descriptor.as_fd());
        slot
    }
}

/// The configuration of a machine, and its descriptors.
pub(crate) fn configure<'f>(
    name: &str,
    plan: &VmPlan,
    host: &HostConfig,
    files: &'f MachineFiles,
    user: Option<u32>,
) -> (MachineConfig, Vec<BorrowedFd<'f>>) {
    let mut slots = Slots::default();
    let config = MachineConfig {
        version: vmm_api::VERSION,
        name: name.to_owned(),
        memory_mib: plan.memory_mib,
        walls: WallsConfig { policy: plan.walls, user, core_scheduling: host.core_scheduling },
        vcpus: plan.vcpus,
        kvm: slots.add(&files.kvm),
        boot: BootConfig {
            kernel: slots.add(&files.kernel),
            initrd: Some(slots.add(&files.initrd)),
            cmdline: command_line(plan, host),
        },
        console: ConsoleConfig {
            log: slots.add(&files.console),
            max_bytes: host.console_log_bytes,
            rate: plan.console_rate.0,
        },
        vsock: Some(VsockConfig { guest_cid: GUEST_CID }),
        fs: Some(FsConfig {
            tag: SHARES_TAG.to_owned(),
            queues: plan.vcpus.clamp(1, MAX_FS_QUEUES),
            locks: host.file_locks,
            shares: files.shares.iter().map(|share| share_config(share, &mut slots)).collect(),
            // Those of the containers that will come.
            shares_later: files.shares_later,
        }),
        disks: files
            .disks
            .iter()
            .map(|disk| disk_config(disk, plan.disk_rate, &mut slots))
            .collect(),
        drives: vec![DriveConfig { rate_limit: plan.disk_rate.limit() }; files.drives],
        nets: files
            .interfaces
            .iter()
            .map(|net| net_config(net, plan.network, &mut slots))
            .collect(),
        rng: true,
        balloon: Some(BalloonConfig { free_page_reporting: true }),
    };
    (config, slots.descriptors)
}

fn disk_config<'f>(disk: &'f OpenDisk, rate: DiskRate, slots: &mut Slots<'f>) -> DiskConfig {
    DiskConfig {
        images: disk.images.iter().map(|image| image_config(image, slots)).collect(),
        serial: disk.serial.clone(),
        rate_limit: rate.limit(),
    }
}

fn image_config<'f>(image: &'f OpenImage, slots: &mut Slots<'f>) -> ImageConfig {
    let OpenImage { image, read_only, start } = image;
    ImageConfig { image: slots.add(image), read_only: *read_only, start: *start }
}

/// A disk for a drive of a machine that runs: the request and its descriptors.
pub(crate) fn insert_disk(drive: u16, disk: OpenDisk) -> (Request, Vec<OwnedFd>) {
    let OpenDisk { images, serial } = disk;
    let configs = {
        let mut slots = Slots::default();
        images.iter().map(|image| image_config(image, &mut slots)).collect()
    };
    let descriptors = images.into_iter().map(|image| image.image).collect();
    (Request::InsertDisk(InsertedDisk { drive, images: configs, serial }), descriptors)
}

fn net_config<'f>(
    interface: &'f Interface,
    settings: NetworkSettings,
    slots: &mut Slots<'f>,
) -> NetConfig {
    NetConfig {
        backend: match &interface.backend {
            InterfaceBackend::Tap { taps, uso } => {
                NetBackend::Tap { taps: taps.iter().map(|tap| slots.add(tap)).collect(), uso: *uso }
            }
            InterfaceBackend::Stream(stream) => NetBackend::Stream(slots.add(stream)),
        },
        mac: interface.plan.mac,
        mtu: u16::try_from(interface.plan.mtu).unwrap_or(u16::MAX),
        sources: (!settings.any_source).then(|| interface.sources.clone()),
        metadata: settings.metadata,
        sent: settings.rate.sent,
        received: settings.rate.received,
    }
}

/// A share for a machine that runs: the request and the descriptor beside it.
pub(crate) fn add_share(share: &OpenShare) -> (Request, Vec<BorrowedFd<'_>>) {
    let mut slots = Slots::default();
    let request = Request::AddShare(share_config(share, &mut slots));
    (request, slots.descriptors)
}

fn share_config<'f>(share: &'f OpenShare, slots: &mut Slots<'f>) -> ShareConfig {
    ShareConfig {
        name: share.name.clone(),
        root: slots.add(&share.descriptor),
        kind: share.kind,
        read_only: share.read_only,
        cache: share.cache,
    }
}

/// The fixed parameters, the host's, then the bundle's: the later one of two counts for Linux.
pub(crate) fn command_line(plan: &VmPlan, host: &HostConfig) -> String {
    let mut line = KERNEL_PARAMETERS.to_owned();
    for parameter in host.kernel_parameters.iter().chain(&plan.parameters) {
        line.push(' ');
        line.push_str(parameter);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console_rate::ConsoleRate;
    use std::os::fd::AsRawFd;
    use vmm_api::{CachePolicy, ShareKind};

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn share(name: &str, kind: ShareKind) -> OpenShare {
        OpenShare {
            name: name.into(),
            descriptor: null(),
            kind,
            read_only: kind == ShareKind::File,
            cache: match kind {
                ShareKind::Directory => CachePolicy::Auto,
                ShareKind::File => CachePolicy::None,
            },
        }
    }

    #[test]
    fn a_later_share_has_the_first_slot_of_its_request() {
        let share = share("later", ShareKind::File);
        let (request, descriptors) = add_share(&share);
        let Request::AddShare(config) = request else { panic!("{request:?}") };
        assert_eq!(
            (config.name.as_str(), config.root, config.read_only),
            ("later", FdSlot(0), true)
        );
        assert_eq!((config.kind, config.cache), (ShareKind::File, CachePolicy::None));
        assert_eq!(descriptors.len(), 1);
        assert_eq!(descriptors[0].as_raw_fd(), share.descriptor.as_raw_fd());
    }

    #[test]
    fn each_slot_is_used_once() {
        let files = MachineFiles {
            kvm: null(),
            kernel: null(),
            initrd: null(),
            console: null(),
            shares: vec![share("root", ShareKind::Directory), share("mount1", ShareKind::File)],
            disks: vec![OpenDisk {
                images: [0, 4096]
                    .map(|start| OpenImage { image: null(), read_only: true, start })
                    .into(),
                serial: "disk0".into(),
            }],
            drives: 3,
            shares_later: false,
            interfaces: Vec::new(),
        };
        let plan = VmPlan {
            memory_mib: 256,
            vcpus: 1,
            kernel: None,
            initrd: None,
            parameters: vec!["bundle=1".into()],
            host_cpus: None,
            console_rate: ConsoleRate::default(),
            disk_rate: DiskRate::read("bytes=1000").unwrap(),
            network: NetworkSettings::default(),
            walls: vmm_api::WallPolicy::Strict,
        };
        let host = HostConfig { kernel_parameters: vec!["host=1".into()], ..HostConfig::default() };
        let (config, descriptors) = configure("c1", &plan, &host, &files, Some(7));
        let fs = config.fs.unwrap();
        let mut slots = vec![config.kvm.0, config.boot.kernel.0, config.console.log.0];
        slots.extend(config.boot.initrd.map(|slot| slot.0));
        slots.extend(fs.shares.iter().map(|share| share.root.0));
        slots.extend(config.disks[0].images.iter().map(|image| image.image.0));
        slots.sort_unstable();
        assert_eq!(slots, (0..8).collect::<Vec<u16>>());
        assert_eq!(descriptors.len(), 8);
        let places = config.disks[0].images.iter().map(|image| (image.start, image.read_only));
        assert_eq!(places.collect::<Vec<_>>(), [(0, true), (4096, true)]);
        assert_eq!(config.drives.len(), 3);
        let limit = plan.disk_rate.limit();
        assert!(limit.is_some() && config.disks[0].rate_limit == limit);
        assert!(config.drives.iter().all(|drive| drive.rate_limit == limit));
        assert!(fs.shares[1].read_only && !fs.shares[0].read_only);
        let policies = (fs.shares[0].cache, fs.shares[1].cache);
        assert_eq!(policies, (CachePolicy::Auto, CachePolicy::None));
        assert_eq!((fs.queues, fs.locks), (1, vmm_api::LockPolicy::Host));
        for (vcpus, queues) in [(2, 2), (32, MAX_FS_QUEUES)] {
            let (config, _) =
                configure("c1", &VmPlan { vcpus, ..plan.clone() }, &host, &files, None);
            assert_eq!(config.fs.unwrap().queues, queues);
        }
        assert!(config.boot.cmdline.ends_with(" host=1 bundle=1"), "{}", config.boot.cmdline);
    }
}
