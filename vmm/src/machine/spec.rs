//! What a machine shall be, checked: every number within its bounds, every descriptor in its place.

use crate::arch::layout::{DEVICE_IRQS, MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use vmm_api::{
    BalloonConfig, CachePolicy, DiskConfig, DriveConfig, FdSlot, FsConfig, ImageConfig,
    InsertedDisk, LockPolicy, MAX_NET_PAIRS, MIN_MTU, MachineConfig, NetBackend, NetConfig,
    RateLimit, ShareConfig, ShareKind, TokenBucket, VERSION, VsockConfig, WallsConfig,
};

/// Bytes of a sandbox's name: what fits in a log line.
const MAX_NAME: usize = 255;
/// Bytes of a file system's tag (VIRTIO 1.2 §5.11.4).
const MAX_TAG: usize = 36;
/// Request queues of a file system; beyond the number of virtual CPUs they are of no use.
const MAX_FS_QUEUES: u8 = MAX_VCPUS;
/// Bytes of a share's name (NAME_MAX).
const MAX_SHARE_NAME: usize = 255;
/// Bytes of a disk's serial number (VIRTIO 1.2 §5.2.6).
const MAX_SERIAL: usize = 20;
/// Context ids below are the hypervisor's, the host's and reserved (VIRTIO 1.2 §5.10.4).
const MIN_GUEST_CID: u32 = 3;

/// Why a configuration makes no machine.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Launcher and VMM are of different builds.
    #[error(
        "the configuration has version {found}, this VMM knows {VERSION}; install both from one build"
    )]
    Version {
        /// The configuration's.
        found: u32,
    },
    /// A text is too long, empty, or has control characters.
    #[error("{what} has {bytes} bytes, where 1 to {max} printable ones are possible")]
    Text {
        /// Which text.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// Greatest length.
        max: usize,
    },
    /// Too little or too much memory.
    #[error(
        "{mib} MiB of memory are not possible: at least {MIN_MEMORY_MIB} MiB, at most {MAX_MEMORY_MIB} MiB"
    )]
    Memory {
        /// What was asked for.
        mib: u32,
    },
    /// No or too many virtual CPUs.
    #[error("{count} virtual CPUs are not possible: at least 1, at most {MAX_VCPUS}")]
    Vcpus {
        /// What was asked for.
        count: u8,
    },
    /// A descriptor that did not come.
    #[error("{what} is descriptor {slot} of the message, which has {count}")]
    NoSuchFd {
        /// What the descriptor is for.
        what: &'static str,
        /// Its slot.
        slot: u16,
        /// How many there were.
        count: usize,
    },
    /// A descriptor for two things.
    #[error("{what} is descriptor {slot} of the message, which was named before")]
    FdUsedTwice {
        /// The second thing.
        what: &'static str,
        /// Its slot.
        slot: u16,
    },
    /// A descriptor for nothing.
    #[error("{count} descriptors came with the message and were not named in it")]
    UnusedFds {
        /// How many.
        count: usize,
    },
    /// An image that is no file.
    #[error("{what} is not a regular file")]
    NotAFile {
        /// Which.
        what: &'static str,
    },
    /// A reserved context id.
    #[error("the guest's vsock context id {cid} is reserved; use {MIN_GUEST_CID} or more")]
    GuestCid {
        /// What was asked for.
        cid: u32,
    },
    /// No or too many file system queues.
    #[error(
        "{count} request queues of the file system are not possible: at least 1, at most {MAX_FS_QUEUES}"
    )]
    FsQueues {
        /// What was asked for.
        count: u8,
    },
    /// A name that cannot be a directory entry.
    #[error(
        "the share name {name:?} is not possible: 1 to {MAX_SHARE_NAME} bytes without `/`, not `.` or `..`"
    )]
    ShareName {
        /// The name.
        name: String,
    },
    /// Two shares of one name.
    #[error("there are two shares named {name:?}")]
    ShareNameTwice {
        /// The name.
        name: String,
    },
    /// A rate at which nothing ever passes.
    #[error(
        "a rate limit with a burst of {burst} and {per_second} per second lets nothing pass; both must be at least 1"
    )]
    RateLimit {
        /// Tokens that can be saved up.
        burst: u64,
        /// Tokens added each second.
        per_second: u64,
    },
    /// An address that no interface can have.
    #[error("{mac:02x?} is no address of a network interface; the first byte must be even")]
    Mac {
        /// The address.
        mac: [u8; 6],
    },
    /// Packets that are too small.
    #[error("an MTU of {mtu} bytes is not possible: at least {MIN_MTU}")]
    Mtu {
        /// What was asked for.
        mtu: u16,
    },
    /// No pair of queues, or too many.
    #[error("a network of {count} pairs of queues is not possible: 1 to {MAX_NET_PAIRS}")]
    NetPairs {
        /// What was asked for.
        count: usize,
    },
    /// More devices than interrupts.
    #[error(
        "{count} virtio devices are not possible: at most {MAX_DEVICES}; use fewer disks or networks"
    )]
    TooManyDevices {
        /// How many.
        count: usize,
    },
}

