//! Shows on the host that the guest's kernel has killed for memory.
//!
//! Engines learn of such kills from `memory.events` of the container's cgroup on the host, where the
//! kernel counts those of the cgroup and of all below it, and where nobody else can count. So a process
//! that does nothing else is killed for memory in a cgroup below. Only a cgroup without processes has
//! limits below it (cgroups(7), "no internal processes"); for that moment supervisor and machine are in
//! another one below:
//!
//! ```text
//! CONTAINER            its count goes up
//! |- machine           supervisor and machine, for the moment
//! `- witness           memory.max 0: one process, killed
//! ```
#![expect(unsafe_code, reason = "code between fork and exec")]

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, Signal};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};

/// Memory that the witness uses until it is killed.
const TOUCHED_BYTES: usize = 8 << 20;
/// Seconds of CPU time after which the kernel ends it in any case.
const MOST_SECONDS: u64 = 5;
/// A process can be started by another in the cgroup while they are moved.
const MAX_TRIES: usize = 10;

/// Has the count of kills of this cgroup go up; how far it did.
///
/// # Errors
/// Those of the files of cgroups and of fork(2). The cgroup is as it was before, as far as that was
/// possible.
pub(crate) fn show(cgroup: &Path) -> io::Result<u64> {
    let before = kills(cgroup)?;
    let machine = cgroup.join("machine");
    std::fs::create_dir(&machine)?;
    let killed = move_all(cgroup, &machine).and_then(|()| {
        let control = cgroup.join("cgroup.subtree_control");
        write(&control, "+memory")?;
        let killed = be_killed(&cgroup.join("witness"));
        // Before anybody can be in the cgroup itself again.
        write(&control, "-memory").and(killed)
    });
    let back = move_all(&machine, cgroup).and_then(|()| std::fs::remove_dir(&machine));
    killed.and(back)?;
    Ok(kills(cgroup)?.saturating_sub(before))
}

/// Kills for memory in this cgroup and below, the guest's own not counted.
///
/// # Errors
/// Those of reading a file; there is none without the memory controller.
pub(crate) fn kills(cgroup: &Path) -> io::Result<u64> {
    let events = std::fs::read_to_string(cgroup.join("memory.events"))?;
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    Ok(count.and_then(|count| count.trim().parse().ok()).unwrap_or(0))
}

/// Makes a cgroup in which nothing can be had, and has a process killed there.
fn be_killed(cgroup: &Path) -> io::Result<()> {
    std::fs::create_dir(cgroup)?;
    let killed = write(&cgroup.join("memory.max"), "0").and_then(|()| run(cgroup));
    killed.and(std::fs::remove_dir(cgroup))
}

/// Runs the witness to its end, which must be SIGKILL.
fn run(cgroup: &Path) -> io::Result<()> {
    // Never executed.
    let mut command = Command::new("/proc/self/exe");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut procs = OpenOptions::new().write(true).open(cgroup.join("cgroup.procs"))?;
    // No page of it is there before it is used.
    let mut memory: Vec<u8> = Vec::with_capacity(TOUCHED_BYTES);
    let prepare = move || -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        let limit = Rlimit { current: Some(MOST_SECONDS), maximum: Some(MOST_SECONDS) };
        rustix::process::setrlimit(Resource::Cpu, limit)?;
        // Engines keep their own processes from being killed for memory, and this one is their child.
        let path = c"/proc/self/oom_score_adj";
        let score = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&score, b"1000")?;
        procs.write_all(b"0")?;
        memory.resize(TOUCHED_BYTES, 1);
        std::hint::black_box(&memory);
        // It was not killed.
        Err(io::ErrorKind::Unsupported.into())
    };
    // SAFETY: the closure runs between fork and execve and makes system calls only: the vector has its
    // capacity already, so that nothing is allocated, and no lock is taken that another thread could
    // have held. This function keeps it so.
    unsafe {
        command.pre_exec(prepare);
    }
    let status = command.spawn()?.wait()?;
    match status.signal() {
        Some(signal) if signal == Signal::KILL.as_raw() => Ok(()),
        _ => Err(io::Error::other(format!("the witness was not killed: {status}"))),
    }
}

fn move_all(from: &Path, to: &Path) -> io::Result<()> {
    let procs = to.join("cgroup.procs");
    for _ in 0..MAX_TRIES {
        let pids = std::fs::read_to_string(from.join("cgroup.procs"))?;
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids.lines() {
            match write(&procs, pid) {
                // It has ended.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                moved => moved?,
            }
        }
    }
    Err(io::Error::other(format!("processes are started in {from:?} as fast as they are moved")))
}

/// One write(2): the kernel takes it as a whole.
fn write(file: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_those_of_the_events() {
        let directory = tempfile::tempdir().unwrap();
        kills(directory.path()).unwrap_err();
        let events = "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 1\n";
        std::fs::write(directory.path().join("memory.events"), events).unwrap();
        assert_eq!(kills(directory.path()).unwrap(), 2);
    }

    #[test]
    fn what_cannot_be_shown_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let cgroup = directory.path();
        for (name, text) in [("memory.events", "oom_kill 0\n"), ("cgroup.procs", "")] {
            std::fs::write(cgroup.join(name), text).unwrap();
        }
        // No cgroup: there is nothing to switch the controller on with.
        show(cgroup).unwrap_err();
        assert!(!cgroup.join("witness").exists());
    }
}
