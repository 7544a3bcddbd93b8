//! The operations, each a system call or few on descriptors out of the tables.

mod attr;
mod create;
mod data;
mod dir;
mod lock;
mod lookup;
mod namespace;
mod open;
mod xattr;

pub(crate) use lookup::{BENEATH, retry_race};
pub(crate) use open::host_flags;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxFlags, chmodat, statx};
use rustix::io::Errno;
use rustix::path::DecInt;

use crate::buffers::Chain;
use crate::inode::{Inode, SET_ID};
use crate::share::{ActiveShare, CachePolicy};
use crate::wire::{InHeader, Operation, ROOT_ID, init_flag};
use crate::worker::{Outcome, Worker};

/// What every status of a file is asked for.
const STATUS: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);

impl Worker {
    /// Does what a request asks.
    pub(crate) fn execute(
        &mut self,
        header: &InHeader,
        operation: Operation<'_>,
        readable: Chain<'_>,
        writable: Chain<'_>,
    ) -> Result<Outcome, Errno> {
        match operation {
            Operation::Read(args) => self.read(&args, writable),
            Operation::Write(args) => self.write(header, &args, readable),
            Operation::Forget { nlookup } => {
                self.server.inodes.forget(header.nodeid, nlookup);
                Ok(Outcome::Silent)
            }
            Operation::BatchForget { entries } => {
                for entry in entries {
                    self.server.inodes.forget(entry.nodeid, entry.nlookup);
                }
                Ok(Outcome::Silent)
            }
            // Only a request for a lock waits for anything but the host's file system: by the time
            // that an interrupt of another could be looked at, it is answered.
            Operation::Interrupt { unique } => {
                if self.server.waits.interrupt(unique) {
                    self.server.note_unlock();
                }
                Ok(Outcome::Silent)
            }
            Operation::Destroy => {
                self.server.reset();
                Ok(Outcome::Body)
            }
            Operation::Init { .. } => Err(Errno::PROTO),
            // FS_IOC_GETFLAGS and the like are not forwarded.
            Operation::Ioctl => Err(Errno::NOTTY),
            Operation::Unsupported { .. } => Err(Errno::NOSYS),
            operation => self.execute_on_node(header, operation, writable.len()),
        }
    }

    fn execute_on_node(
        &mut self,
        header: &InHeader,
        operation: Operation<'_>,
        room: usize,
    ) -> Result<Outcome, Errno> {
        match operation {
            Operation::Lookup { name } => self.lookup(header, name),
            Operation::Getattr(args) => self.getattr(header, &args),
            Operation::Statx(args) => self.statx(header, &args),
            Operation::Setattr(args) => self.setattr(header, &args),
            Operation::Readlink => self.readlink(header),
            Operation::Symlink { name, target } => self.symlink(header, name, target),
            Operation::Mknod { args, name } => self.mknod(header, &args, name),
            Operation::Mkdir { args, name } => self.mkdir(header, &args, name),
            Operation::Unlink { name } => self.unlink(header, name, AtFlags::empty()),
            Operation::Rmdir { name } => self.unlink(header, name, AtFlags::REMOVEDIR),
            Operation::Rename { newdir, flags, from, to } => {
                self.rename((header.nodeid, from), (newdir, to), flags)
            }
            Operation::Link { oldnodeid, name } => self.link(header, oldnodeid, name),
            Operation::Open(args) => self.open(header, &args),
            Operation::Create { args, name } => self.create(header, &args, name),
            Operation::Tmpfile(args) => self.tmpfile(header, &args),
            Operation::Release(args) => self.release(&args),
            Operation::Flush(args) => self.flush(&args),
            Operation::Fsync(args) => self.fsync(&args),
            Operation::Fallocate(args) => self.fallocate(header, &args),
            Operation::Lseek(args) => self.lseek(&args),
            Operation::Getlk(args) => self.getlk(header, &args),
            Operation::Setlk { args, wait } => self.setlk(header, &args, wait),
            Operation::CopyFileRange(args) => self.copy_file_range(header, &args),
            Operation::Opendir(args) => self.opendir(header, &args),
            Operation::Readdir(args) => self.readdir(header, &args, false, room),
            Operation::Readdirplus(args) => self.readdir(header, &args, true, room),
            Operation::Releasedir(args) => self.releasedir(header, &args),
            Operation::Fsyncdir(args) => self.fsyncdir(header, &args),
            Operation::Statfs => self.statfs(header),
            Operation::Syncfs => self.syncfs(header),
            Operation::Setxattr { name, value, flags, setxattr_flags } => {
                self.setxattr(header, name, value, (flags, setxattr_flags))
            }
            Operation::Getxattr { name, size } => self.getxattr(header, name, size),
            Operation::Listxattr { size } => self.listxattr(header, size),
            Operation::Removexattr { name } => self.removexattr(header, name),
            // Served before.
            _ => Err(Errno::NOSYS),
        }
    }

