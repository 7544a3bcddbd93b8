//! Roots of containers that are file systems on disks: mounted in the agent's own mount namespace when the
//! container is made, and let go when it is removed, before the host takes the disk away.
//!
//! A disk with several images gets a partition for each, where the plan says it is: nothing is read from the
//! disk to find them.

use super::disk_root;
use super::user_namespace::mount_sysfs;
use crate::failure::{Outcome, failed};
use crate::{layout, sys};
use agent_protocol::{DiskFileSystem, DiskPlan, RootPlan, RootSource};
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use rustix::fd::AsFd;
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
    /// Numbers of its partitions.
    partitions: Vec<u16>,
    /// Where something of it is mounted, in this order.
    mounted: Vec<String>,
}

/// Mounts the disk of a root that is on one.
pub(crate) fn mount_root(plan: &RootPlan) -> Outcome<Option<Disk>> {
    let RootSource::Disk(plan) = &plan.source else { return Ok(None) };
    let serial = &plan.serial;
    mount_sysfs()?;
    let node = find(serial)
        .map_err(|errno| failed(format_args!("looking for the disk {serial:?}"), errno))?;
    let mut disk = Disk { node, partitions: Vec::new(), mounted: Vec::new() };
    match disk.mount_all(plan) {
        Ok(()) => Ok(Some(disk)),
        Err(error) => {
            // Nobody else has had it.
            let _ = disk.release();
            Err(error)
        }
    }
}

/// Where the root of a disk is mounted.
pub(super) fn root_path(serial: &str) -> String {
    format!("{}/{serial}", layout::DISKS.to_string_lossy())
}

/// Where one of its file systems is.
pub(super) fn file_system_path(serial: &str, number: u16) -> String {
    format!("{}.{number}", root_path(serial))
}

/// The number of the partition that an image is in: the kernel counts from 1.
fn partition_number(image: u16) -> Result<u16, Errno> {
    image.checked_add(1).ok_or(Errno::INVAL)
}

impl Disk {
    fn mount_all(&mut self, plan: &DiskPlan) -> Outcome<()> {
        let serial = &plan.serial;
        self.add_partitions(plan)
            .map_err(|errno| failed(format_args!("dividing the disk {serial:?}"), errno))?;
        for (number, file_system) in (0..).zip(&plan.file_systems) {
            let path = file_system_path(serial, number);
            self.mount(plan, file_system, path).map_err(|errno| {
                let DiskFileSystem { image, kind, data, .. } = file_system;
                failed(
                    format_args!(
                        "mounting image {image} of the disk {serial:?} as {kind} with {data:?}"
                    ),
                    errno,
                )
            })?;
        }
        disk_root::make_directories(plan)?;
        if let Some(path) = disk_root::mount_overlay(plan)? {
            self.mounted.push(path);
        }
        Ok(())
    }

    fn add_partitions(&mut self, plan: &DiskPlan) -> Result<(), Errno> {
        if plan.images.is_empty() {
            return Ok(());
        }
        let device =
            openat(CWD, self.node.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        for (image, place) in (0..).zip(&plan.images) {
            let number = partition_number(image)?;
            sys::add_partition(device.as_fd(), number, place.start, place.bytes)?;
            self.partitions.push(number);
        }
        Ok(())
    }

    /// The block device of an image.
    fn node_of(&self, plan: &DiskPlan, image: u16) -> Result<String, Errno> {
        if plan.images.is_empty() {
            return Ok(self.node.clone());
        }
        partition_number(image).map(|number| format!("{}{number}", self.node))
    }

    fn mount(
        &mut self,
        plan: &DiskPlan,
        file_system: &DiskFileSystem,
        path: String,
    ) -> Result<(), Errno> {
        let DiskFileSystem { image, devices, kind, flags, data } = file_system;
        let text = |value: &str| CString::new(value).map_err(|_| Errno::INVAL);
        let mut data = data.clone();
        for device in devices {
            let comma = if data.is_empty() { "" } else { "," };
            data = format!("{data}{comma}device={}", self.node_of(plan, *device)?);
        }
        let node = text(&self.node_of(plan, *image)?)?;
        let target = text(&path)?;
        make_place(&target)?;
        sys::mount(Some(&node), &target, Some(&text(kind)?), *flags, Some(&text(&data)?))
            .inspect_err(|_| {
                let _ = rmdir(&target);
            })?;
        self.mounted.push(path);
        Ok(())
    }

    /// Unmounts it; when this succeeds, the kernel has written everything and uses the disk no more. Until
    /// then `EBUSY`: mount namespaces of processes that have ended go a little later than they do.
    pub(crate) fn release(&self) -> Result<(), Errno> {
        for path in self.mounted.iter().rev() {
            match unmount(path.as_str(), UnmountFlags::NOFOLLOW) {
                // It was unmounted the time before.
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        if !self.partitions.is_empty() {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let device = openat(CWD, self.node.as_str(), flags, Mode::empty())?;
            for number in &self.partitions {
                // Refused as long as a file system has it.
                match sys::delete_partition(device.as_fd(), *number) {
                    Ok(()) | Err(Errno::NXIO) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        // The same.
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
        drop(openat(CWD, self.node.as_str(), flags, Mode::empty())?);
        for path in &self.mounted {
            let _ = rmdir(path.as_str());
        }
        Ok(())
    }
}

/// Makes the directory of a mount.
pub(super) fn make_place(target: &CString) -> Result<(), Errno> {
    match mkdirat(CWD, target, Mode::from_raw_mode(0o755)) {
        // One before this one has failed at the mount.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
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
