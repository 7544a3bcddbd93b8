//! Mount points in a read-only root, and the working directory, made on the host.
//!
//! A root with `root.readonly` is a share that the guest cannot change, whatever its kernel does.
//! runc and crun make missing mount points before they remount such a root read-only; here the
//! supervisor makes them before the machine starts. The root is a stranger's: every step is
//! resolved inside it (openat2(2), RESOLVE_IN_ROOT).

use agent_protocol::{MountPlan, MountSource};
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

/// Makes what is missing below `root`. `files` are the shares that are single files. What cannot be
/// made is left to the agent, whose error then names the mount.
pub(crate) fn make(root: impl AsFd, mounts: &[MountPlan], files: &[String]) {
    for (index, mount) in mounts.iter().enumerate() {
        let destination = Path::new(&mount.destination);
        let below_another =
            mounts.iter().take(index).any(|earlier| destination.starts_with(&earlier.destination));
        if below_another {
            continue;
        }
        let is_file = matches!(
            &mount.source,
            MountSource::Share { name, .. } if files.contains(name)
        );
        if let Err(errno) = make_one(root.as_fd(), destination, is_file) {
            tracing::debug!("the mount point {destination:?} cannot be made on the host: {errno}");
        }
    }
}

/// Makes the working directory, as runc and crun do, unless it lies in a mount.
pub(crate) fn make_directory(root: impl AsFd, mounts: &[MountPlan], directory: &str) {
    let path = Path::new(directory);
    if mounts.iter().any(|mount| path.starts_with(&mount.destination)) {
        return;
    }
    if let Err(errno) = make_one(root.as_fd(), path, false) {
        tracing::debug!("the working directory {path:?} cannot be made on the host: {errno}");
    }
}

fn make_one(root: impl AsFd, destination: &Path, is_file: bool) -> Result<(), Errno> {
    let mut names: Vec<&std::ffi::OsStr> = Vec::new();
    for component in destination.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => return Err(Errno::INVAL),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let Some((last, parents)) = names.split_last() else { return Ok(()) };
    let mut here = open_inside(&root, Path::new("."), OFlags::PATH)?;
    let mut path = std::path::PathBuf::new();
    for name in parents {
        path.push(name);
        here = enter(&root, &here, &path, name)?;
    }
    path.push(last);
    match open_inside(&root, &path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        other => return other.map(drop),
    }
    if is_file {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        rustix::fs::openat(&here, Path::new(last), flags | OFlags::NOFOLLOW, mode).map(drop)
    } else {
        mkdirat(&here, Path::new(last), DIRECTORY_MODE)
    }
}

const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);

/// The directory at `path`, made in `parent` if it is missing.
fn enter(
    root: impl AsFd,
    parent: &OwnedFd,
    path: &Path,
    name: &std::ffi::OsStr,
) -> Result<OwnedFd, Errno> {
    match open_inside(&root, path, OFlags::PATH | OFlags::DIRECTORY) {
        Err(Errno::NOENT) => {
            mkdirat(parent, Path::new(name), DIRECTORY_MODE)?;
            open_inside(&root, path, OFlags::PATH | OFlags::DIRECTORY)
        }
        other => other,
    }
}

fn open_inside(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tmpfs(destination: &str) -> MountPlan {
        let source = MountSource::FileSystem {
            kind: "tmpfs".into(),
            source: "tmpfs".into(),
            data: String::new(),
            copy_up: false,
        };
        mount(destination, source)
    }

    fn mount(destination: &str, source: MountSource) -> MountPlan {
        MountPlan {
            destination: destination.into(),
            source,
            flags: 0,
            propagation: Vec::new(),
            recursive: None,
        }
    }

    fn make_in(root: &Path, mounts: &[MountPlan], files: &[String]) {
        let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        make(root, mounts, files);
    }

    #[test]
    fn makes_directories_and_files_but_nothing_below_another_mount() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let file = MountSource::Share { name: "mount2".into(), directory: true, recursive: false };
        let mounts =
            [tmpfs("/dev"), tmpfs("/dev/shm"), mount("/etc/a/hosts", file), tmpfs("/data/x/")];
        make_in(root, &mounts, &["mount2".to_owned()]);
        assert!(root.join("dev").is_dir());
        assert!(!root.join("dev/shm").exists());
        assert!(root.join("etc/a/hosts").is_file());
        assert!(root.join("data/x").is_dir());
        let directory =
            rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        make_directory(&directory, &mounts, "/of/program");
        make_directory(&directory, &mounts, "/dev/below");
        assert!(root.join("of/program").is_dir() && !root.join("dev/below").exists());
    }

    #[test]
    fn a_link_cannot_lead_out_of_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("rootfs");
        let outside = directory.path().join("outside");
        std::fs::create_dir_all(root.join("inside")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("a")).unwrap();
        std::os::unix::fs::symlink("../../outside", root.join("b")).unwrap();
        std::os::unix::fs::symlink("/inside", root.join("c")).unwrap();
        make_in(&root, &[tmpfs("/a/x"), tmpfs("/b/x"), tmpfs("/c/x"), tmpfs("/../x")], &[]);
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        assert!(!directory.path().join("x").exists());
        assert!(root.join("inside/x").is_dir());
    }
}
