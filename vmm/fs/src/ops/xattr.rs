//! Extended attributes.
//!
//! The guest reads and writes `user.*`, file capabilities (`security.capability`) and POSIX ACLs.
//! Everything else steers the host rather than the file: `trusted.*` holds the host's overlay
//! metadata, other `security.*` the labels of its security modules. Those are absent when read or
//! listed, and refused when written.

use std::ffi::CStr;

use rustix::buffer::spare_capacity;
use rustix::fs::{
    FileType, Mode, XattrFlags, getxattr, getxattr_query, listxattr, listxattr_query, removexattr,
    setxattr,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::status;
use crate::acl;
use crate::capability;
use crate::inode::Inode;
use crate::limits::XATTR_SIZE_MAX;
use crate::wire::{GetxattrOut, InHeader, ROOT_ID, SETXATTR_ACL_KILL_SGID};
use crate::worker::{Outcome, Worker};

const ACL_ACCESS: &CStr = c"system.posix_acl_access";
const ACL_DEFAULT: &CStr = c"system.posix_acl_default";
const CAPABILITY: &CStr = c"security.capability";
const S_ISGID: u32 = Mode::SGID.bits();

/// What an attribute is to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attribute {
    /// Bytes that mean nothing to the server.
    Plain,
    /// A list with user and group ids in it.
    Acl,
    /// File capabilities, which hold for the root of one user namespace.
    Capability,
    /// Not the guest's.
    Hidden,
}

impl Attribute {
    fn of(name: &CStr) -> Self {
        if name == ACL_ACCESS || name == ACL_DEFAULT {
            Self::Acl
        } else if name == CAPABILITY {
            Self::Capability
        } else if name.to_bytes().starts_with(b"user.") {
            Self::Plain
        } else {
            Self::Hidden
        }
    }
}

impl Worker {
    pub(super) fn getxattr(
        &mut self,
        header: &InHeader,
        name: &CStr,
        size: u32,
    ) -> Result<Outcome, Errno> {
        let attribute = Attribute::of(name);
        if attribute == Attribute::Hidden || header.nodeid == ROOT_ID {
            return Err(hidden(name, attribute));
        }
        let inode = self.inode(header.nodeid)?;
        let path = DecInt::from_fd(inode.fd());
        if attribute == Attribute::Capability && !self.identity_ids() {
            return self.get_capability(path.as_c_str(), size);
        }
        let absent = |errno| missing(errno, attribute);
        if size == 0 {
            let len = getxattr_query(path.as_c_str(), name).map_err(absent)?;
            return self.size_body(len);
        }
        self.reserve_reply(size);
        getxattr(path.as_c_str(), name, spare_capacity(&mut self.reply)).map_err(absent)?;
        let server = &self.server;
        if attribute == Attribute::Acl && !self.identity_ids() {
            let uid = |id| Some(server.uid_map.to_guest(id));
            let gid = |id| Some(server.gid_map.to_guest(id));
            acl::translate(&mut self.reply, uid, gid)?;
        }
        Ok(Outcome::Body)
    }

    /// The capability of a file for the guest's root; its size may differ from the host's.
    fn get_capability(&mut self, path: &CStr, size: u32) -> Result<Outcome, Errno> {
        let mut value = Vec::with_capacity(capability::SIZE_3);
        getxattr(path, CAPABILITY, spare_capacity(&mut value))?;
        let value = capability::to_guest(&value, &self.server.uid_map)?;
        if size == 0 {
            return self.size_body(value.len());
        }
        if usize::try_from(size).is_ok_and(|size| size < value.len()) {
            return Err(Errno::RANGE);
        }
        self.reply.extend_from_slice(&value);
        Ok(Outcome::Body)
    }

    pub(super) fn setxattr(
        &mut self,
        header: &InHeader,
        name: &CStr,
        value: &[u8],
        (flags, setxattr_flags): (u32, u32),
    ) -> Result<Outcome, Errno> {
        let inode = self.writable_inode(header.nodeid)?;
        let attribute = Attribute::of(name);
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        if u32::try_from(value.len()).is_ok_and(|len| len > XATTR_SIZE_MAX) {
            return Err(Errno::TOOBIG);
        }
        self.credentials.clear_set_id_bits(false)?;
        let path = DecInt::from_fd(inode.fd());
        match attribute {
            Attribute::Hidden => return Err(refused(name)),
            Attribute::Acl if !self.identity_ids() => {
                let mut value = value.to_vec();
                let server = &self.server;
                let uid = |id| server.uid_map.to_host(id);
                let gid = |id| server.gid_map.to_host(id);
                acl::translate(&mut value, uid, gid)?;
                setxattr(path.as_c_str(), name, &value, flags)?;
            }
            Attribute::Capability if !self.identity_ids() => {
                let value = capability::to_host(value, &self.server.uid_map)?;
                setxattr(path.as_c_str(), name, &value, flags)?;
            }
            Attribute::Plain | Attribute::Acl | Attribute::Capability => {
                setxattr(path.as_c_str(), name, value, flags)?;
            }
        }
        if setxattr_flags & SETXATTR_ACL_KILL_SGID != 0 && name == ACL_ACCESS {
            self.clear_set_group_id(&inode)?;
        }
        Ok(Outcome::Body)
    }

