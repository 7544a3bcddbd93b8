//! Locks of the guest's programs that are real on the host: other sandboxes and the host's own
//! programs see them and are seen.
//!
//! A lock of flock(2) belongs to an open file description; in the guest as here that is a handle,
//! whose descriptor takes it ([`crate::handle`]). A record lock belongs to an *owner*, which is a
//! process (`F_SETLK`) or an open file description (`F_OFD_SETLK`) of the guest; this process takes
//! it with an open file description for each owner and file, in a [`LockTable`].
//!
//! No call here waits. A request that has to is told to come back ([`crate::Served::Waiting`]), so
//! that a lock which nobody gives up holds no thread. [`Waits`] knows those requests: the guest may
//! interrupt one, and one whose wait would never end is refused with EDEADLK.

mod ranges;
mod waits;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

pub(crate) use self::ranges::{Range, Ranges};
pub(crate) use self::waits::Waits;
use crate::inode::Inode;
use crate::sys::{RecordLock, find_record_lock, set_record_lock};

/// Where the locks of the guest's programs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockPolicy {
    /// In the guest's kernel: right among the programs of one sandbox, not seen by any other. For a
    /// sandbox whose shares nobody else uses; costs nothing, and waits can be interrupted.
    Guest,
    /// On the host: right among all that use the file. A program of the guest that waits for a lock
    /// cannot be interrupted until it has it, since Linux 6.12's virtio-fs does not tell the server
    /// of signals.
    Host,
    /// Nowhere: each request for a lock fails with ENOLCK.
    Refused,
}

/// Who holds record locks: a file's node id, then an owner as the guest names it.
type OwnerKey = (u64, u64);

#[derive(Debug)]
struct Owner {
    inode: Arc<Inode>,
    /// The open file description that holds the locks on the host: open for reading as long as
    /// all are read locks, since opening for writing copies a file of an overlay's lower layer.
    fd: OwnedFd,
    ranges: Ranges,
    writable: bool,
}

impl Owner {
    /// Opens the file for writing, without giving up a lock.
    fn make_writable(
        &mut self,
        open: impl FnOnce(bool) -> Result<OwnedFd, Errno>,
    ) -> Result<(), Errno> {
        if !self.writable {
            let fd = open(true)?;
            // Read locks, which the ones that are held do not exclude.
            for range in self.ranges.iter() {
                set_record_lock(fd.as_fd(), record(range))?;
            }
            (self.fd, self.writable) = (fd, true);
        }
        Ok(())
    }
}

/// The record locks of one server.
pub(crate) struct LockTable {
    owners: Mutex<BTreeMap<OwnerKey, Owner>>,
    /// Ranges in all, so that closing a file costs nothing where nobody locks.
    held: AtomicUsize,
    max: usize,
}

/// A lock that is asked for, and by whom.
pub(crate) struct Wanted<'a> {
    pub(crate) inode: &'a Arc<Inode>,
    pub(crate) owner: u64,
    pub(crate) range: Range,
}