/// One interrupt each.
const MAX_DEVICES: usize = (*DEVICE_IRQS.end() - *DEVICE_IRQS.start() + 1) as usize;

/// A machine that can be built.
#[derive(Debug)]
pub struct MachineSpec {
    /// For log lines and thread names.
    pub name: String,
    /// Guest memory in bytes.
    pub memory: u64,
    /// How the process confines itself.
    pub walls: WallsConfig,
    /// Number of virtual CPUs.
    pub vcpus: u8,
    /// `/dev/kvm`.
    pub kvm: OwnedFd,
    /// The kernel image.
    pub kernel: File,
    /// The initial RAM file system.
    pub initrd: Option<File>,
    /// Command line without devices.
    pub cmdline: String,
    /// Its devices.
    pub devices: DeviceSpecs,
}

/// The devices of a machine.
#[derive(Debug)]
pub struct DeviceSpecs {
    /// Kernel messages.
    pub console: ConsoleSpec,
    /// The guest's context id, if it has a vsock device.
    pub vsock: Option<u32>,
    /// The shared file system, if any.
    pub fs: Option<FsSpec>,
    /// Disks in the guest's order.
    pub disks: Vec<DiskSpec>,
    /// Limits of the drives behind them.
    pub drives: Vec<RateLimit>,
    /// Networks in the guest's order.
    pub nets: Vec<NetSpec>,
    /// Whether there is an entropy device.
    pub rng: bool,
    /// The balloon, if any.
    pub balloon: Option<BalloonConfig>,
}

/// Where kernel messages go.
#[derive(Debug)]
pub struct ConsoleSpec {
    /// The log.
    pub log: OwnedFd,
    /// Bytes after which output is dropped.
    pub max_bytes: u64,
    /// Bytes in a second.
    pub rate: TokenBucket,
}

/// A shared file system.
#[derive(Debug)]
pub struct FsSpec {
    /// Its tag.
    pub tag: String,
    /// Number of request queues.
    pub queues: u8,
    /// Where locks are.
    pub locks: LockPolicy,
    /// Its shares.
    pub shares: Vec<ShareSpec>,
    /// Whether further ones may come.
    pub shares_later: bool,
}

/// A share.
#[derive(Debug)]
pub struct ShareSpec {
    /// Its name in the root.
    pub name: String,
    /// The directory or file.
    pub root: OwnedFd,
    /// Which of them.
    pub kind: ShareKind,
    /// Whether modifications are refused.
    pub read_only: bool,
    /// How long the guest may keep what it read.
    pub cache: CachePolicy,
}

/// A raw image on a disk.
#[derive(Debug)]
pub struct ImageSpec {
    /// It.
    pub image: OwnedFd,
    /// Whether writes fail.
    pub read_only: bool,
    /// Where on the disk it begins, in bytes.
    pub start: u64,
}

/// A disk.
#[derive(Debug)]
pub struct DiskSpec {
    /// What is on it.
    pub images: Vec<ImageSpec>,
    /// Its serial number.
    pub serial: String,
    /// Limits.
    pub rate_limit: Option<RateLimit>,
}

/// The other end of a network.
#[derive(Debug)]
pub enum NetBackendSpec {
    /// A tap.
    Tap {
        /// Its descriptors, one for each pair of queues.
        taps: Vec<OwnedFd>,
        /// Segmentation of UDP is left to its reader, too.
        uso: bool,
    },
    /// A stream socket.
    Stream(OwnedFd),
}

impl NetBackendSpec {
    /// Pairs of queues of the device, each with a thread.
    pub(super) fn pairs(&self) -> usize {
        match self {
            Self::Tap { taps, .. } => taps.len(),
            Self::Stream(_) => 1,
        }
    }
}

/// A disk for a drive.
#[derive(Debug)]
pub struct InsertedSpec {
    /// Which drive.
    pub drive: u16,
    /// What is on it.
    pub images: Vec<ImageSpec>,
    /// Its serial number.
    pub serial: String,
}

/// A network.
#[derive(Debug)]
pub struct NetSpec {
    /// Where frames go and come from.
    pub backend: NetBackendSpec,
    /// The guest's address.
    pub mac: [u8; 6],
    /// Bytes of the largest packet.
    pub mtu: u16,
    /// Addresses that the guest may send from, if not any.
    pub sources: Option<Vec<IpAddr>>,
    /// Whether it may reach 169.254.169.254.
    pub metadata: bool,
    /// How much it may send.
    pub sent: RateLimit,
    /// How much it may receive.
    pub received: RateLimit,
}

