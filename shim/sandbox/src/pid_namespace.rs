//! A child that is the first process of a PID namespace of its own, where it sees and can signal no
//! process but those that it starts.
//!
//! Nobody enters such a namespace; one is born into it. The child of [`Command`] therefore makes the
//! namespace and has a child, by clone(2) with CLONE_PARENT: a sibling of its own, the child of this
//! process. That one goes on to execute the program; the first tells its number and ends. Without
//! privileges a user namespace comes before, in which the user has them.
#![expect(unsafe_code, reason = "code between fork and exec")]

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, getegid, geteuid, getpid, waitpid};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::ffi::CStr;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Why there is no process.
#[derive(Debug)]
pub(crate) enum BirthError {
    /// The host gives no such namespace.
    Namespace(io::Error),
    /// Everything else.
    Start(io::Error),
}

/// Where a process's number will be told.
#[derive(Debug)]
pub(crate) struct Birth {
    reader: PipeReader,
}

/// Files of `/proc` and what is written to them.
type Maps = [(&'static CStr, String); 3];

/// Makes a command's process the first of a PID namespace. To be called before anything else is added
/// that happens between fork and exec. If `needed` is not set it stays in this one where the host does
/// not allow it.
///
/// # Errors
/// Those of pipe(2).
pub(crate) fn prepare(command: &mut Command, needed: bool) -> io::Result<Birth> {
    let (reader, mut writer) = io::pipe()?;
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let maps: Maps = [
        // Without it an unprivileged process may not write gid_map (user_namespaces(7)).
        (c"/proc/self/setgroups", "deny".to_owned()),
        (c"/proc/self/uid_map", format!("{uid} {uid} 1\n")),
        (c"/proc/self/gid_map", format!("{gid} {gid} 1\n")),
    ];
    let prepare = move || match make_namespace(&maps) {
        Ok(()) => be_born(&mut writer),
        Err(errno) if needed => {
            tell(&mut writer, errno.raw_os_error().wrapping_neg())?;
            Err(errno.into())
        }
        Err(_) => tell(&mut writer, getpid().as_raw_nonzero().get()),
    };
    // SAFETY: the closure runs between fork and execve and makes system calls only: it neither
    // allocates nor takes a lock that another thread could have held. This file keeps it so.
    unsafe {
        command.pre_exec(prepare);
    }
    Ok(Birth { reader })
}

/// In the child.
fn make_namespace(maps: &Maps) -> Result<(), Errno> {
    // SAFETY: a child has one thread after fork(2), and neither flag splits its descriptors.
    match unsafe { unshare_unsafe(UnshareFlags::NEWPID) } {
        Err(Errno::PERM) => {}
        other => return other,
    }
    // SAFETY: as above.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWPID) }?;
    for (file, text) in maps {
        let file = open(*file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, text.as_bytes())?;
    }
    Ok(())
}

/// In the child, which does not return from it: its own child does.
fn be_born(writer: &mut PipeWriter) -> io::Result<()> {
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // SAFETY: as fork(2) in a process of one thread, with memory and stack of its own.
    let number = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match i32::try_from(number) {
        Ok(0) => Ok(()),
        Ok(number @ 1..) => {
            let told = tell(writer, number);
            // SAFETY: nothing of this process has an effect outside it.
            unsafe { libc::_exit(i32::from(told.is_err())) }
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// A process id, or an error's number below 0.
fn tell(writer: &mut PipeWriter, number: i32) -> io::Result<()> {
    writer.write_all(&number.to_ne_bytes())
}

impl Birth {
    /// Starts the command and gives the process's number, which is a child of this one.
    ///
    /// # Errors
    /// [`BirthError`]. No child is left.
    pub(crate) fn start(mut self, mut command: Command) -> Result<Pid, BirthError> {
        let started = command.spawn();
        // The last of the pipe's other ends, so that nothing is waited for that does not come.
        drop(command);
        let told = self.number();
        match (started, told) {
            (Ok(mut first), Some(number)) => {
                reap(&mut first, number).map_err(BirthError::Start)?;
                Ok(number)
            }
            (Ok(mut first), None) => {
                let _ = first.kill();
                let _ = first.wait();
                Err(BirthError::Start(io::ErrorKind::UnexpectedEof.into()))
            }
            (Err(error), Some(number)) => {
                // It has failed to execute its program.
                let _ = waitpid(Some(number), WaitOptions::empty());
                Err(BirthError::Start(error))
            }
            (Err(error), None) => Err(BirthError::Namespace(error)),
        }
    }

    /// `None`: there is no namespace.
    fn number(&mut self) -> Option<Pid> {
        let mut number = [0; size_of::<i32>()];
        self.reader.read_exact(&mut number).ok()?;
        Pid::from_raw(i32::from_ne_bytes(number)).filter(|pid| pid.as_raw_nonzero().get() > 0)
    }
}

/// The first child ends at once, unless it is the process itself.
fn reap(first: &mut Child, number: Pid) -> io::Result<()> {
    if Pid::from_child(first) == number { Ok(()) } else { first.wait().map(drop) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn wait(pid: Pid) -> ExitStatus {
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        ExitStatus::from_raw(status.as_raw())
    }

    #[test]
    fn a_process_is_the_first_of_its_namespace_and_our_child() {
        let mut command = Command::new("sh");
        command.args(["-c", "test $$ = 1 && exit 7"]);
        let birth = prepare(&mut command, true).unwrap();
        match birth.start(command) {
            Ok(pid) => assert_eq!(wait(pid).code(), Some(7)),
            // A sandbox may forbid it to us.
            Err(BirthError::Namespace(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    #[test]
    fn a_program_that_is_missing_leaves_no_child() {
        let mut command = Command::new("/no/such/program");
        let birth = prepare(&mut command, false).unwrap();
        let error = birth.start(command).unwrap_err();
        let BirthError::Start(error) = error else { panic!("{error:?}") };
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
