//! What of the file systems of a disk is the root of a container: a directory of one of them, or several in
//! an overlay.
//!
//! The file systems are strangers' images. A path in one is followed without symbolic links, which would lead
//! to the agent's own files, and nobody changes an image until its container runs.

use super::disk::{file_system_path, make_place, root_path};
use super::rootfs::copy_mount;
use crate::failure::{Outcome, failed};
use agent_protocol::{
    DiskDirectory, DiskPlan, DiskRootPlan, NewDirectory, OverlayPlan, WritableLayer,
};
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, chmodat, mkdirat, openat, openat2, rmdir};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

/// MS_RDONLY of mount(2).
const READ_ONLY: u64 = 1;

/// A copy of the mount of a disk's root.
pub(super) fn copy(plan: &DiskPlan) -> Outcome<OwnedFd> {
    let serial = &plan.serial;
    let copied = match &plan.root {
        DiskRootPlan::Directory(directory) => {
            open_directory(serial, directory).and_then(|place| copy_mount(place.as_fd(), "", true))
        }
        DiskRootPlan::Overlay(_) => copy_mount(CWD, &root_path(serial), true),
    };
    copied.map_err(|errno| failed(format_args!("opening the disk {serial:?}"), errno))
}

fn open_directory(serial: &str, directory: &DiskDirectory) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = file_system_path(serial, directory.file_system);
    let root = openat(CWD, path.as_str(), flags, Mode::empty())?;
    if directory.path.is_empty() {
        return Ok(root);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(&root, directory.path.as_str(), flags, Mode::empty(), resolve)
}

/// Its path, which is that of a directory, and followed through no link.
fn path_of(serial: &str, directory: &DiskDirectory) -> Result<String, Errno> {
    drop(open_directory(serial, directory)?);
    let root = file_system_path(serial, directory.file_system);
    let DiskDirectory { path, .. } = directory;
    Ok(if path.is_empty() { root } else { format!("{root}/{path}") })
}

/// Makes the directories that are to be made.
pub(super) fn make_directories(plan: &DiskPlan) -> Outcome<()> {
    for new in &plan.directories {
        make_directory(&plan.serial, new).map_err(|errno| {
            let DiskDirectory { file_system, path } = &new.directory;
            let serial = &plan.serial;
            failed(
                format_args!("making {path:?} in file system {file_system} of disk {serial:?}"),
                errno,
            )
        })?;
    }
    Ok(())
}

fn make_directory(serial: &str, new: &NewDirectory) -> Result<(), Errno> {
    let NewDirectory { directory: DiskDirectory { file_system, path }, mode } = new;
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = DiskDirectory { file_system: *file_system, path: parent.into() };
    let parent = open_directory(serial, &parent)?;
    match mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
        // mkdir(2) takes the mask of the agent into account.
        Ok(()) => chmodat(&parent, name, Mode::from_raw_mode(*mode), rustix::fs::AtFlags::empty()),
        // That it is a directory is seen when it is used.
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Mounts the overlay, if the root is one, and says where.
pub(super) fn mount_overlay(plan: &DiskPlan) -> Outcome<Option<String>> {
    let DiskRootPlan::Overlay(overlay) = &plan.root else { return Ok(None) };
    let path = root_path(&plan.serial);
    mount(&plan.serial, overlay, &path).map_err(|errno| {
        let (serial, layers) = (&plan.serial, overlay.lower.len());
        failed(
            format_args!("mounting the {layers} layers of the disk {serial:?} as an overlay"),
            errno,
        )
    })?;
    Ok(Some(path))
}

/// One layer at a time (overlayfs.rst, `lowerdir+`): there is no limit on all of them together.
fn mount(serial: &str, plan: &OverlayPlan, path: &str) -> Result<(), Errno> {
    let OverlayPlan { lower, upper, flags, options } = plan;
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in lower {
        fsconfig_set_string(&context, "lowerdir+", path_of(serial, layer)?)?;
    }
    if let Some(WritableLayer { upper, work }) = upper {
        fsconfig_set_string(&context, "upperdir", path_of(serial, upper)?)?;
        fsconfig_set_string(&context, "workdir", path_of(serial, work)?)?;
    }
    for (name, value) in options {
        match value {
            Some(value) => fsconfig_set_string(&context, name.as_str(), value.as_str())?,
            None => fsconfig_set_flag(&context, name.as_str())?,
        }
    }
    if flags & READ_ONLY != 0 {
        fsconfig_set_flag(&context, "ro")?;
    }
    fsconfig_create(&context)?;
    // The same values as the flags of mount(2), as far as a plan can have them.
    let attributes = MountAttrFlags::from_bits(u32::try_from(*flags).map_err(|_| Errno::INVAL)?);
    let attributes = attributes.ok_or(Errno::INVAL)?;
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let target = CString::new(path).map_err(|_| Errno::INVAL)?;
    make_place(&target)?;
    move_mount(&mounted, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).inspect_err(
        |_| {
            let _ = rmdir(&target);
        },
    )
}
