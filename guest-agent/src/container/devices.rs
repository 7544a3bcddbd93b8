//! Device nodes and the links beside them (runtime-spec, config-linux.md, default devices).

use super::paths::{self, Kind};
use super::rootfs::{attach_mount, copy_mount};
use super::user_namespace::host_id;
use crate::failure::{Outcome, failed};
use crate::layout;
use agent_protocol::{ContainerPlan, DevicePlan};
use alloc::format;
use alloc::vec::Vec;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, makedev, mkdirat, mknodat,
    openat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

/// A directory to work in.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Path, major and minor number of the devices that every container has.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/tty", 5, 0),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
];

/// Links that every container has: path and target.
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// The nodes that a container has: those of its plan, and those that every container has.
fn all(plan: &ContainerPlan) -> impl Iterator<Item = DevicePlan> {
    let in_plan = |path| plan.devices.iter().any(|device| device.path == path);
    let default = DEFAULT.into_iter().filter(move |(path, ..)| !in_plan(*path));
    let default = default.map(|(path, major, minor)| {
        let (path, mode) = (path.into(), libc::S_IFCHR | 0o666);
        DevicePlan { path, mode, major, minor, uid: 0, gid: 0 }
    });
    default.chain(plan.devices.iter().cloned())
}

/// Makes the nodes for a container with a user namespace, whose root cannot: a mount of each, in
/// their order, not attached yet. Owners that the container does not know are the guest's root.
/// So are those of the nodes that every container has, as where a host's are bound. [`forget`]
/// removes what this made.
pub(super) fn prepare(plan: &ContainerPlan) -> Outcome<Vec<OwnedFd>> {
    let directory = || {
        let nodes = open_nodes()?;
        mkdirat(&nodes, plan.id.as_str(), Mode::from_raw_mode(0o755))?;
        openat(&nodes, plan.id.as_str(), DIRECTORY, Mode::empty())
    };
    let directory = directory()
        .map_err(|errno| failed(format_args!("making a directory for device nodes"), errno))?;
    let prepared = all(plan).enumerate().map(|(index, mut device)| {
        if plan.devices.iter().any(|wanted| wanted.path == device.path) {
            device.uid = host_id(&plan.uid_mappings, device.uid).unwrap_or(0);
            device.gid = host_id(&plan.gid_mappings, device.gid).unwrap_or(0);
        }
        let name = format!("{index}");
        mknod(directory.as_fd(), &name, &device)
            .and_then(|()| copy_mount(directory.as_fd(), &name, false))
            .map_err(|errno| failed(format_args!("making the device {}", device.path), errno))
    });
    prepared.collect()
}

/// Removes the nodes of a container that is gone. A mount of one lives on.
pub(crate) fn forget(container: &str) {
    let remove = || {
        let nodes = open_nodes()?;
        let directory = openat(&nodes, container, DIRECTORY, Mode::empty())?;
        // Named by their numbers.
        for index in 0_usize.. {
            match unlinkat(&directory, format!("{index}"), AtFlags::empty()) {
                Ok(()) => {}
                Err(_) => break,
            }
        }
        unlinkat(&nodes, container, AtFlags::REMOVEDIR)
    };
    // What is left is a few inodes of the guest.
    let _: Result<(), Errno> = remove();
}

/// Makes the nodes of the container, or attaches those that were prepared for it, and the links.
pub(super) fn make_all(
    root: BorrowedFd<'_>,
    plan: &ContainerPlan,
    prepared: &[OwnedFd],
) -> Outcome<()> {
    if plan.namespaces.user {
        for (device, node) in all(plan).zip(prepared) {
            attach(root, &device, node.as_fd()).map_err(|errno| {
                failed(format_args!("binding the device {}", device.path), errno)
            })?;
        }
    } else {
        all(plan).try_for_each(|device| make(root, &device))?;
    }
    for (path, target) in LINKS {
        link(root, path, target, false)?;
    }
    // The container's own instance of devpts.
    link(root, "/dev/ptmx", "pts/ptmx", true)
}

