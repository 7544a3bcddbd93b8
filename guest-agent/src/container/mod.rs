//! The engine: builds containers and puts processes into them.
//!
//! The agent clones, the child works (`child`), and they speak over a channel. The agent itself
//! never changes its namespaces, root or credentials, except for the moment in which it clones
//! into a container's pid namespace.

mod cgroup;
mod channel;
mod child;
mod copy_up;
mod credentials;
mod devices;
mod disk;
mod disk_root;
mod hooks;
mod keeper;
mod mounts;
mod namespaces;
mod paths;
mod processes;
mod program;
mod rootfs;
mod shared_memory;
mod statistics;
mod terminal;
mod user_namespace;

pub(crate) use cgroup::{Cgroup, acknowledge, enable_controllers};
pub(crate) use channel::{Word, died_in_hooks, died_silently, go, receive};
pub(crate) use child::Streams;
pub(crate) use credentials::Limits;
pub(crate) use devices::forget as forget_devices;
pub(crate) use disk::{Disk, mount_root as mount_root_disk};
pub(crate) use namespaces::{all_of, bring_up_loopback};
pub(crate) use processes::list as list_processes;
pub(crate) use shared_memory::make as make_shared_memory;
pub(crate) use statistics::read as read_statistics;
pub(crate) use terminal::resize;
pub(crate) use user_namespace::host_id;

use crate::failure::{Outcome, failed};
use crate::{layout, sys};
use agent_protocol::{
    ContainerPlan, MountSource, Namespaces, ProcessPlan, RootSource, SeccompPlan,
};
use alloc::format;
use alloc::vec::Vec;
use channel::ChildEnd;
use child::{Given, Joined};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{WaitId, WaitIdOptions};
use sys::Fork;

/// A child on its way to become a process of a container.
pub(crate) struct Spawned {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) channel: OwnedFd,
}

/// The container whose namespaces another one shares.
#[derive(Clone, Copy)]
pub(crate) struct Sharer<'a> {
    /// Pid descriptor of its first process.
    pub(crate) init: BorrowedFd<'a>,
    /// The agent's own pid namespace.
    pub(crate) own_pid_namespace: BorrowedFd<'a>,
}

/// Makes the child that builds a container; with [`ContainerPlan::shared`] there must be a sharer.
pub(crate) fn spawn_init(
    plan: &ContainerPlan,
    cgroup: &Cgroup,
    streams: Streams,
    sharer: Option<Sharer<'_>>,
) -> Outcome<Spawned> {
    let shares = plan.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Share { name, .. } => Some(name.as_str()),
        MountSource::FileSystem { .. } | MountSource::Memory { .. } => None,
    });
    let root = match &plan.root.source {
        RootSource::Share { name } => Some(name.as_str()),
        RootSource::Disk(_) | RootSource::Nothing => None,
    };
    shares.chain(root).try_for_each(reach_share)?;
    let has_users = plan.namespaces.user;
    let mut nodes = Vec::new();
    if has_users {
        user_namespace::show_sysfs(plan)?;
        nodes = devices::prepare(plan)?;
    }
    let (agent_end, child_end) =
        channel::pair().map_err(|errno| failed(format_args!("making a channel"), errno))?;
    let pids = sharer.filter(|_| plan.shared.as_ref().is_some_and(|shared| shared.pid));
    if let Some(sharer) = pids {
        sys::join_namespaces(sharer.init, libc::CLONE_NEWPID)
            .map_err(|errno| failed(format_args!("joining the shared pid namespace"), errno))?;
    }
    let forked = sys::fork(namespaces::for_clone(plan.namespaces), Some(cgroup.fd()));
    if let (Some(sharer), Err(_) | Ok(Fork::Parent { .. })) = (pids, &forked) {
        sys::join_namespaces(sharer.own_pid_namespace, libc::CLONE_NEWPID)
            .map_err(|errno| failed(format_args!("leaving the shared pid namespace"), errno))?;
    }
    match forked {
        Ok(Fork::Child) => {
            let given = Given { nodes, sharer: sharer.map(|sharer| sharer.init) };
            child::become_init(plan, streams, given, ChildEnd { fd: child_end })
        }
        Ok(Fork::Parent { pid, pidfd }) => {
            drop(child_end);
            if has_users && let Err(error) = map_users(pid, plan, &agent_end) {
                // The child ends when nobody listens any more.
                drop(agent_end);
                let _ =
                    rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
                return Err(error);
            }
            Ok(Spawned { pid, pidfd, channel: agent_end })
        }
        Err(errno) => Err(failed(format_args!("making the first process"), errno)),
    }
}

