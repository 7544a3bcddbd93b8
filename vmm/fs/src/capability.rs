//! File capabilities (`struct vfs_cap_data` of `linux/capability.h`) under an id map.
//!
//! A capability holds in the user namespaces whose root is its `rootid`. A guest's root must not
//! make a program that is privileged on the host: where the guest's root is not the host's, what it
//! writes is bound to the host's user that it is, as Linux does for a root of a user namespace
//! (`cap_convert_nscap`, `cap_inode_getsecurity`).

use rustix::io::Errno;

use crate::idmap::IdMap;

const REVISION_MASK: u32 = 0xff00_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
/// Bytes of revision 2: the magic number, and permitted and inheritable sets of 64 bits.
const SIZE_2: usize = 20;
/// Bytes of revision 3, which adds the root's id.
pub(crate) const SIZE_3: usize = SIZE_2 + 4;

/// A value taken apart: flags, sets, and the id of the root, 0 in revision 2.
struct Capability<'a> {
    flags: u32,
    sets: &'a [u8],
    root: u32,
}

impl<'a> Capability<'a> {
    fn parse(value: &'a [u8]) -> Result<Self, Errno> {
        let (magic, rest) = value.split_first_chunk::<4>().ok_or(Errno::INVAL)?;
        let magic = u32::from_le_bytes(*magic);
        let (sets, root) = rest.split_at_checked(SIZE_2 - 4).ok_or(Errno::INVAL)?;
        let root = match (magic & REVISION_MASK, root) {
            (REVISION_2, []) => 0,
            (REVISION_3, [a, b, c, d]) => u32::from_le_bytes([*a, *b, *c, *d]),
            _ => return Err(Errno::INVAL),
        };
        Ok(Self { flags: magic & !REVISION_MASK, sets, root })
    }

    /// The value for another root; in revision 2, which every reader knows, if that is 0.
    fn write(&self, root: u32) -> Vec<u8> {
        let revision = if root == 0 { REVISION_2 } else { REVISION_3 };
        let mut value = Vec::with_capacity(SIZE_3);
        value.extend_from_slice(&(self.flags | revision).to_le_bytes());
        value.extend_from_slice(self.sets);
        if root != 0 {
            value.extend_from_slice(&root.to_le_bytes());
        }
        value
    }
}

/// A value of the guest as it is kept on the host.
///
/// # Errors
/// EINVAL for bytes that are no capability or a root without a counterpart.
pub(crate) fn to_host(value: &[u8], users: &IdMap) -> Result<Vec<u8>, Errno> {
    let capability = Capability::parse(value)?;
    Ok(capability.write(users.to_host(capability.root).ok_or(Errno::INVAL)?))
}

/// A value of the host as the guest sees it.
///
/// # Errors
/// EINVAL for bytes that are no capability, EOVERFLOW for one of another root than the guest has.
pub(crate) fn to_guest(value: &[u8], users: &IdMap) -> Result<Vec<u8>, Errno> {
    let capability = Capability::parse(value)?;
    Ok(capability.write(users.to_guest_checked(capability.root).ok_or(Errno::OVERFLOW)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idmap::IdRange;

    fn value(revision: u32, root: Option<u32>) -> Vec<u8> {
        let root = root.map_or(Vec::new(), |root| root.to_le_bytes().to_vec());
        [&(revision | 1).to_le_bytes()[..], &[0xa5; 16], &root].concat()
    }

    #[test]
    fn binds_what_the_guests_root_writes_to_who_it_is() {
        let map = IdMap::new(vec![IdRange { guest: 0, host: 1000, count: 10 }]).unwrap();
        let (two, three) = (value(REVISION_2, None), value(REVISION_3, Some(1000)));
        assert_eq!(to_host(&two, &map).unwrap(), three);
        assert_eq!(to_guest(&three, &map).unwrap(), two);
        let inner = value(REVISION_3, Some(5));
        assert_eq!(to_host(&inner, &map).unwrap(), value(REVISION_3, Some(1005)));
        assert_eq!(to_guest(&value(REVISION_3, Some(1005)), &map).unwrap(), inner);
        // The host's own, and those of users that the guest does not have.
        assert_eq!(to_guest(&two, &map), Err(Errno::OVERFLOW));
        assert_eq!(to_guest(&value(REVISION_3, Some(10)), &map), Err(Errno::OVERFLOW));
        assert_eq!(to_host(&value(REVISION_3, Some(10)), &map), Err(Errno::INVAL));
    }

    #[test]
    fn refuses_what_is_no_capability() {
        let map = IdMap::identity();
        for bad in [
            vec![],
            vec![2, 0, 0],
            value(0x0100_0000, None),
            value(0x0400_0000, None),
            value(REVISION_2, Some(0)),
            value(REVISION_3, None),
            value(REVISION_2, None)[..19].to_vec(),
        ] {
            assert_eq!(to_host(&bad, &map), Err(Errno::INVAL));
            assert_eq!(to_guest(&bad, &map), Err(Errno::INVAL));
        }
    }
}