fn make(root: BorrowedFd<'_>, plan: &DevicePlan) -> Outcome<()> {
    let made = match make_node(root, plan) {
        // A root that is shared with the host cannot hold device nodes.
        Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::ROFS) => bind_node(root, plan),
        result => result,
    };
    made.map_err(|errno| failed(format_args!("making the device {}", plan.path), errno))
}

fn make_node(root: BorrowedFd<'_>, plan: &DevicePlan) -> Result<(), Errno> {
    let (parent, name) = paths::ensure_parent(root, &plan.path)?;
    if let Ok(stat) = statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
        // What the image brings along counts only if it is the same device.
        if is_same(plan, stat.st_mode, stat.st_rdev) {
            return Ok(());
        }
        unlinkat(&parent, &name, AtFlags::empty())?;
    }
    mknod(parent.as_fd(), &name, plan)
}

fn is_same(plan: &DevicePlan, mode: u32, device: u64) -> bool {
    let kind = plan.mode & libc::S_IFMT;
    let numbered = kind != libc::S_IFIFO;
    mode & libc::S_IFMT == kind && (!numbered || device == makedev(plan.major, plan.minor))
}

fn mknod(parent: BorrowedFd<'_>, name: &str, plan: &DevicePlan) -> Result<(), Errno> {
    let kind = FileType::from_raw_mode(plan.mode);
    let mode = Mode::from_raw_mode(plan.mode & 0o7777);
    mknodat(parent, name, kind, mode, makedev(plan.major, plan.minor))?;
    let (user, group) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
    chownat(parent, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    // mknod(2) obeys the umask.
    chmodat(parent, name, mode, AtFlags::empty())
}

/// Makes the node in the agent's own file system and shows it in the container's.
fn bind_node(root: BorrowedFd<'_>, plan: &DevicePlan) -> Result<(), Errno> {
    let nodes = open_nodes()?;
    // All containers of the sandbox make theirs here, each for a moment.
    let name = format!("{}", rustix::process::getpid().as_raw_nonzero());
    let _ = unlinkat(&nodes, &name, AtFlags::empty());
    mknod(nodes.as_fd(), &name, plan)?;
    // A mount of a file that is removed already cannot be attached.
    let attached =
        copy_mount(nodes.as_fd(), &name, false).and_then(|node| attach(root, plan, node.as_fd()));
    unlinkat(&nodes, &name, AtFlags::empty())?;
    attached
}

fn open_nodes() -> Result<OwnedFd, Errno> {
    openat(CWD, layout::NODES, DIRECTORY, Mode::empty())
}

fn attach(root: BorrowedFd<'_>, plan: &DevicePlan, node: BorrowedFd<'_>) -> Result<(), Errno> {
    let (target, _) = paths::ensure(root, &plan.path, Kind::File)?;
    attach_mount(node, target.as_fd())
}

fn link(root: BorrowedFd<'_>, path: &str, target: &str, replace: bool) -> Outcome<()> {
    let result = paths::ensure_parent(root, path).and_then(|(parent, name)| {
        if replace {
            match unlinkat(&parent, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                // It is what it is, on a root that nobody can write.
                Err(Errno::ROFS) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
        match symlinkat(target, &parent, &name) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno),
        }
    });
    result.map_err(|errno| failed(format_args!("linking {path} to {target}"), errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_the_same_by_kind_and_numbers() {
        let plan = DevicePlan {
            path: "/dev/null".into(),
            mode: libc::S_IFCHR | 0o666,
            major: 1,
            minor: 3,
            uid: 0,
            gid: 0,
        };
        assert!(is_same(&plan, libc::S_IFCHR | 0o600, makedev(1, 3)));
        assert!(!is_same(&plan, libc::S_IFCHR | 0o666, makedev(1, 5)));
        assert!(!is_same(&plan, libc::S_IFREG | 0o666, makedev(1, 3)));
        let fifo = DevicePlan { mode: libc::S_IFIFO | 0o600, ..plan };
        assert!(is_same(&fifo, libc::S_IFIFO | 0o600, 0));
    }
}