impl MachineSpec {
    /// Checks a configuration and takes the descriptors that came with it, all of them.
    ///
    /// # Errors
    /// [`SpecError`] names the first thing that is wrong.
    pub fn new(config: MachineConfig, fds: Vec<OwnedFd>) -> Result<Self, SpecError> {
        if config.version != VERSION {
            return Err(SpecError::Version { found: config.version });
        }
        check_text("the sandbox's name", &config.name, MAX_NAME)?;
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&config.memory_mib) {
            return Err(SpecError::Memory { mib: config.memory_mib });
        }
        if !(1..=MAX_VCPUS).contains(&config.vcpus) {
            return Err(SpecError::Vcpus { count: config.vcpus });
        }
        let mut fds = Fds::new(fds);
        let spec = Self {
            name: config.name,
            memory: u64::from(config.memory_mib) << 20,
            walls: config.walls,
            vcpus: config.vcpus,
            kvm: fds.take("/dev/kvm", config.kvm)?,
            kernel: fds.take_file("the kernel image", config.boot.kernel)?,
            initrd: config.boot.initrd.map(|slot| fds.take_file("the initrd", slot)).transpose()?,
            cmdline: config.boot.cmdline,
            devices: DeviceSpecs {
                console: ConsoleSpec {
                    log: fds.take("the console log", config.console.log)?,
                    max_bytes: config.console.max_bytes,
                    rate: config.console.rate,
                },
                vsock: config.vsock.map(|vsock| guest_cid(&vsock)).transpose()?,
                fs: config.fs.map(|fs| FsSpec::new(fs, &mut fds)).transpose()?,
                disks: config
                    .disks
                    .into_iter()
                    .map(|disk| DiskSpec::new(disk, &mut fds))
                    .collect::<Result<_, _>>()?,
                drives: config
                    .drives
                    .into_iter()
                    .map(|DriveConfig { rate_limit }| {
                        let limit = rate_limit.unwrap_or_default();
                        check_rate(limit).map(|()| limit)
                    })
                    .collect::<Result<_, _>>()?,
                nets: config
                    .nets
                    .into_iter()
                    .map(|net| NetSpec::new(net, &mut fds))
                    .collect::<Result<_, _>>()?,
                rng: config.rng,
                balloon: config.balloon,
            },
        };
        fds.all_used()?;
        spec.devices.check_count()?;
        Ok(spec)
    }
}

impl DeviceSpecs {
    fn check_count(&self) -> Result<(), SpecError> {
        let Self { console: _, vsock, fs, disks, drives, nets, rng, balloon } = self;
        let count = disks.len()
            + drives.len()
            + nets.len()
            + [vsock.is_some(), fs.is_some(), *rng, balloon.is_some()]
                .map(usize::from)
                .iter()
                .sum::<usize>();
        if count > MAX_DEVICES { Err(SpecError::TooManyDevices { count }) } else { Ok(()) }
    }
}

impl FsSpec {
    fn new(mut config: FsConfig, fds: &mut Fds) -> Result<Self, SpecError> {
        check_text("the file system's tag", &config.tag, MAX_TAG)?;
        if !(1..=MAX_FS_QUEUES).contains(&config.queues) {
            return Err(SpecError::FsQueues { count: config.queues });
        }
        let mut shares: Vec<ShareSpec> = Vec::with_capacity(config.shares.len());
        for share in std::mem::take(&mut config.shares) {
            let share = ShareSpec::take(share, fds)?;
            if shares.iter().any(|other| other.name == share.name) {
                return Err(SpecError::ShareNameTwice { name: share.name });
            }
            shares.push(share);
        }
        let FsConfig { tag, queues, locks, shares_later, .. } = config;
        Ok(Self { tag, queues, locks, shares, shares_later })
    }
}

impl ShareSpec {
    /// Checks a share that is added to a running machine, with the descriptors that came with it.
    ///
    /// # Errors
    /// [`SpecError`].
    pub fn new(config: ShareConfig, fds: Vec<OwnedFd>) -> Result<Self, SpecError> {
        let mut fds = Fds::new(fds);
        let share = Self::take(config, &mut fds)?;
        fds.all_used()?;
        Ok(share)
    }

    fn take(config: ShareConfig, fds: &mut Fds) -> Result<Self, SpecError> {
        let ShareConfig { name, root, kind, read_only, cache } = config;
        let possible = (1..=MAX_SHARE_NAME).contains(&name.len())
            && !name.contains(['/', '\0'])
            && name != "."
            && name != "..";
        if !possible {
            return Err(SpecError::ShareName { name });
        }
        Ok(Self { name, root: fds.take("the root of a share", root)?, kind, read_only, cache })
    }
}

