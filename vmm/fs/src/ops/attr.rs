//! Attributes: getattr, statx, setattr.

use std::os::fd::AsFd;

use rustix::fs::{
    AtFlags, FileType, OFlags, Statx, StatxFlags, StatxTimestamp, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, chownat, ftruncate, statx, utimensat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::status;
use crate::inode::Inode;
use crate::wire::{
    Attr, AttrOut, GETATTR_FH, GetattrIn, InHeader, ROOT_ID, SetattrIn, StatxIn, StatxOut, SxTime,
    fattr,
};
use crate::worker::{Outcome, Worker};

/// The part of `struct statx` that has a place in FUSE.
const STATX_MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// The attributes that SETATTR can change here.
const SETTABLE: u32 =
    fattr::MODE | fattr::UID | fattr::GID | fattr::SIZE | fattr::ATIME | fattr::MTIME;

impl Worker {
    pub(super) fn getattr(
        &mut self,
        header: &InHeader,
        args: &GetattrIn,
    ) -> Result<Outcome, Errno> {
        if header.nodeid == ROOT_ID {
            let out = AttrOut { attr: self.root_attr(), ..AttrOut::default() };
            return Ok(self.body(&out));
        }
        let inode = self.inode(header.nodeid)?;
        let file = self.getattr_handle(args.getattr_flags, args.fh);
        let status = match &file {
            Some(handle) => status(handle.fd()),
            None => status(inode.fd()),
        }?;
        Ok(self.attr_out(&inode, &status))
    }

    /// The handle of a request that names one. It is the same file as the node; asking it rather
    /// than the node matters on file systems without open-unlinked files (NFS).
    fn getattr_handle(&self, flags: u32, fh: u64) -> Option<std::sync::Arc<crate::handle::Handle>> {
        (flags & GETATTR_FH != 0).then(|| self.server.handles.file(fh).ok()).flatten()
    }

    fn attr_out(&mut self, inode: &Inode, status: &Statx) -> Outcome {
        inode.note_mode(status.stx_mode.into());
        let timeout = self.cache(&inode.share).timeout();
        let out = AttrOut {
            attr_valid: timeout.as_secs(),
            attr_valid_nsec: timeout.subsec_nanos(),
            dummy: 0,
            attr: self.attr(status),
        };
        self.body(&out)
    }

    pub(super) fn statx(&mut self, header: &InHeader, args: &StatxIn) -> Result<Outcome, Errno> {
        if header.nodeid == ROOT_ID {
            let attr = self.root_attr();
            let stat = crate::wire::Statx {
                mask: (StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::INO).bits(),
                nlink: attr.nlink,
                mode: u16::try_from(attr.mode).unwrap_or_default(),
                ino: attr.ino,
                ..crate::wire::Statx::default()
            };
            return Ok(self.body(&StatxOut { stat, ..StatxOut::default() }));
        }
        let inode = self.inode(header.nodeid)?;
        let file = self.getattr_handle(args.getattr_flags, args.fh);
        let fd = file.as_ref().map_or_else(|| inode.fd(), |handle| handle.fd());
        let status = statx(fd, c"", AtFlags::EMPTY_PATH, STATX_MASK)?;
        let timeout = self.cache(&inode.share).timeout();
        let out = StatxOut {
            attr_valid: timeout.as_secs(),
            attr_valid_nsec: timeout.subsec_nanos(),
            flags: 0,
            spare: [0; 2],
            stat: self.statx_out(&status),
        };
        Ok(self.body(&out))
    }

    pub(super) fn setattr(
        &mut self,
        header: &InHeader,
        args: &SetattrIn,
    ) -> Result<Outcome, Errno> {
        let inode = self.writable_inode(header.nodeid)?;
        let has = |bit| args.valid & bit != 0;
        if has(fattr::SIZE) {
            self.truncate(header, &inode, args)?;
        }
        // Linux asks for no attribute where set-id bits and file capabilities are to go without a
        // new owner: a chown(2) that names none, and an ordinary user that writes.
        if has(fattr::UID | fattr::GID) || args.valid & SETTABLE == 0 {
            self.change_owner(&inode, args)?;
        }
        if has(fattr::MODE) {
            self.change_mode(&inode, args.mode)?;
        }
        if has(fattr::ATIME | fattr::MTIME) {
            let times = Timestamps {
                last_access: time(
                    args,
                    (fattr::ATIME, fattr::ATIME_NOW),
                    (args.atime, args.atimensec),
                )?,
                last_modification: time(
                    args,
                    (fattr::MTIME, fattr::MTIME_NOW),
                    (args.mtime, args.mtimensec),
                )?,
            };
            utimensat(inode.fd(), c"", &times, AtFlags::EMPTY_PATH)?;
        }
        let status = status(inode.fd())?;
        Ok(self.attr_out(&inode, &status))
    }

    fn truncate(
        &mut self,
        header: &InHeader,
        inode: &Inode,
        args: &SetattrIn,
    ) -> Result<(), Errno> {
        let clear = args.valid & fattr::KILL_SUIDGID != 0;
        if args.valid & fattr::FH != 0
            && let Ok(handle) = self.server.handles.file(args.fh)
        {
            check_same(inode, &handle.inode)?;
            return self.change_data(header, inode, clear, || ftruncate(handle.fd(), args.size));
        }
        match inode.kind {
            FileType::RegularFile => {
                let fd = self.reopen(inode.fd(), OFlags::WRONLY | OFlags::NONBLOCK)?;
                self.change_data(header, inode, clear, || ftruncate(fd.as_fd(), args.size))
            }
            FileType::Directory => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }

    /// chown(2) clears set-id bits and file capabilities of its own.
    fn change_owner(&self, inode: &Inode, args: &SetattrIn) -> Result<(), Errno> {
        let server = &self.server;
        let wanted = |bit, id, map: &crate::idmap::IdMap| {
            if args.valid & bit == 0 {
                return Ok(None);
            }
            // EINVAL is what Linux gives in a user namespace for an id that is not mapped.
            map.to_host(id).map(Some).ok_or(Errno::INVAL)
        };
        let uid = wanted(fattr::UID, args.uid, &server.uid_map)?.map(Uid::from_raw);
        let gid = wanted(fattr::GID, args.gid, &server.gid_map)?.map(Gid::from_raw);
        chownat(inode.fd(), c"", uid, gid, AtFlags::EMPTY_PATH)
    }

    fn change_mode(&mut self, inode: &Inode, mode: u32) -> Result<(), Errno> {
        if inode.kind == FileType::Symlink {
            // What Linux gives since 6.6 on all file systems.
            return Err(Errno::OPNOTSUPP);
        }
        // The guest has cleared the bits that its caller may not set.
        self.credentials.clear_set_id_bits(false)?;
        self.set_mode(inode, mode)
    }

    /// Attributes of the root: a directory of nothing but shares.
    fn root_attr(&self) -> Attr {
        let shares = self.server.shares().len();
        Attr {
            ino: ROOT_ID,
            mode: FileType::Directory.as_raw_mode() | 0o555,
            nlink: u32::try_from(shares).unwrap_or(u32::MAX).saturating_add(2),
            blksize: 4096,
            ..Attr::default()
        }
    }

    /// A status of the host as the guest may see it.
    pub(super) fn attr(&self, status: &Statx) -> Attr {
        Attr {
            ino: status.stx_ino,
            size: status.stx_size,
            blocks: status.stx_blocks,
            atime: status.stx_atime.tv_sec.cast_unsigned(),
            mtime: status.stx_mtime.tv_sec.cast_unsigned(),
            ctime: status.stx_ctime.tv_sec.cast_unsigned(),
            atimensec: status.stx_atime.tv_nsec,
            mtimensec: status.stx_mtime.tv_nsec,
            ctimensec: status.stx_ctime.tv_nsec,
            mode: u32::from(status.stx_mode),
            nlink: status.stx_nlink,
            uid: self.server.uid_map.to_guest(status.stx_uid),
            gid: self.server.gid_map.to_guest(status.stx_gid),
            rdev: encode_device(status.stx_rdev_major, status.stx_rdev_minor),
            blksize: status.stx_blksize,
            flags: 0,
        }
    }

    fn statx_out(&self, status: &Statx) -> crate::wire::Statx {
        crate::wire::Statx {
            mask: status.stx_mask & STATX_MASK.bits(),
            blksize: status.stx_blksize,
            attributes: status.stx_attributes.bits(),
            nlink: status.stx_nlink,
            uid: self.server.uid_map.to_guest(status.stx_uid),
            gid: self.server.gid_map.to_guest(status.stx_gid),
            mode: status.stx_mode,
            ino: status.stx_ino,
            size: status.stx_size,
            blocks: status.stx_blocks,
            attributes_mask: status.stx_attributes_mask.bits(),
            atime: sx_time(status.stx_atime),
            btime: sx_time(status.stx_btime),
            ctime: sx_time(status.stx_ctime),
            mtime: sx_time(status.stx_mtime),
            rdev_major: status.stx_rdev_major,
            rdev_minor: status.stx_rdev_minor,
            // The guest shows a device number of its own.
            ..crate::wire::Statx::default()
        }
    }
}

fn sx_time(time: StatxTimestamp) -> SxTime {
    SxTime { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec, reserved: 0 }
}

/// A device number as the kernel's `new_encode_dev` packs it for FUSE.
fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
}

/// A handle that is used in the name of a node must be one of that node: a read-only share could
/// be reached otherwise.
fn check_same(inode: &Inode, of_handle: &Inode) -> Result<(), Errno> {
    if inode.id == of_handle.id { Ok(()) } else { Err(Errno::BADF) }
}

/// One of the two times of a SETATTR for utimensat(2).
fn time(args: &SetattrIn, bits: (u32, u32), time: (u64, u32)) -> Result<Timespec, Errno> {
    let (set, now) = bits;
    if args.valid & set == 0 {
        return Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT });
    }
    if args.valid & now != 0 {
        return Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_NOW });
    }
    let (seconds, nanoseconds) = time;
    // Larger numbers include the kernel's codes for "now" and "not".
    if nanoseconds >= 1_000_000_000 {
        return Err(Errno::INVAL);
    }
    Ok(Timespec { tv_sec: seconds.cast_signed(), tv_nsec: nanoseconds.into() })
}
