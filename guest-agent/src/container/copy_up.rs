//! Fills a fresh tmpfs with what the directory that it will cover holds.

use alloc::ffi::CString;
use alloc::vec::Vec;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chownat, fchmod,
    futimens, mkdirat, mknodat, openat, readlinkat, sendfile, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

/// Directories inside each other; an image chooses how many.
const MAX_DEPTH: usize = 256;
/// Bytes copied by one system call.
const STEP: usize = 1 << 20;

/// Copies what is in one directory into another, with owners, modes and times. Sockets are left
/// out: they lead nowhere.
pub(super) fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    copy_entries(from, to, 0)
}

fn copy_entries(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    for name in names(from)? {
        let stat = statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                mkdirat(to, &name, Mode::RWXU)?;
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
                let (source, target) = (open(from, &name, flags)?, open(to, &name, flags)?);
                copy_entries(source.as_fd(), target.as_fd(), depth + 1)?;
                finish(&target, to, &name, &stat, mode)?;
            }
            FileType::RegularFile => {
                let source = open(from, &name, OFlags::NOFOLLOW)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let target = openat(to, &name, flags, Mode::RUSR | Mode::WUSR)?;
                while sendfile(&target, &source, None, STEP)? > 0 {}
                finish(&target, to, &name, &stat, mode)?;
            }
            FileType::Symlink => {
                let link = readlinkat(from, &name, Vec::new())?;
                symlinkat(link, to, &name)?;
                own(to, &name, &stat)?;
                utimensat(to, &name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            kind @ (FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo) => {
                mknodat(to, &name, kind, mode, stat.st_rdev)?;
                own(to, &name, &stat)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Mode last: changing the owner takes set-user-ID bits away.
fn finish(
    file: &OwnedFd,
    directory: BorrowedFd<'_>,
    name: &CString,
    stat: &Stat,
    mode: Mode,
) -> Result<(), Errno> {
    own(directory, name, stat)?;
    fchmod(file, mode)?;
    futimens(file, &times(stat))
}

fn own(directory: BorrowedFd<'_>, name: &CString, stat: &Stat) -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(directory, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn open(directory: BorrowedFd<'_>, name: &CString, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(directory, name, flags | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut space = Vec::with_capacity(4096);
    let mut entries = rustix::fs::RawDir::new(directory, space.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let name = CString::from(entry?.file_name());
        if name.as_bytes() != b"." && name.as_bytes() != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::{fs, prelude::v1::*};

    #[test]
    fn a_tree_is_copied_with_its_modes() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(from.path().join("a/b")).unwrap();
        fs::write(from.path().join("a/f"), vec![7; 3_000_000]).unwrap();
        fs::set_permissions(from.path().join("a/f"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(from.path().join("a/b"), fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("/nowhere", from.path().join("a/l")).unwrap();
        let directory =
            |path: &std::path::Path| openat(CWD, path, OFlags::DIRECTORY, Mode::empty()).unwrap();
        copy_directory(directory(from.path()).as_fd(), directory(to.path()).as_fd()).unwrap();
        let copy = to.path().join("a");
        assert_eq!(fs::read(copy.join("f")).unwrap().len(), 3_000_000);
        assert_eq!(fs::metadata(copy.join("f")).unwrap().mode() & 0o7777, 0o4751);
        assert_eq!(fs::metadata(copy.join("b")).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(fs::read_link(copy.join("l")).unwrap().to_str(), Some("/nowhere"));
        let time = |path: &std::path::Path| fs::metadata(path.join("a/f")).unwrap().mtime_nsec();
        assert_eq!(time(from.path()), time(to.path()));
    }
}
