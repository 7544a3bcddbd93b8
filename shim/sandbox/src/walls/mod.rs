//! The walls around a sandbox's virtual machine as they are: read back from the kernel, and not what was
//! intended.
//!
//! Everything is read from `/proc`. What may not be read there, by a user who is neither root nor the
//! machine's owner, is left out and never taken for a wall. The kernel does not tell of Landlock: the
//! machine's process has tried it on itself, and its word was written down.

mod process;

use crate::process::ProcessRef;
use process::Directory;
use rustix::process::Pid;
use rustix::thread::{CoreSchedulingScope, core_scheduling_cookie};
use serde::Serialize;
use std::collections::BTreeMap;
use vmm_api::WallsReport;

/// Namespaces that a machine can have for itself (namespaces(7)). That of time offers nothing to one.
const NAMESPACES: [&str; 8] = ["user", "mnt", "net", "ipc", "uts", "pid", "cgroup", "time"];
/// Walls that not every host can give.
const WHERE_POSSIBLE: [&str; 2] = ["a user of its own", "Landlock"];
/// Limits that are shown, as `/proc/PID/limits` names them, with the names of getrlimit(2).
const LIMITS: [(&str, &str); 8] = [
    ("Max core file size", "core"),
    ("Max open files", "nofile"),
    ("Max processes", "nproc"),
    ("Max locked memory", "memlock"),
    ("Max msgqueue size", "msgqueue"),
    ("Max realtime priority", "rtprio"),
    ("Max address space", "as"),
    ("Max file size", "fsize"),
];
/// `Seccomp:` of a thread with a filter (proc_pid_status(5)).
const FILTERED: u64 = 2;

/// The walls of one virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Walls {
    /// The VMM's process.
    pub process: i32,
    /// Its effective user on the host.
    pub uid: Option<u32>,
    /// Its effective group on the host.
    pub gid: Option<u32>,
    /// Namespaces that it has for itself.
    pub own_namespaces: Vec<String>,
    /// Namespaces that it shares with its supervisor.
    pub shared_namespaces: Vec<String>,
    /// The file systems that it sees, each with its type and options; one that is empty and read-only
    /// is the wall.
    pub mounts: Vec<String>,
    /// Capabilities that it has or can get, in its own user namespace if it has one.
    pub capabilities: Vec<String>,
    /// It cannot get more privileges by executing a program.
    pub no_new_privileges: Option<bool>,
    /// Threads.
    pub threads: usize,
    /// Threads with a system call filter.
    pub filtered_threads: usize,
    /// Resource limits, soft and hard.
    pub limits: BTreeMap<&'static str, String>,
    /// Whether its memory can be dumped and read by others of its user; not known of a process of root.
    pub dumpable: Option<bool>,
    /// Open descriptors.
    pub descriptors: Option<usize>,
    /// Its cgroup.
    pub cgroup: Option<String>,
    /// Whether it keeps others from the cores that it runs on (core scheduling); not known where the kernel
    /// has no word for it, or no core has two threads.
    pub core_scheduling: Option<bool>,
    /// Version of the kernel's Landlock that holds it, by its own word before the guest ran.
    pub landlock: Option<u32>,
    /// Walls that it could have and does not.
    pub missing: Vec<String>,
    /// Why, by its own word.
    pub reasons: Vec<String>,
}

impl Walls {
    /// Reads the walls of a machine; `None` if it has ended. `supervisor` stands for the host, `told` is
    /// what the machine has said.
    pub(crate) fn read(
        vmm: ProcessRef,
        supervisor: ProcessRef,
        told: Option<&WallsReport>,
    ) -> Option<Self> {
        let directories = (&Directory::of(vmm.pid), &Directory::of(supervisor.pid));
        let mut walls = Self::of(directories, vmm.pid, told);
        walls.core_scheduling = core_scheduling(vmm.pid);
        // The number may have been given to another process while it was read.
        vmm.is_alive().then_some(walls)
    }

    fn of(
        (vmm, supervisor): (&Directory, &Directory),
        pid: i32,
        told: Option<&WallsReport>,
    ) -> Self {
        let status = vmm.status("status");
        let mut walls = Self {
            process: pid,
            uid: status.id("Uid"),
            gid: status.id("Gid"),
            capabilities: status.capabilities(),
            no_new_privileges: status.number("NoNewPrivs").map(|value| value == 1),
            mounts: vmm.mounts(),
            limits: vmm.limits(&LIMITS),
            descriptors: vmm.descriptors(),
            cgroup: vmm.cgroup(),
            landlock: told.and_then(|told| told.landlock),
            reasons: told.map(|told| told.down.clone()).unwrap_or_default(),
            ..Self::default()
        };
        for name in NAMESPACES {
            match (vmm.namespace(name), supervisor.namespace(name)) {
                (Some(own), Some(host)) if own == host => {
                    walls.shared_namespaces.push(name.to_owned());
                }
                (Some(_), Some(_)) => walls.own_namespaces.push(name.to_owned()),
                _ => {}
            }
        }
        for thread in vmm.threads() {
            walls.threads += 1;
            if thread.number("Seccomp") == Some(FILTERED) {
                walls.filtered_threads += 1;
            }
        }
        walls.dumpable = walls.uid.filter(|uid| *uid != 0).zip(vmm.owner()).map(|(uid, owner)| {
            // The files of a process that may not be dumped belong to root (proc(5)).
            uid == owner
        });
        walls.missing = walls.missing(supervisor.status("status").id("Uid"));
        walls
    }

