//! Plans: what the host has made of a bundle's config.json, resolved to what the guest's kernel is
//! asked for. Flags are the numbers of Linux on the guest's architecture.

use alloc::string::String;
use alloc::vec::Vec;

use crate::disk::DiskPlan;
use serde::{Deserialize, Serialize};

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// Id of the container, unique in the sandbox.
    pub id: String,
    /// Namespaces that it gets for itself.
    pub namespaces: Namespaces,
    /// Namespaces that it shares with another container, as the members of a pod do.
    pub shared: Option<SharedNamespaces>,
    /// User ids of its user namespace; empty without one.
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids of its user namespace; empty without one.
    pub gid_mappings: Vec<IdMapping>,
    /// sethostname(2), if any; needs `namespaces.uts`.
    pub hostname: Option<String>,
    /// setdomainname(2), if any; needs `namespaces.uts`.
    pub domainname: Option<String>,
    /// Its root.
    pub root: RootPlan,
    /// Mounts in order.
    pub mounts: Vec<MountPlan>,
    /// Device nodes to make.
    pub devices: Vec<DevicePlan>,
    /// Paths that become unreadable.
    pub masked_paths: Vec<String>,
    /// Paths that become read-only.
    pub readonly_paths: Vec<String>,
    /// `/proc/sys` files to write: dots already turned into slashes, relative to `/proc/sys`.
    pub sysctl: Vec<FileWrite>,
    /// Its cgroup.
    pub cgroup: CgroupPlan,
    /// System call filter of all of its processes.
    pub seccomp: Option<SeccompPlan>,
    /// Its first process.
    pub init: ProcessPlan,
    /// What runs inside it before the program of its first process.
    pub start_hooks: StartHooks,
}

/// Programs of a container that run when it is started, as its first process would and before that
/// executes its own program (runtime-spec config.md, `startContainer`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartHooks {
    /// What each reads from its standard input: the container's state as JSON, up to the value of
    /// `pid`, which is its last property and which the agent adds with the closing brace.
    pub state: String,
    /// One after the other, until one fails; at most [`crate::MAX_START_HOOKS`].
    pub hooks: Vec<HookPlan>,
}

/// One of [`StartHooks`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookPlan {
    /// What errors call it.
    pub name: String,
    /// Absolute path of the program inside the root.
    pub path: String,
    /// Its arguments; never empty.
    pub args: Vec<String>,
    /// Its whole environment, `NAME=value` strings.
    pub env: Vec<String>,
    /// How long it may take, at least one second.
    pub timeout_s: u32,
}

/// Which namespaces a container does not share with the rest of its sandbox. The mount namespace is
/// always its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Own pid namespace.
    pub pid: bool,
    /// Own UTS namespace.
    pub uts: bool,
    /// Own IPC namespace.
    pub ipc: bool,
    /// Own cgroup namespace.
    pub cgroup: bool,
    /// Own network namespace, with only a loopback device, which is brought up.
    pub network: bool,
    /// Own user namespace, with the plan's mappings. It owns the other namespaces that are new.
    pub user: bool,
}

/// Namespaces of another container of the sandbox that a container is put into. None of them may be
/// one that it gets for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedNamespaces {
    /// Id of the other container, whose first process must run or wait for its start.
    pub container: String,
    /// Its pid namespace.
    pub pid: bool,
    /// Its UTS namespace.
    pub uts: bool,
    /// Its IPC namespace.
    pub ipc: bool,
    /// Its network namespace.
    pub network: bool,
}

/// A range of ids of a user namespace (user_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id in the container.
    pub container_id: u32,
    /// First id outside: an owner of files of the shares.
    pub host_id: u32,
    /// How many ids; at least 1.
    pub size: u32,
}

/// The root file system of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootPlan {
    /// Where it is.
    pub source: RootSource,
    /// Remount read-only when everything is mounted.
    pub read_only: bool,
    /// Propagation of `/` inside: MS_PRIVATE, MS_SLAVE, MS_SHARED or MS_UNBINDABLE, with MS_REC.
    pub propagation: u64,
}

/// Where a root file system is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootSource {
    /// In a share.
    Share {
        /// Its name.
        name: String,
    },
    /// On a disk, for one container.
    Disk(DiskPlan),
    /// Nowhere. The first process executes no program: it is the agent's own, sees nothing, and keeps the
    /// container's namespaces for others until SIGKILL. Of the plan mean something: namespaces, names,
    /// kernel parameters and the cgroup.
    Nothing,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// Absolute path inside the root. Resolved inside the root, made if it is missing.
    pub destination: String,
    /// What is mounted.
    pub source: MountSource,
    /// MS_* flags (mount(2)).
    pub flags: u64,
    /// Propagation flags to set afterwards, one call each.
    pub propagation: Vec<u64>,
    /// Attributes set with mount_setattr(2) over the whole mounted tree (`rro` and its like).
    pub recursive: Option<MountAttributes>,
}

