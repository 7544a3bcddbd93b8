//! What a launcher says to `ringfence-vmm`: the configuration of a machine, requests, events, and
//! the descriptors that travel with them.
//!
//! This crate knows neither KVM nor devices nor an async runtime: a supervisor links it without
//! linking a line of the virtual machine monitor. Both `vmm` and `sandbox` may depend on it.
//!
//! The channel is one `SOCK_SEQPACKET` Unix socket, descriptor 3 of `ringfence-vmm`. Each packet is
//! one postcard-encoded message of at most [`MAX_MESSAGE`] bytes; descriptors travel beside it with
//! `SCM_RIGHTS` (unix(7)), and a message names them by [`FdSlot`], their position in that packet.

mod channel;
mod config;
mod message;
mod walls;

pub use channel::{Channel, ChannelError, MAX_FDS, MAX_MESSAGE};
pub use config::{
    BalloonConfig, BootConfig, CachePolicy, ConsoleConfig, DiskConfig, DriveConfig, FdSlot,
    FsConfig, ImageConfig, InsertedDisk, LockPolicy, MAX_NET_PAIRS, MIN_MTU, MachineConfig,
    NET_HEADER_BYTES, NetBackend, NetConfig, RateLimit, ShareConfig, ShareKind, TokenBucket,
    VsockConfig,
};
pub use message::{
    Event, FromVmm, GuestExit, Reply, Request, Span, ToVmm, VmmError, VmmErrorKind, VmmStats,
};
pub use walls::{WallPolicy, WallsConfig, WallsReport};

/// Version of this interface. Launcher and VMM come from one build; a difference is refused.
pub const VERSION: u32 = 7;

/// The descriptor on which `ringfence-vmm` finds its [`Channel`].
pub const CHANNEL_FD: i32 = 3;