    /// The caller is neither in the file's group nor has CAP_FSETID, says the guest.
    fn clear_set_group_id(&self, inode: &Inode) -> Result<(), Errno> {
        let mode = u32::from(status(inode.fd())?.stx_mode);
        if mode & S_ISGID == 0 || inode.kind == FileType::Symlink {
            return Ok(());
        }
        self.set_mode(inode, mode & !S_ISGID)
    }

    pub(super) fn listxattr(&mut self, header: &InHeader, size: u32) -> Result<Outcome, Errno> {
        if header.nodeid == ROOT_ID {
            return if size == 0 { self.size_body(0) } else { Ok(Outcome::Body) };
        }
        let inode = self.inode(header.nodeid)?;
        let path = DecInt::from_fd(inode.fd());
        let mut names = Vec::new();
        if listxattr_query(path.as_c_str())? != 0 {
            names.reserve(usize::try_from(XATTR_SIZE_MAX).unwrap_or_default());
            listxattr(path.as_c_str(), spare_capacity(&mut names))?;
        }
        let mut rest = names.as_slice();
        while let Ok(name) = CStr::from_bytes_until_nul(rest) {
            let bytes = name.to_bytes_with_nul();
            rest = rest.get(bytes.len()..).unwrap_or_default();
            if Attribute::of(name) != Attribute::Hidden {
                self.reply.extend_from_slice(bytes);
            }
        }
        let len = self.reply.len();
        if size == 0 {
            self.reply.clear();
            return self.size_body(len);
        }
        if u32::try_from(len).is_ok_and(|len| len <= size) {
            Ok(Outcome::Body)
        } else {
            Err(Errno::RANGE)
        }
    }

    pub(super) fn removexattr(&mut self, header: &InHeader, name: &CStr) -> Result<Outcome, Errno> {
        let inode = self.writable_inode(header.nodeid)?;
        if Attribute::of(name) == Attribute::Hidden {
            return Err(refused(name));
        }
        self.credentials.clear_set_id_bits(false)?;
        removexattr(DecInt::from_fd(inode.fd()).as_c_str(), name)?;
        Ok(Outcome::Body)
    }

    fn identity_ids(&self) -> bool {
        self.server.uid_map.is_identity() && self.server.gid_map.is_identity()
    }

    fn size_body(&mut self, len: usize) -> Result<Outcome, Errno> {
        let size = u32::try_from(len).map_err(|_| Errno::RANGE)?;
        Ok(self.body(&GetxattrOut { size, padding: 0 }))
    }

    /// Room for exactly what the guest has room for: the host then gives ERANGE as it should.
    fn reserve_reply(&mut self, size: u32) {
        let size = usize::try_from(size.min(XATTR_SIZE_MAX)).unwrap_or_default();
        self.reply = Vec::with_capacity(size);
    }
}

/// What reading an attribute gives that is not the guest's.
fn hidden(name: &CStr, attribute: Attribute) -> Errno {
    if is_trusted(name) { Errno::NODATA } else { missing(Errno::OPNOTSUPP, attribute) }
}

/// What reading an attribute gives on a file system of the host that does not have its kind. A guest
/// that is told so of an ACL gives it to every user but the owner, whatever the mode allows (Linux
/// 6.12, fs/fuse/acl.c); that there is none is as true.
fn missing(errno: Errno, attribute: Attribute) -> Errno {
    if attribute == Attribute::Acl && errno == Errno::OPNOTSUPP { Errno::NODATA } else { errno }
}

/// What writing an attribute gives that is not the guest's; for `trusted.*` as without
/// CAP_SYS_ADMIN.
fn refused(name: &CStr) -> Errno {
    if is_trusted(name) { Errno::PERM } else { Errno::OPNOTSUPP }
}

fn is_trusted(name: &CStr) -> bool {
    name.to_bytes().starts_with(b"trusted.")
}
