//! The container's cgroup (version 2) on the host: it holds the supervisor, and with it the virtual
//! machine, which is its child. So the host accounts and limits the whole.
//!
//! ```text
//! plan ──journal──> enter: directories, controllers, limits, this process ──> VMM starts in it
//!                                     leave (a container in the foreground) or delete: removed
//! ```
//!
//! What the container may use holds in the guest. Here the same limits hold with what a machine
//! costs beside its container added ([`derive`]). Where the host has no cgroup v2, or does not let
//! this process make one, the container runs in its caller's cgroup and that is told; only what
//! nothing but this cgroup can do is an error then.

use crate::oom_witness;
use crate::spec::{CgroupsPath, HostLimit};
use agent_protocol::{FileWrite, Statistics};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where cgroups are mounted (file-hierarchy(7)).
pub(crate) const MOUNT: &str = "/sys/fs/cgroup";
/// Type of a cgroup v2 file system (statfs(2), CGROUP2_SUPER_MAGIC).
const CGROUP2_MAGIC: i128 = 0x6367_7270;
/// Controllers that a container's cgroup has, if its parents have them.
pub(crate) const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];
/// Bytes of an interface file that are read: `io.max` has a line for each block device.
const MAX_FILE: u64 = 1 << 20;
/// Another container's parents may go while ours are made.
const MAX_TRIES: usize = 5;
/// How long the kernel may take to end what is left in a cgroup.
const EMPTYING: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// Memory that a machine takes beside its own: VMM, supervisor, file system buffers.
const OVERHEAD_BYTES: u64 = 128 << 20;
/// And one part in so many of the machine's memory, for the host's page tables of it.
const TABLES_PART: u64 = 128;
/// CPU time beside the virtual CPUs', as one part in so many of a CPU: device threads, supervisor.
const CPU_PART: u64 = 4;
/// Threads of VMM and supervisor: virtual CPUs, devices, and one for each client of a supervisor.
const TASKS: u64 = 1024;

/// Why the container's cgroup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// There is none, and something needs it.
    #[error(
        "{property} is {value}, which needs a cgroup of the container on the host: {reason}; remove it, or run where linux.cgroupsPath can be made"
    )]
    Needed {
        /// Which property.
        property: String,
        /// Its value.
        value: String,
        /// Why there is no cgroup.
        reason: String,
    },
    /// The controller is not there.
    #[error(
        "{property} is {value}: the cgroup {path:?} has no {file}; enable its controller in the cgroups above, or remove the limit"
    )]
    NoController {
        /// Which property.
        property: String,
        /// Its value.
        value: String,
        /// The cgroup.
        path: PathBuf,
        /// The file that is missing.
        file: String,
    },
    /// A limit was refused.
    #[error("{property}: {value:?} cannot be written to {file:?}")]
    Limit {
        /// Which property.
        property: String,
        /// What was written.
        value: String,
        /// Where.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody is in it.
    #[error(
        "the cgroup {path:?} holds processes already: choose another linux.cgroupsPath, or end them"
    )]
    InUse {
        /// The cgroup.
        path: PathBuf,
    },
    /// It cannot be made, entered or removed.
    #[error("the cgroup {path:?} cannot be {step}")]
    Io {
        /// The cgroup.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A cgroup as it is written down before it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CgroupRecord {
    /// Its directory.
    pub(crate) path: PathBuf,
    /// The directories above it that have to be made, outermost first.
    pub(crate) parents: Vec<PathBuf>,
}

/// A limit to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// The first of these files that is there is written.
    pub(crate) files: Vec<String>,
    pub(crate) value: String,
    /// Who asks for it.
    pub(crate) asked_by: String,
    /// It holds nowhere else: without the file it is an error.
    pub(crate) is_needed: bool,
}

impl From<HostLimit> for Limit {
    fn from(limit: HostLimit) -> Self {
        let HostLimit { files, value, asked_by } = limit;
        Self { files, value, asked_by, is_needed: true }
    }
}