    /// What is not known is missing.
    fn missing(&self, supervisor: Option<u32>) -> Vec<String> {
        let mut missing = Vec::new();
        let mut wall = |is_there: bool, name: &str| {
            if !is_there {
                missing.push(name.to_owned());
            }
        };
        for name in NAMESPACES.iter().filter(|name| **name != "time") {
            let is_own = self.own_namespaces.iter().any(|own| own == name);
            wall(is_own, &format!("a {name} namespace of its own"));
        }
        let is_empty = |mount: &String| mount.starts_with("/ tmpfs ro");
        wall(self.mounts.len() == 1 && self.mounts.iter().all(is_empty), "an empty root");
        wall(self.no_new_privileges == Some(true), "no new privileges");
        let is_filtered = self.threads > 0 && self.filtered_threads == self.threads;
        wall(is_filtered, "a system call filter on every thread");
        wall(self.limits.get("core").is_some_and(|core| core == "0 0"), "no core dumps");
        wall(self.uid.is_some() && self.uid != supervisor, "a user of its own");
        wall(self.landlock.is_some(), "Landlock");
        missing
    }

    /// Walls that every host can give and that are not there: always none, unless the configuration does
    /// without or something is wrong.
    #[must_use]
    pub fn broken(&self) -> Vec<&str> {
        let missing = self.missing.iter().map(String::as_str);
        missing.filter(|name| !WHERE_POSSIBLE.contains(name)).collect()
    }
}

/// Whether a process has a core scheduling cookie.
fn core_scheduling(pid: i32) -> Option<bool> {
    let cookie = core_scheduling_cookie(Pid::from_raw(pid)?, CoreSchedulingScope::Thread);
    cookie.ok().map(|cookie| cookie != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tringfence-vmm\nUid:\t1000\t1000\t1000\t1000\n\
                          Gid:\t1000\t1001\t1000\t1000\nThreads:\t2\nCapPrm:\t0000000000000001\n\
                          CapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";
    const LIMITS_FILE: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max core file size        0                    0                    bytes     \n\
         Max open files            1024                 4096                 files     \n";
    const EMPTY: &str = "36 35 0:30 / / ro,nosuid,nodev,noexec,relatime - tmpfs none ro,size=4k\n";

    /// A directory of `/proc` as the kernel shows it.
    fn stage(seccomp: &[&str], mounts: &str, namespace: &str) -> (tempfile::TempDir, Directory) {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = root.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        write("status", STATUS);
        write("limits", LIMITS_FILE);
        write("mountinfo", mounts);
        write("cgroup", "0::/a/b\n");
        for (index, mode) in seccomp.iter().enumerate() {
            write(&format!("task/{}/status", index + 1), &format!("Seccomp:\t{mode}\n"));
        }
        std::fs::create_dir_all(root.path().join("fd")).unwrap();
        std::fs::create_dir_all(root.path().join("ns")).unwrap();
        for name in NAMESPACES {
            let target = format!("{name}:[{namespace}]");
            std::os::unix::fs::symlink(target, root.path().join("ns").join(name)).unwrap();
        }
        let directory = Directory::at(root.path());
        (root, directory)
    }

    #[test]
    fn walls_are_what_the_kernel_shows() {
        let (_vmm, vmm) = stage(&["2", "2"], EMPTY, "2");
        let (_host, host) = stage(&["0"], "", "1");
        let told = WallsReport { landlock: Some(6), down: vec!["a user of its own: no".into()] };
        let walls = Walls::of((&vmm, &host), 7, Some(&told));
        assert_eq!((walls.process, walls.uid, walls.gid), (7, Some(1000), Some(1001)));
        assert_eq!(walls.own_namespaces.len(), NAMESPACES.len());
        assert_eq!(walls.capabilities, ["CAP_CHOWN"]);
        assert_eq!((walls.threads, walls.filtered_threads), (2, 2));
        assert_eq!(walls.limits["nofile"], "1024 4096");
        assert_eq!(walls.descriptors, Some(0));
        assert_eq!(walls.cgroup.as_deref(), Some("/a/b"));
        assert_eq!(walls.mounts, ["/ tmpfs ro,nosuid,nodev,noexec,relatime"]);
        assert_eq!(walls.missing, ["a user of its own"]);
        assert_eq!((walls.landlock, &walls.reasons), (Some(6), &told.down));
        assert!(walls.broken().is_empty());
    }

    #[test]
    fn a_wall_that_is_down_is_told() {
        let mounts = format!("{EMPTY}{EMPTY}");
        let (_vmm, vmm) = stage(&["2", "0"], &mounts, "1");
        let walls = Walls::of((&vmm, &vmm), 7, None);
        assert!(walls.own_namespaces.is_empty());
        let broken = walls.broken();
        for wall in ["user namespace", "pid namespace", "empty root", "every thread"] {
            assert!(broken.iter().any(|name| name.contains(wall)), "{wall}: {broken:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_wall() {
        let nothing = tempfile::tempdir().unwrap();
        let nothing = Directory::at(nothing.path());
        let walls = Walls::of((&nothing, &nothing), 7, None);
        assert_eq!((walls.uid, walls.dumpable, walls.no_new_privileges), (None, None, None));
        assert!(walls.broken().len() >= 9, "{walls:?}");
    }

    #[test]
    fn this_process_has_no_walls() {
        let own = ProcessRef::own().unwrap();
        let walls = Walls::read(own, own, None).unwrap();
        assert!(walls.own_namespaces.is_empty() && walls.mounts.len() > 1, "{walls:?}");
        let gone = ProcessRef { start_time: own.start_time + 1, ..own };
        assert_eq!(Walls::read(gone, own, None), None);
    }
}
