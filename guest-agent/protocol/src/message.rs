//! Requests of the host, replies and events of the guest.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::network::NetworkPlan;
use crate::plan::{ContainerPlan, FileWrite, ProcessPlan, WindowSize};
use crate::report::{ProcessList, Statistics};
use serde::{Deserialize, Serialize};

/// Process id, within the protocol, of a container's first process.
pub const INIT_PROCESS: &str = "";

/// One frame from the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostMessage {
    /// Chosen by the host, repeated in the reply.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// What a host can ask of an agent. [`Request::Configure`] comes first and once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Make the guest ready for containers.
    Configure(GuestConfig),
    /// Build a container up to the point before its program runs: namespaces, mounts, cgroup,
    /// streams, credentials (runtime-spec, lifecycle steps 2 to 6). Answered with
    /// [`Reply::Created`].
    CreateContainer(Box<ContainerPlan>),
    /// Execute the program of a created container; answered with [`Reply::Started`] after execve(2)
    /// succeeded, or with the error.
    StartContainer {
        /// Id of the container.
        container: String,
    },
    /// Execute a further process in a running container; answered with [`Reply::Started`].
    StartProcess {
        /// Id of the container.
        container: String,
        /// Id of the process, unique in the container, not empty.
        process: String,
        /// What is executed.
        plan: Box<ProcessPlan>,
    },
    /// Send a signal.
    Signal {
        /// Id of the container.
        container: String,
        /// Id of the process; [`INIT_PROCESS`] for the first.
        process: String,
        /// Signal number in the guest, 1 to 64.
        signal: u8,
        /// To every process of the container instead of that one.
        all: bool,
    },
    /// Set the size of a process's terminal.
    ResizeTerminal {
        /// Id of the container.
        container: String,
        /// Id of the process.
        process: String,
        /// Columns and rows.
        size: WindowSize,
    },
    /// Kill what is left of a container and remove its mounts and cgroup.
    DeleteContainer {
        /// Id of the container.
        container: String,
    },
    /// Step the guest's clock.
    SetTime {
        /// The host's CLOCK_REALTIME in nanoseconds since the epoch.
        realtime_ns: u64,
    },
    /// Write every dirty page of the guest to its file systems, as sync(2).
    Sync,
    /// The processes of a container, in the order of their pids; answered with
    /// [`Reply::Processes`], a part at a time.
    ListProcesses {
        /// Id of the container.
        container: String,
        /// Only those with a higher pid than this one: 0 at first, then the last one of the part
        /// before.
        after: u32,
    },
    /// What a container uses and may use; answered with [`Reply::Statistics`].
    ReadStatistics {
        /// Id of the container.
        container: String,
    },
    /// Change the limits of a container: all of the settings, or none of them.
    UpdateResources {
        /// Id of the container.
        container: String,
        /// Interface files to write in order, relative to the cgroup's directory; at most
        /// [`crate::MAX_UPDATED_SETTINGS`].
        settings: Vec<FileWrite>,
    },
    /// Set up the interfaces that the host has connected, in the namespace that containers without a
    /// network namespace of their own share.
    ConfigureNetwork(NetworkPlan),
    /// Stop every process of a container, or let them go on (cgroup-v2.rst, `cgroup.freeze`).
    Freeze {
        /// Id of the container.
        container: String,
        /// Whether they stop.
        frozen: bool,
    },
    /// Give up a share that no container uses any more: its host is about to take it away.
    ForgetShare {
        /// Its name.
        name: String,
    },
    /// Connect a stream with a TCP port of a loopback address, in the namespace that containers without
    /// a network namespace of their own share: 127.0.0.1, or else ::1. The agent connects to the
    /// stream's port of the host in any case. Answered with [`Reply::Done`] when the connection stands.
    ForwardPort {
        /// The port that a program listens on.
        port: u16,
        /// Port of the host, for this connection.
        stream: u32,
    },
}

/// What the guest needs from the host before its first container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// Must be [`crate::VERSION`].
    pub version: u32,
    /// The host's CLOCK_REALTIME in nanoseconds since the epoch; 0 leaves the guest's clock alone.
    pub realtime_ns: u64,
    /// Fresh randomness of the host for the guest's pool.
    pub seed: [u8; 32],
    /// Whether a virtio-fs device with [`crate::SHARES_TAG`] is there and to be mounted.
    pub shares: bool,
}

/// One frame from the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestMessage {
    /// First frame after connecting.
    Hello {
        /// [`crate::VERSION`] of the agent.
        version: u32,
        /// The guest's CLOCK_BOOTTIME at the agent's first instruction, nanoseconds.
        agent_start_ns: u64,
        /// The guest's CLOCK_BOOTTIME when this frame was made, nanoseconds.
        now_ns: u64,
        /// uname(2) release of the guest's kernel.
        kernel_release: String,
    },
    /// Answer to the request with this id.
    Reply {
        /// The request's id.
        id: u64,
        /// What came of it.
        result: Result<Reply, AgentError>,
    },
    /// Something happened by itself.
    Event(Event),
}

/// A successful answer. Times are the guest's CLOCK_BOOTTIME in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done, nothing to say.
    Done,
    /// The container stands, its program has not run.
    Created {
        /// The first process's pid in the guest's root pid namespace.
        pid: u32,
        /// When it stood.
        at_ns: u64,
    },
    /// The program was executed.
    Started {
        /// Its pid in the guest's root pid namespace.
        pid: u32,
        /// When execve(2) had succeeded.
        at_ns: u64,
    },
    /// Processes of a container.
    Processes(ProcessList),
    /// What a container uses.
    Statistics(Box<Statistics>),
}

/// Something that happened by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A process ended; all it wrote has been sent to its streams before this frame.
    ProcessExited {
        /// Id of the container.
        container: String,
        /// Id of the process; [`INIT_PROCESS`] for the first.
        process: String,
        /// How it ended.
        status: ExitStatus,
        /// The kernel's OOM killer killed a process in the container's cgroup.
        oom_killed: bool,
        /// When it was reaped, CLOCK_BOOTTIME, nanoseconds.
        at_ns: u64,
    },
    /// The kernel's OOM killer has killed in a container's cgroup, or beneath it. Comes before the
    /// end of the process that was killed; several kills in a short time can be one event.
    OutOfMemory {
        /// Id of the container.
        container: String,
        /// How many processes it has killed there so far (`memory.events`, `oom_kill`).
        kills: u64,
        /// When it was seen, CLOCK_BOOTTIME, nanoseconds.
        at_ns: u64,
    },
}

/// How a process ended, as wait(2) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It called exit with this status.
    Exited(u8),
    /// This signal killed it.
    Signaled(u8),
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct AgentError {
    /// For the caller's decision.
    pub kind: ErrorKind,
    /// One sentence with the step and its values.
    pub message: String,
    /// errno of the system call that failed, 0 if none did.
    pub errno: i32,
}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The plan or the ids are wrong.
    InvalidArgument,
    /// No such container or process.
    NotFound,
    /// Not in this state (started twice, signalled after its end).
    WrongState,
    /// The program is not there (exit status 127 in a shell).
    ProgramMissing,
    /// The program is there and cannot be executed (exit status 126 in a shell).
    ProgramNotExecutable,
    /// A step failed in the guest.
    Failed,
}
