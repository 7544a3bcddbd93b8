//! Locks of files: GETLK, SETLK, SETLKW, and what closing a file gives back.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::handle::{FlockKind, Handle};
use crate::inode::Inode;
use crate::locks::{LockPolicy, Range, Wanted};
use crate::server::Server;
use crate::wire::{FileLock, InHeader, LK_FLOCK, LkIn, LkOut};
use crate::worker::{Outcome, Worker};

/// `fuse_file_lock.kind`: `F_RDLCK`, `F_WRLCK` and `F_UNLCK` of x86-64 and the generic ABI.
const READ: u32 = 0;
const WRITE: u32 = 1;
const UNLOCK: u32 = 2;

impl Worker {
    pub(super) fn getlk(&mut self, header: &InHeader, args: &LkIn) -> Result<Outcome, Errno> {
        let handle = self.lockable(header, args)?;
        // flock(2) has no question.
        if args.lk_flags != 0 || args.lk.kind == UNLOCK {
            return Err(Errno::INVAL);
        }
        let wanted = wanted(&handle, args)?;
        let server = &self.server;
        let found =
            server.locks.find(&wanted, |write| server.open_for_locks(&handle.inode, write))?;
        let lk = found.map_or(FileLock { kind: UNLOCK, ..args.lk }, |range| FileLock {
            start: range.start.cast_unsigned(),
            end: range.end.cast_unsigned(),
            kind: if range.exclusive { WRITE } else { READ },
            pid: range.pid,
        });
        Ok(self.body(&LkOut { lk }))
    }

    /// SETLK, and SETLKW with `wait`.
    pub(super) fn setlk(
        &mut self,
        header: &InHeader,
        args: &LkIn,
        wait: bool,
    ) -> Result<Outcome, Errno> {
        let handle = self.lockable(header, args)?;
        let unlocks = args.lk.kind == UNLOCK;
        let (done, holder) = match args.lk_flags {
            LK_FLOCK => (handle.set_flock(flock_kind(args.lk.kind)?), None),
            0 => {
                let wanted = wanted(&handle, args)?;
                let done = self.set_record_lock(&wanted, unlocks);
                let blocked = wait && done == Err(Errno::AGAIN);
                let holder = blocked.then(|| self.server.locks.holder(&wanted)).flatten();
                (done, holder)
            }
            _ => return Err(Errno::INVAL),
        };
        if wait && done == Err(Errno::AGAIN) {
            let max = self.server.limits.max_locks;
            self.server.waits.wait(header.unique, args.owner, holder, max)?;
            return Ok(Outcome::Wait);
        }
        if wait {
            self.server.waits.done(header.unique);
        }
        if unlocks {
            self.server.note_unlock();
        }
        done.map(|()| Outcome::Body)
    }

    fn set_record_lock(&self, wanted: &Wanted<'_>, unlocks: bool) -> Result<(), Errno> {
        let locks = &self.server.locks;
        let done = if unlocks {
            locks.unset(wanted.inode.id, wanted.owner, &wanted.range)
        } else {
            locks.set(wanted, |write| self.server.open_for_locks(wanted.inode, write))
        };
        // Either may be said where another holds the lock (fcntl(2)).
        done.map_err(|errno| if errno == Errno::ACCESS { Errno::AGAIN } else { errno })
    }

    /// The handle whose file is to be locked, where locks are the host's.
    fn lockable(&self, header: &InHeader, args: &LkIn) -> Result<Arc<Handle>, Errno> {
        match self.server.lock_policy {
            LockPolicy::Host => {}
            LockPolicy::Refused => return Err(Errno::NOLCK),
            // Not offered, so that Linux does not ask.
            LockPolicy::Guest => return Err(Errno::NOSYS),
        }
        let handle = self.server.handles.file(args.fh)?;
        if handle.inode.id == header.nodeid { Ok(handle) } else { Err(Errno::BADF) }
    }

    /// A process has closed a file: all its record locks on it go, whatever descriptor they were
    /// taken through (fcntl(2)).
    pub(super) fn unlock_at_close(&self, inode: &Inode, owner: u64) {
        if self.server.locks.release_owner(inode.id, owner) {
            self.server.note_unlock();
        }
    }

    /// The last descriptor of an open file description is gone, and with it the locks that it owned.
    pub(super) fn unlock_at_release(&self, handle: &Handle, fh: u64) {
        let records = self.server.locks.release_handle(handle.inode.id, fh);
        if records || handle.flock_kind() != FlockKind::None {
            self.server.note_unlock();
        }
    }
}

impl Server {
    /// An open file description for an owner of locks.
    ///
    /// # Errors
    /// EBADF for write locks in a read-only share, as fcntl(2) has it for a descriptor that is not
    /// open for writing.
    pub(crate) fn open_for_locks(&self, inode: &Inode, write: bool) -> Result<OwnedFd, Errno> {
        if write && inode.share.read_only {
            return Err(Errno::BADF);
        }
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        // A program that asks for a lock expects to hear that there are none left.
        let none_left = |errno| if errno == Errno::MFILE { Errno::NOLCK } else { errno };
        self.reopen(inode.fd(), access | OFlags::NONBLOCK).map_err(none_left)
    }
}

fn flock_kind(kind: u32) -> Result<FlockKind, Errno> {
    match kind {
        READ => Ok(FlockKind::Shared),
        WRITE => Ok(FlockKind::Exclusive),
        UNLOCK => Ok(FlockKind::None),
        _ => Err(Errno::INVAL),
    }
}

/// The owner and the range of a request.
fn wanted<'h>(handle: &'h Handle, args: &LkIn) -> Result<Wanted<'h>, Errno> {
    let FileLock { start, end, kind, pid } = args.lk;
    let offset = |value: u64| i64::try_from(value).map_err(|_| Errno::INVAL);
    let (start, end) = (offset(start)?, offset(end)?);
    if end < start || kind > UNLOCK {
        return Err(Errno::INVAL);
    }
    let range = Range { start, end, exclusive: kind == WRITE, pid, handle: args.fh };
    Ok(Wanted { inode: &handle.inode, owner: args.owner, range })
}
