//! What the agent knows of containers and their processes.
//!
//! ```text
//!            ready           streams up            start             execve
//!  Building ──────> Connecting ────────> Created ────────> Starting ────────> Running
//!      └───────────────┴──── error ─────────┼─────────────────┘                  │
//!                            v              └─────── ended ──────────────────────┤
//!                          Failed ── reaped: the request gets its error          v
//!                                                              drained: event, Reported
//! ```
//!
//! A container with hooks goes through Hooks between Created and Starting: one that ends there has
//! not started.
//!
//! A further process of a container goes through Created without waiting.

use crate::container::{Cgroup, Disk, Home, Limits, Spawned};
use agent_protocol::{AgentError, ExitStatus, INIT_PROCESS, IdMapping, Namespaces, SeccompPlan};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

/// How long a process's exit is held back for output that nobody takes, since the last that was
/// taken. Its streams go on after that.
const PATIENCE_NS: u64 = 1_000_000_000;
/// How long the kernel may take to kill what is left of a container.
const DELETION_NS: u64 = 10_000_000_000;

/// A container.
pub(crate) struct Container {
    pub(crate) cgroup: Cgroup,
    /// Its root, if that is on a disk.
    pub(crate) disk: Option<Disk>,
    /// Those that it has for itself.
    pub(crate) namespaces: Namespaces,
    /// With those that it shares with another container.
    pub(crate) all_namespaces: Namespaces,
    /// Ids of its user namespace.
    pub(crate) uid_mappings: Vec<IdMapping>,
    pub(crate) gid_mappings: Vec<IdMapping>,
    pub(crate) seccomp: Option<SeccompPlan>,
    /// Attached when the container has been built: building makes device nodes.
    pub(crate) device_program: Option<Vec<u8>>,
    pub(crate) deletion: Option<Deletion>,
    /// The host has been told that it stands.
    pub(crate) was_created: bool,
    /// Programs of its own run before that of its first process.
    pub(crate) has_hooks: bool,
    /// What its memory events are known by.
    pub(crate) key: u32,
    /// Reports them, if the kernel has a memory controller.
    pub(crate) memory_events: Option<OwnedFd>,
    /// How many kills of the OOM killer the host has been told of.
    pub(crate) kills_told: u64,
}

/// A container that is going away.
pub(crate) struct Deletion {
    /// Id of the request to answer, if it is not the agent's own decision.
    pub(crate) request: Option<u64>,
    pub(crate) deadline_ns: u64,
}

impl Deletion {
    pub(crate) fn new(request: Option<u64>, now_ns: u64) -> Self {
        Self { request, deadline_ns: now_ns.saturating_add(DELETION_NS) }
    }
}

impl Container {
    /// What a further process needs to know.
    pub(crate) fn home<'a>(
        &'a self,
        init: &'a Process,
        own_pid_namespace: BorrowedFd<'a>,
    ) -> Home<'a> {
        Home {
            init_pid: init.pid,
            init: init.pidfd.as_fd(),
            namespaces: self.all_namespaces,
            seccomp: self.seccomp.as_ref(),
            cgroup: &self.cgroup,
            own_pid_namespace,
        }
    }
}

/// How far a process is; see the module.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Building,
    Connecting,
    Created,
    Hooks,
    Starting,
    Running,
    Failed(AgentError),
    Reported,
}

/// The end of a process whose exit has not been reported.
pub(crate) struct End {
    pub(crate) status: ExitStatus,
    pub(crate) oom_killed: bool,
    pub(crate) at_ns: u64,
    /// When the report is made although output is left.
    pub(crate) patience_until_ns: u64,
}

impl End {
    pub(crate) fn new(status: ExitStatus, oom_killed: bool, at_ns: u64) -> Self {
        let patience_until_ns = at_ns.saturating_add(PATIENCE_NS);
        Self { status, oom_killed, at_ns, patience_until_ns }
    }

    /// Output moved: there is somebody who takes it.
    pub(crate) fn renew_patience(&mut self, now_ns: u64) {
        self.patience_until_ns = now_ns.saturating_add(PATIENCE_NS);
    }
}

/// A process of a container that the agent has made.
pub(crate) struct Process {
    pub(crate) container: String,
    pub(crate) id: String,
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) channel: Option<OwnedFd>,
    pub(crate) stage: Stage,
    pub(crate) end: Option<End>,
    /// The request that waits for the next stage.
    pub(crate) request: Option<u64>,
    /// What it cannot set by itself; set when it is ready.
    pub(crate) limits: Option<Limits>,
}

impl Process {
    /// A process that `request` has asked for.
    pub(crate) fn new(container: &str, id: &str, spawned: Spawned, request: u64) -> Self {
        let Spawned { pid, pidfd, channel } = spawned;
        Self {
            container: container.into(),
            id: id.into(),
            pid,
            pidfd,
            channel: Some(channel),
            stage: Stage::Building,
            end: None,
            request: Some(request),
            limits: None,
        }
    }

    pub(crate) fn is_init(&self) -> bool {
        self.id == INIT_PROCESS
    }

    /// Whether it can be signalled.
    pub(crate) fn is_alive(&self) -> bool {
        self.end.is_none()
            && matches!(
                self.stage,
                Stage::Created | Stage::Hooks | Stage::Starting | Stage::Running
            )
    }
}

/// All containers and processes.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) containers: BTreeMap<String, Container>,
    /// By a key that is never used twice.
    pub(crate) processes: BTreeMap<u32, Process>,
}

impl Table {
    /// Key of a process that has not been reported as ended.
    pub(crate) fn find(&self, container: &str, process: &str) -> Option<u32> {
        self.processes
            .iter()
            .filter(|(_, known)| known.stage != Stage::Reported || known.is_init())
            .find(|(_, known)| known.container == container && known.id == process)
            .map(|(key, _)| *key)
    }

    /// Processes that have ended and of which the host has not heard that.
    pub(crate) fn unreported_ends(&self) -> impl Iterator<Item = u32> {
        self.processes
            .iter()
            .filter(|(_, known)| known.end.is_some() && known.stage != Stage::Reported)
            .map(|(key, _)| *key)
    }

    pub(crate) fn has_unreported_ends(&self) -> bool {
        self.unreported_ends().next().is_some()
    }

    pub(crate) fn find_pid(&self, pid: u32) -> Option<u32> {
        self.processes
            .iter()
            .find(|(_, known)| known.pid == pid && known.end.is_none())
            .map(|(key, _)| *key)
    }

    pub(crate) fn of_container(&self, container: &str) -> Vec<u32> {
        self.processes
            .iter()
            .filter(|(_, known)| known.container == container)
            .map(|(key, _)| *key)
            .collect()
    }
}
