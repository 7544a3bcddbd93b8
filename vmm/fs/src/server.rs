//! The state of one file server, shared by its workers.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, openat, statx};
use rustix::io::Errno;
use rustix::path::DecInt;
use thiserror::Error;

use crate::handle::HandleTable;
use crate::idmap::IdMap;
use crate::inode::InodeTable;
use crate::limits::Limits;
use crate::locks::{LockPolicy, LockTable, Waits};
use crate::session::Session;
use crate::share::{ActiveShare, Share, ShareError};

/// What a server is made of.
#[derive(Debug)]
pub struct ServerConfig {
    /// `/proc/self/fd`, opened by this process (`O_PATH` is enough) before it loses sight of
    /// `/proc`: a descriptor that is only a path becomes one for reading or writing through it. It
    /// shows the descriptors of the process that opened it, so a process that forks to serve must
    /// open it after the fork.
    pub proc_self_fd: OwnedFd,
    /// Bounds of what the guest may make the server hold.
    pub limits: Limits,
    /// Users in the guest and on the host.
    pub uid_map: IdMap,
    /// Groups in the guest and on the host.
    pub gid_map: IdMap,
    /// Where the locks of the guest's programs are; holds for all shares, since Linux asks for
    /// locks of all files of a file system or of none.
    pub locks: LockPolicy,
    /// The first shares; more can come and go at any time.
    pub shares: Vec<Share>,
}

/// Why a server cannot be made.
#[derive(Debug, Error)]
pub enum ServerError {
    /// A share of the configuration is refused.
    #[error("the file server cannot use a share")]
    Share(#[from] ShareError),
    /// `proc_self_fd` does not show this process's descriptors.
    #[error("the descriptor of /proc/self/fd does not show the descriptors of this process")]
    ProcSelfFd(#[source] Errno),
}

/// A file server: shares, the inodes and handles that one guest holds, and its session.
///
/// Requests are served by [`crate::Worker`]s, one a thread.
pub struct Server {
    proc_self_fd: OwnedFd,
    pub(crate) limits: Limits,
    pub(crate) uid_map: IdMap,
    pub(crate) gid_map: IdMap,
    pub(crate) inodes: InodeTable,
    pub(crate) handles: HandleTable,
    pub(crate) lock_policy: LockPolicy,
    pub(crate) locks: LockTable,
    pub(crate) waits: Waits,
    /// How often a waiting request may have become one that can be granted.
    unlocks: AtomicU64,
    shares: RwLock<BTreeMap<String, Arc<ActiveShare>>>,
    next_share: AtomicU32,
    session: RwLock<Option<Session>>,
}

/// What a server holds at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Inodes that the guest holds; one descriptor each.
    pub inodes: usize,
    /// Files and directories that the guest has open; one descriptor each.
    pub handles: usize,
    /// Ranges of record locks; at most one descriptor each.
    pub locks: usize,
    /// Requests that wait for a lock.
    pub waits: usize,
    /// Shares; one descriptor each.
    pub shares: usize,
}

impl Server {
    /// Makes a server.
    ///
    /// # Errors
    /// [`ServerError`] names the share or descriptor that cannot be used.
    pub fn new(config: ServerConfig) -> Result<Arc<Self>, ServerError> {
        let ServerConfig { proc_self_fd, limits, uid_map, gid_map, locks, shares } = config;
        check_proc_self_fd(&proc_self_fd).map_err(ServerError::ProcSelfFd)?;
        let server = Self {
            proc_self_fd,
            limits,
            uid_map,
            gid_map,
            inodes: InodeTable::new(limits.max_inodes),
            handles: HandleTable::new(limits.max_handles),
            lock_policy: locks,
            locks: LockTable::new(limits.max_locks),
            waits: Waits::default(),
            unlocks: AtomicU64::new(0),
            shares: RwLock::default(),
            next_share: AtomicU32::new(1),
            session: RwLock::default(),
        };
        for share in shares {
            server.add_share(share)?;
        }
        Ok(Arc::new(server))
    }

