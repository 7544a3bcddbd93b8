//! The cgroup (version 2) of a container.

use crate::failure::{Outcome, failed};
use crate::layout;
use crate::sys::{self, CgroupHook};
use agent_protocol::{CgroupPlan, FileWrite, counter, parse_counters};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;

/// Bytes read from one interface file; lists of processes are read to their end.
const FILE_BYTES: usize = 4096;
/// Directories visited when a container's own cgroups are searched or removed: more would only
/// keep the agent busy.
const MAX_VISITED: usize = 100_000;

/// A container's cgroup.
pub(crate) struct Cgroup {
    name: String,
    directory: OwnedFd,
}

impl Cgroup {
    /// Makes it and writes its settings.
    pub(crate) fn create(name: &str, plan: &CgroupPlan) -> Outcome<Self> {
        let top = open_top().map_err(|errno| failed(format_args!("opening cgroups"), errno))?;
        mkdirat(&top, name, Mode::from_raw_mode(0o755))
            .map_err(|errno| failed(format_args!("making the cgroup {name:?}"), errno))?;
        let directory = openat(&top, name, directory_flags(), Mode::empty())
            .map_err(|errno| failed(format_args!("opening the cgroup {name:?}"), errno))?;
        let cgroup = Self { name: name.to_string(), directory };
        for setting in &plan.settings {
            if let Err(errno) = cgroup.write(&setting.path, setting.value.as_bytes()) {
                let _ = cgroup.remove();
                let (path, value) = (&setting.path, &setting.value);
                return Err(failed(format_args!("writing {value:?} to cgroup file {path}"), errno));
            }
        }
        Ok(cgroup)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Limits the container to the devices that a program allows.
    pub(crate) fn attach_devices(&self, program: &[u8]) -> Outcome<()> {
        let loaded = sys::load_cgroup_program(CgroupHook::Device, &super::instructions(program))
            .map_err(|errno| failed(format_args!("loading the device program"), errno))?;
        sys::attach_cgroup_program(CgroupHook::Device, self.fd(), loaded.as_fd())
            .map_err(|errno| failed(format_args!("attaching the device program"), errno))
    }

    /// Kills every process in it and beneath it.
    pub(crate) fn kill(&self) -> Result<(), Errno> {
        self.write("cgroup.kill", b"1")
    }

    /// Stops every process in it and beneath it, or lets them go on.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<(), Errno> {
        self.write("cgroup.freeze", if frozen { b"1" } else { b"0" })
    }

    /// Sends a signal to every process in it and beneath it.
    pub(crate) fn signal(&self, signal: u8) -> Result<(), Errno> {
        if i32::from(signal) == libc::SIGKILL {
            return self.kill();
        }
        let mut sent = Ok(());
        for pid in self.pids()? {
            match sys::kill(pid, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => sent = Err(errno),
            }
        }
        sent
    }

    /// Every process in it and beneath it, in no order.
    pub(crate) fn pids(&self) -> Result<Vec<u32>, Errno> {
        let mut pids = Vec::new();
        self.visit(|directory| {
            // A threaded cgroup has no list (EOPNOTSUPP); its processes are in its parent's.
            let text = read_to_end(directory, "cgroup.procs").unwrap_or_default();
            pids.extend(text.split('\n').filter_map(|line| line.parse::<u32>().ok()));
        })?;
        Ok(pids)
    }

    /// Text of one of its interface files.
    pub(crate) fn read(&self, path: &str) -> Result<String, Errno> {
        read_to_end(self.fd(), path)
    }

    /// Writes settings, all or none: if one is refused, the files have what they had before.
    pub(crate) fn update(&self, settings: &[FileWrite]) -> Outcome<()> {
        let mut done: Vec<(&str, String)> = Vec::new();
        for FileWrite { path, value } in settings {
            let step = self.read(path).and_then(|before| {
                self.write(path, value.as_bytes())?;
                done.push((path, before));
                Ok(())
            });
            if let Err(errno) = step {
                for (path, before) in done.iter().rev() {
                    self.restore(path, before);
                }
                return Err(failed(format_args!("writing {value:?} to cgroup file {path}"), errno));
            }
        }
        Ok(())
    }

    /// Writes what was read from a file, a line at a time; the kernel takes what it has given.
    fn restore(&self, path: &str, before: &str) {
        for line in before.trim_end_matches('\n').split('\n') {
            let _ = self.write(path, format!("{line}\n").as_bytes());
        }
    }

    /// How many processes the OOM killer has killed in it and beneath it (cgroup-v2.rst,
    /// memory.events).
    pub(crate) fn oom_kills(&self) -> u64 {
        counter(&parse_counters(&self.read("memory.events").unwrap_or_default()), "oom_kill")
    }