/// What settings of the guest's cgroup mean on the host, for a machine with so much memory.
pub(crate) fn derive(settings: &[FileWrite], memory_mib: u32, cpus: Option<&[u16]>) -> Vec<Limit> {
    let limit = |file: &str, value: String| Limit {
        files: vec![file.to_owned()],
        value,
        asked_by: format!("linux.resources ({file})"),
        is_needed: false,
    };
    let mut limits: Vec<Limit> = settings
        .iter()
        .filter_map(|FileWrite { path, value }| {
            Some(limit(path, on_host(path, value, memory_mib)?))
        })
        .collect();
    if let Some(cpus) = cpus {
        let list: Vec<String> = cpus.iter().map(u16::to_string).collect();
        limits.push(limit("cpuset.cpus", list.join(",")));
    }
    limits
}

/// What a machine with so much memory takes beside it.
fn overhead(machine_bytes: u64) -> u64 {
    OVERHEAD_BYTES.saturating_add(machine_bytes / TABLES_PART)
}

/// The same in MiB.
pub(crate) fn overhead_mib(memory_mib: u32) -> u64 {
    overhead(u64::from(memory_mib) << 20) >> 20
}

/// The value on the host for one of the guest's; `None` for what is the guest's alone.
fn on_host(file: &str, value: &str, memory_mib: u32) -> Option<String> {
    let value = value.trim();
    let machine = u64::from(memory_mib) << 20;
    let overhead = overhead(machine);
    let plus = |number: u64, more: u64| number.saturating_add(more).to_string();
    match (file, value.parse::<u64>()) {
        // The guest keeps within its limit by itself, and needs all of its machine to do so.
        ("memory.max", Ok(_)) => Some(plus(machine, overhead)),
        ("memory.low", Ok(bytes)) => Some(plus(bytes, overhead)),
        ("memory.max" | "memory.low", Err(_)) => (value == "max").then(|| value.to_owned()),
        ("memory.swap.max" | "cpu.weight" | "cpu.idle" | "cpu.max.burst", _) => {
            Some(value.to_owned())
        }
        ("pids.max", Ok(_)) => Some(TASKS.to_string()),
        ("pids.max", Err(_)) => Some("max".to_owned()),
        ("cpu.max", _) => {
            let (quota, period) = value.split_once(' ')?;
            let period: u64 = period.parse().ok()?;
            Some(match quota.parse::<u64>() {
                Ok(quota) => format!("{} {period}", plus(quota, period / CPU_PART)),
                Err(_) => format!("max {period}"),
            })
        }
        _ => None,
    }
}

/// Where the container's cgroup will be, or why there can be none.
pub(crate) fn plan(path: &CgroupsPath) -> Result<CgroupRecord, String> {
    let mount = Path::new(MOUNT);
    let kind = rustix::fs::statfs(mount)
        .map_err(|errno| format!("{MOUNT} cannot be looked at ({errno})"))?
        .f_type;
    if i128::from(kind) != CGROUP2_MAGIC {
        return Err(format!("{MOUNT} is no cgroup v2 file system"));
    }
    let base = match path.absolute {
        true => mount.to_owned(),
        // As runc: beside the caller's own cgroup, which has processes and therefore no children
        // with limits.
        false => {
            let own = own_cgroup(mount).ok_or("this process's own cgroup is not known")?;
            own.parent().filter(|parent| parent.starts_with(mount)).unwrap_or(mount).to_owned()
        }
    };
    Ok(record(&base, &path.parts))
}

fn record(base: &Path, parts: &[String]) -> CgroupRecord {
    let mut path = base.to_owned();
    let mut parents = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        path.push(part);
        if index + 1 < parts.len() && !path.is_dir() {
            parents.push(path.clone());
        }
    }
    CgroupRecord { path, parents }
}

/// The directory of the cgroup that this process is in.
fn own_cgroup(mount: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(mount.join(path.trim_start_matches('/')))
}

/// A cgroup that this process is in. When it goes away this process goes back where it was, and
/// the cgroup is removed, unless it is kept.
#[derive(Debug)]
pub(crate) struct HostCgroup {
    record: CgroupRecord,
    before: Option<PathBuf>,
    /// Limits that wait for the container.
    late: Vec<Limit>,
    kept: bool,
    /// Kills that were not the host's doing.
    shown_kills: u64,
}

/// What entering has come to.
#[derive(Debug)]
pub(crate) enum Entered {
    Inside(HostCgroup),
    /// This process may not, for this reason; nothing is left.
    NotPermitted(String),
}