    /// Shows a further directory or file to the guest.
    ///
    /// # Errors
    /// [`ShareError`] says what is wrong with it.
    pub fn add_share(&self, share: Share) -> Result<(), ShareError> {
        let id = self.next_share.fetch_add(1, Ordering::Relaxed);
        let share = ActiveShare::new(share, id)?;
        let mut shares = self.shares.write().unwrap_or_else(PoisonError::into_inner);
        let name = share.name.clone();
        if shares.contains_key(&name) {
            return Err(ShareError::Exists(name));
        }
        if shares.len() >= self.limits.max_shares {
            return Err(ShareError::TooMany { name, max: self.limits.max_shares });
        }
        shares.insert(name, Arc::new(share));
        Ok(())
    }

    /// Takes a share from the guest. All that it holds of it is closed, except by requests that
    /// run at this moment, which close it at their end; what it asks later is ESTALE.
    ///
    /// # Errors
    /// [`ShareError::Missing`] if there is no such share.
    pub fn remove_share(&self, name: &str) -> Result<(), ShareError> {
        let removed = {
            let mut shares = self.shares.write().unwrap_or_else(PoisonError::into_inner);
            shares.remove(name).ok_or_else(|| ShareError::Missing(name.to_owned()))?
        };
        removed.set_removed();
        self.locks.remove_share(removed.id);
        self.handles.remove_share(removed.id);
        self.inodes.remove_share(removed.id);
        self.note_unlock();
        Ok(())
    }

    /// What the server holds at the moment.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            inodes: self.inodes.len(),
            handles: self.handles.len(),
            locks: self.locks.len(),
            waits: self.waits.len(),
            shares: self.shares.read().unwrap_or_else(PoisonError::into_inner).len(),
        }
    }

    /// Ends the guest's session and closes all that it held, as FUSE_DESTROY does: for the reset of
    /// a device. No request may run meanwhile.
    pub fn reset(&self) {
        self.set_session(None);
        self.waits.clear();
        self.locks.clear();
        self.handles.clear();
        self.inodes.clear();
    }

    /// A number that changes when a request that waits ([`crate::Served::Waiting`]) should come
    /// back: a lock of this guest was given up, or the wait is to end. What others on the host give
    /// up does not change it.
    #[must_use]
    pub fn unlocks(&self) -> u64 {
        self.unlocks.load(Ordering::SeqCst)
    }

    pub(crate) fn note_unlock(&self) {
        self.unlocks.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn set_session(&self, session: Option<Session>) {
        *self.session.write().unwrap_or_else(PoisonError::into_inner) = session;
    }

    pub(crate) fn session(&self) -> Option<Session> {
        *self.session.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn share(&self, name: &[u8]) -> Result<Arc<ActiveShare>, Errno> {
        let name = std::str::from_utf8(name).map_err(|_| Errno::NOENT)?;
        let shares = self.shares.read().unwrap_or_else(PoisonError::into_inner);
        shares.get(name).map(Arc::clone).ok_or(Errno::NOENT)
    }

    /// All shares in the order of their names.
    pub(crate) fn shares(&self) -> Vec<Arc<ActiveShare>> {
        let shares = self.shares.read().unwrap_or_else(PoisonError::into_inner);
        shares.values().map(Arc::clone).collect()
    }

    /// Opens what an `O_PATH` descriptor stands for. Only for regular files and directories, and
    /// for `O_PATH` again: opening a fifo or a device acts on it.
    pub(crate) fn reopen(&self, fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
        let name = DecInt::from_fd(fd);
        openat(&self.proc_self_fd, name.as_c_str(), flags | OFlags::CLOEXEC, Mode::empty())
    }

    pub(crate) fn proc_self_fd(&self) -> BorrowedFd<'_> {
        self.proc_self_fd.as_fd()
    }
}

/// A descriptor must be seen as itself in the directory.
fn check_proc_self_fd(proc_self_fd: &OwnedFd) -> Result<(), Errno> {
    let name = DecInt::from_fd(proc_self_fd);
    let direct = statx(proc_self_fd, c"", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
    let through = statx(proc_self_fd, name.as_c_str(), AtFlags::empty(), StatxFlags::INO)?;
    if direct.stx_ino == through.stx_ino { Ok(()) } else { Err(Errno::STALE) }
}
