//! The mounts of a container, in order.

use super::paths::{self, Kind};
use super::rootfs::{READ_ONLY, attach_mount, copy_mount, share};
use super::shared_memory;
use crate::failure::{Outcome, failed, invalid};
use crate::{layout, sys};
use agent_protocol::{ContainerPlan, MountPlan, MountSource};
use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, OFlags, fstat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};

/// Mounts that become read-only after the device nodes have been made in them.
pub(super) type Deferred = Vec<String>;

/// Mounts everything in the plan's order.
pub(super) fn mount_all(root: BorrowedFd<'_>, plan: &ContainerPlan) -> Outcome<Deferred> {
    let mut deferred = Deferred::new();
    for mount in &plan.mounts {
        let destination = &mount.destination;
        match &mount.source {
            MountSource::Share { name, directory, recursive } => {
                let kind = if *directory { Kind::Directory } else { Kind::File };
                bind(root, mount, &share(name, *recursive)?, kind)?;
            }
            MountSource::Memory { name, data: _ } => {
                let copied =
                    copy_mount(CWD, &shared_memory::path(name), false).map_err(|errno| {
                        failed(format_args!("opening the shared tmpfs {name:?}"), errno)
                    })?;
                bind(root, mount, &copied, Kind::Directory)?;
            }
            MountSource::FileSystem { kind, .. } if kind == "cgroup" || kind == "cgroup2" => {
                mount_cgroup(root, mount, plan)?;
            }
            MountSource::FileSystem { kind, source, data, copy_up } => {
                let mut flags = mount.flags;
                let writable_first = kind == "tmpfs" || is_dev(destination);
                if writable_first && flags & libc::MS_RDONLY != 0 {
                    flags &= !libc::MS_RDONLY;
                    deferred.push(destination.clone());
                }
                let file_system = FileSystem { kind, source, data, flags, copy_up: *copy_up };
                file_system.mount(root, destination)?;
            }
        }
        set_propagation(root, mount)?;
    }
    Ok(deferred)
}

/// Makes those mounts read-only.
pub(super) fn finish(root: BorrowedFd<'_>, deferred: &Deferred) -> Outcome<()> {
    for destination in deferred {
        paths::open(root, destination, OFlags::PATH)
            .and_then(|mount| sys::set_mount_attributes(mount.as_fd(), false, READ_ONLY, 0, 0))
            .map_err(|errno| failed(format_args!("making {destination} read-only"), errno))?;
    }
    Ok(())
}

/// Whether the container's /dev is a mount of its own kind, which the agent fills, or a directory
/// of the host, which it leaves alone.
pub(super) fn dev_is_shared(plan: &ContainerPlan) -> bool {
    plan.mounts.iter().any(|mount| {
        matches!(mount.source, MountSource::Share { .. }) && is_dev(&mount.destination)
    })
}

fn is_dev(destination: &str) -> bool {
    destination.trim_end_matches('/') == "/dev"
}

/// Attaches a detached mount at the plan's destination.
fn bind(root: BorrowedFd<'_>, plan: &MountPlan, mount: &OwnedFd, kind: Kind) -> Outcome<()> {
    let destination = &plan.destination;
    let (set, clear) = attributes(plan.flags)?;
    if set != 0 {
        sys::set_mount_attributes(mount.as_fd(), false, set, clear, 0)
            .map_err(|errno| failed(format_args!("setting flags of {destination}"), errno))?;
    }
    let (target, _) = paths::ensure(root, destination, kind)
        .map_err(|errno| failed(format_args!("making the mount point {destination}"), errno))?;
    attach_mount(mount.as_fd(), target.as_fd()).map_err(|errno| match &plan.source {
        MountSource::Share { name, .. } => {
            failed(format_args!("mounting the share {name:?} at {destination}"), errno)
        }
        _ => failed(format_args!("mounting at {destination}"), errno),
    })
}

fn mount_cgroup(root: BorrowedFd<'_>, mount: &MountPlan, plan: &ContainerPlan) -> Outcome<()> {
    let destination = &mount.destination;
    if plan.namespaces.cgroup {
        // Version 1 does not exist here; as runc on a host with version 2 only.
        let flags = mount.flags;
        let file_system =
            FileSystem { kind: "cgroup2", source: "cgroup", data: "", flags, copy_up: false };
        return file_system.mount(root, destination);
    }
    // Without a cgroup namespace the file system would show everybody's.
    let path = format!("{}/{}", layout::CGROUPS.to_string_lossy(), plan.id);
    let (set, clear) = attributes(mount.flags)?;
    copy_mount(CWD, &path, false)
        .and_then(|copy| {
            sys::set_mount_attributes(copy.as_fd(), false, set, clear, 0)?;
            let (target, _) = paths::ensure(root, destination, Kind::Directory)?;
            attach_mount(copy.as_fd(), target.as_fd())
        })
        .map_err(|errno| failed(format_args!("mounting the cgroup at {destination}"), errno))
}

struct FileSystem<'a> {
    kind: &'a str,
    source: &'a str,
    data: &'a str,
    flags: u64,
    copy_up: bool,
}

