//! From a directory and a name to an inode.

use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, openat2, readlinkat_raw, statx,
};
use rustix::io::Errno;

use super::{STATUS, status};
use crate::inode::{Inode, Key};
use crate::namecheck::{Name, TARGET_MAX};
use crate::share::{ActiveShare, CachePolicy};
use crate::wire::{ATTR_SUBMOUNT, EntryOut, InHeader, ROOT_ID, init_flag};
use crate::worker::{Outcome, Worker};

/// How every name is opened: one component, nothing followed, nothing left.
pub(crate) const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_SYMLINKS);

impl Worker {
    pub(super) fn lookup(&mut self, header: &InHeader, name: Name<'_>) -> Result<Outcome, Errno> {
        if header.nodeid == ROOT_ID {
            return self.lookup_share(name);
        }
        let parent = self.inode(header.nodeid)?;
        match self.entry(&parent, name) {
            Ok((inode, status)) => {
                let out = self.entry_out(&inode, Some(&parent), &status);
                Ok(self.body(&out))
            }
            // Node 0 is "there is no such name", and may be believed for a while.
            Err(Errno::NOENT) if self.cache(&parent.share) != CachePolicy::None => {
                let mut out = EntryOut::default();
                set_entry_valid(&mut out, self.cache(&parent.share).timeout());
                Ok(self.body(&out))
            }
            Err(errno) => Err(errno),
        }
    }

    fn lookup_share(&mut self, name: Name<'_>) -> Result<Outcome, Errno> {
        let share = self.server.share(name.to_bytes())?;
        let (inode, status) = self.share_root(&share)?;
        let out = self.entry_out(&inode, None, &status);
        Ok(self.body(&out))
    }

    /// The inode of a share's root, with one lookup more.
    fn share_root(&self, share: &Arc<ActiveShare>) -> Result<(Arc<Inode>, Statx), Errno> {
        let status = status(share.root())?;
        let key = Key::new(share, &status)?;
        if let Some(inode) = self.server.inodes.look_up(&key) {
            return Ok((inode, status));
        }
        let fd = self.reopen(share.root(), OFlags::PATH)?;
        let kind = FileType::from_raw_mode(u32::from(status.stx_mode));
        Ok((self.server.inodes.add(share, key, fd, kind)?, status))
    }

    /// The inode of a name in a directory, with one lookup more.
    pub(super) fn entry(
        &self,
        parent: &Inode,
        name: Name<'_>,
    ) -> Result<(Arc<Inode>, Statx), Errno> {
        // A file that is known needs one system call. The path is one checked component, and a
        // link at its end is not followed: this cannot leave the directory.
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let seen = statx(parent.fd(), name.as_c_str(), flags, STATUS)?;
        if let Some(inode) = self.server.inodes.look_up(&Key::new(&parent.share, &seen)?) {
            return Ok((inode, seen));
        }
        let fd = retry_race(|| {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat2(parent.fd(), name.as_c_str(), flags, Mode::empty(), BENEATH)
        })
        .map_err(table_full)?;
        // The name may stand for another file by now; what counts is what was opened.
        let status = status(&fd)?;
        let key = Key::new(&parent.share, &status)?;
        let kind = FileType::from_raw_mode(u32::from(status.stx_mode));
        Ok((self.server.inodes.add(&parent.share, key, fd, kind)?, status))
    }

    /// The reply to an operation that gives the guest an inode. `parent` is none for a share.
    pub(super) fn entry_out(
        &self,
        inode: &Inode,
        parent: Option<&Inode>,
        status: &Statx,
    ) -> EntryOut {
        inode.note_mode(status.stx_mode.into());
        let mut attr = self.attr(status);
        let submount = match parent {
            Some(parent) => inode.is_submount_in(parent),
            None => inode.kind == FileType::Directory,
        };
        if submount && self.session.has(init_flag::SUBMOUNTS) {
            attr.flags |= ATTR_SUBMOUNT;
        }
        let timeout = self.cache(&inode.share).timeout();
        let mut out = EntryOut {
            nodeid: inode.id,
            // Node ids are never used twice, so that one generation is enough.
            generation: 0,
            attr_valid: timeout.as_secs(),
            attr_valid_nsec: timeout.subsec_nanos(),
            attr,
            ..EntryOut::default()
        };
        // Shares come and go: their names in the root are asked for each time.
        set_entry_valid(&mut out, if parent.is_some() { timeout } else { Duration::ZERO });
        out
    }

    pub(super) fn readlink(&mut self, header: &InHeader) -> Result<Outcome, Errno> {
        let inode = self.inode(header.nodeid)?;
        if inode.kind != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        self.reply.reserve(TARGET_MAX.saturating_add(1));
        let spare = rustix::buffer::spare_capacity(&mut self.reply);
        readlinkat_raw(inode.fd(), c"", spare)?;
        Ok(Outcome::Body)
    }
}

fn set_entry_valid(out: &mut EntryOut, timeout: Duration) {
    out.entry_valid = timeout.as_secs();
    out.entry_valid_nsec = timeout.subsec_nanos();
}

/// The process's table of descriptors is part of this server's table of inodes: a program in the
/// guest did not open too many files, the system did.
pub(super) fn table_full(errno: Errno) -> Errno {
    if errno == Errno::MFILE { Errno::NFILE } else { errno }
}

/// openat2(2) gives EAGAIN if a rename anywhere on the host kept it from being sure that it stayed
/// beneath, and EXDEV also if the mount that it had come to was taken away meanwhile. A few attempts
/// are enough, and their number is bounded.
pub(crate) fn retry_race<T>(mut attempt: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    const ATTEMPTS: usize = 32;
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(Errno::AGAIN | Errno::INTR | Errno::XDEV) => {}
            done => return done,
        }
    }
    attempt()
}
