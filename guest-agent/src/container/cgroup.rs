//! The cgroup (version 2) of a container.

use crate::failure::{Outcome, failed};
use crate::{layout, sys};
use agent_protocol::CgroupPlan;
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
        let loaded = sys::load_device_program(&super::instructions(program))
            .map_err(|errno| failed(format_args!("loading the device program"), errno))?;
        sys::attach_device_program(self.fd(), loaded.as_fd())
            .map_err(|errno| failed(format_args!("attaching the device program"), errno))
    }

    /// Kills every process in it and beneath it.
    pub(crate) fn kill(&self) -> Result<(), Errno> {
        self.write("cgroup.kill", b"1")
    }

    /// Sends a signal to every process in it and beneath it.
    pub(crate) fn signal(&self, signal: u8) -> Result<(), Errno> {
        if i32::from(signal) == libc::SIGKILL {
            return self.kill();
        }
        let mut sent = Ok(());
        self.visit(|directory| {
            // A threaded cgroup has no list (EOPNOTSUPP); its processes are in its parent's.
            let text = read_to_end(directory, "cgroup.procs").unwrap_or_default();
            for pid in text.split('\n').filter_map(|line| line.parse::<u32>().ok()) {
                match sys::kill(pid, signal) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(errno) => sent = Err(errno),
                }
            }
        })?;
        sent
    }

    /// Whether the OOM killer has killed in it (cgroup-v2.rst, memory.events).
    pub(crate) fn oom_killed(&self) -> bool {
        let text = read_to_end(self.fd(), "memory.events").unwrap_or_default();
        text.split('\n')
            .filter_map(|line| line.strip_prefix("oom_kill "))
            .any(|count| count.trim() != "0")
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
