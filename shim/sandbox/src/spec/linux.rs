//! `linux`: everything of it that has no file of its own.

use crate::spec::Notes;
use crate::spec::cgroups_path::{self, CgroupsPath};
use crate::spec::devices;
use crate::spec::error::SpecError;
use crate::spec::json::{Fields, Node};
use crate::spec::mount_options::ms;
use crate::spec::namespaces::{self, OwnNamespaces};
use crate::spec::pod::Membership;
use crate::spec::process::by_name;
use crate::spec::seccomp::{self, SeccompSpec};
use agent_protocol::{DevicePlan, FileWrite};

/// Paths in one list.
const MAX_PATHS: usize = 4096;

const PROPAGATION: [(&str, u64); 8] = [
    ("private", ms::PRIVATE),
    ("rprivate", ms::PRIVATE | ms::REC),
    ("slave", ms::SLAVE),
    ("rslave", ms::SLAVE | ms::REC),
    ("shared", ms::SHARED),
    ("rshared", ms::SHARED | ms::REC),
    ("unbindable", ms::UNBINDABLE),
    ("runbindable", ms::UNBINDABLE | ms::REC),
];

/// personality(2).
const PERSONALITIES: [(&str, u64); 2] = [("LINUX", 0x0000), ("LINUX32", 0x0008)];

/// What `linux` says beside resources.
#[derive(Debug)]
pub(super) struct Linux {
    pub(super) own: OwnNamespaces,
    pub(super) devices: Vec<DevicePlan>,
    pub(super) masked_paths: Vec<String>,
    pub(super) readonly_paths: Vec<String>,
    pub(super) sysctl: Vec<FileWrite>,
    pub(super) propagation: u64,
    pub(super) personality: Option<u64>,
    pub(super) seccomp: Option<SeccompSpec>,
    pub(super) cgroups_path: Option<CgroupsPath>,
}

/// Reads `linux`; `systemd` says which form `cgroupsPath` has, `selinux` whether the host has labels,
/// `pod` which namespaces can be shared.
pub(super) fn read(
    linux: &Fields<'_>,
    (systemd, selinux): (bool, bool),
    pod: Option<&Membership>,
    notes: &mut Notes,
) -> Result<Linux, SpecError> {
    linux.refuse(
        "intelRdt",
        "cache and bandwidth classes of the host are not there yet; remove it",
    )?;
    read_mount_label(linux, selinux, notes)?;
    linux.refuse("timeOffsets", "time namespaces are not there yet; remove it")?;
    linux.refuse("netDevices", "a guest has no network device of the host; remove it")?;
    linux.refuse("memoryPolicy", "a guest has one NUMA node; remove it")?;
    let read = Linux {
        own: namespaces::read(linux, pod)?,
        devices: devices::read(linux)?,
        masked_paths: read_paths(linux, "maskedPaths")?,
        readonly_paths: read_paths(linux, "readonlyPaths")?,
        sysctl: match linux.get("sysctl") {
            None => Vec::new(),
            Some(node) => read_sysctl(&node)?,
        },
        propagation: match linux.get("rootfsPropagation").filter(|node| !node.is_blank()) {
            None => ms::PRIVATE | ms::REC,
            // A guest's root has no peer outside: whatever is asked for holds for the tree.
            Some(node) => by_name(&PROPAGATION, &node)? | ms::REC,
        },
        personality: read_personality(linux)?,
        seccomp: linux.get("seccomp").map(|node| seccomp::read(&node, notes)).transpose()?,
        cgroups_path: cgroups_path::read(linux, systemd)?,
    };
    // Read by its own module, with the machine's size.
    drop(linux.get("resources"));
    linux.tell_unknown(notes);
    Ok(read)
}

/// The label that mounts would have. Where nobody has labels it keeps nothing apart, with runc and crun
/// neither, which pass over it there.
fn read_mount_label(linux: &Fields<'_>, selinux: bool, notes: &mut Notes) -> Result<(), SpecError> {
    let Some(node) = linux.get("mountLabel") else { return Ok(()) };
    let label = node.text()?;
    if label.is_empty() {
        return Ok(());
    }
    if selinux {
        return Err(node.unsupported("the guest kernel has no SELinux; remove it"));
    }
    notes.warnings.push(format!("linux.mountLabel {label:?} is passed over: there is no SELinux"));
    Ok(())
}

fn read_paths(linux: &Fields<'_>, name: &'static str) -> Result<Vec<String>, SpecError> {
    let Some(node) = linux.get(name) else { return Ok(Vec::new()) };
    let paths = node.texts()?;
    if paths.len() > MAX_PATHS {
        return Err(node.invalid(format!("it may hold {MAX_PATHS} paths")));
    }
    if let Some(path) = paths.iter().find(|path| !path.starts_with('/')) {
        return Err(node.invalid(format!("{path:?} is no absolute path")));
    }
    Ok(paths.into_iter().map(str::to_owned).collect())
}

/// Names of sysctl(8) to paths below `/proc/sys`. The guest's kernel is the container's own, so
/// there is no name that would reach anybody else.
fn read_sysctl(node: &Node<'_>) -> Result<Vec<FileWrite>, SpecError> {
    let mut writes = Vec::new();
    for (name, value) in node.text_map()? {
        let path = sysctl_path(name);
        let bad = path.split('/').any(|part| part.is_empty() || part == "." || part == "..");
        if bad {
            return Err(node.invalid(format!("{name:?} is no name of a kernel setting")));
        }
        writes.push(FileWrite { path, value: value.to_owned() });
    }
    Ok(writes)
}

/// sysctl(8): the separator that comes first is the separator; the other one is part of a name
/// (`net/ipv4/conf/eth0.1/forwarding` is `net.ipv4.conf.eth0/1.forwarding`).
fn sysctl_path(name: &str) -> String {
    let dotted = name.find(['.', '/']).is_some_and(|at| name.as_bytes().get(at) == Some(&b'.'));
    let swap = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    if dotted { name.chars().map(swap).collect() } else { name.to_owned() }
}

fn read_personality(linux: &Fields<'_>) -> Result<Option<u64>, SpecError> {
    let Some(personality) = linux.fields("personality")? else { return Ok(None) };
    personality.refuse("flags", "no flag is specified yet; remove it")?;
    let domain = personality.require("domain", "LINUX or LINUX32")?;
    by_name(&PERSONALITIES, &domain).map(Some)
}

#[cfg(test)]
mod tests {
    use super::sysctl_path;

    #[test]
    fn dots_of_a_setting_become_slashes() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.rp_filter"), "net/ipv4/conf/eth0.1/rp_filter");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/rp_filter"), "net/ipv4/conf/eth0.1/rp_filter");
    }
}
