//! The messages between a supervisor on the host and the agent, PID 1 of a guest.
//!
//! This crate makes no system call, knows no runtime and none of the OCI crates' types: it is the
//! contract that is frozen into guest images. Both ends, `agent-client` and `guest-agent`, may
//! depend on it, and `sandbox` to build plans.
//!
//! The agent connects from the guest to [`CONTROL_PORT`] of the host (vsock CID 2) and sends
//! [`GuestMessage::Hello`]. From then on the host sends [`HostMessage`]s and the agent answers each
//! request once, in any order, with events between. Each message is one frame: its length as four
//! bytes, little-endian, then so many bytes of postcard. The standard streams of a process are
//! vsock connections of their own, which the agent opens to ports that the host named.
//!
//! Neither side trusts the other's sizes: [`MAX_HOST_FRAME`] and [`MAX_GUEST_FRAME`] bound a frame
//! before it is read.

//!
//! It needs an allocator and no standard library, as the agent.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod cgroup_files;
mod disk;
mod frame;
mod message;
mod network;
mod plan;
mod report;
mod tripwires;

pub use cgroup_files::{counter, parse_counters};
pub use disk::{
    DiskDirectory, DiskFileSystem, DiskImage, DiskPlan, DiskRootPlan, MAX_DISK_IMAGES,
    NewDirectory, OverlayPlan, WritableLayer,
};
pub use frame::{FrameError, HEADER_BYTES, decode, encode, frame_length};
pub use message::{
    AgentError, ErrorKind, Event, ExitStatus, GuestConfig, GuestMessage, HostMessage, INIT_PROCESS,
    Reply, Request,
};
pub use network::{
    Address, AddressPlan, InterfacePlan, MAX_INTERFACES, MAX_NAME_MESSAGE, MAX_NAME_QUESTIONS,
    MAX_NETWORK_ENTRIES, NameHeader, NameServerPlan, NeighbourPlan, NetworkPlan, RoutePlan,
};
pub use plan::{
    Capabilities, CgroupPlan, ContainerPlan, DevicePlan, FileWrite, HookPlan, IdMapping,
    IoPriority, MountAttributes, MountPlan, MountSource, Namespaces, ProcessPlan, Rlimit, RootPlan,
    RootSource, Scheduler, SeccompPlan, SharedNamespaces, StartHooks, StdioPlan, TerminalPlan,
    UserPlan, WindowSize,
};
pub use report::{
    Counter, CpuStatistics, HugePageStatistics, IoStatistics, MemoryStatistics, PidsStatistics,
    ProcessInfo, ProcessList, Statistics,
};

/// Version of the messages and of their encoding. Host and guest must agree exactly.
pub const VERSION: u32 = 8;

/// Stands in the agent's program, with [`VERSION`] behind it ([`AGENT_VERSION_MARK`]): so that the host
/// can tell before a start which version an agent speaks.
pub const AGENT_MARK: &str = "ringfence-agent protocol ";

/// [`AGENT_MARK`], [`VERSION`] and a colon.
pub const AGENT_VERSION_MARK: &str = "ringfence-agent protocol 8:";

/// vsock port on the host to which the agent connects for its control stream.
pub const CONTROL_PORT: u32 = 1024;

/// vsock port on the host for questions to an engine's name server.
pub const NAMES_PORT: u32 = 1025;

/// First vsock port on the host for standard streams; a supervisor counts up from here.
pub const FIRST_STREAM_PORT: u32 = 1_048_576;

/// Tag of the virtio-fs device that shows the sandbox's shares.
pub const SHARES_TAG: &str = "ringfence";

/// Bytes in one frame from the host. Holds the largest environment that execve(2) takes with
/// an ordinary stack limit (2 MiB), beside a compiled seccomp filter.
pub const MAX_HOST_FRAME: usize = 4 * 1024 * 1024;

/// Bytes in one frame from the guest.
pub const MAX_GUEST_FRAME: usize = 256 * 1024;

/// Processes in one [`Reply::Processes`].
pub const MAX_LISTED_PROCESSES: usize = 512;

/// Bytes of all command lines in one [`Reply::Processes`]; with as many processes as there can be,
/// and with the pieces of one that is cut, it fits [`MAX_GUEST_FRAME`].
pub const MAX_LISTED_BYTES: usize = 128 * 1024;

/// Bytes of one command line; a longer one is cut.
pub const MAX_COMMAND: usize = 4096;

/// Counters of one kind in [`Statistics`], block devices, and sizes of huge pages: more than any
/// kernel has of the first, and than any guest of ours has of the others.
pub const MAX_COUNTERS: usize = 256;

/// Bytes of a counter's name.
pub const MAX_COUNTER_NAME: usize = 64;

/// Settings of one [`Request::UpdateResources`].
pub const MAX_UPDATED_SETTINGS: usize = 64;

/// Tmpfs of one sandbox that its containers share ([`MountSource::Memory`]).
pub const MAX_SHARED_MEMORIES: usize = 256;

/// Connections of one sandbox at once that a host asks for by [`Request::ForwardPort`].
pub const MAX_FORWARDS: usize = 64;

/// Hooks of one [`ContainerPlan`].
pub const MAX_START_HOOKS: usize = 64;
