//! A child process that is waited for by its descriptor, and killed when it is forgotten.
#![expect(unsafe_code, reason = "code between fork and exec")]

use crate::pid_namespace::{Birth, BirthError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, kill_process, kill_process_group, pidfd_open,
    pidfd_send_signal, waitpid,
};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;

/// A running child.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    /// A descriptor cannot come to mean another process, as a number can.
    pidfd: AsyncFd<OwnedFd>,
    reaped: Option<ExitStatus>,
    /// Its own children are killed with it.
    leads_group: bool,
}

/// A process that is not our child, by number and time of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct ProcessRef {
    pub(crate) pid: i32,
    /// Field 22 of `/proc/PID/stat` (proc_pid_stat(5)): with it a number is not taken for a later
    /// process's.
    pub(crate) start_time: u64,
}

impl Process {
    /// Starts a command, which dies with this process.
    ///
    /// # Errors
    /// Those of fork(2), execve(2) and pidfd_open(2).
    pub(crate) fn start(mut command: Command) -> io::Result<Self> {
        die_with_parent(&mut command);
        // Dropping what stands for a child neither ends it nor waits for it.
        Self::own(Pid::from_child(&command.spawn()?))
    }

    /// As [`Self::start`], with a descriptor that the program finds under its number.
    ///
    /// # Errors
    /// Those of [`Self::start`].
    pub(crate) fn start_with(mut command: Command, descriptor: OwnedFd) -> io::Result<Self> {
        let number = descriptor.as_raw_fd();
        let prepare = move || {
            // SAFETY: `start_with` holds it open until the child has executed its program, and
            // fork(2) has copied it.
            let inherited = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl_setfd(inherited, FdFlags::empty()).map_err(io::Error::from)
        };
        // SAFETY: the closure runs between fork and execve and makes one system call only.
        unsafe {
            command.pre_exec(prepare);
        }
        let started = Self::start(command);
        drop(descriptor);
        started
    }

    /// As [`Self::start`], as the first process of a PID namespace.
    ///
    /// # Errors
    /// [`BirthError`].
    pub(crate) fn start_first(mut command: Command, birth: Birth) -> Result<Self, BirthError> {
        die_with_parent(&mut command);
        Self::own(birth.start(command)?).map_err(BirthError::Start)
    }

    /// A child of this process, which nobody else waits for.
    fn own(pid: Pid) -> io::Result<Self> {
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(io::Error::from);
        match pidfd.and_then(crate::watched::watch) {
            Ok(pidfd) => Ok(Self { pid, pidfd, reaped: None, leads_group: false }),
            Err(error) => {
                // Without its descriptor it is of no use; it must not stay behind either.
                let _ = kill_process(pid, Signal::KILL);
                drop(reap(pid));
                Err(error)
            }
        }
    }

    /// As [`Self::start`], in a process group of its own, which is killed with it.
    ///
    /// # Errors
    /// Those of [`Self::start`].
    pub(crate) fn start_group(mut command: Command) -> io::Result<Self> {
        command.process_group(0);
        let mut process = Self::start(command)?;
        process.leads_group = true;
        Ok(process)
    }

    pub(crate) fn reference(&self) -> Option<ProcessRef> {
        ProcessRef::of(self.pid.as_raw_nonzero().get())
    }

    /// Waits for the end and reaps.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.reaped {
            return Ok(status);
        }
        drop(self.pidfd.readable().await?);
        let status = reap(self.pid)?;
        self.reaped = Some(status);
        Ok(status)
    }

    /// Kills; the process is there until it is waited for.
    pub(crate) fn kill(&self) {
        if self.reaped.is_none() {
            if self.leads_group {
                // Nobody else has the number before the process is reaped.
                let _ = kill_process_group(self.pid, Signal::KILL);
            }
            // It fails only if the process has ended by itself.
            let _ = pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.reaped.is_none() {
            self.kill();
            drop(reap(self.pid));
        }
    }
}

fn reap(pid: Pid) -> io::Result<ExitStatus> {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(ExitStatus::from_raw(status.as_raw())),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The child gets SIGKILL when this thread ends, however it ends, and starts with no signal
/// blocked.
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let prepare = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the call above. From inside a PID namespace of its own a child
        // sees none.
        if rustix::process::getppid().is_some_and(|now| now != parent) {
            return Err(io::Error::from(io::ErrorKind::NotConnected));
        }
        crate::signals::unblock_all();
        Ok(())
    };
    // SAFETY: the closure runs between fork and execve and makes system calls only: it neither
    // allocates nor takes a lock that another thread could have held. This function keeps it so.
    unsafe {
        command.pre_exec(prepare);
    }
}

impl ProcessRef {
    /// The process that has this number now. One that has ended, and waits to be reaped by whoever
    /// its parent is, is none.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field, in parentheses, may hold anything.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        let start_time = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, start_time })
    }

    /// This process.
    pub(crate) fn own() -> Option<Self> {
        Self::of(rustix::process::getpid().as_raw_nonzero().get())
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Kills it if it is still the same process.
    pub(crate) fn kill(self) {
        if let Some(pidfd) = self.open() {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }

    /// Asks it to end if it is still the same process.
    pub(crate) fn terminate(self) {
        if let Some(pidfd) = self.open() {
            let _ = pidfd_send_signal(&pidfd, Signal::TERM);
        }
    }

    /// Waits until it has ended; false if the time was over before.
    pub(crate) fn wait(self, patience: Duration) -> bool {
        let Some(pidfd) = self.open() else { return true };
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(timeout) = Timespec::try_from(left) else { return false };
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return !self.is_alive(),
            }
        }
    }

    /// The descriptor is opened before the check: what was checked is what it means.
    fn open(self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        self.is_alive().then_some(pidfd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = ProcessRef::own().unwrap();
        assert!(own.is_alive());
        let other = ProcessRef { start_time: own.start_time + 1, ..own };
        assert!(!other.is_alive());
    }

    #[test]
    fn a_process_that_waits_to_be_reaped_is_none() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let reference = ProcessRef::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!reference.wait(Duration::from_millis(10)));
        reference.kill();
        assert!(reference.wait(Duration::from_secs(20)));
        assert!(!reference.is_alive());
        child.wait().unwrap();
        assert!(reference.wait(Duration::ZERO));
    }

    #[tokio::test]
    async fn a_killed_process_is_reaped_with_its_signal() {
        use std::os::unix::process::ExitStatusExt;
        let mut command = Command::new("sleep");
        command.arg("1000");
        let mut process = Process::start(command).unwrap();
        let reference = process.reference().unwrap();
        process.kill();
        assert_eq!(process.wait().await.unwrap().signal(), Some(9));
        assert!(!reference.is_alive());
    }

    #[tokio::test]
    async fn a_forgotten_process_is_gone() {
        let mut command = Command::new("sleep");
        command.arg("1000");
        let process = Process::start(command).unwrap();
        let reference = process.reference().unwrap();
        drop(process);
        assert!(!reference.is_alive());
    }
}
