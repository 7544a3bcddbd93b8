//! The saved form of a server: what a clone needs to go on where its template stopped.
//!
//! Descriptors cannot be saved; each inode is saved as its share and its path in it, and opened
//! again. A file that has no path any more (unlinked and still open, made without a name, moved out
//! of the share) or that is not there when the state comes back is lost: the guest gets ESTALE for
//! it, and EBADF for its handles. [`Lost`] counts them.
//!
//! Saved values are distrusted: a state that contradicts itself is refused, and paths are opened
//! beneath their share without following links, like everything else.

use std::collections::{HashMap, HashSet};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, openat2, readlinkat};
use rustix::io::Errno;
use rustix::path::DecInt;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::handle::{FlockKind, Handle, HandleKind, UNKNOWN_POSITION};
use crate::inode::{Inode, Key};
use crate::locks::{Range, Wanted};
use crate::ops::{BENEATH, host_flags, retry_race, status};
use crate::server::{Server, ServerConfig, ServerError};
use crate::session::Session;
use crate::share::ActiveShare;
use crate::wire::ROOT_ID;

/// Version of [`ServerState`]; it goes up with every change of the types in this module.
pub const STATE_VERSION: u16 = 2;

/// A server without its configuration, which the one that restores it brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerState {
    /// [`STATE_VERSION`] of the writer.
    pub version: u16,
    /// What was agreed with the guest, if FUSE_INIT has happened.
    pub session: Option<Session>,
    /// The node id that the next inode gets.
    pub next_inode: u64,
    /// The number that the next handle gets.
    pub next_handle: u64,
    /// All inodes that the guest holds.
    pub inodes: Vec<InodeState>,
    /// All files and directories that the guest has open.
    pub handles: Vec<HandleState>,
    /// All ranges that the guest's programs have locked.
    pub locks: Vec<LockState>,
}

/// An inode that the guest holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InodeState {
    /// Its node id.
    pub id: u64,
    /// Name of its share.
    pub share: String,
    /// Its path in the share, empty for the root; none if it had none.
    pub path: Option<Vec<u8>>,
    /// Lookups that the guest has not forgotten.
    pub lookups: u64,
    /// Its type, as the upper four bits of a 16-bit mode.
    pub kind: u8,
}

/// An open file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandleState {
    /// Its number.
    pub id: u64,
    /// Node id of what is open.
    pub inode: u64,
    /// The guest's open flags.
    pub flags: u32,
    /// Its lock of flock(2): 0 none, 1 shared, 2 exclusive.
    pub flock: u8,
}

/// A range of a file that is locked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockState {
    /// Node id of the file.
    pub inode: u64,
    /// The owner as the guest names it.
    pub owner: u64,
    /// First byte.
    pub start: i64,
    /// Last byte, `i64::MAX` for the end of the file.
    pub end: i64,
    /// Whether it is a write lock.
    pub exclusive: bool,
    /// The guest's process that took it.
    pub pid: u32,
    /// The handle through which it was taken.
    pub handle: u64,
}

/// What could not be opened again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Inodes that are ESTALE for the guest.
    pub inodes: usize,
    /// Handles that are EBADF for the guest.
    pub handles: usize,
    /// Locks that somebody else holds by now, or whose file is lost. A program of the guest that
    /// believes to have one may write beside another: a launcher should not let such a guest go on.
    pub locks: usize,
}

/// Why a state is refused.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// Another version of this software wrote it.
    #[error("the saved file server has version {found}, this one reads {STATE_VERSION}")]
    Version {
        /// The state's version.
        found: u16,
    },
    /// The session could not have been agreed on.
    #[error("the saved session (protocol 7.{}, features {:#x}) is none of this server", .0.minor, .0.features)]
    Session(Session),
    /// An id appears twice, or is one that will be given out again.
    #[error("the saved {what} {id} is reserved, appears twice or is not below the next, {next}")]
    Id {
        /// "inode" or "handle".
        what: &'static str,
        /// The id.
        id: u64,
        /// The next id in the state.
        next: u64,
    },
    /// A handle refers to an inode that is not in the state.
    #[error("the saved handle {handle} is of inode {inode}, which is not saved")]
    NoInode {
        /// The handle's number.
        handle: u64,
        /// The node id.
        inode: u64,
    },
    /// A lock is none.
    #[error("the saved lock from byte {start} to {end} of inode {inode} is none")]
    Lock {
        /// The node id.
        inode: u64,
        /// First byte.
        start: i64,
        /// Last byte.
        end: i64,
    },
    /// More than the configuration allows.
    #[error(
        "the saved state holds {inodes} inodes, {handles} handles and {locks} locks, more than \
         allowed"
    )]
    Limits {
        /// Inodes in the state.
        inodes: usize,
        /// Handles in the state.
        handles: usize,
        /// Locks in the state.
        locks: usize,
    },
    /// The configuration makes no server.
    #[error("the file server for a saved state cannot be made")]
    Server(#[from] ServerError),
}

