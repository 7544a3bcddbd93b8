//! A process's directory below `/proc` (proc(5)).

use crate::spec::capability_names;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes of one file; a process that sees the host's mounts has many lines of them.
const MAX_BYTES: u64 = 1 << 20;
/// Threads that are looked at: as many as a machine's cgroup allows.
const MAX_THREADS: usize = 1024;
/// Mounts that are shown; a machine has one.
const MAX_MOUNTS: usize = 16;

pub(super) struct Directory {
    path: PathBuf,
}

/// A file of lines with a name, a colon and a value.
pub(super) struct Status {
    text: String,
}

impl Directory {
    pub(super) fn of(pid: i32) -> Self {
        Self { path: PathBuf::from(format!("/proc/{pid}")) }
    }

    #[cfg(test)]
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    pub(super) fn status(&self, name: &str) -> Status {
        Status { text: read(&self.path.join(name)).unwrap_or_default() }
    }

    /// What a namespace is called by the kernel, `user:[4026531837]`.
    pub(super) fn namespace(&self, name: &str) -> Option<PathBuf> {
        std::fs::read_link(self.path.join("ns").join(name)).ok()
    }

    pub(super) fn threads(&self) -> Vec<Status> {
        let entries = std::fs::read_dir(self.path.join("task")).into_iter().flatten().flatten();
        let texts = entries.take(MAX_THREADS).map(|entry| read(&entry.path().join("status")));
        texts.map(|text| Status { text: text.unwrap_or_default() }).collect()
    }

    /// `WHERE TYPE OPTIONS` for each.
    pub(super) fn mounts(&self) -> Vec<String> {
        let text = read(&self.path.join("mountinfo")).unwrap_or_default();
        let line = |line: &str| {
            // proc_pid_mountinfo(5): optional fields end with a hyphen.
            let (front, back) = line.split_once(" - ")?;
            let front: Vec<&str> = front.split(' ').collect();
            let kind = back.split(' ').next()?;
            Some(format!("{} {kind} {}", front.get(4)?, front.get(5)?))
        };
        text.lines().filter_map(line).take(MAX_MOUNTS).collect()
    }

    /// `SOFT HARD` for each that is asked for.
    pub(super) fn limits(
        &self,
        wanted: &[(&'static str, &'static str)],
    ) -> BTreeMap<&'static str, String> {
        let text = read(&self.path.join("limits")).unwrap_or_default();
        let value = |title: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(title))?;
            let mut words = line.split_whitespace();
            Some(format!("{} {}", words.next()?, words.next()?))
        };
        wanted.iter().filter_map(|(title, name)| Some((*name, value(title)?))).collect()
    }

    pub(super) fn descriptors(&self) -> Option<usize> {
        Some(std::fs::read_dir(self.path.join("fd")).ok()?.count())
    }

    pub(super) fn cgroup(&self) -> Option<String> {
        let text = read(&self.path.join("cgroup"))?;
        text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
    }

    /// Whose its files are.
    pub(super) fn owner(&self) -> Option<u32> {
        Some(std::fs::metadata(self.path.join("status")).ok()?.uid())
    }
}

impl Status {
    fn value(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.value(name)?.trim().parse().ok()
    }

    /// The effective one of four.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.value(name)?.split_whitespace().nth(1)?.parse().ok()
    }

    /// Those that are permitted: the effective ones are among them.
    pub(super) fn capabilities(&self) -> Vec<String> {
        let mask =
            self.value("CapPrm").and_then(|value| u64::from_str_radix(value.trim(), 16).ok());
        capability_names(mask.unwrap_or(0))
    }
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
