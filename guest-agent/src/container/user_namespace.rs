//! The user namespace of a container (user_namespaces(7)): its ids, and what only the agent can do
//! for it, since the container's root has no privilege outside.
//!
//! ```text
//!  agent: clone ──────> child: waits
//!  agent: maps the ids, goes on ──> child: becomes the namespace's root, builds the container
//!  agent: limits <───── child: ready
//! ```

use crate::failure::{Outcome, failed};
use crate::{layout, sys};
use agent_protocol::{ContainerPlan, IdMapping, MountSource};
use alloc::format;
use alloc::string::String;
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, mkdirat, openat};
use rustix::io::Errno;

/// What an id of the container is outside of its user namespace.
pub(crate) fn host_id(mappings: &[IdMapping], id: u32) -> Option<u32> {
    mappings.iter().find_map(|mapping| {
        let offset = id.checked_sub(mapping.container_id)?;
        if offset < mapping.size { mapping.host_id.checked_add(offset) } else { None }
    })
}

/// Gives a child in a new user namespace its ids.
pub(super) fn map(pid: u32, plan: &ContainerPlan) -> Outcome<()> {
    for (file, mappings) in [("uid_map", &plan.uid_mappings), ("gid_map", &plan.gid_mappings)] {
        let text: String = mappings
            .iter()
            .map(|IdMapping { container_id, host_id, size }| {
                format!("{container_id} {host_id} {size}\n")
            })
            .collect();
        let path = format!("/proc/{pid}/{file}");
        // The kernel takes a map in one write only.
        openat(CWD, path.as_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::io::write(&file, text.as_bytes()))
            .map_err(|errno| {
                failed(format_args!("setting the {file} of the user namespace to {text:?}"), errno)
            })?;
    }
    Ok(())
}

/// Becomes root of the user namespace that the calling process is in: what it makes belongs to the
/// container.
pub(super) fn become_root() -> Outcome<()> {
    let become_root = || {
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
        rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
    };
    become_root()
        .map_err(|errno| failed(format_args!("becoming root of the user namespace"), errno))
}

/// Mounts the agent's own sysfs if the container mounts one: in a user namespace the kernel allows
/// that only to those who see one already.
pub(super) fn show_sysfs(plan: &ContainerPlan) -> Outcome<()> {
    let is_sysfs = |source: &MountSource| matches!(source, MountSource::FileSystem { kind, .. } if kind == "sysfs");
    if !plan.mounts.iter().any(|mount| is_sysfs(&mount.source)) {
        return Ok(());
    }
    mount_sysfs()
}

/// Mounts the agent's sysfs, unless it is there.
pub(super) fn mount_sysfs() -> Outcome<()> {
    let mount = || {
        match mkdirat(CWD, layout::SYSFS, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            // It was mounted for another container.
            Err(Errno::EXIST) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        sys::mount(Some(c"sysfs"), layout::SYSFS, Some(c"sysfs"), flags, None).inspect_err(|_| {
            let _ = rustix::fs::rmdir(layout::SYSFS);
        })
    };
    mount().map_err(|errno| failed(format_args!("mounting the agent's sysfs"), errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped() {
        let mappings = [
            IdMapping { container_id: 0, host_id: 1000, size: 1 },
            IdMapping { container_id: 1, host_id: 100_000, size: 10 },
            IdMapping { container_id: 20, host_id: u32::MAX - 1, size: 5 },
        ];
        let outside = [(0, Some(1000)), (1, Some(100_000)), (10, Some(100_009)), (11, None)];
        for (id, expected) in outside {
            assert_eq!(host_id(&mappings, id), expected, "{id}");
        }
        assert_eq!(host_id(&mappings, 21), Some(u32::MAX));
        assert_eq!(host_id(&mappings, 22), None);
        assert_eq!(host_id(&[], 0), None);
    }
}