impl LockTable {
    pub(crate) fn new(max: usize) -> Self {
        Self { owners: Mutex::default(), held: AtomicUsize::new(0), max }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<OwnerKey, Owner>> {
        // Every change under the lock is complete before the next that could panic.
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ranges held.
    pub(crate) fn len(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Locks a range, EAGAIN if somebody holds it. `open` opens the file for reading or, if true,
    /// for writing too.
    ///
    /// The table is locked meanwhile, so that two threads of one owner cannot undo each other.
    pub(crate) fn set(
        &self,
        wanted: &Wanted<'_>,
        open: impl FnOnce(bool) -> Result<OwnedFd, Errno>,
    ) -> Result<(), Errno> {
        let Wanted { inode, owner, range } = wanted;
        let key = (inode.id, *owner);
        let owners = &mut *self.lock();
        // A share that has gone must not be held by a late lock.
        if inode.share.is_removed() {
            return Err(Errno::STALE);
        }
        let known = owners.get_mut(&key);
        let before = known.as_ref().map_or(0, |owner| owner.ranges.len());
        let ranges = match &known {
            Some(owner) => owner.ranges.with(*range),
            None => Ranges::default().with(*range),
        };
        let held = self.len().saturating_sub(before).saturating_add(ranges.len());
        if held > self.max {
            return Err(Errno::NOLCK);
        }
        match known {
            Some(owner) => {
                if range.exclusive {
                    owner.make_writable(open)?;
                }
                set_record_lock(owner.fd.as_fd(), record(range))?;
                owner.ranges = ranges;
            }
            None => {
                let writable = range.exclusive;
                let fd = open(writable)?;
                set_record_lock(fd.as_fd(), record(range))?;
                owners.insert(key, Owner { inode: Arc::clone(inode), fd, ranges, writable });
            }
        }
        self.held.store(held, Ordering::Relaxed);
        Ok(())
    }

    /// Unlocks a range, which need not be locked.
    pub(crate) fn unset(&self, node: u64, owner: u64, range: &Range) -> Result<(), Errno> {
        let gone = {
            let owners = &mut *self.lock();
            let Some(known) = owners.get_mut(&(node, owner)) else { return Ok(()) };
            let ranges = known.ranges.without(range);
            // To unlock the middle of a range takes one more.
            let held = self.len().saturating_sub(known.ranges.len()).saturating_add(ranges.len());
            if held > self.max {
                return Err(Errno::NOLCK);
            }
            unlock(known, range)?;
            known.ranges = ranges;
            self.held.store(held, Ordering::Relaxed);
            if known.ranges.is_empty() { owners.remove(&(node, owner)) } else { None }
        };
        drop(gone);
        Ok(())
    }

    /// What keeps `wanted` from being locked: a lock with the guest's process that holds it, 0 for
    /// one of the host or another sandbox. `open` opens the file, as for [`Self::set`].
    pub(crate) fn find(
        &self,
        wanted: &Wanted<'_>,
        open: impl FnOnce(bool) -> Result<OwnedFd, Errno>,
    ) -> Result<Option<Range>, Errno> {
        let Wanted { inode, owner, range } = wanted;
        let owners = self.lock();
        let found = match owners.get(&(inode.id, *owner)) {
            Some(known) => find_record_lock(known.fd.as_fd(), record(range)),
            None => find_record_lock(open(false)?.as_fd(), record(range)),
        }?;
        let Some(RecordLock { kind, start, end }) = found else { return Ok(None) };
        let exclusive = kind == libc::F_WRLCK;
        let found = Range { start, end, exclusive, pid: 0, handle: 0 };
        let own = others(&owners, inode.id, *owner)
            .flat_map(|(_, ranges)| ranges.iter())
            .find(|own| own.exclusive == exclusive && own.meets(&found));
        Ok(Some(Range { pid: own.map_or(0, |own| own.pid), ..found }))
    }

    /// The owner in this guest whose lock keeps `wanted` from being locked, if it is one of them.
    pub(crate) fn holder(&self, wanted: &Wanted<'_>) -> Option<u64> {
        let owners = self.lock();
        let conflicts = |ranges: &Ranges| {
            ranges
                .iter()
                .any(|own| own.meets(&wanted.range) && (own.exclusive || wanted.range.exclusive))
        };
        others(&owners, wanted.inode.id, wanted.owner)
            .find(|(_, ranges)| conflicts(ranges))
            .map(|(owner, _)| owner)
    }

    /// Gives back all that an owner has locked in a file; true if there was something.
    pub(crate) fn release_owner(&self, node: u64, owner: u64) -> bool {
        if self.len() == 0 {
            return false;
        }
        let gone = {
            let owners = &mut *self.lock();
            let gone = owners.remove(&(node, owner));
            self.forget(gone.as_ref());
            gone
        };
        // Closing its only descriptor unlocks all.
        gone.is_some()
    }

    /// Gives back all that was locked through a handle, whoever the owner; true if there was
    /// something.
    pub(crate) fn release_handle(&self, node: u64, handle: u64) -> bool {
        if self.len() == 0 {
            return false;
        }
        let owners = &mut *self.lock();
        let mut changed = false;
        let mut gone = Vec::new();
        for (key, owner) in owners.range_mut((node, 0)..=(node, u64::MAX)) {
            let (others, through) = owner.ranges.split(handle);
            if through.is_empty() {
                continue;
            }
            changed = true;
            for range in through.iter() {
                // Fails for no range that is locked; what stayed would go with the owner.
                let _ = unlock(owner, range);
            }
            let held = self.len().saturating_sub(through.len());
            self.held.store(held, Ordering::Relaxed);
            owner.ranges = others;
            if owner.ranges.is_empty() {
                gone.push(*key);
            }
        }
        for key in gone {
            owners.remove(&key);
        }
        changed
    }

    /// Gives back all locks in a share.
    pub(crate) fn remove_share(&self, share: u32) {
        let owners = &mut *self.lock();
        let gone: Vec<_> =
            owners.extract_if(.., |_, owner| owner.inode.share.id == share).collect();
        for (_, owner) in &gone {
            self.forget(Some(owner));
        }
    }

    /// Gives back all locks: the session has ended.
    pub(crate) fn clear(&self) {
        let gone = {
            let owners = &mut *self.lock();
            self.held.store(0, Ordering::Relaxed);
            std::mem::take(owners)
        };
        drop(gone);
    }

    /// All ranges with the node and the owner of each, in their order.
    pub(crate) fn all(&self) -> Vec<(u64, u64, Range)> {
        let owners = self.lock();
        let of = |(key, owner): (&OwnerKey, &Owner)| {
            let (node, id) = *key;
            owner.ranges.iter().map(move |range| (node, id, *range)).collect::<Vec<_>>()
        };
        owners.iter().flat_map(of).collect()
    }

    /// Counts an owner that is no longer in the table.
    fn forget(&self, gone: Option<&Owner>) {
        let ranges = gone.map_or(0, |owner| owner.ranges.len());
        self.held.store(self.len().saturating_sub(ranges), Ordering::Relaxed);
    }
}

/// The ranges of all owners of a file but one.
fn others(
    owners: &BTreeMap<OwnerKey, Owner>,
    node: u64,
    but: u64,
) -> impl Iterator<Item = (u64, &Ranges)> {
    let of_node = owners.range((node, 0)..=(node, u64::MAX));
    of_node
        .map(|((_, owner), state)| (*owner, &state.ranges))
        .filter(move |(owner, _)| *owner != but)
}

fn record(range: &Range) -> RecordLock {
    let kind = if range.exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
    RecordLock { kind, start: range.start, end: range.end }
}

fn unlock(owner: &Owner, range: &Range) -> Result<(), Errno> {
    set_record_lock(owner.fd.as_fd(), RecordLock { kind: libc::F_UNLCK, ..record(range) })
}