    /// A descriptor that reports an event of high priority when a number in `memory.events` changes
    /// (cgroup-v2.rst), and again each time after [`acknowledge`].
    pub(crate) fn memory_events(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&self.directory, "memory.events", flags, Mode::empty())?;
        acknowledge(file.as_fd());
        Ok(file)
    }

    /// Removes it with all that the container has made beneath it; fails with EBUSY while
    /// processes are left.
    pub(crate) fn remove(&self) -> Result<(), Errno> {
        // Children before parents: each directory was found after the one that holds it.
        let mut paths: Vec<String> = Vec::new();
        self.walk(|path, _| paths.push(path.to_string()))?;
        for path in paths.iter().rev().filter(|path| !path.is_empty()) {
            match unlinkat(&self.directory, path.as_str(), AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        match unlinkat(open_top()?, self.name.as_str(), AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => Ok(()),
            result => result,
        }
    }

    fn write(&self, path: &str, value: &[u8]) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(&self.directory, path, flags, Mode::empty())?;
        rustix::io::write(&file, value).map(drop)
    }

    fn visit(&self, mut each: impl FnMut(BorrowedFd<'_>)) -> Result<(), Errno> {
        self.walk(|_, directory| each(directory))
    }

    /// This cgroup (with an empty path) and all beneath it, parents first. No recursion: the
    /// container chooses the depth.
    fn walk(&self, mut each: impl FnMut(&str, BorrowedFd<'_>)) -> Result<(), Errno> {
        let mut found = Vec::from([String::new()]);
        let mut index = 0;
        while let Some(path) = found.get(index).cloned() {
            index += 1;
            let name = if path.is_empty() { "." } else { path.as_str() };
            let directory = match openat(&self.directory, name, directory_flags(), Mode::empty()) {
                Ok(directory) => directory,
                Err(Errno::NOENT | Errno::NODEV) => continue,
                Err(errno) => return Err(errno),
            };
            each(&path, directory.as_fd());
            let mut space = Vec::with_capacity(FILE_BYTES);
            let mut entries = rustix::fs::RawDir::new(&directory, space.spare_capacity_mut());
            while let Some(entry) = entries.next() {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if entry.file_type() != FileType::Directory || name == b"." || name == b".." {
                    continue;
                }
                let name = core::str::from_utf8(name).map_err(|_| Errno::ILSEQ)?;
                if found.len() >= MAX_VISITED {
                    return Err(Errno::TOOBIG);
                }
                found.push(if path.is_empty() {
                    name.to_string()
                } else {
                    format!("{path}/{name}")
                });
            }
        }
        Ok(())
    }
}

/// Takes note of what a descriptor of [`Cgroup::memory_events`] has reported.
pub(crate) fn acknowledge(events: BorrowedFd<'_>) {
    let mut buffer = [0_u8; 512];
    let _ = rustix::io::pread(events, &mut buffer, 0);
}

/// The cgroup that a process is in now, for a container that has moved its first process.
pub(super) fn of_process(pid: u32) -> Result<OwnedFd, Errno> {
    let text = read_to_end(CWD, &format!("/proc/{pid}/cgroup"))?;
    let path = text.split('\n').find_map(|line| line.strip_prefix("0::/")).ok_or(Errno::NOENT)?;
    let path = if path.is_empty() { "." } else { path };
    openat(open_top()?, path, directory_flags(), Mode::empty())
}

/// Lets containers use every controller that the kernel has.
pub(crate) fn enable_controllers() -> Result<(), Errno> {
    let top = open_top()?;
    let mut line = String::new();
    for controller in read_to_end(top.as_fd(), "cgroup.controllers")?.split_ascii_whitespace() {
        line.push('+');
        line.push_str(controller);
        line.push(' ');
    }
    if line.is_empty() {
        return Ok(());
    }
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(&top, "cgroup.subtree_control", flags, Mode::empty())?;
    rustix::io::write(&file, line.as_bytes()).map(drop)
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW
}

fn open_top() -> Result<OwnedFd, Errno> {
    openat(CWD, layout::CGROUPS, directory_flags(), Mode::empty())
}

fn read_to_end(directory: BorrowedFd<'_>, path: &str) -> Result<String, Errno> {
    let file = openat(directory, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::new();
    let mut buffer = [0_u8; FILE_BYTES];
    loop {
        match rustix::io::read(&file, &mut buffer) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(buffer.get(..count).unwrap_or(&[])),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    String::from_utf8(text).map_err(|_| Errno::ILSEQ)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::prelude::v1::*;

    /// A directory that stands for a cgroup, with files of one length: unlike the kernel's, its
    /// files keep what is behind a write.
    fn stage(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let opened = openat(CWD, directory.path(), directory_flags(), Mode::empty()).unwrap();
        (directory, Cgroup { name: "c1".into(), directory: opened })
    }

    fn write(path: &str, value: &str) -> FileWrite {
        FileWrite { path: path.into(), value: value.into() }
    }

    fn text(directory: &Path, name: &str) -> String {
        std::fs::read_to_string(directory.join(name)).unwrap()
    }

    #[test]
    fn settings_are_changed_all_or_none() {
        let (directory, cgroup) = stage(&[("memory.max", "100\n"), ("pids.max", "20\n")]);
        cgroup.update(&[write("memory.max", "200"), write("pids.max", "30")]).unwrap();
        assert_eq!(text(directory.path(), "memory.max"), "200\n");
        assert_eq!(text(directory.path(), "pids.max"), "30\n");
        let refused = [write("memory.max", "300"), write("pids.max", "40"), write("none", "1")];
        let error = cgroup.update(&refused).unwrap_err();
        assert!(error.message.contains("none") && error.message.contains("\"1\""), "{error}");
        assert_eq!(text(directory.path(), "memory.max"), "200\n");
        assert_eq!(text(directory.path(), "pids.max"), "30\n");
    }

    #[test]
    fn kills_are_counted() {
        let (_directory, cgroup) = stage(&[("memory.events", "low 0\noom 3\noom_kill 2\n")]);
        assert_eq!(cgroup.oom_kills(), 2);
        let (_directory, cgroup) = stage(&[]);
        assert_eq!(cgroup.oom_kills(), 0);
    }
}
