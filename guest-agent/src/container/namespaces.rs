//! Namespaces of a container: new ones for its first process, the same ones for the others.

use crate::failure::{Outcome, failed};
use crate::sys;
use agent_protocol::{ContainerPlan, Namespaces, SharedNamespaces};
use core::ffi::c_int;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// CLONE_NEW* for the clone of a container's first process.
///
/// The cgroup namespace is not among them: its root would be the cgroup of the agent and not that
/// which the child is put into (cgroup_namespaces(7)).
pub(super) fn for_clone(namespaces: Namespaces) -> u64 {
    let wanted = [
        // The kernel makes it first, and it owns the others (user_namespaces(7)).
        (namespaces.user, libc::CLONE_NEWUSER),
        (namespaces.pid, libc::CLONE_NEWPID),
        (namespaces.uts, libc::CLONE_NEWUTS),
        (namespaces.ipc, libc::CLONE_NEWIPC),
        (namespaces.network, libc::CLONE_NEWNET),
    ];
    bits(wanted, libc::CLONE_NEWNS)
}

/// CLONE_NEW* that a further process joins by itself. Its pid namespace is given to it by the
/// agent, since it holds for children only.
pub(super) fn to_join(namespaces: Namespaces) -> c_int {
    let wanted = [
        (namespaces.user, libc::CLONE_NEWUSER),
        (namespaces.uts, libc::CLONE_NEWUTS),
        (namespaces.ipc, libc::CLONE_NEWIPC),
        (namespaces.network, libc::CLONE_NEWNET),
        (namespaces.cgroup, libc::CLONE_NEWCGROUP),
    ];
    // Every flag is a positive int.
    c_int::try_from(bits(wanted, libc::CLONE_NEWNS)).unwrap_or(libc::CLONE_NEWNS)
}

fn bits<const N: usize>(wanted: [(bool, c_int); N], always: c_int) -> u64 {
    wanted
        .into_iter()
        .filter(|(is_wanted, _)| *is_wanted)
        .fold(u64::from(always.unsigned_abs()), |bits, (_, flag)| {
            bits | u64::from(flag.unsigned_abs())
        })
}

/// What is left to do in the new namespaces, before the root is built.
pub(super) fn set_up(namespaces: Namespaces) -> Outcome<()> {
    if namespaces.cgroup {
        sys::unshare(libc::CLONE_NEWCGROUP)
            .map_err(|errno| failed(format_args!("making a cgroup namespace"), errno))?;
    }
    if namespaces.network {
        bring_up_loopback()?;
    }
    Ok(())
}

/// Brings the loopback device of the current network namespace up.
pub(crate) fn bring_up_loopback() -> Outcome<()> {
    socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .and_then(|socket| sys::bring_up(socket.as_fd(), b"lo"))
        .map_err(|errno| failed(format_args!("bringing the loopback device up"), errno))
}

/// Names of the container's own UTS namespace.
pub(super) fn set_names(plan: &ContainerPlan) -> Outcome<()> {
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes())
            .map_err(|errno| failed(format_args!("setting the hostname {name:?}"), errno))?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes())
            .map_err(|errno| failed(format_args!("setting the domainname {name:?}"), errno))?;
    }
    Ok(())
}

/// Namespaces that a container has, its own and the shared ones.
pub(crate) fn all_of(plan: &ContainerPlan) -> Namespaces {
    let own = plan.namespaces;
    match &plan.shared {
        None => own,
        Some(shared) => Namespaces {
            pid: own.pid || shared.pid,
            uts: own.uts || shared.uts,
            ipc: own.ipc || shared.ipc,
            network: own.network || shared.network,
            ..own
        },
    }
}

/// Joins the shared namespaces of the process that `init` is a pid descriptor of; its pid namespace was
/// given by the agent.
pub(super) fn join_shared(init: BorrowedFd<'_>, shared: &SharedNamespaces) -> Outcome<()> {
    let wanted = [
        (shared.uts, libc::CLONE_NEWUTS),
        (shared.ipc, libc::CLONE_NEWIPC),
        (shared.network, libc::CLONE_NEWNET),
    ];
    // Every flag is a positive int.
    let kinds = c_int::try_from(bits(wanted, 0)).unwrap_or(0);
    if kinds == 0 {
        return Ok(());
    }
    sys::join_namespaces(init, kinds).map_err(|errno| {
        failed(format_args!("joining the namespaces of container {:?}", shared.container), errno)
    })
}

/// Joins the namespaces of the process that `init` is a pid descriptor of.
pub(super) fn join(init: BorrowedFd<'_>, namespaces: Namespaces) -> Outcome<()> {
    sys::join_namespaces(init, to_join(namespaces))
        .map_err(|errno| failed(format_args!("joining the container's namespaces"), errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_namespace_is_always_its_own() {
        let none = Namespaces::default();
        assert_eq!(for_clone(none), u64::from(libc::CLONE_NEWNS.unsigned_abs()));
        let all =
            Namespaces { pid: true, uts: true, ipc: true, cgroup: true, network: true, user: true };
        let cgroup = u64::from(libc::CLONE_NEWCGROUP.unsigned_abs());
        assert_eq!(for_clone(all) & cgroup, 0);
        assert_ne!(for_clone(all) & u64::from(libc::CLONE_NEWPID.unsigned_abs()), 0);
        assert_eq!(to_join(all) & libc::CLONE_NEWPID, 0);
        assert_ne!(to_join(all) & libc::CLONE_NEWCGROUP, 0);
    }
}