    /// The policy in force for a share. Without AUTO_INVAL_DATA the guest would keep data of an
    /// open file that changes on the host, so nothing is kept then; see [`Session`].
    ///
    /// [`Session`]: crate::Session
    fn cache(&self, share: &ActiveShare) -> CachePolicy {
        match share.cache {
            CachePolicy::Auto if !self.session.has(init_flag::AUTO_INVAL_DATA) => CachePolicy::None,
            policy => policy,
        }
    }

    /// The inode that a request is about.
    fn inode(&self, id: u64) -> Result<Arc<Inode>, Errno> {
        self.server.inodes.get(id)
    }

    /// The inode that a request changes, or in which it changes a name. The root holds shares
    /// only, which the guest cannot change.
    fn writable_inode(&self, id: u64) -> Result<Arc<Inode>, Errno> {
        if id == ROOT_ID {
            return Err(Errno::ROFS);
        }
        let inode = self.inode(id)?;
        check_writable(&inode.share)?;
        Ok(inode)
    }

    /// Takes the ids under which a new file of the caller is made, and its creation mask.
    fn act_as_caller(&mut self, header: &InHeader, umask: u32) -> Result<(), Errno> {
        // EOVERFLOW is what Linux gives for an owner that a file system cannot hold.
        let uid = self.server.uid_map.to_host(header.uid).ok_or(Errno::OVERFLOW)?;
        let gid = self.server.gid_map.to_host(header.gid).ok_or(Errno::OVERFLOW)?;
        self.credentials.act_as(uid, gid)?;
        self.credentials.clear_set_id_bits(false)?;
        self.credentials.mask(umask);
        Ok(())
    }

    /// Changes the data of a file. With `clear` the host's kernel clears its set-id bits: the guest
    /// says that the caller is without CAP_FSETID. Without, they stay, also where the host's kernel
    /// clears them because this process has the capability in a user namespace only.
    fn change_data<T>(
        &mut self,
        header: &InHeader,
        inode: &Inode,
        clear: bool,
        change: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if clear {
            // Whether a set-group-ID bit without group execution stays depends on the caller's
            // group. A caller that is not mapped is not in the file's group either.
            let uid = self.server.uid_map.to_host(header.uid);
            let gid = self.server.gid_map.to_host(header.gid);
            if let (Some(uid), Some(gid)) = (uid, gid) {
                self.credentials.act_as(uid, gid)?;
            }
        }
        self.credentials.clear_set_id_bits(clear)?;
        if clear || !inode.may_have_set_id() {
            return change();
        }
        let mode = || status(inode.fd()).map(|status| u32::from(status.stx_mode));
        let before = mode()?;
        let result = change();
        if before & !mode()? & SET_ID != 0 {
            self.set_mode(inode, before)?;
        }
        result
    }

    fn set_mode(&self, inode: &Inode, mode: u32) -> Result<(), Errno> {
        let name = DecInt::from_fd(inode.fd());
        let mode = Mode::from_raw_mode(mode & 0o7777);
        chmodat(self.server.proc_self_fd(), name.as_c_str(), mode, AtFlags::empty())
    }

    fn reopen(&self, fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.server.reopen(fd, flags)
    }
}

fn check_writable(share: &ActiveShare) -> Result<(), Errno> {
    if share.read_only { Err(Errno::ROFS) } else { Ok(()) }
}

/// The status of an open file or of an `O_PATH` descriptor.
pub(crate) fn status(fd: impl AsFd) -> Result<Statx, Errno> {
    statx(fd, c"", AtFlags::EMPTY_PATH, STATUS)
}
