//! The first process of a container that has no root: it keeps its namespaces for other containers.

use super::channel::{ChildEnd, Executed};
use super::{namespaces, rootfs};
use crate::failure::failed;
use crate::sys;
use agent_protocol::ContainerPlan;
use rustix::fd::AsFd;

/// Enters an empty root, says that it stands, and stays when it is told to go on. Nothing ends it but
/// SIGKILL: who is the first process of a pid namespace gets no other signal that it has not asked for.
pub(super) fn keep(plan: &ContainerPlan, channel: &ChildEnd) -> Executed {
    let root = rootfs::attach(&plan.root)?;
    namespaces::set_names(plan)?;
    rootfs::write_sysctl(&plan.sysctl)?;
    rootfs::enter(root.as_fd(), &plan.root)?;
    drop(root);
    // Processes that lose their parents in a shared pid namespace become its children.
    sys::ignore_children().map_err(|errno| failed(format_args!("ignoring children"), errno))?;
    match channel.ready(None) {
        Ok(true) => {}
        // The agent has given up on this process and nobody listens.
        Ok(false) | Err(_) => sys::exit(1),
    }
    if channel.end().is_err() {
        sys::exit(1);
    }
    loop {
        rustix::event::pause();
    }
}
