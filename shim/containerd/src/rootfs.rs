//! The root file system of a container, as containerd's snapshotter hands it over: mounts to be made at
//! `rootfs` in the bundle, and unmounted when the container is gone; or file systems on disks, which the
//! guest mounts.

use crate::disks;
use crate::mount_options::{Sorted, sort};
use crate::shim_error::ShimError;
use containerd_shim_protos::api::Mount;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_bind,
    mount_bind_recursive, mount_remount, move_mount, unmount as unmount_one,
};
use sandbox::pod::DiskRoot;
use std::path::{Path, PathBuf};

/// Bytes of mount(2)'s data: a page with its zero byte.
const MAX_DATA: usize = 4095;
/// Mounts of one root: a snapshotter gives one or two.
const MAX_MOUNTS: usize = 16;
/// Layers of one root; overlayfs takes 500 at most (OVL_MAX_STACK).
const MAX_LAYERS: usize = 500;

/// Makes the mounts, all or none; or returns the disks that the root is on.
pub(crate) fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<Option<DiskRoot>, ShimError> {
    if mounts.is_empty() {
        return Ok(None);
    }
    if let Some(disks) = disks::find(mounts)? {
        return Ok(Some(disks));
    }
    let failed = |source| ShimError::Path { path: rootfs.to_owned(), source };
    if mounts.len() > MAX_MOUNTS {
        let problem = format!("{} mounts are given, and {MAX_MOUNTS} are the most", mounts.len());
        return Err(ShimError::Mount { kind: "rootfs".into(), path: rootfs.to_owned(), problem });
    }
    std::fs::create_dir_all(rootfs).map_err(failed)?;
    for each in mounts {
        let target = target(rootfs, &each.target)?;
        if let Err(problem) = mount_one(each, &target) {
            let _ = unmount_all(rootfs);
            return Err(ShimError::Mount { kind: each.type_.clone(), path: target, problem });
        }
    }
    Ok(None)
}

/// Where a mount goes: at the root, or at a path beneath it.
fn target(rootfs: &Path, beneath: &str) -> Result<PathBuf, ShimError> {
    let relative = Path::new(beneath.trim_start_matches('/'));
    let is_plain =
        relative.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if is_plain {
        return Ok(rootfs.join(relative));
    }
    let problem = "its target leads out of the root".to_owned();
    Err(ShimError::Mount { kind: "rootfs".to_owned(), path: PathBuf::from(beneath), problem })
}

/// The error is what is wrong.
fn mount_one(each: &Mount, target: &Path) -> Result<(), String> {
    let sorted = sort(&each.options);
    let told = |errno: Errno| std::io::Error::from(errno).to_string();
    if each.type_ == "bind" || sorted.bind.is_some() {
        return bind(&each.source, target, &sorted).map_err(told);
    }
    match each.type_.as_str() {
        "overlay" => overlay(each, target, &sorted),
        "tmpfs" => {
            let data = sorted.data.join(",");
            mount(&each.source, target, "tmpfs", sorted.flags, Some(&*c_text(&data)?)).map_err(told)
        }
        other => Err(format!("a file system of type {other:?} is not mounted on the host")),
    }
}

fn bind(source: &str, target: &Path, sorted: &Sorted<'_>) -> Result<(), Errno> {
    if sorted.bind == Some(true) {
        mount_bind_recursive(source, target)?;
    } else {
        mount_bind(source, target)?;
    }
    if sorted.flags.is_empty() {
        return Ok(());
    }
    mount_remount(target, MountFlags::BIND | sorted.flags, c"")
}

fn c_text(text: &str) -> Result<std::ffi::CString, String> {
    std::ffi::CString::new(text).map_err(|_| "an option has a zero byte".to_owned())
}

fn overlay(each: &Mount, target: &Path, sorted: &Sorted<'_>) -> Result<(), String> {
    let told = |errno: Errno| std::io::Error::from(errno).to_string();
    let data = sorted.data.join(",");
    if data.len() <= MAX_DATA {
        let data = c_text(&data)?;
        return mount(&each.source, target, "overlay", sorted.flags, Some(&*data)).map_err(told);
    }
    overlay_by_layers(target, sorted).map_err(|errno| match errno {
        Errno::INVAL | Errno::NOSYS => format!(
            "its options have {} bytes, a page is the most that this host's kernel takes; Linux 6.8 \
             takes more",
            data.len()
        ),
        errno => told(errno),
    })
}

/// One layer at a time (overlayfs.rst, `lowerdir+`): there is no limit on all of them together.
fn overlay_by_layers(target: &Path, sorted: &Sorted<'_>) -> Result<(), Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for option in &sorted.data {
        match option.split_once('=') {
            Some(("lowerdir", layers)) => {
                let layers: Vec<&str> = layers.split(':').collect();
                if layers.len() > MAX_LAYERS {
                    return Err(Errno::TOOBIG);
                }
                for layer in layers {
                    fsconfig_set_string(&context, "lowerdir+", layer)?;
                }
            }
            Some((name, value)) => fsconfig_set_string(&context, name, value)?,
            None => fsconfig_set_flag(&context, *option)?,
        }
    }
    if sorted.flags.contains(MountFlags::RDONLY) {
        fsconfig_set_flag(&context, "ro")?;
    }
    fsconfig_create(&context)?;
    let mut attributes = MountAttrFlags::empty();
    for (flag, attribute) in [
        (MountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
    ] {
        attributes.set(attribute, sorted.flags.contains(flag));
    }
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(&mounted, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Unmounts what is there, however often something was mounted, and removes nothing.
pub(crate) fn unmount(rootfs: &Path) -> Result<(), ShimError> {
    unmount_all(rootfs)
        .map_err(|errno| ShimError::Path { path: rootfs.to_owned(), source: errno.into() })
}

fn unmount_all(rootfs: &Path) -> Result<(), Errno> {
    for _ in 0..=MAX_MOUNTS {
        match unmount_one(rootfs, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Not mounted, or not there.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::BUSY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_stays_beneath_the_root() {
        let root = Path::new("/b/rootfs");
        assert_eq!(target(root, "").unwrap(), root);
        assert_eq!(target(root, "/a/b").unwrap(), Path::new("/b/rootfs/a/b"));
        assert!(target(root, "../x").is_err());
        assert!(target(root, "/a/../../x").is_err());
    }

    #[test]
    fn what_is_not_mounted_needs_no_unmounting() {
        unmount(Path::new("/does/not/exist")).unwrap();
    }
}
