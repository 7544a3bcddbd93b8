//! What killed processes have left behind, and its removal.
//!
//! Every object of a sandbox on the host is written down in its `state.json` before it is made, and a
//! VMM carries its container's directory in its environment. So what belongs to nobody can be told
//! from what belongs to a living supervisor: a container in the foreground, or one that was never
//! finished, whose supervisor is no more; a directory that was claimed and not written; a VMM without
//! its supervisor. A container that an engine created is the engine's to delete, also after a crash,
//! unless the caller says otherwise.

use crate::container_id::ContainerId;
use crate::error::SandboxError;
use crate::manage::{self, ENDING};
use crate::process::ProcessRef;
use crate::store::{Deletion, Record, StoreError, Stored, Surveyed, survey};
use crate::text;
use crate::vm_process::{CONTAINER_VARIABLE, VMM_NAME};
use serde::Serialize;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Bytes of a process's environment: a VMM has one variable.
const MAX_ENVIRONMENT: u64 = 64 << 10;
/// Processes between a VMM and its supervisor: the helper that maps its users is its child.
const MAX_ANCESTORS: usize = 4;

/// Something that belongs to nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// Id of its container.
    pub id: String,
    /// Why it belongs to nobody.
    pub reason: String,
    /// What goes: directory, cgroup, processes.
    pub removes: Vec<String>,
    /// Why it was not removed; nothing if it was, or was not to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcOptions {
    /// Look only.
    pub dry_run: bool,
    /// Also containers that wait for their `delete` after their supervisor was killed.
    pub crashed: bool,
}

/// Finds what belongs to nobody below a root, and removes it unless this is a dry run.
///
/// # Errors
/// [`SandboxError::Store`] if the root cannot be read. What cannot be removed is told with its reason.
pub fn gc(root: &Path, options: GcOptions) -> Result<Vec<Leftover>, SandboxError> {
    let root = std::path::absolute(root)
        .map_err(|source| StoreError::Io { path: root.to_owned(), source })?;
    let mut found = Vec::new();
    for entry in survey(&root)? {
        match entry {
            Surveyed::Container(stored) => {
                let Some(reason) = why(&stored.record, options) else { continue };
                let leftover = container(&stored, reason);
                found.extend(leftover.dealt_with(options, || remove(&root, &stored, options)));
            }
            Surveyed::Unwritten(id) => found.extend(unwritten(&root, &id, options)),
            // A container of another version may run.
            Surveyed::Broken(error) => tracing::warn!("{}", text::chain(&error)),
        }
    }
    // After the containers, whose own machines are ended with them.
    let gone = |leftover: &Leftover, process: ProcessRef| {
        leftover.removes.contains(&format!("process {}", process.pid))
    };
    for (id, process) in machines(&root) {
        if found.iter().any(|leftover| gone(leftover, process)) {
            continue;
        }
        let leftover = Leftover {
            reason: "a virtual machine whose supervisor is no more".to_owned(),
            removes: vec![format!("process {}", process.pid)],
            error: None,
            id,
        };
        found.extend(leftover.dealt_with(options, || end(process)));
    }
    Ok(found)
}

impl Leftover {
    /// Removes it, unless it is only to be shown. `None`: it was nobody's no more, or it has gone.
    fn dealt_with(
        mut self,
        options: GcOptions,
        remove: impl FnOnce() -> Result<bool, SandboxError>,
    ) -> Option<Self> {
        if options.dry_run {
            return Some(self);
        }
        match remove() {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => self.error = Some(text::chain(&error)),
        }
        Some(self)
    }
}

/// Why a container belongs to nobody, if that is so.
fn why(record: &Record, options: GcOptions) -> Option<String> {
    let supervisor = record.supervisor;
    if supervisor.is_alive() {
        return None;
    }
    let pid = supervisor.pid;
    match (record.detached, record.was_created()) {
        (true, _) if !options.crashed => None,
        (true, _) => Some(format!("its supervisor, process {pid}, is no more")),
        (false, false) => Some(format!("its supervisor, process {pid}, ended while it was made")),
        (false, true) => Some(format!("it lived with process {pid}, which is no more")),
    }
}

fn container(stored: &Stored, reason: String) -> Leftover {
    let Stored { path, record, .. } = stored;
    let mut removes = vec![format!("directory {}", path.display())];
    if let Some(cgroup) = record.cgroup.as_ref().filter(|cgroup| cgroup.path.exists()) {
        removes.push(format!("cgroup {}", cgroup.path.display()));
    }
    if let Some(vmm) = record.vmm.filter(|vmm| vmm.is_alive()) {
        removes.push(format!("process {}", vmm.pid));
    }
    Leftover { id: record.id.clone(), reason, removes, error: None }
}

/// Looked at again, when nobody else deletes it.
fn remove(root: &Path, stored: &Stored, options: GcOptions) -> Result<bool, SandboxError> {
    let id = ContainerId::new(&stored.record.id)?;
    let Some(deletion) = Deletion::begin(root, &id)? else { return Ok(false) };
    let Some(record) = deletion.record.clone() else { return Ok(false) };
    if why(&record, options).is_none() {
        return Ok(false);
    }
    manage::remove(deletion, record, true)?;
    Ok(true)
}

/// A directory without a state, unless somebody is about to write one.
fn unwritten(root: &Path, id: &ContainerId, options: GcOptions) -> Option<Leftover> {
    let mut leftover = Leftover {
        id: id.as_str().to_owned(),
        reason: "its supervisor ended before it was written down".to_owned(),
        removes: vec![format!("directory {}", root.join(id.as_str()).display())],
        error: None,
    };
    // It waits for a claim that is under way.
    match Deletion::begin(root, id) {
        Ok(Some(deletion)) if deletion.is_unwritten() => {
            leftover.dealt_with(options, || Ok(deletion.remove().map(|()| true)?))
        }
        Ok(_) => None,
        Err(error) => {
            leftover.error = Some(text::chain(&error));
            Some(leftover)
        }
    }
}

