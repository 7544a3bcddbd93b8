//! Where things are in the agent's own file system. No container sees these paths.

use core::ffi::CStr;

/// The shares of the host, by name.
pub(crate) const SHARES: &str = "/run/ringfence/shares";
/// Where a container's root is attached, in its own mount namespace only.
pub(crate) const ROOT: &CStr = c"/run/ringfence/root";
/// Where a file system is filled before it is moved to its place, likewise.
pub(crate) const SCRATCH: &CStr = c"/run/ringfence/scratch";
/// An empty read-only file system, shown in the place of masked directories: a tmpfs, as containers
/// see it from other runtimes.
pub(crate) const EMPTY: &CStr = c"/run/ringfence/empty";
/// Device nodes that a container's root cannot hold are made here and bound.
pub(crate) const NODES: &CStr = c"/run/ringfence/nodes";
/// File systems in memory that containers share, by name.
pub(crate) const MEMORIES: &CStr = c"/run/ringfence/memories";
/// File systems on disks that are roots of containers, by the disk's serial number.
pub(crate) const DISKS: &CStr = c"/run/ringfence/disks";
/// sysfs, mounted when something is the first to need it: a container with a user namespace, or a disk.
pub(crate) const SYSFS: &CStr = c"/run/ringfence/sysfs";
/// cgroup version 2.
pub(crate) const CGROUPS: &CStr = c"/sys/fs/cgroup";

/// Directories to make at boot, parents first.
pub(crate) const DIRECTORIES: [&CStr; 14] = [
    c"/proc",
    c"/dev",
    c"/sys",
    c"/sys/fs",
    CGROUPS,
    c"/run",
    c"/run/ringfence",
    c"/run/ringfence/shares",
    ROOT,
    SCRATCH,
    EMPTY,
    NODES,
    MEMORIES,
    DISKS,
];