/// Maps the ids of a child that waits for that, and lets it go on.
fn map_users(pid: u32, plan: &ContainerPlan, channel: &OwnedFd) -> Outcome<()> {
    user_namespace::map(pid, plan)?;
    go(channel).map_err(|errno| failed(format_args!("starting the first process"), errno))
}

/// Makes sure that a share is mounted, in the agent's mount namespace: it is mounted when it is
/// first looked into, and if each container did that by itself, the same files would be cached
/// once for each.
fn reach_share(name: &str) -> Outcome<()> {
    let path = format!("{}/{name}", layout::SHARES);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = match openat(CWD, path.as_str(), flags | OFlags::DIRECTORY, Mode::empty()) {
        // A share of one file.
        Err(Errno::NOTDIR) => openat(CWD, path.as_str(), flags, Mode::empty()),
        result => result,
    };
    opened.map(drop).map_err(|errno| failed(format_args!("reaching the share {name:?}"), errno))
}

/// Unmounts a share from the agent's mount namespace. What a container that is gone had of it has gone
/// with it.
pub(crate) fn forget_share(name: &str) -> Outcome<()> {
    let path = format!("{}/{name}", layout::SHARES);
    match unmount(path.as_str(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // It was never reached, or is not there.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed(format_args!("unmounting the share {name:?}"), errno)),
    }
}

/// What a further process of a container needs to know of it.
pub(crate) struct Home<'a> {
    /// The first process.
    pub(crate) init_pid: u32,
    pub(crate) init: BorrowedFd<'a>,
    pub(crate) namespaces: Namespaces,
    pub(crate) seccomp: Option<&'a SeccompPlan>,
    pub(crate) cgroup: &'a Cgroup,
    /// The agent's own pid namespace.
    pub(crate) own_pid_namespace: BorrowedFd<'a>,
}

/// Makes a child that joins a container.
pub(crate) fn spawn_process(
    plan: &ProcessPlan,
    home: &Home<'_>,
    streams: Streams,
) -> Outcome<Spawned> {
    let (agent_end, child_end) =
        channel::pair().map_err(|errno| failed(format_args!("making a channel"), errno))?;
    if home.namespaces.pid {
        sys::join_namespaces(home.init, libc::CLONE_NEWPID)
            .map_err(|errno| failed(format_args!("joining the pid namespace"), errno))?;
    }
    let forked = match sys::fork(0, Some(home.cgroup.fd())) {
        // The container has enabled controllers for cgroups of its own, so its processes are in
        // those (cgroup-v2.rst, "No Internal Process Constraint"): where its first one is.
        Err(Errno::BUSY | Errno::OPNOTSUPP) => {
            cgroup::of_process(home.init_pid).and_then(|cgroup| sys::fork(0, Some(cgroup.as_fd())))
        }
        result => result,
    };
    match forked {
        Ok(Fork::Child) => {
            let joined =
                Joined { init: home.init, namespaces: home.namespaces, seccomp: home.seccomp };
            child::become_process(plan, &joined, streams, ChildEnd { fd: child_end })
        }
        result => {
            if home.namespaces.pid {
                sys::join_namespaces(home.own_pid_namespace, libc::CLONE_NEWPID)
                    .map_err(|errno| failed(format_args!("leaving the pid namespace"), errno))?;
            }
            match result {
                Ok(Fork::Parent { pid, pidfd }) => Ok(Spawned { pid, pidfd, channel: agent_end }),
                Ok(Fork::Child) => sys::exit(1),
                Err(errno) => Err(failed(format_args!("making a process"), errno)),
            }
        }
    }
}

/// BPF instructions, 8 bytes each, as the kernel wants them: aligned.
fn instructions(bytes: &[u8]) -> Vec<u64> {
    let (chunks, _) = bytes.as_chunks::<8>();
    chunks.iter().map(|chunk| u64::from_ne_bytes(*chunk)).collect()
}
