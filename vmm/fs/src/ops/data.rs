//! The content of regular files, and whole file systems.

use std::os::fd::BorrowedFd;

use rustix::fs::{
    FallocateFlags, FileType, OFlags, SeekFrom, copy_file_range, fallocate, fdatasync, fstatfs,
    fsync, seek, syncfs,
};
use rustix::io::Errno;

use super::check_writable;
use crate::buffers::Chain;
use crate::handle::Handle;
use crate::limits::{MAX_COPY, MAX_DATA};
use crate::sys::{Direction, transfer};
use crate::wire::{
    CopyFileRangeIn, FSYNC_FDATASYNC, FallocateIn, FsyncIn, InHeader, Kstatfs, LseekIn, LseekOut,
    OutHeader, ROOT_ID, ReadIn, WRITE_CACHE, WRITE_KILL_SUIDGID, WriteIn, WriteOut,
};
use crate::worker::{Outcome, Worker};

/// File data follows `fuse_in_header` and `fuse_write_in`.
const WRITE_DATA: usize = size_of::<InHeader>() + size_of::<WriteIn>();

impl Worker {
    pub(super) fn read(&mut self, args: &ReadIn, writable: Chain<'_>) -> Result<Outcome, Errno> {
        let handle = self.server.handles.file(args.fh)?;
        let size = usize::try_from(args.size.min(MAX_DATA)).map_err(|_| Errno::INVAL)?;
        let room = writable.window(size_of::<OutHeader>(), size);
        let read = move_all(handle.fd(), args.offset, Chain::new(&room), Direction::Read)?;
        Ok(Outcome::Data(read))
    }

    pub(super) fn write(
        &mut self,
        header: &InHeader,
        args: &WriteIn,
        readable: Chain<'_>,
    ) -> Result<Outcome, Errno> {
        let handle = self.server.handles.file(args.fh)?;
        check_writable(&handle.inode.share)?;
        let size = usize::try_from(args.size).map_err(|_| Errno::INVAL)?;
        if args.size > MAX_DATA || readable.len().checked_sub(WRITE_DATA) != Some(size) {
            return Err(Errno::INVAL);
        }
        let data = readable.window(WRITE_DATA, size);
        let direction = Direction::Write(write_flags(args));
        let clear = args.write_flags & WRITE_KILL_SUIDGID != 0;
        let written = self.change_data(header, &handle.inode, clear, || {
            move_all(handle.fd(), args.offset, Chain::new(&data), direction)
        })?;
        let size = u32::try_from(written).map_err(|_| Errno::IO)?;
        Ok(self.body(&WriteOut { size, padding: 0 }))
    }

    pub(super) fn fsync(&mut self, args: &FsyncIn) -> Result<Outcome, Errno> {
        sync(&*self.server.handles.file(args.fh)?, args)
    }

    pub(super) fn fsyncdir(&mut self, header: &InHeader, args: &FsyncIn) -> Result<Outcome, Errno> {
        if header.nodeid == ROOT_ID {
            return Ok(Outcome::Body);
        }
        sync(&*self.server.handles.directory(args.fh)?, args)
    }

    pub(super) fn fallocate(
        &mut self,
        header: &InHeader,
        args: &FallocateIn,
    ) -> Result<Outcome, Errno> {
        let handle = self.server.handles.file(args.fh)?;
        check_writable(&handle.inode.share)?;
        let mode = FallocateFlags::from_bits(args.mode).ok_or(Errno::OPNOTSUPP)?;
        self.change_data(header, &handle.inode, is_ordinary(header), || {
            fallocate(handle.fd(), mode, args.offset, args.length)
        })?;
        Ok(Outcome::Body)
    }

    /// The guest's kernel knows the position of its files; only data and holes are asked for here.
    pub(super) fn lseek(&mut self, args: &LseekIn) -> Result<Outcome, Errno> {
        let handle = self.server.handles.file(args.fh)?;
        let to = match i32::try_from(args.whence) {
            Ok(libc::SEEK_DATA) => SeekFrom::Data(args.offset),
            Ok(libc::SEEK_HOLE) => SeekFrom::Hole(args.offset),
            _ => return Err(Errno::INVAL),
        };
        let offset = seek(handle.fd(), to)?;
        Ok(self.body(&LseekOut { offset }))
    }

    pub(super) fn copy_file_range(
        &mut self,
        header: &InHeader,
        args: &CopyFileRangeIn,
    ) -> Result<Outcome, Errno> {
        if args.flags != 0 {
            return Err(Errno::INVAL);
        }
        let from = self.server.handles.file(args.fh_in)?;
        let to = self.server.handles.file(args.fh_out)?;
        check_writable(&to.inode.share)?;
        let (mut off_in, mut off_out) = (args.off_in, args.off_out);
        let len = usize::try_from(args.len.min(MAX_COPY)).map_err(|_| Errno::INVAL)?;
        let copied = self.change_data(header, &to.inode, is_ordinary(header), || {
            copy_file_range(from.fd(), Some(&mut off_in), to.fd(), Some(&mut off_out), len)
        })?;
        let size = u32::try_from(copied).map_err(|_| Errno::IO)?;
        Ok(self.body(&WriteOut { size, padding: 0 }))
    }

