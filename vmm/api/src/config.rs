//! The configuration of a machine: plain input values, validated by the VMM before use.

use crate::walls::WallsConfig;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Position of a descriptor among those that travel with the same message. Each slot is used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdSlot(pub u16);

/// Everything that makes one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// Must be [`crate::VERSION`].
    pub version: u32,
    /// Name of the sandbox, for log lines and thread names only.
    pub name: String,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// How the process confines itself.
    pub walls: WallsConfig,
    /// Number of virtual CPUs, 1 to 32.
    pub vcpus: u8,
    /// An open `/dev/kvm`, read-write.
    pub kvm: FdSlot,
    /// What is started.
    pub boot: BootConfig,
    /// Where kernel messages go.
    pub console: ConsoleConfig,
    /// virtio-vsock, if any.
    pub vsock: Option<VsockConfig>,
    /// virtio-fs, if any.
    pub fs: Option<FsConfig>,
    /// virtio-blk devices; the first is `vda`.
    pub disks: Vec<DiskConfig>,
    /// virtio-blk devices without a disk, behind those with one; [`crate::Request::InsertDisk`] names
    /// them by their place here.
    pub drives: Vec<DriveConfig>,
    /// virtio-net devices in the guest's order.
    pub nets: Vec<NetConfig>,
    /// A virtio-rng device fed from the host's getrandom(2).
    pub rng: bool,
    /// virtio-balloon, if any.
    pub balloon: Option<BalloonConfig>,
}

/// Kernel, initial RAM file system and command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootConfig {
    /// ELF kernel image for the guest's architecture, opened read-only.
    pub kernel: FdSlot,
    /// cpio archive, opened read-only.
    pub initrd: Option<FdSlot>,
    /// Kernel command line; the VMM appends its `virtio_mmio.device=` entries.
    pub cmdline: String,
}

/// The serial console: kernel messages only, in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleConfig {
    /// Opened for append.
    pub log: FdSlot,
    /// Bytes after which output is dropped, with a mark.
    pub max_bytes: u64,
    /// Bytes in a second; what is more is dropped and counted.
    pub rate: TokenBucket,
}

/// The virtio-vsock device (VIRTIO 1.2 §5.10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockConfig {
    /// The guest's context id, at least 3.
    pub guest_cid: u32,
}

/// The virtio-fs device (VIRTIO 1.2 §5.11): one file system whose root lists the shares by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsConfig {
    /// Tag by which the guest mounts it, 1 to 36 bytes.
    pub tag: String,
    /// Number of request queues, at least 1.
    pub queues: u8,
    /// Where locks of files are, in all shares.
    pub locks: LockPolicy,
    /// An open `/proc/self/fd` of the VMM process is made by the VMM itself before it is jailed.
    pub shares: Vec<ShareConfig>,
    /// Whether further ones may come while the machine runs. The process cannot be held to those that it
    /// has, then, and [`crate::Request::AddShare`] is refused otherwise.
    pub shares_later: bool,
}

/// One directory or file of the host that the guest may see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareConfig {
    /// Name of the entry in the file system's root: 1 to 255 bytes, no `/`, not `.` or `..`.
    pub name: String,
    /// `O_PATH` descriptor of the directory or file.
    pub root: FdSlot,
    /// What `root` is.
    pub kind: ShareKind,
    /// Every modification is refused with EROFS by the server.
    pub read_only: bool,
    /// How long the guest may keep what it has read.
    pub cache: CachePolicy,
}

/// What a share's descriptor refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShareKind {
    /// A directory with everything beneath it.
    Directory,
    /// One file (regular, fifo or socket); its neighbours stay invisible.
    File,
}

/// How long the guest may keep attributes, entries and data of a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CachePolicy {
    /// Nothing is kept: every operation asks the host.
    None,
    /// Kept for at most a second; data is dropped at open if the file changed.
    #[default]
    Auto,
    /// Kept for ever: only this guest changes the tree.
    Always,
}