impl Server {
    /// The state of this server. No request may run meanwhile.
    #[must_use]
    pub fn save(&self) -> ServerState {
        let (next_inode, inodes) = self.inodes.all();
        let (next_handle, handles) = self.handles.all();
        let mut roots = HashMap::new();
        let inodes = inodes.into_iter().map(|(inode, lookups)| InodeState {
            id: inode.id,
            share: inode.share.name.clone(),
            path: self.path_in_share(&inode, &mut roots),
            lookups,
            kind: kind_to_u8(inode.kind),
        });
        let handles = handles.into_iter().map(|(id, handle)| HandleState {
            id,
            inode: handle.inode.id,
            flags: handle.flags,
            flock: handle.flock_kind() as u8,
        });
        let locks = self.locks.all().into_iter().map(|(inode, owner, range)| {
            let Range { start, end, exclusive, pid, handle } = range;
            LockState { inode, owner, start, end, exclusive, pid, handle }
        });
        ServerState {
            version: STATE_VERSION,
            session: self.session(),
            next_inode,
            next_handle,
            inodes: inodes.collect(),
            handles: handles.collect(),
            locks: locks.collect(),
        }
    }

    /// The path of an inode in its share, if one leads to it. The kernel's own word for a path may
    /// be out of date or refer to another root, so it counts only if it opens the same file.
    fn path_in_share(
        &self,
        inode: &Inode,
        roots: &mut HashMap<u32, Option<Vec<u8>>>,
    ) -> Option<Vec<u8>> {
        let root = roots
            .entry(inode.share.id)
            .or_insert_with(|| self.host_path(inode.share.root()))
            .as_ref()?;
        let path = self.host_path(inode.fd())?;
        let rest = path.strip_prefix(root.as_slice())?;
        let relative = rest.strip_prefix(b"/").unwrap_or(rest);
        let fd = self.open_in_share(&inode.share, relative).ok()?;
        let key = Key::new(&inode.share, &status(fd).ok()?).ok()?;
        (key == inode.key()).then(|| relative.to_vec())
    }

    fn host_path(&self, fd: BorrowedFd<'_>) -> Option<Vec<u8>> {
        let name = DecInt::from_fd(fd);
        let path = readlinkat(self.proc_self_fd(), name.as_c_str(), Vec::new()).ok()?;
        // The root of a file system is "/", and a prefix of all paths there without its slash.
        let bytes = path.into_bytes();
        Some(bytes.strip_suffix(b"/").map(<[u8]>::to_vec).unwrap_or(bytes))
    }

