//! Directory listings.

use std::mem::MaybeUninit;
use std::sync::{Arc, PoisonError};

use rustix::fs::{FileType, OFlags, RawDir, RawDirEntry, SeekFrom, seek};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::lookup::table_full;
use crate::handle::{Handle, HandleKind, UNKNOWN_POSITION};
use crate::limits::MAX_DIR_REPLY;
use crate::namecheck::Name;
use crate::share::CachePolicy;
use crate::wire::{
    DIRENT_ALIGN, Dirent, EntryOut, InHeader, OpenIn, OpenOut, OutHeader, ROOT_ID, ReadIn,
    ReleaseIn, fopen,
};
use crate::worker::{Outcome, Worker};

/// Most bytes of the host's entries that one READDIR reads, and the least, which holds at least
/// one entry with the longest name.
const HOST_ENTRIES: std::ops::RangeInclusive<usize> = 512..=16 << 10;

impl Worker {
    pub(super) fn opendir(&mut self, header: &InHeader, args: &OpenIn) -> Result<Outcome, Errno> {
        if header.nodeid == ROOT_ID {
            return Ok(self.body(&OpenOut::default()));
        }
        let inode = self.inode(header.nodeid)?;
        if inode.kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        self.server.handles.check_room()?;
        // Not "." in it: that asks for the right to search it, which reading does not need.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = self.reopen(inode.fd(), flags).map_err(table_full)?;
        let open_flags = match self.cache(&inode.share) {
            CachePolicy::Always => fopen::KEEP_CACHE | fopen::CACHE_DIR,
            CachePolicy::None | CachePolicy::Auto => 0,
        };
        let kind = HandleKind::Directory { position: 0.into() };
        let fh = self.server.handles.add(Handle::new(fd, inode, args.flags, kind))?;
        Ok(self.body(&OpenOut { fh, open_flags, backing_id: 0 }))
    }

    pub(super) fn releasedir(
        &mut self,
        header: &InHeader,
        args: &ReleaseIn,
    ) -> Result<Outcome, Errno> {
        if header.nodeid != ROOT_ID {
            self.server.handles.directory(args.fh)?;
            drop(self.server.handles.remove(args.fh)?);
        }
        Ok(Outcome::Body)
    }

