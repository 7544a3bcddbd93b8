//! The root of a container: attached, finished, entered.

use super::disk_root;
use super::paths::{self, Kind};
use crate::failure::{Outcome, failed};
use crate::{layout, sys};
use agent_protocol::{ContainerPlan, FileWrite, RootPlan, RootSource};
use alloc::format;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree,
    unmount,
};

/// MOUNT_ATTR_RDONLY of mount_setattr(2).
pub(super) const READ_ONLY: u64 = 1;

/// A detached copy of the mount at `path` (and, with `recursive`, of those beneath it).
pub(super) fn copy_mount(
    directory: BorrowedFd<'_>,
    path: &str,
    recursive: bool,
) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.is_empty());
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(directory, path, flags)
}

/// Attaches a mount to where `target` is.
pub(super) fn attach_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags)
}

/// A copy of a share's mount.
pub(super) fn share(name: &str, recursive: bool) -> Outcome<OwnedFd> {
    let path = format!("{}/{name}", layout::SHARES);
    copy_mount(CWD, &path, recursive)
        .map_err(|errno| failed(format_args!("opening the share {name:?}"), errno))
}

/// Attaches the root within the mount namespace of the caller and returns it.
pub(super) fn attach(plan: &RootPlan) -> Outcome<OwnedFd> {
    // Nothing that is mounted from here on may reach another mount namespace.
    sys::mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None)
        .map_err(|errno| failed(format_args!("making mounts private"), errno))?;
    let root = match &plan.source {
        RootSource::Share { name } => share(name, true)?,
        RootSource::Disk(disk) => disk_root::copy(disk)?,
        RootSource::Nothing => copy_mount(CWD, &layout::EMPTY.to_string_lossy(), false)
            .map_err(|errno| failed(format_args!("opening an empty root"), errno))?,
    };
    openat(CWD, layout::ROOT, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .and_then(|place| attach_mount(root.as_fd(), place.as_fd()))
        .map_err(|errno| failed(format_args!("mounting the root"), errno))?;
    Ok(root)
}

/// Makes paths unreadable: a file looks like /dev/null, a directory is empty. What does not exist
/// needs no mask.
pub(super) fn mask(root: BorrowedFd<'_>, plan: &ContainerPlan) -> Outcome<()> {
    for path in &plan.masked_paths {
        mask_path(root, path).map_err(|errno| failed(format_args!("masking {path}"), errno))?;
    }
    Ok(())
}

fn mask_path(root: BorrowedFd<'_>, path: &str) -> Result<(), Errno> {
    let Some(target) = existing(root, path)? else { return Ok(()) };
    let is_directory = FileType::from_raw_mode(fstat(&target)?.st_mode) == FileType::Directory;
    let source = if is_directory { layout::EMPTY } else { c"/dev/null" };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mask = open_tree(CWD, source, flags)?;
    if !is_directory {
        sys::set_mount_attributes(mask.as_fd(), false, READ_ONLY, 0, 0)?;
    }
    attach_mount(mask.as_fd(), target.as_fd())
}

/// Makes paths read-only, each with everything beneath it.
pub(super) fn make_read_only(root: BorrowedFd<'_>, plan: &ContainerPlan) -> Outcome<()> {
    for path in &plan.readonly_paths {
        read_only_path(root, path)
            .map_err(|errno| failed(format_args!("making {path} read-only"), errno))?;
    }
    Ok(())
}

fn read_only_path(root: BorrowedFd<'_>, path: &str) -> Result<(), Errno> {
    let Some(target) = existing(root, path)? else { return Ok(()) };
    let copy = copy_mount(target.as_fd(), "", true)?;
    // As runc: the mount at the path itself, not what others have mounted beneath it.
    sys::set_mount_attributes(copy.as_fd(), false, READ_ONLY, 0, 0)?;
    attach_mount(copy.as_fd(), target.as_fd())
}

fn existing(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>, Errno> {
    match paths::open(root, path, OFlags::PATH) {
        Ok(target) => Ok(Some(target)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Writes kernel parameters. Through the agent's own /proc, whatever the container has on its
/// own; the kernel looks at the writer's namespaces.
pub(super) fn write_sysctl(files: &[FileWrite]) -> Outcome<()> {
    for FileWrite { path, value } in files {
        let full = format!("/proc/sys/{path}");
        openat(CWD, full.as_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::io::write(&file, value.as_bytes()))
            .map_err(|errno| {
                let name = path.replace('/', ".");
                failed(format_args!("setting the sysctl {name} to {value:?}"), errno)
            })?;
    }
    Ok(())
}

/// Makes the root the root of the calling process and of its mount namespace, and lets go of
/// everything else.
pub(super) fn enter(root: BorrowedFd<'_>, plan: &RootPlan) -> Outcome<()> {
    if plan.read_only {
        sys::set_mount_attributes(root, false, READ_ONLY, 0, 0)
            .map_err(|errno| failed(format_args!("making the root read-only"), errno))?;
    }
    rustix::process::fchdir(root)
        // The old root comes to lie over the new one (pivot_root(2), "pivot_root(".", ".")"), and
        // is taken off.
        .and_then(|()| rustix::process::pivot_root(c".", c"."))
        .and_then(|()| unmount(c".", UnmountFlags::DETACH))
        .and_then(|()| rustix::process::chdir(c"/"))
        .map_err(|errno| failed(format_args!("entering the root"), errno))?;
    let flags =
        MountPropagationFlags::from_bits_retain(u32::try_from(plan.propagation).unwrap_or(0));
    if !flags.is_empty() {
        rustix::mount::mount_change(c"/", flags).map_err(|errno| {
            failed(format_args!("setting the root's propagation to {:#x}", plan.propagation), errno)
        })?;
    }
    Ok(())
}

/// The working directory, made if it is missing.
pub(super) fn make_working_directory(root: BorrowedFd<'_>, path: &str) -> Outcome<()> {
    paths::ensure(root, path, Kind::Directory)
        .map(drop)
        .map_err(|errno| failed(format_args!("making the working directory {path}"), errno))
}