impl HostCgroup {
    /// Makes the cgroup, writes its limits and moves this process into it. Those of CPU time are
    /// written by [`Self::complete`]: the machine's start is not the container's doing.
    ///
    /// # Errors
    /// [`CgroupError`]; nothing is left then.
    pub(crate) fn enter(record: CgroupRecord, limits: &[Limit]) -> Result<Entered, CgroupError> {
        let path = record.path.clone();
        // Removes what was made, whatever happens from here on.
        let (late, early) = limits
            .iter()
            .cloned()
            .partition(|limit| limit.files.iter().any(|file| file.starts_with("cpu.max")));
        let mut cgroup = Self { record, before: None, late, kept: false, shown_kills: 0 };
        let early: Vec<Limit> = early;
        match make(&path) {
            Ok(()) => {}
            Err(error) if is_forbidden(&error) => {
                drop(cgroup);
                return Ok(Entered::NotPermitted(format!("{path:?} cannot be made: {error}")));
            }
            Err(source) => return Err(CgroupError::Io { path, step: "made", source }),
        }
        if is_populated(&path) {
            // It is somebody else's: it stays.
            cgroup.kept = true;
            return Err(CgroupError::InUse { path });
        }
        cgroup.apply(&early)?;
        let before = own_cgroup(Path::new(MOUNT));
        match write(&path.join("cgroup.procs"), &std::process::id().to_string()) {
            Ok(()) => {
                cgroup.before = before;
                Ok(Entered::Inside(cgroup))
            }
            Err(error) if is_forbidden(&error) => {
                drop(cgroup);
                Ok(Entered::NotPermitted(format!("{path:?} cannot be entered: {error}")))
            }
            Err(source) => Err(CgroupError::Io { path, step: "entered", source }),
        }
    }

    /// Writes limits, all or none; gives what undoes them.
    ///
    /// # Errors
    /// [`CgroupError::NoController`] or [`CgroupError::Limit`].
    pub(crate) fn apply(&self, limits: &[Limit]) -> Result<Undo, CgroupError> {
        let mut undo = Undo::default();
        for limit in limits {
            if let Err(error) = self.apply_one(limit, &mut undo) {
                undo.run();
                return Err(error);
            }
        }
        Ok(undo)
    }

    fn apply_one(&self, limit: &Limit, undo: &mut Undo) -> Result<(), CgroupError> {
        let Limit { files, value, asked_by, is_needed } = limit;
        let directory = &self.record.path;
        let found = files.iter().map(|name| directory.join(name)).find(|file| file.exists());
        let Some(file) = found else {
            let name = files.join(" or ");
            if *is_needed {
                return Err(CgroupError::NoController {
                    property: asked_by.clone(),
                    value: value.clone(),
                    path: directory.clone(),
                    file: name,
                });
            }
            tracing::warn!(
                "{directory:?} has no {name}: {asked_by} holds inside the guest, and is not set on \
                 the host"
            );
            return Ok(());
        };
        let converted = (files.len() > 1 && file.ends_with("io.weight")).then(|| io_weight(value));
        let value = converted.as_ref().unwrap_or(value);
        let failed = |source| CgroupError::Limit {
            property: asked_by.clone(),
            value: value.clone(),
            file: file.clone(),
            source,
        };
        let before = read(&file).map_err(failed)?;
        write(&file, value).map_err(failed)?;
        let before = before_of(&file, value, &before);
        undo.steps.push((file, before));
        Ok(())
    }

    /// Writes the limits that waited for the container to be made.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub(crate) fn complete(&mut self) -> Result<(), CgroupError> {
        let late = std::mem::take(&mut self.late);
        self.apply(&late).map(drop)
    }

    /// It stays when this value goes away.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.record.path
    }

    /// What is used in it, with the machine and who supervises it.
    pub(crate) fn statistics(path: &Path) -> Statistics {
        Statistics::of_cgroup(|file| read(&path.join(file)).ok())
    }

    /// So many kills in it stand for the guest's ([`oom_witness`]).
    pub(crate) fn set_shown_kills(&mut self, kills: u64) {
        self.shown_kills = kills;
    }

    /// Whether the host's OOM killer has killed in it for the host's own sake.
    pub(crate) fn oom_killed(&self) -> bool {
        oom_witness::kills(&self.record.path).is_ok_and(|kills| kills > self.shown_kills)
    }
}

