//! What of the host's files the process may open: its shares, and nothing above or beside them.
//!
//! The file server holds descriptors of the shares' roots. From one of them `..` leads to the host's
//! directories, whatever the process's own root is; the server never asks for it, and with Landlock the
//! kernel would refuse it. It also refuses to follow a directory that the host has moved out of a share.

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;
use vmm_api::ShareKind;

/// The newest version whose rights are known here; an older kernel's are used as far as it has them.
const KNOWN: ABI = ABI::V6;

/// A share, as far as this wall is concerned.
#[derive(Clone, Copy, Debug)]
pub struct SharedFile<'fd> {
    /// Its root.
    pub root: BorrowedFd<'fd>,
    /// What that is.
    pub kind: ShareKind,
    /// Whether nothing of it may be changed.
    pub read_only: bool,
}

/// Why there is no such wall.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// The kernel has none, or one in which no file can be moved between directories.
    #[error(
        "this kernel has no Landlock of version 2 or newer (Linux 5.19, \"landlock\" in the boot parameter lsm)"
    )]
    Unavailable,
    /// The kernel refused.
    #[error("the kernel refused a Landlock rule set")]
    Refused(#[source] RulesetError),
    /// It was put up and does not hold.
    #[error("a directory can be opened although Landlock forbids it: {0:?}")]
    NotEffective(Result<(), Errno>),
}

impl From<RulesetError> for LandlockError {
    fn from(error: RulesetError) -> Self {
        Self::Refused(error)
    }
}

/// Holds the process, which must have one thread and no new privileges, to its shares, and gives the
/// version of the kernel's Landlock. With `later` shares may come that are not known yet: then only what
/// no share needs is forbidden.
pub(super) fn restrict(shares: &[SharedFile<'_>], later: bool) -> Result<u32, LandlockError> {
    let all = AccessFs::from_all(KNOWN);
    let handled = if later { never() } else { all };
    let mut rules = Ruleset::default()
        .handle_access(handled)?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?;
    for share in shares.iter().filter(|_| !later) {
        rules = rules.add_rule(PathBeneath::new(share.root, rights(share)))?;
    }
    let RestrictionStatus { ruleset, landlock, .. } = rules.restrict_self()?;
    let LandlockStatus::Available { effective_abi, .. } = landlock else {
        return Err(LandlockError::Unavailable);
    };
    if ruleset == RulesetStatus::NotEnforced || effective_abi < ABI::V2 {
        return Err(LandlockError::Unavailable);
    }
    if !later {
        prove()?;
    }
    Ok(effective_abi as u32)
}

/// The root, which is no share, can be opened no more.
fn prove() -> Result<(), LandlockError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match open("/", flags, Mode::empty()) {
        Err(Errno::ACCESS) => Ok(()),
        other => Err(LandlockError::NotEffective(other.map(drop))),
    }
}

/// What the file server does in no share: execute, make disks, and speak to devices.
fn never() -> BitFlags<AccessFs> {
    AccessFs::Execute | AccessFs::MakeBlock | AccessFs::IoctlDev
}

fn rights(share: &SharedFile<'_>) -> BitFlags<AccessFs> {
    let possible = match share.kind {
        ShareKind::Directory => AccessFs::from_all(KNOWN),
        ShareKind::File => AccessFs::from_file(KNOWN),
    };
    let wanted = match share.read_only {
        true => AccessFs::from_read(KNOWN),
        // Whiteouts of an overlay are character devices; the kernel lets the process make no others.
        false => AccessFs::from_all(KNOWN),
    };
    possible & wanted & !never()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, openat};
    use std::os::fd::{AsFd, OwnedFd};
    use std::path::Path;

    fn path(path: &Path) -> OwnedFd {
        open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    /// On a thread of its own: nothing of this can be undone.
    fn restricted<T: Send + 'static>(
        shares: Vec<(OwnedFd, ShareKind, bool)>,
        later: bool,
        then: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let thread = std::thread::spawn(move || {
            let shares: Vec<_> = shares
                .iter()
                .map(|(root, kind, read_only)| SharedFile {
                    root: root.as_fd(),
                    kind: *kind,
                    read_only: *read_only,
                })
                .collect();
            match restrict(&shares, later) {
                Ok(version) => {
                    assert!(version >= 2);
                    Some(then())
                }
                Err(LandlockError::Unavailable) => None,
                Err(error) => panic!("{error:?}"),
            }
        });
        thread.join().unwrap()
    }

    #[test]
    fn a_share_does_not_lead_to_what_is_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["share", "fixed", "beside"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
            std::fs::write(directory.path().join(name).join("file"), "x").unwrap();
        }
        let at = |name: &str| path(&directory.path().join(name));
        let (share, fixed) = (at("share"), at("fixed"));
        let (own, own_fixed) = (share.try_clone().unwrap(), fixed.try_clone().unwrap());
        let single = directory.path().join("beside/file");
        let shares = vec![
            (share, ShareKind::Directory, false),
            (fixed, ShareKind::Directory, true),
            (path(&single), ShareKind::File, false),
        ];
        let opened = restricted(shares, false, move || {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let read = |root: &OwnedFd, name: &str| {
                openat(root, name, flags, Mode::empty()).map(drop).err()
            };
            assert_eq!(read(&own, "file"), None);
            assert_eq!(read(&own, ".."), Some(Errno::ACCESS));
            assert_eq!(read(&own, "../beside"), Some(Errno::ACCESS));
            assert_eq!(read(&own, "../beside/file"), None);
            assert_eq!(read(&own_fixed, "file"), None);
            let write = OFlags::WRONLY | OFlags::CLOEXEC;
            let change =
                |root: &OwnedFd| openat(root, "file", write, Mode::empty()).map(drop).err();
            assert_eq!((change(&own), change(&own_fixed)), (None, Some(Errno::ACCESS)));
            rustix::fs::mkdirat(&own, "sub", Mode::RWXU).unwrap();
            rustix::fs::renameat(&own, "file", &own, "sub/file").unwrap();
            openat(CWD, single, flags, Mode::empty()).map(drop).err()
        });
        assert!(opened.is_none_or(|error| error.is_none()), "{opened:?}");
    }

    #[test]
    fn shares_that_come_later_can_be_opened() {
        let directory = tempfile::tempdir().unwrap();
        let later = directory.path().to_owned();
        let opened = restricted(Vec::new(), true, move || std::fs::read_dir(later).is_ok());
        assert_ne!(opened, Some(false));
    }
}
