//! Namespaces of the process's own, and a root with nothing in it.

#![expect(unsafe_code, reason = "unshare(2) may break what other threads rely on")]

use super::JailError;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use rustix::process::{chdir, pivot_root};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// A directory that is there in any case: descriptors in `/proc/self/fd` were opened before.
const MOUNT_POINT: &str = "/proc";

/// Moves the process into namespaces of its own.
pub(super) fn unshare() -> Result<(), JailError> {
    let flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWCGROUP
        | UnshareFlags::NEWUTS;
    // SAFETY: none of the flags splits the descriptor table from other threads, and there are none:
    // the kernel refuses NEWUSER otherwise.
    unsafe { unshare_unsafe(flags) }
        .map_err(JailError::refused("enter namespaces of its own (are user namespaces allowed?)"))
}

/// Makes an empty read-only file system the root, and loses sight of the host's.
pub(super) fn empty_root() -> Result<(), JailError> {
    // Nothing that happens here may be seen in the host's namespace.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(JailError::refused("separate its mounts from the host's"))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", MOUNT_POINT, "tmpfs", flags, c"size=4k,nr_inodes=1,mode=555")
        .map_err(JailError::refused("mount an empty root"))?;
    chdir(MOUNT_POINT).map_err(JailError::refused("enter its empty root"))?;
    // pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one.
    pivot_root(".", ".").map_err(JailError::refused("make the empty root its root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(JailError::refused("leave the host's root"))?;
    chdir("/").map_err(JailError::refused("enter its empty root"))
}