impl Drop for HostCgroup {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let was_inside = match self.before.take() {
            None => false,
            Some(before) => {
                let own = std::process::id().to_string();
                let back = write(&before.join("cgroup.procs"), &own)
                    .or_else(|_| write(&Path::new(MOUNT).join("cgroup.procs"), &own));
                if let Err(error) = back {
                    let path = &self.record.path;
                    tracing::warn!("this process cannot leave the cgroup {path:?}: {error}");
                    return;
                }
                true
            }
        };
        if let Err(error) = remove(&self.record, was_inside) {
            tracing::warn!("{}", crate::text::chain(&error));
        }
    }
}

/// What the files had before limits were written.
#[derive(Debug, Default)]
pub(crate) struct Undo {
    steps: Vec<(PathBuf, String)>,
}

impl Undo {
    /// Writes it back.
    pub(crate) fn run(self) {
        for (file, before) in self.steps.into_iter().rev() {
            if let Err(error) = write(&file, &before) {
                tracing::warn!("{before:?} cannot be written back to {file:?}: {error}");
            }
        }
    }
}

/// A weight of the BFQ scheduler, 10 to 1000 and perhaps behind a device, in the scale of the io
/// controller, 1 to 10000: as runc and crun write it where BFQ is not there.
fn io_weight(value: &str) -> String {
    let (device, weight) =
        value.rsplit_once(' ').map_or(("", value), |(left, right)| (left, right));
    let Ok(weight) = weight.parse::<u64>() else { return value.to_owned() };
    let weight = 1 + weight.saturating_sub(10).saturating_mul(9999) / 990;
    if device.is_empty() { weight.to_string() } else { format!("{device} {weight}") }
}

/// What undoes writing `value` to a file that has had this text: for a file with a line for each
/// device, that device's line.
fn before_of(file: &Path, value: &str, before: &str) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let first = |line: &str| line.split(' ').next().map(str::to_owned);
    match first(value).filter(|word| word.contains(':')) {
        Some(device) => {
            let line = before.lines().find(|line| first(line).as_ref() == Some(&device));
            line.map(str::to_owned).unwrap_or_else(|| match &*name {
                "io.max" => format!("{device} rbps=max wbps=max riops=max wiops=max"),
                _ => format!("{device} default"),
            })
        }
        None => {
            let default = before.lines().find(|line| line.starts_with("default "));
            default.unwrap_or(before.trim_end()).to_owned()
        }
    }
}

/// Makes a directory with those above it, and lets each use the controllers of the one above.
fn make(path: &Path) -> io::Result<()> {
    let mut result = Ok(());
    for _ in 0..MAX_TRIES {
        result = std::fs::create_dir_all(path);
        match &result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => break,
        }
    }
    result?;
    let mut above: Vec<&Path> =
        path.ancestors().skip(1).take_while(|parent| parent.starts_with(MOUNT)).collect();
    above.reverse();
    for directory in above {
        let there = read(&directory.join("cgroup.controllers")).unwrap_or_default();
        let enabled = read(&directory.join("cgroup.subtree_control")).unwrap_or_default();
        let has = |list: &str, name: &str| list.split_ascii_whitespace().any(|word| word == name);
        // All that there are, as runc: who looks into the container's cgroup finds what it expects.
        let names = there.split_ascii_whitespace();
        let wanted = names.filter(|name| !has(&enabled, name));
        let wanted: Vec<String> = wanted.map(|name| format!("+{name}")).collect();
        let control = directory.join("cgroup.subtree_control");
        // Each write waits for the whole host; all at once is one. If that is refused, one by one,
        // as runc: a limit that needs one that is refused tells so.
        if wanted.is_empty() || write(&control, &wanted.join(" ")).is_ok() {
            continue;
        }
        for name in wanted {
            if let Err(error) = write(&control, &name) {
                tracing::debug!("{directory:?} does not pass on its controller {name}: {error}");
            }
        }
    }
    Ok(())
}

