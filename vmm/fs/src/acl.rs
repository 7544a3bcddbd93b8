//! POSIX access control lists as extended attributes (`struct posix_acl_xattr_entry`): a version,
//! then entries of tag, permissions and id.

use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const VERSION: u32 = 2;
const TAG_USER: u16 = 0x02;
const TAG_GROUP: u16 = 0x08;

#[repr(C)]
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// Replaces the ids of named users and groups in an ACL.
///
/// # Errors
/// EOPNOTSUPP for another version, EINVAL for bytes that are no list or an id without a
/// counterpart.
pub(crate) fn translate(
    acl: &mut [u8],
    uid: impl Fn(u32) -> Option<u32>,
    gid: impl Fn(u32) -> Option<u32>,
) -> Result<(), Errno> {
    let (version, mut entries) = acl.split_first_chunk_mut::<4>().ok_or(Errno::INVAL)?;
    if u32::from_le_bytes(*version) != VERSION {
        return Err(Errno::OPNOTSUPP);
    }
    while !entries.is_empty() {
        let (mut entry, _) = Entry::read_from_prefix(entries).map_err(|_| Errno::INVAL)?;
        let (bytes, rest) = entries.split_at_mut_checked(size_of::<Entry>()).ok_or(Errno::INVAL)?;
        entry.id = match entry.tag {
            TAG_USER => uid(entry.id).ok_or(Errno::INVAL)?,
            TAG_GROUP => gid(entry.id).ok_or(Errno::INVAL)?,
            _ => entry.id,
        };
        bytes.copy_from_slice(entry.as_bytes());
        entries = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u32)]) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for &(tag, id) in entries {
            bytes.extend_from_slice(Entry { tag, permissions: 7, id }.as_bytes());
        }
        bytes
    }

    #[test]
    fn translates_named_users_and_groups_only() {
        let mut list = acl(&[(1, u32::MAX), (TAG_USER, 5), (4, u32::MAX), (TAG_GROUP, 6)]);
        translate(&mut list, |id| id.checked_add(100), |id| id.checked_add(200)).unwrap();
        assert_eq!(list, acl(&[(1, u32::MAX), (TAG_USER, 105), (4, u32::MAX), (TAG_GROUP, 206)]));
    }

    #[test]
    fn refuses_what_is_no_list() {
        let same = |mut bytes: Vec<u8>| translate(&mut bytes, Some, Some);
        assert_eq!(same(vec![]), Err(Errno::INVAL));
        assert_eq!(same(vec![3, 0, 0, 0]), Err(Errno::OPNOTSUPP));
        assert_eq!(same(vec![2, 0, 0, 0]), Ok(()));
        assert_eq!(same(vec![2, 0, 0, 0, 1]), Err(Errno::INVAL));
        let mut list = acl(&[(TAG_USER, 5)]);
        assert_eq!(translate(&mut list, |_| None, Some), Err(Errno::INVAL));
    }
}
