//! What is on the host: taken before and after a test, it shows what a run left behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::command::MARK;

/// Directories where a runtime could leave files, with how deep to look.
const PLACES: &[(&str, usize)] = &[
    ("/run/ringfence", 8),
    ("/run/containerd/ringfence", 8),
    ("/run/containerd/s", 1),
    ("/run/crun", 8),
    ("/run/runc", 8),
    ("/run/netns", 1),
    ("/run", 1),
    ("/tmp", 1),
    ("/var/tmp", 1),
    ("/dev", 1),
    ("/dev/shm", 2),
    ("/dev/mqueue", 1),
    ("/var/lib", 1),
];

/// The state roots themselves stay, with ringfence's lock and crun's compiled filters: they belong to
/// the runtime, not to a container.
const MAY_STAY: &[&str] = &[
    "/run/ringfence",
    "/run/ringfence/@lock",
    "/run/containerd/ringfence/default",
    "/run/containerd/ringfence/default/@lock",
    "/run/containerd/ringfence/k8s.io",
    "/run/containerd/ringfence/k8s.io/@lock",
    "/run/containerd/ringfence/moby",
    "/run/containerd/ringfence/moby/@lock",
    "/run/crun",
    "/run/crun/.cache",
    "/run/runc",
];

/// The host's objects that a run could leave behind, each as a line of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostSnapshot {
    lines: BTreeSet<String>,
}

impl HostSnapshot {
    /// Takes one.
    #[must_use]
    pub fn take() -> Self {
        let mut lines = BTreeSet::new();
        for process in processes() {
            lines.insert(format!("process {} {}", process.pid, process.shown));
        }
        for line in read("/proc/self/mountinfo").lines() {
            // Fields 5 to 9: where, options, type, source. Ids and peer groups say nothing.
            let fields: Vec<&str> = line.split(' ').collect();
            let kind = line.split(" - ").nth(1).unwrap_or_default();
            // Its options are those of the one hierarchy, and change when crun mounts it in the host's
            // cgroup namespace.
            let kind = if kind.starts_with("cgroup2 ") { "cgroup2" } else { kind };
            lines.insert(format!("mount {} {kind}", fields.get(4).unwrap_or(&"?")));
        }
        for line in read("/proc/net/unix").lines().skip(1) {
            if let Some(path) = line.split_whitespace().nth(7) {
                lines.insert(format!("socket {path}"));
            }
        }
        for directory in cgroups() {
            lines.insert(format!("cgroup {}", directory.display()));
        }
        for name in names("/sys/class/net") {
            lines.insert(format!("interface {name}"));
        }
        for (place, depth) in PLACES {
            files(Path::new(place), *depth, &mut lines);
        }
        Self { lines }
    }

    /// What is here and was not in `before`.
    #[must_use]
    pub fn added_since(&self, before: &Self) -> Vec<String> {
        self.lines.difference(&before.lines).cloned().collect()
    }
}

/// A process that belongs to a run.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// The id of its parent.
    pub parent: u32,
    /// Its name, as the kernel has it (15 bytes).
    pub name: String,
    /// Name, state and command line, for messages.
    pub shown: String,
}

/// Every process that a run of a test started, or that is part of a runtime.
#[must_use]
pub fn processes() -> Vec<Process> {
    let own = std::process::id();
    let mut found = vec![];
    for name in names("/proc") {
        let Ok(pid) = name.parse::<u32>() else { continue };
        let directory = PathBuf::from("/proc").join(&name);
        let status = read(directory.join("stat"));
        // `PID (NAME) STATE PARENT …`, and a name may hold anything.
        let Some((start, rest)) = status.rsplit_once(") ") else { continue };
        let command = start.split_once('(').map_or("", |(_, command)| command).to_owned();
        let mut fields = rest.split(' ');
        let state = fields.next().unwrap_or("?").to_owned();
        let parent = fields.next().and_then(|field| field.parse().ok()).unwrap_or(0);
        let line = read(directory.join("cmdline")).replace('\0', " ");
        let program = fs::read_link(directory.join("exe")).unwrap_or_default();
        let marked = read(directory.join("environ"))
            .split('\0')
            .any(|variable| variable.split_once('=').is_some_and(|(variable, _)| variable == MARK));
        let ours = command.starts_with("ringfence")
            || command.starts_with("crun")
            || command.starts_with("runc")
            || program
                .file_name()
                .is_some_and(|program| program.to_string_lossy().contains("ringfence"));
        // An engine's daemon is the test's own, which ends it.
        let daemon = command == "containerd";
        if pid != own && !daemon && (marked || ours) {
            let shown = format!("{command} {state} {line}");
            found.push(Process { pid, parent, name: command, shown });
        }
    }
    found
}

/// The VMM of a supervisor.
///
/// # Panics
/// If it has none.
#[must_use]
pub fn vmm_of(supervisor: Pid) -> Pid {
    let supervisor = u32::try_from(supervisor.as_raw_nonzero().get()).expect("a pid is positive");
    let vmm = descendants(supervisor)
        .into_iter()
        .find(|process| process.name.starts_with("ringfence-vmm"))
        .expect("a sandbox that runs has a VMM");
    i32::try_from(vmm.pid).ok().and_then(Pid::from_raw).expect("a pid is positive")
}

/// The processes below `ancestor`, at any depth.
#[must_use]
pub fn descendants(ancestor: u32) -> Vec<Process> {
    let all = processes();
    let mut family = vec![ancestor];
    let mut found: Vec<Process> = vec![];
    while let Some(parent) = family.pop() {
        for process in all.iter().filter(|process| process.parent == parent) {
            family.push(process.pid);
            found.push(process.clone());
        }
    }
    found
}

/// Kills what a failed test left, so that the next one starts clean.
pub fn kill_leftovers() {
    for process in processes() {
        let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may be gone, or a zombie that nobody has reaped yet.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn cgroups() -> Vec<PathBuf> {
    let mut found = vec![];
    let mut waiting = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
                found.push(entry.path());
            }
        }
    }
    found
}

fn files(directory: &Path, depth: usize, lines: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let stays = MAY_STAY.iter().any(|stays| Path::new(stays) == path);
        if !stays {
            lines.insert(format!("file {}", path.display()));
        }
        if stays && !PLACES.iter().any(|(place, _)| Path::new(place) == path) {
            continue;
        }
        if depth > 1 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&path, depth - 1, lines);
        }
    }
}

fn names(directory: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return vec![] };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A file of /proc, or nothing if it has gone.
fn read(path: impl AsRef<Path>) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Invocation;

    #[test]
    fn a_process_of_a_run_is_seen_until_it_ends() {
        let before = HostSnapshot::take();
        let running = Invocation::new("sleep").arg("61.5").start();
        let added = HostSnapshot::take().added_since(&before);
        assert!(added.iter().any(|line| line.contains("sleep") && line.contains("61.5")));
        drop(running);
        let added = HostSnapshot::take().added_since(&before);
        assert!(!added.iter().any(|line| line.contains("61.5")), "{added:?}");
    }
}