/// A read-only file system, or somebody else's directory: how a cgroup tree that is not delegated
/// to this process looks.
fn is_forbidden(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    [Errno::ROFS, Errno::ACCESS, Errno::PERM].into_iter().any(|known| errno == Some(known))
}

fn is_populated(path: &Path) -> bool {
    let events = read(&path.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line.trim() == "populated 1")
}

/// Removes a container's cgroup, those that were made in it, and the parents that were made for it
/// and hold nothing else. With `kill` what is left in it is ended before: nobody but the
/// container's own processes may be there. Without, it may be somebody else's: one that still has
/// processes after a while is left alone. One that is gone is no error.
///
/// # Errors
/// [`CgroupError::Io`].
pub(crate) fn remove(record: &CgroupRecord, kill: bool) -> Result<(), CgroupError> {
    let CgroupRecord { path, parents } = record;
    let until = Instant::now() + EMPTYING;
    loop {
        if kill && is_populated(path) {
            // A kernel before 5.14 has no such file; then there is nobody but by mistake.
            drop(write(&path.join("cgroup.kill"), "1"));
        }
        match remove_tree(path) {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            // What was killed is not gone at once; nor is a machine whose supervisor was killed before it
            // could write it down, which ends by itself.
            Err(error) if is_busy(&error) && Instant::now() < until => {
                std::thread::sleep(PAUSE);
            }
            Err(error) if is_busy(&error) && !kill => {
                tracing::warn!("the cgroup {path:?} is in use and stays: {error}");
                return Ok(());
            }
            Err(source) => {
                return Err(CgroupError::Io { path: path.clone(), step: "removed", source });
            }
        }
    }
    for parent in parents.iter().rev() {
        match std::fs::remove_dir(parent) {
            Ok(()) => {}
            // Whoever was to make them came to the outer ones only.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => break,
        }
    }
    Ok(())
}

fn is_busy(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno == Some(Errno::BUSY) || errno == Some(Errno::NOTEMPTY)
}

