//! Names that come, go and move: link, unlink, rmdir, rename.

use rustix::fs::{AtFlags, RenameFlags, linkat, renameat_with, unlinkat};
use rustix::io::Errno;
use rustix::path::DecInt;

use crate::inode::Inode;
use crate::namecheck::Name;
use crate::wire::InHeader;
use crate::worker::{Outcome, Worker};

impl Worker {
    pub(super) fn unlink(
        &mut self,
        header: &InHeader,
        name: Name<'_>,
        flags: AtFlags,
    ) -> Result<Outcome, Errno> {
        let parent = self.writable_inode(header.nodeid)?;
        unlinkat(parent.fd(), name.as_c_str(), flags)?;
        Ok(Outcome::Body)
    }

    pub(super) fn link(
        &mut self,
        header: &InHeader,
        oldnodeid: u64,
        name: Name<'_>,
    ) -> Result<Outcome, Errno> {
        let parent = self.writable_inode(header.nodeid)?;
        let inode = self.inode(oldnodeid)?;
        check_one_share(&inode, &parent)?;
        // The inode is linked, not a name of it, which may have changed. AT_EMPTY_PATH would ask
        // for CAP_DAC_READ_SEARCH in the host's user namespace.
        let old = DecInt::from_fd(inode.fd());
        linkat(
            self.server.proc_self_fd(),
            old.as_c_str(),
            parent.fd(),
            name.as_c_str(),
            AtFlags::SYMLINK_FOLLOW,
        )?;
        self.entry_body(&parent, name)
    }

    pub(super) fn rename(
        &mut self,
        (from_id, from): (u64, Name<'_>),
        (to_id, to): (u64, Name<'_>),
        flags: u32,
    ) -> Result<Outcome, Errno> {
        let old = self.writable_inode(from_id)?;
        let new = self.writable_inode(to_id)?;
        check_one_share(&old, &new)?;
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        if flags.contains(RenameFlags::WHITEOUT) && !old.share.whiteouts {
            return Err(Errno::INVAL);
        }
        renameat_with(old.fd(), from.as_c_str(), new.fd(), to.as_c_str(), flags)?;
        Ok(Outcome::Body)
    }
}

/// Shares are file systems of their own, also where they lie on one file system of the host.
fn check_one_share(a: &Inode, b: &Inode) -> Result<(), Errno> {
    if a.share.id == b.share.id { Ok(()) } else { Err(Errno::XDEV) }
}