    pub(super) fn statfs(&mut self, header: &InHeader) -> Result<Outcome, Errno> {
        if header.nodeid == ROOT_ID {
            let out = Kstatfs { bsize: 4096, frsize: 4096, namelen: 255, ..Kstatfs::default() };
            return Ok(self.body(&out));
        }
        let inode = self.inode(header.nodeid)?;
        let status = fstatfs(inode.fd())?;
        let small = |value: i64| u32::try_from(value).unwrap_or_default();
        let out = Kstatfs {
            blocks: status.f_blocks,
            bfree: status.f_bfree,
            bavail: status.f_bavail,
            files: status.f_files,
            ffree: status.f_ffree,
            bsize: small(status.f_bsize),
            namelen: small(status.f_namelen),
            frsize: small(status.f_frsize),
            ..Kstatfs::default()
        };
        Ok(self.body(&out))
    }

    /// Writes the file system of a node to its disk; of the root, those of all shares.
    pub(super) fn syncfs(&mut self, header: &InHeader) -> Result<Outcome, Errno> {
        if header.nodeid == ROOT_ID {
            for share in self.server.shares() {
                self.sync_file_system(share.root(), share.kind())?;
            }
        } else {
            let inode = self.inode(header.nodeid)?;
            self.sync_file_system(inode.fd(), inode.kind)?;
        }
        Ok(Outcome::Body)
    }

    fn sync_file_system(&self, fd: BorrowedFd<'_>, kind: FileType) -> Result<(), Errno> {
        match kind {
            FileType::RegularFile | FileType::Directory => {
                syncfs(self.reopen(fd, OFlags::RDONLY | OFlags::NONBLOCK)?)
            }
            // Nothing else has content that could wait to be written.
            _ => Ok(()),
        }
    }
}

/// Whether set-id bits are to be cleared by a request that changes data without saying so, as
/// FALLOCATE and COPY_FILE_RANGE do: a guess by the user, where WRITE and SETATTR have a flag.
fn is_ordinary(header: &InHeader) -> bool {
    header.uid != 0
}

fn sync(handle: &Handle, args: &FsyncIn) -> Result<Outcome, Errno> {
    if args.fsync_flags & FSYNC_FDATASYNC != 0 {
        fdatasync(handle.fd())?;
    } else {
        fsync(handle.fd())?;
    }
    Ok(Outcome::Body)
}

/// The guest's open flags that hold for each write: they may change while a file is open.
fn write_flags(args: &WriteIn) -> i32 {
    // Written back from a shared mapping: the pages have their place.
    if args.write_flags & WRITE_CACHE != 0 {
        return 0;
    }
    let guest = OFlags::from_bits_retain(args.flags);
    let mut flags = 0;
    if guest.contains(OFlags::APPEND) {
        flags |= libc::RWF_APPEND;
    }
    // O_SYNC includes the bit of O_DSYNC.
    if guest.contains(OFlags::SYNC) {
        flags |= libc::RWF_SYNC;
    } else if guest.contains(OFlags::DSYNC) {
        flags |= libc::RWF_DSYNC;
    }
    flags
}

/// Moves bytes until all of `memory` is used, the file ends or refuses; gives how many moved.
fn move_all(
    fd: BorrowedFd<'_>,
    offset: u64,
    memory: Chain<'_>,
    direction: Direction,
) -> Result<usize, Errno> {
    let len = memory.len();
    let mut done = 0;
    loop {
        let at = u64::try_from(done).ok().and_then(|done| offset.checked_add(done));
        let at = at.and_then(|at| i64::try_from(at).ok()).ok_or(Errno::INVAL)?;
        let rest = memory.window(done, len.saturating_sub(done));
        match transfer(fd, at, &rest, direction) {
            Err(Errno::INTR) => {}
            Err(errno) if done == 0 => return Err(errno),
            // What has moved has moved; the error comes again with the next request.
            Err(_) | Ok(0) => return Ok(done),
            Ok(moved) => {
                done = done.saturating_add(moved);
                // A local file system reads short only at the end of the file. One that serves
                // others' files may do so between pages, and the guest would take it for the end.
                let ended = direction == Direction::Read && done % PAGE != 0;
                if done >= len || ended {
                    return Ok(done);
                }
            }
        }
    }
}

const PAGE: usize = 4096;
