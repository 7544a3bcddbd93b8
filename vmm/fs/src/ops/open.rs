//! Opening and closing of regular files.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, OFlags, Statx, StatxTimestamp};
use rustix::io::Errno;

use super::{check_writable, status};
use crate::handle::{Handle, HandleKind};
use crate::inode::Inode;
use crate::locks::LockPolicy;
use crate::ops::lookup::table_full;
use crate::share::CachePolicy;
use crate::wire::{
    FlushIn, InHeader, OPEN_KILL_SUIDGID, OpenIn, OpenOut, ReleaseIn, fopen, init_flag,
};
use crate::worker::{Outcome, Worker};

/// How long ago a file must have changed so that its times tell a further change: file systems
/// step them with the timer tick or, at worst, by the second.
const SETTLED: Duration = Duration::from_secs(2);

impl Worker {
    pub(super) fn open(&mut self, header: &InHeader, args: &OpenIn) -> Result<Outcome, Errno> {
        let inode = self.inode(header.nodeid)?;
        let out = self.open_file(header, &inode, args)?;
        Ok(self.body(&out))
    }

    pub(super) fn open_file(
        &mut self,
        header: &InHeader,
        inode: &Arc<Inode>,
        args: &OpenIn,
    ) -> Result<OpenOut, Errno> {
        match inode.kind {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            // The guest's kernel opens fifos, sockets and devices itself and never asks.
            _ => return Err(Errno::ACCESS),
        }
        let flags = host_flags(args.flags)?;
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC) {
            check_writable(&inode.share)?;
        }
        self.server.handles.check_room()?;
        let fd = if flags.contains(OFlags::TRUNC) {
            let clear = args.open_flags & OPEN_KILL_SUIDGID != 0;
            let server = Arc::clone(&self.server);
            self.change_data(header, inode, clear, || server.reopen(inode.fd(), flags))
        } else {
            self.open_quietly(inode, flags)
        }
        .map_err(table_full)?;
        let open_flags = match self.cache(&inode.share) {
            CachePolicy::Auto => self.open_flags(inode, args.flags, &status(&fd)?),
            CachePolicy::None | CachePolicy::Always => self.cache_flags(inode, args.flags),
        };
        let handle = Handle::new(fd, Arc::clone(inode), args.flags, HandleKind::File);
        Ok(OpenOut { fh: self.server.handles.add(handle)?, open_flags, backing_id: 0 })
    }

    /// Opens a file without truncating it. In a read-only share reading is not to leave a trace in
    /// the inode either, where the server may ask for that: as owner or with CAP_FOWNER.
    fn open_quietly(&self, inode: &Inode, flags: OFlags) -> Result<OwnedFd, Errno> {
        let quiet = if inode.share.read_only { flags | OFlags::NOATIME } else { flags };
        match self.reopen(inode.fd(), quiet) {
            Err(Errno::PERM) if quiet.contains(OFlags::NOATIME) => {
                self.reopen(inode.fd(), flags.difference(OFlags::NOATIME))
            }
            opened => opened,
        }
    }

    /// What the guest may keep in its page cache from one open to the next.
    pub(super) fn open_flags(&self, inode: &Inode, flags: u32, status: &Statx) -> u32 {
        let open_flags = self.cache_flags(inode, flags);
        if self.cache(&inode.share) == CachePolicy::Auto && unchanged(inode, status) {
            return open_flags | fopen::KEEP_CACHE;
        }
        open_flags
    }

    fn cache_flags(&self, inode: &Inode, flags: u32) -> u32 {
        let by_policy = match self.cache(&inode.share) {
            CachePolicy::Always => fopen::KEEP_CACHE,
            CachePolicy::Auto => 0,
            // Without the feature an uncached file could not be mapped shared; then each open
            // drops what was cached.
            CachePolicy::None if self.session.has(init_flag::DIRECT_IO_ALLOW_MMAP) => {
                fopen::DIRECT_IO
            }
            CachePolicy::None => 0,
        };
        // Writes reach the host as they are made, mapped pages when they are unmapped: on a local
        // file system close(2) has nothing to add. With locks on the host it ends those of a
        // process, but the few that take a read lock through a descriptor for reading only keep it
        // until RELEASE: one more request for each header and library that is read would be dear.
        let read_only = flags & OFlags::ACCMODE.bits() == OFlags::RDONLY.bits();
        let flush = inode.share.flush || self.server.lock_policy == LockPolicy::Host;
        by_policy | if read_only || !flush { fopen::NOFLUSH } else { 0 }
    }

    pub(super) fn release(&mut self, args: &ReleaseIn) -> Result<Outcome, Errno> {
        let handle = self.server.handles.remove(args.fh)?;
        self.unlock_at_release(&handle, args.fh);
        Ok(Outcome::Body)
    }

    /// Gives back what the closing process has locked. On a file system that reports failed writes
    /// at close(2), closes a copy of the descriptor.
    pub(super) fn flush(&mut self, args: &FlushIn) -> Result<Outcome, Errno> {
        let handle = self.server.handles.file(args.fh)?;
        self.unlock_at_close(&handle.inode, args.lock_owner);
        if handle.inode.share.flush {
            let copy = rustix::io::fcntl_dupfd_cloexec(handle.fd(), 0)?;
            crate::sys::close_checked(copy)?;
        }
        Ok(Outcome::Body)
    }
}

