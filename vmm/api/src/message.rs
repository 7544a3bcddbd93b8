//! Requests to a VMM, its replies and its events.

use crate::config::{InsertedDisk, MachineConfig, ShareConfig};
use crate::walls::WallsReport;
use serde::{Deserialize, Serialize};

/// One packet from the launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToVmm {
    /// Chosen by the launcher, repeated in the reply.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// What a launcher can ask. [`Request::Boot`] comes first and once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Build the machine and run it; carries the descriptors that the configuration names.
    /// Answered with [`Reply::Booted`] when the virtual CPUs run.
    Boot(Box<MachineConfig>),
    /// Join the next connection of the guest to this port of the host (CID 2) with the connected
    /// Unix stream socket in slot 0. One shot; a guest's connection to any other port is reset.
    ListenVsock {
        /// Port on the host's side.
        port: u32,
    },
    /// Connect the Unix stream socket in slot 0 to this port of the guest. The socket is closed if
    /// the guest refuses.
    ConnectVsock {
        /// Port on the guest's side.
        port: u32,
    },
    /// Add a share, whose descriptor is in slot 0, to the running file system. When it is answered,
    /// the guest finds it by name; names that it has not found are not remembered.
    AddShare(ShareConfig),
    /// Remove a share. When it is answered, the VMM has closed what it held of it, but for a request
    /// that runs at this moment; what the guest still holds answers ESTALE or EBADF. Changes that the
    /// guest made through shared mappings only are lost unless it has synchronised them before. The
    /// name can be given to another share at once.
    RemoveShare {
        /// Name of the share.
        name: String,
    },
    /// What the network with this number was connected to is gone: the guest finds its link down.
    UnplugNet {
        /// Its place in the configuration, from 0.
        index: u8,
    },
    /// Put a disk into an empty drive. When it is answered, the guest has been
    /// told; it looks by itself.
    InsertDisk(InsertedDisk),
    /// Take the disk out of a drive. When it is answered, the VMM has closed the image. What the guest
    /// has not written yet is lost.
    EjectDisk {
        /// Which of [`MachineConfig::drives`].
        drive: u16,
    },
    /// Stop all virtual CPUs; devices keep their state.
    Pause,
    /// Continue after [`Request::Pause`].
    Resume,
    /// Ask the guest to give back memory until its balloon holds so much.
    SetBalloon {
        /// Size of the balloon in MiB; 0 gives everything to the guest.
        mib: u32,
    },
    /// Counters of this machine.
    Stats,
}

/// One packet from the VMM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromVmm {
    /// Answer to the request with this id.
    Reply {
        /// The request's id.
        id: u64,
        /// What came of it.
        result: Result<Reply, VmmError>,
    },
    /// Something happened by itself.
    Event(Event),
}

/// A successful answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done, nothing to say.
    Done,
    /// The guest runs.
    Booted {
        /// What the VMM did, in order.
        timeline: Vec<Span>,
        /// What came of its walls.
        walls: WallsReport,
    },
    /// Counters.
    Stats(VmmStats),
}

/// A step with its time, in nanoseconds of the host's CLOCK_MONOTONIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Name of the step, a short lower-case phrase.
    pub name: String,
    /// When it began.
    pub start_ns: u64,
    /// How long it took.
    pub duration_ns: u64,
}

/// Counters of a machine since it was booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmStats {
    /// Returns from KVM_RUN over all virtual CPUs.
    pub vcpu_exits: u64,
    /// Bytes of kernel messages written to the console log.
    pub console_bytes: u64,
    /// Memory in the balloon, MiB.
    pub balloon_mib: u32,
}

/// Something that happened by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The guest stopped running; the VMM process ends after this message.
    GuestExited(GuestExit),
    /// A guest broke a device's protocol; that device has stopped (VIRTIO 1.2 §2.1.2).
    DeviceFailed {
        /// Which device.
        device: String,
        /// What the guest did.
        reason: String,
    },
}

/// Why a guest stopped. None of these is a success: a supervisor ends a sandbox by ending its VMM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestExit {
    /// Reset or power off asked for by the guest (keyboard controller, triple fault): what a Linux
    /// guest does after a panic with `panic=-1`.
    Reset,
    /// KVM could not go on: internal error, failed entry, emulation failure.
    KvmError {
        /// What KVM said.
        reason: String,
    },
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct VmmError {
    /// For the caller's decision.
    pub kind: VmmErrorKind,
    /// One sentence with the values, and the causes behind it, separated by `: `.
    pub message: String,
}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmmErrorKind {
    /// The configuration or request cannot be fulfilled as asked: the caller's mistake.
    InvalidConfig,
    /// The kernel image cannot be started (not ELF, wrong architecture, truncated, too large).
    InvalidKernel,
    /// KVM is missing something or refused a call.
    Kvm,
    /// The host refused a resource (memory, descriptor, thread).
    Host,
    /// Not possible in this state (for example Resume while running).
    WrongState,
}