impl DiskSpec {
    fn new(config: DiskConfig, fds: &mut Fds) -> Result<Self, SpecError> {
        let DiskConfig { images, serial, rate_limit } = config;
        if !serial.is_empty() {
            check_text("a disk's serial number", &serial, MAX_SERIAL)?;
        }
        check_rate(rate_limit.unwrap_or_default())?;
        Ok(Self { images: take_images(images, fds)?, serial, rate_limit })
    }
}

fn take_images(images: Vec<ImageConfig>, fds: &mut Fds) -> Result<Vec<ImageSpec>, SpecError> {
    let take = |ImageConfig { image, read_only, start }| {
        Ok(ImageSpec { image: fds.take("a disk's image", image)?, read_only, start })
    };
    images.into_iter().map(take).collect()
}

impl InsertedSpec {
    /// Checks a disk for a drive, with the descriptors that came with it.
    ///
    /// # Errors
    /// [`SpecError`].
    pub fn new(config: InsertedDisk, fds: Vec<OwnedFd>) -> Result<Self, SpecError> {
        let InsertedDisk { drive, images, serial } = config;
        check_text("a disk's serial number", &serial, MAX_SERIAL)?;
        let mut fds = Fds::new(fds);
        let images = take_images(images, &mut fds)?;
        fds.all_used()?;
        Ok(Self { drive, images, serial })
    }
}

impl NetSpec {
    fn new(config: NetConfig, fds: &mut Fds) -> Result<Self, SpecError> {
        let NetConfig { backend, mac, mtu, sources, metadata, sent, received } = config;
        // The lowest bit of the first byte is that of a group (IEEE 802).
        if mac == [0; 6] || mac.first().is_none_or(|first| first & 1 != 0) {
            return Err(SpecError::Mac { mac });
        }
        if mtu < MIN_MTU {
            return Err(SpecError::Mtu { mtu });
        }
        check_rate(sent)?;
        check_rate(received)?;
        let backend = match backend {
            NetBackend::Tap { taps, .. }
                if !(1..=usize::from(MAX_NET_PAIRS)).contains(&taps.len()) =>
            {
                return Err(SpecError::NetPairs { count: taps.len() });
            }
            NetBackend::Tap { taps, uso } => {
                let taps = taps.into_iter().map(|tap| fds.take("the tap of a network", tap));
                NetBackendSpec::Tap { taps: taps.collect::<Result<_, _>>()?, uso }
            }
            NetBackend::Stream(slot) => {
                NetBackendSpec::Stream(fds.take("the stream of a network", slot)?)
            }
        };
        Ok(Self { backend, mac, mtu, sources, metadata, sent, received })
    }
}

fn check_rate(RateLimit { bytes, operations }: RateLimit) -> Result<(), SpecError> {
    for TokenBucket { burst, per_second } in bytes.into_iter().chain(operations) {
        if burst == 0 || per_second == 0 {
            return Err(SpecError::RateLimit { burst, per_second });
        }
    }
    Ok(())
}

fn guest_cid(config: &VsockConfig) -> Result<u32, SpecError> {
    match config.guest_cid {
        // The all-ones value is "any" (vsock(7)).
        cid @ (..MIN_GUEST_CID | u32::MAX) => Err(SpecError::GuestCid { cid }),
        cid => Ok(cid),
    }
}

fn check_text(what: &'static str, text: &str, max: usize) -> Result<(), SpecError> {
    let bytes = text.len();
    if (1..=max).contains(&bytes) && !text.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(SpecError::Text { what, bytes, max })
    }
}

/// The descriptors of one message, each to be taken once.
struct Fds(Vec<Option<OwnedFd>>);

impl Fds {
    fn new(fds: Vec<OwnedFd>) -> Self {
        Self(fds.into_iter().map(Some).collect())
    }

    fn take(&mut self, what: &'static str, FdSlot(slot): FdSlot) -> Result<OwnedFd, SpecError> {
        let count = self.0.len();
        let fd =
            self.0.get_mut(usize::from(slot)).ok_or(SpecError::NoSuchFd { what, slot, count })?;
        fd.take().ok_or(SpecError::FdUsedTwice { what, slot })
    }

    fn take_file(&mut self, what: &'static str, slot: FdSlot) -> Result<File, SpecError> {
        let file = File::from(self.take(what, slot)?);
        match file.metadata() {
            Ok(metadata) if metadata.is_file() => Ok(file),
            _ => Err(SpecError::NotAFile { what }),
        }
    }

    fn all_used(self) -> Result<(), SpecError> {
        match self.0.iter().flatten().count() {
            0 => Ok(()),
            count => Err(SpecError::UnusedFds { count }),
        }
    }
}

#[cfg(test)]
mod tests;
