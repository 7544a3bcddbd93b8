//! Cgroups of the host: containers have one each, if they can.

use super::finding::Finding;
use super::host::Host;
use crate::host_cgroup::{CONTROLLERS, MOUNT};

const SUBJECT: &str = "cgroups";

pub(super) fn check(host: &Host) -> Finding {
    let Some(controllers) = host.text(&format!("{MOUNT}/cgroup.controllers")) else {
        return Finding::warning(
            SUBJECT,
            format!("{MOUNT} is no cgroup v2 file system: containers have no cgroup of their own"),
            "boot with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none /sys/fs/cgroup; \
             until then limits hold inside the virtual machines only",
        );
    };
    let is_there = |wanted: &str| controllers.split_whitespace().any(|name| name == wanted);
    let missing: Vec<&str> = CONTROLLERS.into_iter().filter(|name| !is_there(name)).collect();
    if !missing.is_empty() {
        return Finding::warning(
            SUBJECT,
            format!("version 2 without the controllers {}", missing.join(", ")),
            "enable them in the cgroups above (cgroup.subtree_control), or in the kernel \
             (cgroup_enable=NAME); until then these limits hold inside the virtual machines only",
        );
    }
    if !is_writable(host) {
        return Finding::warning(
            SUBJECT,
            format!("version 2; this user may not make cgroups in {MOUNT}"),
            "run as root, or name a delegated cgroup in linux.cgroupsPath (systemd: Delegate=yes)",
        );
    }
    Finding::good(SUBJECT, format!("version 2 with {}", CONTROLLERS.join(", ")))
}

fn is_writable(host: &Host) -> bool {
    use rustix::fs::{Access, access};
    access(host.path(MOUNT), Access::WRITE_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn missing_controllers_are_named() {
        let file = "/sys/fs/cgroup/cgroup.controllers";
        let (_directory, host) = Host::staged(&[(file, "cpuset cpu io memory hugetlb pids\n")]);
        assert_eq!(check(&host).level, Level::Ok, "{:?}", check(&host));
        let (_directory, host) = Host::staged(&[(file, "cpu memory\n")]);
        let finding = check(&host);
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.found.ends_with("cpuset, io, pids"), "{finding:?}");
        let (_directory, host) = Host::staged(&[]);
        assert!(check(&host).found.contains("no cgroup v2"), "{:?}", check(&host));
    }
}