    /// READDIR, and READDIRPLUS with `plus`, into at most `room` bytes of reply.
    pub(super) fn readdir(
        &mut self,
        header: &InHeader,
        args: &ReadIn,
        plus: bool,
        room: usize,
    ) -> Result<Outcome, Errno> {
        let size = usize::try_from(args.size.min(MAX_DIR_REPLY)).map_err(|_| Errno::INVAL)?;
        let size = size.min(room.saturating_sub(size_of::<OutHeader>()));
        if header.nodeid == ROOT_ID {
            return self.list_shares(args.offset, plus, size);
        }
        let handle = self.server.handles.directory(args.fh)?;
        let HandleKind::Directory { position } = &handle.kind else {
            return Err(Errno::NOTDIR);
        };
        let mut position = position.lock().unwrap_or_else(PoisonError::into_inner);
        if *position != args.offset {
            seek(handle.fd(), SeekFrom::Start(args.offset))?;
        }
        // Until the entries are in the reply, the descriptor is ahead of the guest.
        *position = UNKNOWN_POSITION;
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); host_budget(size, plus)];
        let mut entries = RawDir::new(handle.fd(), &mut buffer);
        let mut last = args.offset;
        let complete = loop {
            let Some(entry) = entries.next() else { break true };
            let entry = entry?;
            let Some(emitted) = self.emit(&handle, &entry, plus, size) else {
                if self.reply.is_empty() && last == args.offset {
                    // Not one entry fits: an empty reply would mean the end of the directory.
                    return Err(Errno::INVAL);
                }
                break false;
            };
            last = entry.next_entry_cookie();
            // One system call a request, unless all that it gave has vanished meanwhile.
            if entries.is_buffer_empty() && (emitted || !self.reply.is_empty()) {
                break true;
            }
        };
        if complete {
            *position = last;
        }
        Ok(Outcome::Body)
    }

    /// Appends an entry to the reply; none if it does not fit, false if it was left out.
    fn emit(
        &mut self,
        handle: &Arc<Handle>,
        entry: &RawDirEntry<'_>,
        plus: bool,
        size: usize,
    ) -> Option<bool> {
        let name = entry.file_name();
        let record = Record {
            ino: entry.ino(),
            cookie: entry.next_entry_cookie(),
            kind: entry.file_type(),
            name: name.to_bytes(),
        };
        if self.reply.len().saturating_add(record.len(plus)) > size {
            return None;
        }
        if !plus {
            record.append(&mut self.reply);
            return Some(true);
        }
        // An entry without a node (0) is looked up when the guest needs it: `.` and `..`, the root
        // of another file system, which READDIRPLUS cannot mark as such for Linux, and what cannot
        // be opened now.
        let mut out = EntryOut::default();
        if let Ok(name) = Name::new(name) {
            match self.entry(&handle.inode, name) {
                Ok((inode, _)) if inode.is_submount_in(&handle.inode) => {
                    self.server.inodes.forget(inode.id, 1);
                }
                Ok((inode, status)) => out = self.entry_out(&inode, Some(&handle.inode), &status),
                Err(Errno::NOENT) => return Some(false),
                Err(_) => {}
            }
        }
        self.reply.extend_from_slice(out.as_bytes());
        record.append(&mut self.reply);
        Some(true)
    }

    /// The root: `.`, `..` and the shares in the order of their names; the cookie of each is its
    /// place in that order, so that a share that comes or goes meanwhile may be seen twice or not,
    /// but no other.
    fn list_shares(&mut self, offset: u64, plus: bool, size: usize) -> Result<Outcome, Errno> {
        let shares = self.server.shares();
        let dots = [&b"."[..], &b".."[..]].map(|name| (name, ROOT_ID, FileType::Directory));
        let shares = shares.iter().map(|share| {
            let ino = super::status(share.root()).map_or(0, |status| status.stx_ino);
            (share.name.as_bytes(), ino, share.kind())
        });
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, (name, ino, kind)) in dots.into_iter().chain(shares).enumerate().skip(skip) {
            let cookie = u64::try_from(index).unwrap_or(u64::MAX).saturating_add(1);
            let record = Record { ino, cookie, kind, name };
            if self.reply.len().saturating_add(record.len(plus)) > size {
                if self.reply.is_empty() {
                    return Err(Errno::INVAL);
                }
                break;
            }
            if plus {
                self.reply.extend_from_slice(EntryOut::default().as_bytes());
            }
            record.append(&mut self.reply);
        }
        Ok(Outcome::Body)
    }
}

/// One directory entry of a reply.
struct Record<'a> {
    ino: u64,
    cookie: u64,
    kind: FileType,
    name: &'a [u8],
}

impl Record<'_> {
    fn len(&self, plus: bool) -> usize {
        let head = if plus { size_of::<EntryOut>() } else { 0 };
        size_of::<Dirent>()
            .saturating_add(self.name.len())
            .next_multiple_of(DIRENT_ALIGN)
            .saturating_add(head)
    }

    fn append(&self, reply: &mut Vec<u8>) {
        let dirent = Dirent {
            ino: self.ino,
            off: self.cookie,
            namelen: u32::try_from(self.name.len()).unwrap_or_default(),
            // DT_* are the type bits of a mode.
            kind: self.kind.as_raw_mode() >> 12,
        };
        reply.extend_from_slice(dirent.as_bytes());
        reply.extend_from_slice(self.name);
        reply.resize(reply.len().next_multiple_of(DIRENT_ALIGN), 0);
    }
}

/// How many bytes of the host's entries surely fit `size` bytes of reply: the shortest entry has
/// 24 bytes there, and 32 or 160 here. An entry that does not fit costs a seek, which on an
/// overlay's merged directory walks the whole list.
fn host_budget(size: usize, plus: bool) -> usize {
    let entries = size.checked_div(if plus { 160 } else { 32 }).unwrap_or_default();
    entries.saturating_mul(24).clamp(*HOST_ENTRIES.start(), *HOST_ENTRIES.end())
}
