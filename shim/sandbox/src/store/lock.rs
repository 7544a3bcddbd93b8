//! Locks with a deadline.

use super::{StoreError, failed};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// A lock is held for some system calls, or for as long as a container takes to be deleted.
pub(super) const LOCK_DEADLINE: Duration = Duration::from_secs(30);

/// How often a lock that is held is asked for again.
const PAUSE: Duration = Duration::from_millis(2);

/// Locks a file, which is made if it is missing, until the descriptor is closed.
///
/// # Errors
/// [`StoreError::Locked`] after the deadline, or [`StoreError::Io`].
pub(super) fn file(path: &Path) -> Result<OwnedFd, StoreError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| failed(path)(errno.into()))?;
    wait(path, file)
}

/// Locks a directory, until the descriptor is closed.
///
/// # Errors
/// As [`file`].
pub(super) fn directory(path: &Path) -> Result<OwnedFd, StoreError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(path)(errno.into()))?;
    wait(path, directory)
}

fn wait(path: &Path, file: OwnedFd) -> Result<OwnedFd, StoreError> {
    let started = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(path)(errno.into())),
        }
        if started.elapsed() > LOCK_DEADLINE {
            return Err(StoreError::Locked { path: path.to_owned() });
        }
        std::thread::sleep(PAUSE);
    }
}