/// The flags of a host open for the guest's: access mode, truncation and access time. The rest is
/// the guest kernel's matter (`O_DIRECT`, `O_NOFOLLOW`) or comes with each write (`O_APPEND`,
/// `O_SYNC`).
pub(crate) fn host_flags(guest: u32) -> Result<OFlags, Errno> {
    let guest = OFlags::from_bits_retain(guest);
    let mode = guest & OFlags::ACCMODE;
    if mode == OFlags::ACCMODE {
        return Err(Errno::INVAL);
    }
    // O_NONBLOCK: a lease that another process holds on the file must not stop this thread.
    Ok(mode | (guest & (OFlags::TRUNC | OFlags::NOATIME)) | OFlags::NONBLOCK)
}

/// True if the file is as it was when the guest last opened it, so that what it has cached since
/// is right or has been made so by a newer size or modification time (AUTO_INVAL_DATA). A change
/// within one step of the file's clock could go unseen, so a file that changed just now is not
/// compared.
fn unchanged(inode: &Inode, status: &Statx) -> bool {
    let stamp = stamp(status);
    inode.exchange_stamp(if settled(status) { stamp } else { 0 }) == Some(stamp)
}

fn settled(status: &Statx) -> bool {
    let since = |time: StatxTimestamp| {
        let seconds = u64::try_from(time.tv_sec).ok()?;
        let changed = UNIX_EPOCH.checked_add(Duration::new(seconds, time.tv_nsec))?;
        SystemTime::now().duration_since(changed).ok()
    };
    let old = |time| since(time).is_some_and(|since| since >= SETTLED);
    old(status.stx_mtime) && old(status.stx_ctime)
}

/// Size and times in one number, never 0; two states share it by a chance of 2^-64.
fn stamp(status: &Statx) -> u64 {
    let parts = [
        status.stx_size,
        status.stx_mtime.tv_sec.cast_unsigned(),
        status.stx_mtime.tv_nsec.into(),
        status.stx_ctime.tv_sec.cast_unsigned(),
        status.stx_ctime.tv_nsec.into(),
    ];
    // SplitMix64's finisher over each part.
    let mixed = parts.iter().fold(0x9e37_79b9_7f4a_7c15_u64, |hash, part| {
        let mut mixed = (hash ^ part).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^= mixed >> 27;
        mixed = mixed.wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    });
    mixed.max(1)
}