/// Directories only: the files of a cgroup go with it.
fn remove_tree(path: &Path) -> io::Result<()> {
    /// Depth of cgroups that an engine makes in its container's.
    const MAX_DEPTH: usize = 16;
    fn below(path: &Path, depth: usize) -> io::Result<()> {
        if depth > 0 {
            for entry in std::fs::read_dir(path)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    below(&entry.path(), depth - 1)?;
                }
            }
        }
        std::fs::remove_dir(path)
    }
    below(path, MAX_DEPTH)
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(file)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// One write(2): the kernel takes it as a whole. Nothing is made that is not there.
fn write(file: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(format!("{value}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(path: &str, value: &str) -> FileWrite {
        FileWrite { path: path.into(), value: value.into() }
    }

    #[test]
    fn limits_of_the_host_have_the_machines_overhead() {
        let mib = |mib: u64| (mib << 20).to_string();
        for (path, value, expected) in [
            ("memory.max", "104857600", Some(mib(256 + 128 + 2))),
            ("memory.max", "max", Some("max".to_owned())),
            // Less than the machine: that would be its end.
            ("memory.max", "1G", None),
            ("memory.low", "1048576", Some(mib(1 + 128 + 2))),
            ("memory.swap.max", "0", Some("0".to_owned())),
            ("memory.high", "1", None),
            ("cpu.weight", "39", Some("39".to_owned())),
            ("cpu.max", "150000 100000", Some("175000 100000".to_owned())),
            ("cpu.max", "max 50000", Some("max 50000".to_owned())),
            ("cpu.max", "nonsense", None),
            ("pids.max", "20", Some("1024".to_owned())),
            ("pids.max", "max", Some("max".to_owned())),
            ("hugetlb.2MB.max", "0", None),
        ] {
            let limits = derive(&[setting(path, value)], 256, None);
            let found = limits.first().map(|limit| limit.value.clone());
            assert_eq!(found, expected, "{path} {value}");
        }
        let cpus = derive(&[], 256, Some(&[0, 2, 3]));
        assert_eq!((cpus[0].files[0].as_str(), cpus[0].value.as_str()), ("cpuset.cpus", "0,2,3"));
    }

    #[test]
    fn what_is_undone_is_what_was_written() {
        let undo =
            |name: &str, value: &str, before: &str| before_of(Path::new(name), value, before);
        assert_eq!(undo("memory.max", "5", "max\n"), "max");
        assert_eq!(io_weight("10"), "1");
        assert_eq!(io_weight("750"), "7475");
        assert_eq!(io_weight("8:0 1000"), "8:0 10000");
        assert_eq!(undo("io.weight", "500", "default 100\n8:0 50\n"), "default 100");
        assert_eq!(undo("io.weight", "8:0 500", "default 100\n8:0 50\n"), "8:0 50");
        assert_eq!(undo("io.weight", "8:16 500", "default 100\n8:0 50\n"), "8:16 default");
        assert_eq!(undo("io.max", "8:0 rbps=1", ""), "8:0 rbps=max wbps=max riops=max wiops=max");
    }

    /// Directories that stand for cgroups; the kernel's files are not there.
    fn stage(parts: &[&str]) -> (tempfile::TempDir, CgroupRecord) {
        let directory = tempfile::tempdir().unwrap();
        let parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
        let record = record(directory.path(), &parts);
        (directory, record)
    }

    #[test]
    fn parents_go_with_the_last_that_is_in_them() {
        let (directory, one) = stage(&["a", "b", "c"]);
        std::fs::create_dir_all(&one.path).unwrap();
        let parts: Vec<String> = ["a", "b", "d"].map(str::to_owned).to_vec();
        let two = record(directory.path(), &parts);
        assert_eq!((one.parents.len(), two.parents.len()), (2, 0));
        std::fs::create_dir_all(&two.path).unwrap();
        remove(&one, true).unwrap();
        assert!(two.path.is_dir() && !one.path.exists());
        remove(&two, true).unwrap();
        // What is gone is gone.
        remove(&one, false).unwrap();
    }

    #[test]
    fn parents_go_although_not_all_were_made() {
        for made in ["", "a", "a/b"] {
            let (directory, record) = stage(&["a", "b", "c"]);
            std::fs::create_dir_all(directory.path().join(made)).unwrap();
            remove(&record, false).unwrap();
            let left = std::fs::read_dir(directory.path()).unwrap().count();
            assert_eq!(left, 0, "made: {made:?}");
        }
    }

    #[test]
    fn a_cgroup_goes_with_those_in_it() {
        let (directory, record) = stage(&["a", "b"]);
        std::fs::create_dir_all(record.path.join("x/y")).unwrap();
        std::fs::create_dir_all(record.path.join("z")).unwrap();
        remove(&record, false).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_about_to_end_in_a_cgroup_is_waited_for() {
        let (directory, record) = stage(&["a", "b"]);
        std::fs::create_dir_all(&record.path).unwrap();
        // As a process of nobody's: the directory cannot be removed.
        let occupant = record.path.join("occupant");
        std::fs::write(&occupant, "").unwrap();
        let leaving = std::thread::spawn(move || {
            std::thread::sleep(PAUSE * 20);
            std::fs::remove_file(occupant).unwrap();
        });
        remove(&record, false).unwrap();
        leaving.join().unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn limits_are_written_all_or_none() {
        let (_directory, record) = stage(&["a"]);
        std::fs::create_dir(&record.path).unwrap();
        std::fs::write(record.path.join("memory.max"), "100\n").unwrap();
        let file = record.path.join("memory.max");
        let cgroup =
            HostCgroup { record, before: None, late: Vec::new(), kept: true, shown_kills: 0 };
        let limit = |file: &str, value: &str, is_needed| Limit {
            files: vec![file.to_owned()],
            value: value.to_owned(),
            asked_by: "asked".to_owned(),
            is_needed,
        };
        let first = limit("memory.max", "200", false);
        let undo = cgroup.apply(&[first.clone(), limit("pids.max", "1", false)]).unwrap();
        assert_eq!(read(&file).unwrap(), "200\n");
        undo.run();
        assert_eq!(read(&file).unwrap(), "100\n");
        let error = cgroup.apply(&[first, limit("io.max", "8:0 rbps=1", true)]).unwrap_err();
        assert!(error.to_string().contains("io.max"), "{error}");
        assert_eq!(read(&file).unwrap(), "100\n");
    }
}
