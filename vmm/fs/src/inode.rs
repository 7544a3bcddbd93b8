//! The inodes that the guest holds: node id to descriptor, with the count of its lookups.
//!
//! The only names that a guest has for a file are a node id out of this table and a component in a
//! directory out of this table; a forged id finds nothing (ESTALE). Ids are never used twice in a
//! session, so that a late request cannot reach a newer file.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

use crate::share::ActiveShare;
use crate::wire::ROOT_ID;

/// What makes a file on the host the same file. The descriptor in the table keeps the inode number
/// and the mount number from being given to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    ino: u64,
    /// Device number as the kernel packs it: 12 bits major, 20 bits minor.
    device: u32,
    /// Mount number; two mounts of one directory are two directories (rename between them is
    /// EXDEV).
    mount: u32,
}

/// A file in a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    file: Identity,
    share: u32,
}

impl Key {
    /// The identity in a status that was asked for with `STATX_MNT_ID`.
    pub(crate) fn new(share: &ActiveShare, status: &Statx) -> Result<Self, Errno> {
        let minor = status.stx_dev_minor;
        let device = (status.stx_dev_major << 20) | (minor & 0xf_ffff);
        let mount = u32::try_from(status.stx_mnt_id).map_err(|_| Errno::OVERFLOW)?;
        Ok(Self { file: Identity { ino: status.stx_ino, device, mount }, share: share.id })
    }
}

/// The set-user-ID and set-group-ID bits of a mode.
pub(crate) const SET_ID: u32 = 0o6000;

/// A file or directory that the guest knows.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) id: u64,
    pub(crate) share: Arc<ActiveShare>,
    file: Identity,
    fd: OwnedFd,
    pub(crate) kind: FileType,
    /// Whether the file had a set-user-ID or set-group-ID bit when the guest last saw its mode.
    set_id: AtomicBool,
    /// What size and times were when the guest last opened the file; see `ops::open`.
    stamp: AtomicU64,
}

impl Inode {
    pub(crate) fn new(
        id: u64,
        share: Arc<ActiveShare>,
        key: Key,
        fd: OwnedFd,
        kind: FileType,
    ) -> Self {
        Self {
            id,
            share,
            file: key.file,
            fd,
            kind,
            set_id: AtomicBool::new(false),
            stamp: AtomicU64::new(0),
        }
    }

    /// What the file is found by.
    pub(crate) fn key(&self) -> Key {
        Key { file: self.file, share: self.share.id }
    }

    /// The `O_PATH` descriptor.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Remembers whether a mode has set-id bits.
    pub(crate) fn note_mode(&self, mode: u32) {
        self.set_id.store(mode & SET_ID != 0, Ordering::Relaxed);
    }

    /// Whether the file may have set-id bits.
    pub(crate) fn may_have_set_id(&self) -> bool {
        self.set_id.load(Ordering::Relaxed)
    }

    /// Remembers `stamp` and gives the one before; 0 is none.
    pub(crate) fn exchange_stamp(&self, stamp: u64) -> Option<u64> {
        Some(self.stamp.swap(stamp, Ordering::Relaxed)).filter(|stamp| *stamp != 0)
    }

    /// True if `self`, found in the directory `parent`, is the root of another file system or
    /// mount, whose inode numbers may be those of files in `parent`.
    pub(crate) fn is_submount_in(&self, parent: &Self) -> bool {
        self.kind == FileType::Directory
            && (self.file.device, self.file.mount) != (parent.file.device, parent.file.mount)
    }
}

// With the two counts of its Arc, 64 bytes a cached inode above its map entries.
const _: () = assert!(size_of::<Inode>() <= 48);

struct Node {
    inode: Arc<Inode>,
    lookups: u64,
}

struct Tables {
    nodes: HashMap<u64, Node>,
    ids: HashMap<Key, u64>,
    next_id: u64,
}

/// All inodes of one server. Descriptors are closed outside the lock.
pub(crate) struct InodeTable {
    tables: Mutex<Tables>,
    max: usize,
}