fn end(process: ProcessRef) -> Result<bool, SandboxError> {
    process.kill();
    if process.wait(ENDING) {
        return Ok(true);
    }
    Err(SandboxError::MachineStays { pid: process.pid, patience: ENDING })
}

/// VMMs of containers below a root whose supervisor is not among their ancestors.
fn machines(root: &Path) -> Vec<(String, ProcessRef)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let process = ProcessRef::of(pid)?;
        let id = container_of(pid, root)?;
        let supervisor = Stored::load(root, &id).ok().map(|stored| stored.record.supervisor);
        let is_owned = supervisor.is_some_and(|owner| owner.is_alive() && descends(pid, owner.pid));
        // It may have ended and its number have been given away while it was looked at.
        (!is_owned && process.is_alive()).then(|| (id.as_str().to_owned(), process))
    })
    .collect()
}

/// The container whose VMM a process is, if it is one of this root's.
fn container_of(pid: i32, root: &Path) -> Option<ContainerId> {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    if !read(&directory.join("comm"))?.starts_with(VMM_NAME.as_bytes()) {
        return None;
    }
    let environment = read(&directory.join("environ"))?;
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables.find_map(|variable| {
        variable.strip_prefix(CONTAINER_VARIABLE.as_bytes())?.strip_prefix(b"=")
    })?;
    let container = Path::new(OsStr::from_bytes(value));
    let id = container.strip_prefix(root).ok()?.to_str()?;
    ContainerId::new(id).ok()
}

fn descends(pid: i32, ancestor: i32) -> bool {
    let mut pid = pid;
    for _ in 0..MAX_ANCESTORS {
        let Some(parent) = parent(pid) else { return false };
        if parent == ancestor {
            return true;
        }
        pid = parent;
    }
    false
}

fn parent(pid: i32) -> Option<i32> {
    let stat =
        String::from_utf8_lossy(&read(Path::new(&format!("/proc/{pid}/stat")))?).into_owned();
    // The second field, in parentheses, may hold anything; the fourth is the parent.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_ENVIRONMENT).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StateDir;

    const LOOK: GcOptions = GcOptions { dry_run: true, crashed: false };
    const REMOVE: GcOptions = GcOptions { dry_run: false, crashed: false };

    fn ids(root: &Path, options: GcOptions) -> Vec<String> {
        gc(root, options).unwrap().into_iter().map(|leftover| leftover.id).collect()
    }

    /// A container as its supervisor would have left it.
    fn leave(root: &Path, id: &str, change: impl FnOnce(&mut Record)) {
        let plan = crate::store::tests::plan();
        let id = ContainerId::new(id).unwrap();
        let (mut claimed, _) = StateDir::claim(root, &id, &plan).unwrap();
        claimed.change(change).unwrap();
        claimed.keep();
    }

    fn killed(record: &mut Record) {
        record.supervisor.start_time += 1;
    }

    #[test]
    fn what_belongs_to_nobody_is_shown_and_then_removed() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        leave(root, "alive", |_| {});
        leave(root, "half-made", killed);
        leave(root, "engines", |record| {
            record.detached = true;
            killed(record);
        });
        std::fs::create_dir(root.join("unwritten")).unwrap();
        assert_eq!(ids(root, LOOK), ["half-made", "unwritten"]);
        assert_eq!(ids(root, LOOK), ["half-made", "unwritten"]);
        for leftover in gc(root, REMOVE).unwrap() {
            assert_eq!(leftover.error, None);
            let directory = format!("directory {}", root.join(&leftover.id).display());
            assert_eq!(leftover.removes, [directory]);
        }
        assert!(ids(root, REMOVE).is_empty());
        assert!(root.join("alive").is_dir() && root.join("engines").is_dir());
        assert_eq!(ids(root, GcOptions { crashed: true, ..REMOVE }), ["engines"]);
        assert!(root.join("alive").is_dir() && !root.join("engines").exists());
    }

    #[test]
    fn what_is_not_understood_stays() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for (directory, file) in [("broken", "state.json"), ("foreign", "precious")] {
            std::fs::create_dir(root.join(directory)).unwrap();
            std::fs::write(root.join(directory).join(file), "{").unwrap();
        }
        let found = gc(root, REMOVE).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].error.as_ref().unwrap().contains("not ringfence's"), "{found:?}");
        assert!(root.join("broken/state.json").exists() && root.join("foreign/precious").exists());
        assert!(gc(&root.join("missing"), REMOVE).unwrap().is_empty());
    }

    #[test]
    fn a_machine_without_its_supervisor_is_found_by_what_it_carries() {
        use std::os::unix::fs::symlink;
        use std::process::Command;
        let root = tempfile::tempdir().unwrap();
        let program = root.path().join(VMM_NAME);
        symlink("/bin/sleep", &program).unwrap();
        let start = |container: PathBuf| {
            let mut command = Command::new(&program);
            command.arg("1000").env_clear().env(CONTAINER_VARIABLE, container).spawn().unwrap()
        };
        let mut lost = start(root.path().join("lost"));
        let mut other = start(PathBuf::from("/run/elsewhere/lost"));
        leave(root.path(), "owned", |_| {});
        let mut owned = start(root.path().join("owned"));
        let found = gc(root.path(), REMOVE).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].removes, [format!("process {}", lost.id())]);
        assert!(!lost.wait().unwrap().success());
        for child in [&mut other, &mut owned] {
            assert!(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