/// Where the locks of the guest's programs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockPolicy {
    /// On the host: seen by its programs and by other sandboxes.
    #[default]
    Host,
    /// In the guest's kernel, for shares that nobody else uses.
    Guest,
    /// Nowhere: each request for a lock fails with ENOLCK.
    Refused,
}

/// A raw image on a disk, which can have several; nothing is between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The image; of its size in bytes the whole sectors of 512 are on the disk.
    pub image: FdSlot,
    /// Writes fail; the descriptor should be read-only too.
    pub read_only: bool,
    /// Where on the disk it begins, in bytes: at a sector, behind the image before it.
    pub start: u64,
}

/// A virtio-blk device (VIRTIO 1.2 §5.2) over raw files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskConfig {
    /// What is on it, in the order of their places. Offered with VIRTIO_BLK_F_RO when each is read-only.
    pub images: Vec<ImageConfig>,
    /// At most 20 bytes, answered to VIRTIO_BLK_T_GET_ID.
    pub serial: String,
    /// Limits on requests and bytes, if any.
    pub rate_limit: Option<RateLimit>,
}

/// A virtio-blk device whose disk comes and goes while the machine runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveConfig {
    /// Limits on requests and bytes, whatever is in it.
    pub rate_limit: Option<RateLimit>,
}

/// A disk for a drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsertedDisk {
    /// Which of [`MachineConfig::drives`].
    pub drive: u16,
    /// What is on it, in the order of their places.
    pub images: Vec<ImageConfig>,
    /// 1 to 20 bytes, answered to VIRTIO_BLK_T_GET_ID.
    pub serial: String,
}

/// A virtio-net device (VIRTIO 1.2 §5.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetConfig {
    /// Where frames go and come from.
    pub backend: NetBackend,
    /// The guest's address, of one interface.
    pub mac: [u8; 6],
    /// Bytes of the largest packet, [`MIN_MTU`] or more.
    pub mtu: u16,
    /// Addresses that the guest may send from, with no other MAC address than its own; `None` lets it
    /// send anything.
    pub sources: Option<Vec<IpAddr>>,
    /// Whether it may send to 169.254.169.254, where clouds answer with the host's credentials.
    pub metadata: bool,
    /// How much it may send; operations are packets.
    pub sent: RateLimit,
    /// How much it may receive.
    pub received: RateLimit,
}

/// The other end of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetBackend {
    /// A tap that does not block, with a virtio-net header of [`NET_HEADER_BYTES`], and with checksums
    /// and TCP segmentation left to its reader (TUNSETOFFLOAD).
    Tap {
        /// Its descriptors, one for each pair of queues of the device, 1 to [`MAX_NET_PAIRS`]. If there
        /// are several, it has IFF_MULTI_QUEUE, and all of them but the first are detached
        /// (IFF_DETACH_QUEUE).
        taps: Vec<FdSlot>,
        /// Segmentation of UDP is left to its reader, too.
        uso: bool,
    },
    /// A stream socket that does not block; four bytes before each frame are its length, the highest
    /// first.
    Stream(FdSlot),
}

/// Bytes of the header before each frame of a tap (TUNSETVNETHDRSZ).
pub const NET_HEADER_BYTES: u8 = 12;

/// Pairs of queues that a network may have: one for each virtual CPU, but not more than these.
pub const MAX_NET_PAIRS: u8 = 4;

/// Least MTU: that of IPv4 (RFC 791).
pub const MIN_MTU: u16 = 68;

/// Token buckets of a device; `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Bytes of data.
    pub bytes: Option<TokenBucket>,
    /// Requests.
    pub operations: Option<TokenBucket>,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBucket {
    /// Tokens that can be saved up.
    pub burst: u64,
    /// Tokens added each second, at least 1.
    pub per_second: u64,
}

/// The virtio-balloon device (VIRTIO 1.2 §5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonConfig {
    /// Offer VIRTIO_BALLOON_F_PAGE_REPORTING: the guest reports free pages, the host takes them.
    pub free_page_reporting: bool,
}