impl InodeTable {
    pub(crate) fn new(max: usize) -> Self {
        let tables = Tables { nodes: HashMap::new(), ids: HashMap::new(), next_id: ROOT_ID + 1 };
        Self { tables: Mutex::new(tables), max }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // Every change under the lock is complete before the next that could panic.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The inode with a node id.
    pub(crate) fn get(&self, id: u64) -> Result<Arc<Inode>, Errno> {
        self.lock().nodes.get(&id).map(|node| Arc::clone(&node.inode)).ok_or(Errno::STALE)
    }

    /// The inode with an identity, with one lookup more.
    pub(crate) fn look_up(&self, key: &Key) -> Option<Arc<Inode>> {
        let tables = &mut *self.lock();
        let node = tables.nodes.get_mut(tables.ids.get(key)?)?;
        node.lookups = node.lookups.saturating_add(1);
        Some(Arc::clone(&node.inode))
    }

    /// ENFILE if no inode can be added, so that a file is not made first and lost then.
    pub(crate) fn check_room(&self) -> Result<(), Errno> {
        if self.lock().nodes.len() < self.max { Ok(()) } else { Err(Errno::NFILE) }
    }

    /// The inode of an open descriptor, with one lookup more: the one that is known by its
    /// identity, else a new one.
    pub(crate) fn add(
        &self,
        share: &Arc<ActiveShare>,
        key: Key,
        fd: OwnedFd,
        kind: FileType,
    ) -> Result<Arc<Inode>, Errno> {
        if let Some(known) = self.look_up(&key) {
            return Ok(known);
        }
        let tables = &mut *self.lock();
        // Between the two locks another worker may have added the same file, and the share may
        // have gone; a share that has gone must not be held by a late inode.
        if share.is_removed() {
            return Err(Errno::STALE);
        }
        if let Some(node) = tables.ids.get(&key).and_then(|id| tables.nodes.get_mut(id)) {
            node.lookups = node.lookups.saturating_add(1);
            return Ok(Arc::clone(&node.inode));
        }
        if tables.nodes.len() >= self.max {
            return Err(Errno::NFILE);
        }
        let id = tables.next_id;
        tables.next_id = id.saturating_add(1);
        let inode = Arc::new(Inode::new(id, Arc::clone(share), key, fd, kind));
        tables.nodes.insert(id, Node { inode: Arc::clone(&inode), lookups: 1 });
        tables.ids.insert(key, id);
        Ok(inode)
    }

    /// Takes back `count` lookups; at none the inode is closed. Unknown ids are ignored, since a
    /// share may have been removed meanwhile.
    pub(crate) fn forget(&self, id: u64, count: u64) {
        let gone = {
            let tables = &mut *self.lock();
            let Some(node) = tables.nodes.get_mut(&id) else { return };
            node.lookups = node.lookups.saturating_sub(count);
            if node.lookups != 0 {
                return;
            }
            let key = node.inode.key();
            let gone = tables.nodes.remove(&id);
            if tables.ids.get(&key).is_some_and(|known| *known == id) {
                tables.ids.remove(&key);
            }
            gone
        };
        drop(gone);
    }

    /// Closes all inodes of a share.
    pub(crate) fn remove_share(&self, share: u32) {
        let gone: Vec<Node> = {
            let tables = &mut *self.lock();
            tables.ids.retain(|key, _| key.share != share);
            tables
                .nodes
                .extract_if(|_, node| node.inode.share.id == share)
                .map(|(_, n)| n)
                .collect()
        };
        drop(gone);
    }

    /// Closes all inodes: the session has ended. Ids go on from where they were.
    pub(crate) fn clear(&self) {
        let gone = {
            let tables = &mut *self.lock();
            tables.ids.clear();
            std::mem::take(&mut tables.nodes)
        };
        drop(gone);
    }

    /// The id of the next inode, and all inodes with their lookups in the order of their ids.
    pub(crate) fn all(&self) -> (u64, Vec<(Arc<Inode>, u64)>) {
        let tables = self.lock();
        let nodes = tables.nodes.values();
        let mut all: Vec<_> = nodes.map(|n| (Arc::clone(&n.inode), n.lookups)).collect();
        all.sort_unstable_by_key(|(inode, _)| inode.id);
        (tables.next_id, all)
    }

    /// Puts a saved inode back under its id. Where two ids have become one file, later lookups
    /// give the first.
    pub(crate) fn restore(&self, inode: Inode, lookups: u64) {
        let tables = &mut *self.lock();
        tables.ids.entry(inode.key()).or_insert(inode.id);
        tables.nodes.insert(inode.id, Node { inode: Arc::new(inode), lookups });
    }

    /// Goes on with the ids of a saved table.
    pub(crate) fn set_next(&self, next: u64) {
        self.lock().next_id = next.max(ROOT_ID + 1);
    }

    /// Inodes held.
    pub(crate) fn len(&self) -> usize {
        self.lock().nodes.len()
    }
}
