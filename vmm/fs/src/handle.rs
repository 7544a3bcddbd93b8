//! Open files and directories of the guest.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::inode::Inode;

/// The position of a directory's descriptor is not known: the next READDIR has to seek.
pub(crate) const UNKNOWN_POSITION: u64 = u64::MAX;

/// What a handle was opened as.
#[derive(Debug)]
pub(crate) enum HandleKind {
    /// A regular file.
    File,
    /// A directory; `position` is the cookie at which the descriptor's next read starts.
    Directory {
        /// Locked for the whole of a READDIR: the descriptor has one position.
        position: Mutex<u64>,
    },
}

/// The lock of flock(2) that an open file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FlockKind {
    None = 0,
    Shared = 1,
    Exclusive = 2,
}

impl FlockKind {
    /// The kind with a number; none for an unknown one.
    pub(crate) fn from_u8(number: u8) -> Option<Self> {
        [Self::None, Self::Shared, Self::Exclusive].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// One open file or directory.
#[derive(Debug)]
pub(crate) struct Handle {
    fd: OwnedFd,
    flock: AtomicU8,
    pub(crate) inode: Arc<Inode>,
    /// The guest's flags of OPEN, OPENDIR or CREATE.
    pub(crate) flags: u32,
    pub(crate) kind: HandleKind,
}

impl Handle {
    pub(crate) fn new(fd: OwnedFd, inode: Arc<Inode>, flags: u32, kind: HandleKind) -> Self {
        Self { fd, flock: AtomicU8::new(FlockKind::None as u8), inode, flags, kind }
    }

    /// The lock of flock(2) that it has.
    pub(crate) fn flock_kind(&self) -> FlockKind {
        FlockKind::from_u8(self.flock.load(Ordering::Relaxed)).unwrap_or(FlockKind::None)
    }

    /// Locks the open file description as flock(2) does, without waiting: EAGAIN if another has a
    /// lock that forbids it.
    pub(crate) fn set_flock(&self, kind: FlockKind) -> Result<(), Errno> {
        let done = flock(
            self.fd(),
            match kind {
                FlockKind::None => FlockOperation::NonBlockingUnlock,
                FlockKind::Shared => FlockOperation::NonBlockingLockShared,
                FlockKind::Exclusive => FlockOperation::NonBlockingLockExclusive,
            },
        );
        // A lock that cannot be converted is lost (flock(2)).
        let now = if done.is_ok() { kind } else { FlockKind::None };
        self.flock.store(now as u8, Ordering::Relaxed);
        done
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

struct Handles {
    open: HashMap<u64, Arc<Handle>>,
    next_id: u64,
}

/// All handles of one server. Descriptors are closed outside the lock.
pub(crate) struct HandleTable {
    handles: Mutex<Handles>,
    max: usize,
}

impl HandleTable {
    pub(crate) fn new(max: usize) -> Self {
        // 0 is what a guest without a handle sends.
        Self { handles: Mutex::new(Handles { open: HashMap::new(), next_id: 1 }), max }
    }

    fn lock(&self) -> MutexGuard<'_, Handles> {
        // Every change under the lock is complete before the next that could panic.
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// ENFILE if no handle can be added, so that a file is not made or truncated first.
    pub(crate) fn check_room(&self) -> Result<(), Errno> {
        if self.lock().open.len() < self.max { Ok(()) } else { Err(Errno::NFILE) }
    }

    /// Adds a handle and gives its id.
    pub(crate) fn add(&self, handle: Handle) -> Result<u64, Errno> {
        let handles = &mut *self.lock();
        if handle.inode.share.is_removed() {
            return Err(Errno::STALE);
        }
        if handles.open.len() >= self.max {
            return Err(Errno::NFILE);
        }
        let id = handles.next_id;
        handles.next_id = id.saturating_add(1);
        handles.open.insert(id, Arc::new(handle));
        Ok(id)
    }

    fn get(&self, id: u64) -> Result<Arc<Handle>, Errno> {
        self.lock().open.get(&id).map(Arc::clone).ok_or(Errno::BADF)
    }

    /// An open regular file.
    pub(crate) fn file(&self, id: u64) -> Result<Arc<Handle>, Errno> {
        self.get(id).and_then(|handle| match handle.kind {
            HandleKind::File => Ok(handle),
            HandleKind::Directory { .. } => Err(Errno::BADF),
        })
    }

    /// An open directory.
    pub(crate) fn directory(&self, id: u64) -> Result<Arc<Handle>, Errno> {
        self.get(id).and_then(|handle| match handle.kind {
            HandleKind::Directory { .. } => Ok(handle),
            HandleKind::File => Err(Errno::NOTDIR),
        })
    }

    /// Takes a handle out, to be closed; EBADF if there is none.
    pub(crate) fn remove(&self, id: u64) -> Result<Arc<Handle>, Errno> {
        self.lock().open.remove(&id).ok_or(Errno::BADF)
    }

    /// Closes all handles of a share.
    pub(crate) fn remove_share(&self, share: u32) {
        let gone: Vec<Arc<Handle>> = {
            let handles = &mut *self.lock();
            handles.open.extract_if(|_, h| h.inode.share.id == share).map(|(_, h)| h).collect()
        };
        drop(gone);
    }

    /// Closes all handles: the session has ended. Ids go on from where they were.
    pub(crate) fn clear(&self) {
        let gone = std::mem::take(&mut self.lock().open);
        drop(gone);
    }

    /// The number of the next handle, and all handles in the order of their numbers.
    pub(crate) fn all(&self) -> (u64, Vec<(u64, Arc<Handle>)>) {
        let handles = self.lock();
        let mut all: Vec<_> = handles.open.iter().map(|(id, h)| (*id, Arc::clone(h))).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        (handles.next_id, all)
    }

    /// Puts a saved handle back under its number.
    pub(crate) fn restore(&self, id: u64, handle: Handle) {
        self.lock().open.insert(id, Arc::new(handle));
    }

    /// Goes on with the numbers of a saved table.
    pub(crate) fn set_next(&self, next: u64) {
        self.lock().next_id = next.max(1);
    }

    /// Handles held.
    pub(crate) fn len(&self) -> usize {
        self.lock().open.len()
    }
}