/// Arguments of mount_setattr(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountAttributes {
    /// MOUNT_ATTR_* to set.
    pub set: u64,
    /// MOUNT_ATTR_* to clear.
    pub clear: u64,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// Bind a share.
    Share {
        /// Its name.
        name: String,
        /// The mount point is a directory, else a file.
        directory: bool,
        /// Bind with everything mounted beneath it.
        recursive: bool,
    },
    /// Mount a file system of the guest.
    FileSystem {
        /// Type as in `/proc/filesystems`.
        kind: String,
        /// Source string.
        source: String,
        /// Data string.
        data: String,
        /// Fill the new file system with what the mount point held before (tmpfs, `tmpcopyup`).
        copy_up: bool,
    },
    /// Bind a tmpfs of the guest that lives as long as the sandbox: all containers that name it see
    /// the same files. The first to name it has it made.
    Memory {
        /// Its name in the sandbox.
        name: String,
        /// Data string of the mount.
        data: String,
    },
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePlan {
    /// Absolute path inside the root.
    pub path: String,
    /// File type and permissions (st_mode): S_IFCHR, S_IFBLK or S_IFIFO.
    pub mode: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// One value for one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileWrite {
    /// Path relative to a directory that the field's owner names; no `..`.
    pub path: String,
    /// What is written, in one write(2).
    pub value: String,
}

/// The cgroup (version 2) of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// Interface files to write in order, relative to the cgroup's directory.
    pub settings: Vec<FileWrite>,
    /// BPF_PROG_TYPE_CGROUP_DEVICE program, 8 bytes an instruction; `None` allows all devices.
    pub device_program: Option<Vec<u8>>,
}

/// A seccomp filter (seccomp(2), SECCOMP_SET_MODE_FILTER).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompPlan {
    /// Classic BPF, 8 bytes a `struct sock_filter`.
    pub program: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_*.
    pub flags: u32,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// Program and arguments; never empty. A program without `/` is looked for in the PATH of
    /// `env`.
    pub args: Vec<String>,
    /// `NAME=value` strings. If HOME is not among them, the agent sets it from the container's
    /// `/etc/passwd`, as runc does.
    pub env: Vec<String>,
    /// Absolute working directory inside the root; made if it is missing.
    pub cwd: String,
    /// Credentials.
    pub user: UserPlan,
    /// Capability sets.
    pub capabilities: Capabilities,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privileges: bool,
    /// `/proc/self/oom_score_adj`, if it is to be set.
    pub oom_score_adj: Option<i32>,
    /// ioprio_set(2), if any.
    pub io_priority: Option<IoPriority>,
    /// sched_setattr(2), if any.
    pub scheduler: Option<Scheduler>,
    /// personality(2), if any.
    pub personality: Option<u64>,
    /// Its streams.
    pub stdio: StdioPlan,
}

/// Credentials of a process, as numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserPlan {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// umask(2), 0o22 if `None`.
    pub umask: Option<u32>,
}

/// Capability sets as bit masks (capabilities(7)); bit n is capability number n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Bounding set.
    pub bounding: u64,
    /// Effective set.
    pub effective: u64,
    /// Inheritable set.
    pub inheritable: u64,
    /// Permitted set.
    pub permitted: u64,
    /// Ambient set.
    pub ambient: u64,
}

/// A resource limit (setrlimit(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// RLIMIT_* number.
    pub resource: u32,
    /// Soft limit; u64::MAX is RLIM_INFINITY.
    pub soft: u64,
    /// Hard limit; u64::MAX is RLIM_INFINITY.
    pub hard: u64,
}

/// I/O priority (ioprio_set(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoPriority {
    /// IOPRIO_CLASS_*: 1 real time, 2 best effort, 3 idle.
    pub class: u8,
    /// Level in the class, 0 to 7.
    pub level: u8,
}

/// Scheduling (sched_setattr(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduler {
    /// SCHED_* number.
    pub policy: u32,
    /// SCHED_FLAG_* bits.
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Priority.
    pub priority: u32,
    /// SCHED_DEADLINE runtime, ns.
    pub runtime: u64,
    /// SCHED_DEADLINE deadline, ns.
    pub deadline: u64,
    /// SCHED_DEADLINE period, ns.
    pub period: u64,
}

/// Where the streams of a process go. A port is one of the host's vsock ports, to which the agent
/// connects once; a stream without a port is `/dev/null`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdioPlan {
    /// Standard input, read from this port; end of file travels as the end of the stream.
    pub stdin: Option<u32>,
    /// Standard output, written to this port.
    pub stdout: Option<u32>,
    /// Standard error, written to this port.
    pub stderr: Option<u32>,
    /// A terminal for all three instead, in both directions over one port.
    pub terminal: Option<TerminalPlan>,
}

/// A terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalPlan {
    /// The host's vsock port.
    pub port: u32,
    /// Its first size.
    pub size: WindowSize,
}

/// Size of a terminal (ioctl_tty(2), TIOCSWINSZ).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Rows of characters.
    pub rows: u16,
    /// Columns of characters.
    pub columns: u16,
}
