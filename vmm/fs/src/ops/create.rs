//! New files: create, tmpfile, mknod, mkdir, symlink.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    FileType, Mode, OFlags, ResolveFlags, mkdirat, mknodat, openat, openat2, symlinkat,
};
use rustix::io::Errno;

use super::lookup::{BENEATH, retry_race, table_full};
use super::open::host_flags;
use super::status;
use crate::handle::{Handle, HandleKind};
use crate::inode::{Inode, Key};
use crate::namecheck::Name;
use crate::wire::{CreateIn, InHeader, MkdirIn, MknodIn, OPEN_KILL_SUIDGID, OpenIn, OpenOut};
use crate::worker::{Outcome, Worker};

const O_EXCL: u32 = OFlags::EXCL.bits();

impl Worker {
    pub(super) fn create(
        &mut self,
        header: &InHeader,
        args: &CreateIn,
        name: Name<'_>,
    ) -> Result<Outcome, Errno> {
        let parent = self.writable_inode(header.nodeid)?;
        let flags = host_flags(args.flags)?;
        self.check_room()?;
        self.act_as_caller(header, args.umask)?;
        // A name that exists may be a fifo or a device, which an open acts on: only what this call
        // makes is opened by name.
        let created = self.open_new(&parent, name, flags, args.mode, BENEATH);
        match created {
            Err(Errno::EXIST) if args.flags & O_EXCL == 0 => {
                self.open_existing(header, &parent, args, name)
            }
            created => self.created(&parent, created?, args.flags),
        }
    }

    fn open_new(
        &self,
        parent: &Inode,
        name: Name<'_>,
        flags: OFlags,
        mode: u32,
        resolve: ResolveFlags,
    ) -> Result<OwnedFd, Errno> {
        // A new file has nothing to truncate.
        let flags = flags.difference(OFlags::TRUNC)
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        retry_race(|| openat2(parent.fd(), name.as_c_str(), flags, mode, resolve))
            .map_err(table_full)
    }

    /// The name exists although the guest's kernel did not know it.
    fn open_existing(
        &mut self,
        header: &InHeader,
        parent: &Inode,
        args: &CreateIn,
        name: Name<'_>,
    ) -> Result<Outcome, Errno> {
        let (inode, _) = self.entry(parent, name)?;
        let opened = if inode.kind == FileType::RegularFile {
            let kill = args.open_flags & OPEN_KILL_SUIDGID;
            self.open_file(header, &inode, &OpenIn { flags: args.flags, open_flags: kill })
        } else {
            // ESTALE has the guest's kernel walk the path again, now knowing what is there.
            Err(Errno::STALE)
        };
        match opened.and_then(|open| Ok((open, status(inode.fd())?))) {
            Ok((open, status)) => {
                let entry = self.entry_out(&inode, Some(parent), &status);
                self.body(&entry);
                Ok(self.body(&open))
            }
            Err(errno) => {
                self.server.inodes.forget(inode.id, 1);
                Err(errno)
            }
        }
    }

    /// Replies with the inode and the handle of a file that was just made.
    fn created(&mut self, parent: &Inode, file: OwnedFd, flags: u32) -> Result<Outcome, Errno> {
        let fd = self.reopen(file.as_fd(), OFlags::PATH).map_err(table_full)?;
        let status = status(&fd)?;
        let key = Key::new(&parent.share, &status)?;
        let inode = self.server.inodes.add(&parent.share, key, fd, FileType::RegularFile)?;
        let open_flags = self.open_flags(&inode, flags, &status);
        let handle = Handle::new(file, inode.clone(), flags, HandleKind::File);
        let fh = self
            .server
            .handles
            .add(handle)
            .inspect_err(|_| self.server.inodes.forget(inode.id, 1))?;
        let entry = self.entry_out(&inode, Some(parent), &status);
        self.body(&entry);
        Ok(self.body(&OpenOut { fh, open_flags, backing_id: 0 }))
    }

    pub(super) fn tmpfile(&mut self, header: &InHeader, args: &CreateIn) -> Result<Outcome, Errno> {
        let parent = self.writable_inode(header.nodeid)?;
        let flags = host_flags(args.flags)?.difference(OFlags::TRUNC);
        self.check_room()?;
        self.act_as_caller(header, args.umask)?;
        // O_EXCL: it shall never get a name.
        let exclusive = OFlags::from_bits_retain(args.flags & O_EXCL);
        let flags = flags | exclusive | OFlags::TMPFILE | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(args.mode & 0o7777);
        let file = openat(parent.fd(), c".", flags, mode).map_err(table_full)?;
        self.created(&parent, file, args.flags)
    }

    pub(super) fn mknod(
        &mut self,
        header: &InHeader,
        args: &MknodIn,
        name: Name<'_>,
    ) -> Result<Outcome, Errno> {
        let parent = self.writable_inode(header.nodeid)?;
        let kind = FileType::from_raw_mode(args.mode);
        let allowed = match kind {
            FileType::RegularFile | FileType::Fifo | FileType::Socket => true,
            FileType::CharacterDevice => parent.share.whiteouts && args.rdev == 0,
            _ => false,
        };
        if !allowed {
            return Err(Errno::PERM);
        }
        self.server.inodes.check_room()?;
        self.act_as_caller(header, args.umask)?;
        mknodat(parent.fd(), name.as_c_str(), kind, Mode::from_raw_mode(args.mode & 0o7777), 0)?;
        self.entry_body(&parent, name)
    }

    pub(super) fn mkdir(
        &mut self,
        header: &InHeader,
        args: &MkdirIn,
        name: Name<'_>,
    ) -> Result<Outcome, Errno> {
        let parent = self.writable_inode(header.nodeid)?;
        self.server.inodes.check_room()?;
        self.act_as_caller(header, args.umask)?;
        mkdirat(parent.fd(), name.as_c_str(), Mode::from_raw_mode(args.mode & 0o7777))?;
        self.entry_body(&parent, name)
    }

    pub(super) fn symlink(
        &mut self,
        header: &InHeader,
        name: Name<'_>,
        target: &CStr,
    ) -> Result<Outcome, Errno> {
        let parent = self.writable_inode(header.nodeid)?;
        self.server.inodes.check_room()?;
        self.act_as_caller(header, 0)?;
        symlinkat(target, parent.fd(), name.as_c_str())?;
        self.entry_body(&parent, name)
    }

    /// Replies with the inode that a name now stands for.
    pub(super) fn entry_body(&mut self, parent: &Inode, name: Name<'_>) -> Result<Outcome, Errno> {
        let (inode, status) = self.entry(parent, name)?;
        let out = self.entry_out(&inode, Some(parent), &status);
        Ok(self.body(&out))
    }

    /// ENFILE before anything is made that could not be given to the guest.
    pub(super) fn check_room(&self) -> Result<(), Errno> {
        self.server.inodes.check_room()?;
        self.server.handles.check_room()
    }
}
