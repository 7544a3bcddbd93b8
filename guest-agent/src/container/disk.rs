//! Roots of containers that are file systems on disks: mounted in the agent's own mount namespace when the
//! container is made, and let go when it is removed, before the host takes the disk away.

use super::rootfs::copy_mount;
use super::user_namespace::mount_sysfs;
use crate::failure::{Outcome, failed};
use crate::{layout, sys};
use agent_protocol::{DiskPlan, RootPlan, RootSource};
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, rmdir};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::thread::{Timespec, nanosleep};

/// How often it is looked whether the kernel has seen a disk, and how long it may take: it reads the new
/// capacity in a thread of its own.
const LOOKS: u32 = 500;
const LOOK_NS: i64 = 4_000_000;

/// A disk that is mounted.
pub(crate) struct Disk {
    /// The block device.
    node: String,
    /// Where it is mounted.
    path: String,
}

/// Mounts the disk of a root that is on one.
pub(crate) fn mount_root(plan: &RootPlan) -> Outcome<Option<Disk>> {
    let RootSource::Disk(plan) = &plan.source else { return Ok(None) };
    let DiskPlan { serial, kind, flags, data } = plan;
    mount_sysfs()?;
    let node = find(serial)
        .map_err(|errno| failed(format_args!("looking for the disk {serial:?}"), errno))?;
    let disk = Disk { node, path: path(serial) };
    disk.mount(kind, *flags, data).map_err(|errno| {
        failed(format_args!("mounting the disk {serial:?} as {kind} with {data:?}"), errno)
    })?;
    Ok(Some(disk))
}

/// A copy of the mount of a disk.
pub(super) fn copy(plan: &DiskPlan) -> Outcome<OwnedFd> {
    let serial = &plan.serial;
    copy_mount(CWD, &path(serial), true)
        .map_err(|errno| failed(format_args!("opening the disk {serial:?}"), errno))
}

fn path(serial: &str) -> String {
    format!("{}/{serial}", layout::DISKS.to_string_lossy())
}

impl Disk {
    fn mount(&self, kind: &str, flags: u64, data: &str) -> Result<(), Errno> {
        let text = |value: &str| CString::new(value).map_err(|_| Errno::INVAL);
        let (node, target) = (text(&self.node)?, text(&self.path)?);
        let (kind, data) = (text(kind)?, text(data)?);
        match mkdirat(CWD, &target, Mode::from_raw_mode(0o755)) {
            // One before this one has failed at the mount.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        sys::mount(Some(&node), &target, Some(&kind), flags, Some(&data)).inspect_err(|_| {
            let _ = rmdir(&target);
        })
    }

    /// Unmounts it; when this succeeds, the kernel has written everything and uses the disk no more. Until
    /// then `EBUSY`: mount namespaces of processes that have ended go a little later than they do.
    pub(crate) fn release(&self) -> Result<(), Errno> {
        match unmount(self.path.as_str(), UnmountFlags::NOFOLLOW) {
            // It was unmounted the time before.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        // Refused as long as a file system has it.
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
        drop(openat(CWD, self.node.as_str(), flags, Mode::empty())?);
        let _ = rmdir(self.path.as_str());
        Ok(())
    }
}

/// The block device with this serial number, when the kernel knows its capacity.
fn find(serial: &str) -> Result<String, Errno> {
    for _ in 0..LOOKS {
        if let Some(name) = name_of(serial)?
            && !is(&attribute(&name, "size"), "0")?
        {
            return Ok(format!("/dev/{name}"));
        }
        let _ = nanosleep(&Timespec { tv_sec: 0, tv_nsec: LOOK_NS });
    }
    Err(Errno::NODEV)
}

fn name_of(serial: &str) -> Result<Option<String>, Errno> {
    for letter in 'a'..='z' {
        let name = format!("vd{letter}");
        match is(&attribute(&name, "serial"), serial) {
            Ok(true) => return Ok(Some(name)),
            Ok(false) => {}
            // Letters are given one after the other.
            Err(Errno::NOENT) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(None)
}

fn attribute(name: &str, attribute: &str) -> String {
    format!("{}/block/{name}/{attribute}", layout::SYSFS.to_string_lossy())
}

/// Whether a file of one short line says this.
fn is(path: &str, value: &str) -> Result<bool, Errno> {
    let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [0_u8; 64];
    let count = rustix::io::read(&file, &mut buffer)?;
    let text = buffer.get(..count).unwrap_or_default();
    Ok(text.trim_ascii_end() == value.as_bytes())
}