impl FileSystem<'_> {
    fn mount(&self, root: BorrowedFd<'_>, destination: &str) -> Outcome<()> {
        self.try_mount(root, destination).map_err(|errno| {
            let (kind, data) = (self.kind, self.data);
            if data.is_empty() {
                failed(format_args!("mounting {kind} at {destination}"), errno)
            } else {
                failed(format_args!("mounting {kind} at {destination} with {data:?}"), errno)
            }
        })
    }

    fn try_mount(&self, root: BorrowedFd<'_>, destination: &str) -> Result<(), Errno> {
        let (target, existed) = paths::ensure(root, destination, Kind::Directory)?;
        let mut data = self.data.to_string();
        if self.kind == "tmpfs" && existed && !has_option(&data, "mode") {
            // A tmpfs looks like the directory that it covers, as with runc.
            let mode = fstat(&target)?.st_mode & 0o7777;
            let separator = if data.is_empty() { "" } else { "," };
            data = format!("mode={mode:o}{separator}{data}");
        }
        let text = |value: &str| CString::new(value).map_err(|_| Errno::INVAL);
        let (source, kind, data) = (text(self.source)?, text(self.kind)?, text(&data)?);
        if !self.copy_up {
            rustix::process::fchdir(&target)?;
            return sys::mount(Some(&source), c".", Some(&kind), self.flags, Some(&data));
        }
        sys::mount(Some(&source), layout::SCRATCH, Some(&kind), self.flags, Some(&data))?;
        let scratch = rustix::fs::openat(
            CWD,
            layout::SCRATCH,
            OFlags::DIRECTORY | OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        let from = paths::open(root, destination, OFlags::RDONLY | OFlags::DIRECTORY)?;
        super::copy_up::copy_directory(from.as_fd(), scratch.as_fd())?;
        move_mount(CWD, layout::SCRATCH, &target, c"", MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)
    }
}

fn has_option(data: &str, name: &str) -> bool {
    data.split(',').any(|option| option.split('=').next() == Some(name))
}

fn set_propagation(root: BorrowedFd<'_>, plan: &MountPlan) -> Outcome<()> {
    let destination = &plan.destination;
    if plan.propagation.is_empty() && plan.recursive.is_none() {
        return Ok(());
    }
    let mount = paths::open(root, destination, OFlags::PATH)
        .map_err(|errno| failed(format_args!("opening the mount {destination}"), errno))?;
    for flags in &plan.propagation {
        let recursive = flags & libc::MS_REC != 0;
        sys::set_mount_attributes(mount.as_fd(), recursive, 0, 0, flags & !libc::MS_REC).map_err(
            |errno| failed(format_args!("setting the propagation of {destination}"), errno),
        )?;
    }
    if let Some(attributes) = plan.recursive {
        sys::set_mount_attributes(mount.as_fd(), true, attributes.set, attributes.clear, 0)
            .map_err(|errno| {
                failed(format_args!("setting attributes of all mounts in {destination}"), errno)
            })?;
    }
    Ok(())
}

/// MS_* flags of a bind mount as attributes to set and to clear (mount_setattr(2)). All of them are
/// off on a share.
fn attributes(flags: u64) -> Outcome<(u64, u64)> {
    const SIMPLE: [(u64, u64); 6] = [
        (libc::MS_RDONLY, READ_ONLY),
        (libc::MS_NOSUID, 0x2),
        (libc::MS_NODEV, 0x4),
        (libc::MS_NOEXEC, 0x8),
        (libc::MS_NODIRATIME, 0x80),
        (MS_NOSYMFOLLOW, 0x20_0000),
    ];
    /// Exclude each other: a field in the attributes.
    const ACCESS_TIME: [(u64, u64); 3] =
        [(libc::MS_RELATIME, 0x0), (libc::MS_NOATIME, 0x10), (libc::MS_STRICTATIME, 0x20)];
    const ACCESS_TIME_FIELD: u64 = 0x70;
    /// Say how to mount, or are properties of file systems and not of mounts.
    const IGNORED: u64 = libc::MS_BIND
        | libc::MS_REC
        | libc::MS_SILENT
        | libc::MS_SYNCHRONOUS
        | libc::MS_DIRSYNC
        | libc::MS_MANDLOCK
        | libc::MS_I_VERSION
        | libc::MS_LAZYTIME;
    let (mut set, mut clear, mut known) = (0, 0, IGNORED);
    for (flag, attribute) in SIMPLE {
        known |= flag;
        if flags & flag != 0 {
            set |= attribute;
        }
    }
    for (flag, attribute) in ACCESS_TIME {
        known |= flag;
        if flags & flag != 0 {
            clear = ACCESS_TIME_FIELD;
            set = (set & !ACCESS_TIME_FIELD) | attribute;
        }
    }
    if flags & !known != 0 {
        return Err(invalid(format_args!("unknown mount flags {:#x}", flags & !known)));
    }
    Ok((set, clear))
}

/// Newer than the constants in the libc crate.
const MS_NOSYMFOLLOW: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_attributes() {
        assert_eq!(attributes(0).unwrap(), (0, 0));
        assert_eq!(attributes(libc::MS_BIND | libc::MS_REC).unwrap(), (0, 0));
        let all = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        assert_eq!(attributes(all).unwrap(), (0xf, 0));
        assert_eq!(attributes(libc::MS_NOATIME).unwrap(), (0x10, 0x70));
        assert_eq!(attributes(libc::MS_RELATIME | libc::MS_RDONLY).unwrap(), (1, 0x70));
        assert!(attributes(libc::MS_REMOUNT).is_err());
    }

    #[test]
    fn options_are_found_by_name() {
        assert!(has_option("size=64k,mode=1777", "mode"));
        assert!(!has_option("size=64k,modest=1", "mode"));
        assert!(!has_option("", "mode"));
    }
}