    fn open_in_share(&self, share: &ActiveShare, path: &[u8]) -> Result<OwnedFd, Errno> {
        if path.is_empty() {
            return self.reopen(share.root(), OFlags::PATH);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        retry_race(|| openat2(share.root(), path, flags, Mode::empty(), BENEATH))
    }

    /// Makes a server that goes on from `state`, with the shares of `config` found by their names.
    ///
    /// # Errors
    /// [`RestoreError`] says how the state contradicts itself or the configuration.
    pub fn restore(
        config: ServerConfig,
        state: &ServerState,
    ) -> Result<(Arc<Self>, Lost), RestoreError> {
        check(state, &config)?;
        let server = Self::new(config)?;
        let mut lost = Lost::default();
        for saved in &state.inodes {
            if server.restore_inode(saved).is_err() {
                lost.inodes = lost.inodes.saturating_add(1);
            }
        }
        for saved in &state.handles {
            match server.restore_handle(saved) {
                Ok(true) => {}
                Ok(false) => lost.locks = lost.locks.saturating_add(1),
                Err(_) => {
                    lost.handles = lost.handles.saturating_add(1);
                    lost.locks = lost.locks.saturating_add(usize::from(saved.flock != 0));
                }
            }
        }
        for saved in &state.locks {
            if server.restore_lock(saved).is_err() {
                lost.locks = lost.locks.saturating_add(1);
            }
        }
        server.inodes.set_next(state.next_inode);
        server.handles.set_next(state.next_handle);
        server.set_session(state.session);
        Ok((server, lost))
    }

    fn restore_inode(&self, saved: &InodeState) -> Result<(), Errno> {
        let share = self.share(saved.share.as_bytes())?;
        let path = saved.path.as_deref().ok_or(Errno::NOENT)?;
        let fd = self.open_in_share(&share, path)?;
        let status = status(&fd)?;
        let kind = FileType::from_raw_mode(u32::from(status.stx_mode));
        if kind_to_u8(kind) != saved.kind {
            return Err(Errno::STALE);
        }
        let key = Key::new(&share, &status)?;
        self.inodes.restore(Inode::new(saved.id, share, key, fd, kind), saved.lookups);
        Ok(())
    }

    /// Opens a handle again; false if another has what it had locked.
    fn restore_handle(&self, saved: &HandleState) -> Result<bool, Errno> {
        let inode = self.inodes.get(saved.inode)?;
        let (fd, kind) = match inode.kind {
            FileType::RegularFile => {
                // What was truncated when it was opened may hold data again.
                let flags = host_flags(saved.flags)?.difference(OFlags::TRUNC);
                if inode.share.read_only && flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
                    return Err(Errno::ROFS);
                }
                (self.reopen(inode.fd(), flags)?, HandleKind::File)
            }
            FileType::Directory => {
                let fd = self.reopen(inode.fd(), OFlags::RDONLY | OFlags::DIRECTORY)?;
                (fd, HandleKind::Directory { position: UNKNOWN_POSITION.into() })
            }
            _ => return Err(Errno::BADF),
        };
        let handle = Handle::new(fd, inode, saved.flags, kind);
        let lock = FlockKind::from_u8(saved.flock).ok_or(Errno::INVAL)?;
        let locked = lock == FlockKind::None || handle.set_flock(lock).is_ok();
        self.handles.restore(saved.id, handle);
        Ok(locked)
    }

    fn restore_lock(&self, saved: &LockState) -> Result<(), Errno> {
        let LockState { inode, owner, start, end, exclusive, pid, handle } = *saved;
        let inode = self.inodes.get(inode)?;
        let range = Range { start, end, exclusive, pid, handle };
        let wanted = Wanted { inode: &inode, owner, range };
        self.locks.set(&wanted, |write| self.open_for_locks(&inode, write))
    }
}

/// What can be wrong with a state before any file is looked at.
fn check(state: &ServerState, config: &ServerConfig) -> Result<(), RestoreError> {
    let ServerState { version, session, next_inode, next_handle, inodes, handles, locks } = state;
    if *version != STATE_VERSION {
        return Err(RestoreError::Version { found: *version });
    }
    if let Some(session) = session
        && !session.is_possible(config.locks)
    {
        return Err(RestoreError::Session(*session));
    }
    let limits = &config.limits;
    let (inodes_len, handles_len, locks_len) = (inodes.len(), handles.len(), locks.len());
    if inodes_len > limits.max_inodes
        || handles_len > limits.max_handles
        || locks_len > limits.max_locks
    {
        return Err(RestoreError::Limits {
            inodes: inodes_len,
            handles: handles_len,
            locks: locks_len,
        });
    }
    let mut nodes = HashSet::new();
    for inode in inodes {
        if inode.id <= ROOT_ID || inode.id >= *next_inode || !nodes.insert(inode.id) {
            return Err(RestoreError::Id { what: "inode", id: inode.id, next: *next_inode });
        }
    }
    let mut seen = HashSet::new();
    for handle in handles {
        if handle.id == 0 || handle.id >= *next_handle || !seen.insert(handle.id) {
            return Err(RestoreError::Id { what: "handle", id: handle.id, next: *next_handle });
        }
        if !nodes.contains(&handle.inode) {
            return Err(RestoreError::NoInode { handle: handle.id, inode: handle.inode });
        }
    }
    for &LockState { inode, start, end, .. } in locks {
        if start < 0 || end < start || !nodes.contains(&inode) {
            return Err(RestoreError::Lock { inode, start, end });
        }
    }
    Ok(())
}

fn kind_to_u8(kind: FileType) -> u8 {
    u8::try_from((kind.as_raw_mode() >> 12) & 0xf).unwrap_or_default()
}
