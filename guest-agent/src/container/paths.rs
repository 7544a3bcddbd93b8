//! Paths of a container, resolved inside its root: a symbolic link in an image, absolute or with
//! `..`, never leads out (openat2(2), RESOLVE_IN_ROOT).

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat};
use rustix::io::Errno;

/// What stands at a path that had to be made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// As many links as the kernel follows in one path (MAXSYMLINKS).
const MAX_LINKS: usize = 40;
/// Tries while somebody renames directories under us (openat2(2), EAGAIN).
const MAX_TRIES: usize = 16;

/// Opens what is at `path`.
pub(super) fn open(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // An empty path is the root itself.
    let path = if path.is_empty() { "/" } else { path };
    let mut result = Err(Errno::AGAIN);
    for _ in 0..MAX_TRIES {
        result = openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    result
}

/// The directory or file at `path`, made with its parents if it is missing. Says whether it was
/// there.
pub(super) fn ensure(
    root: BorrowedFd<'_>,
    path: &str,
    kind: Kind,
) -> Result<(OwnedFd, bool), Errno> {
    match open(root, path, OFlags::PATH) {
        Ok(fd) => return Ok((fd, true)),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let mut rest: VecDeque<String> = components(path);
    let mut done = String::new();
    let mut links = 0;
    while let Some(component) = rest.pop_front() {
        let next = join(&done, &component);
        match open(root, &next, OFlags::PATH) {
            Ok(_) => {
                done = next;
                continue;
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let parent = open(root, &done, OFlags::PATH | OFlags::DIRECTORY)?;
        let made = match kind {
            Kind::File if rest.is_empty() => make_file(parent.as_fd(), &component),
            _ => mkdirat(&parent, &component, Mode::from_raw_mode(0o755)),
        };
        match made {
            Ok(()) => done = next,
            // It does not exist and yet it does: a link to nothing. What it points to is made.
            Err(Errno::EXIST) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let target = match readlinkat(&parent, &component, Vec::new()) {
                    Ok(target) => target.into_string().map_err(|_| Errno::ILSEQ)?,
                    // Somebody else made it in between.
                    Err(Errno::INVAL) => component,
                    Err(errno) => return Err(errno),
                };
                if target.starts_with('/') {
                    done = String::new();
                }
                for component in components(&target).into_iter().rev() {
                    rest.push_front(component);
                }
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok((open(root, &done, OFlags::PATH)?, false))
}

/// The directory that `path` stands in, made if it is missing, and its last component.
pub(super) fn ensure_parent(root: BorrowedFd<'_>, path: &str) -> Result<(OwnedFd, String), Errno> {
    let mut parts = components(path);
    let last = parts.pop_back().filter(|last| last != "..").ok_or(Errno::INVAL)?;
    let mut parent = String::new();
    for part in parts {
        parent = join(&parent, &part);
    }
    Ok((ensure(root, &parent, Kind::Directory)?.0, last))
}

fn make_file(parent: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
}

fn components(path: &str) -> VecDeque<String> {
    path.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .map(ToString::to_string)
        .collect()
}

fn join(directory: &str, name: &str) -> String {
    let mut path = String::with_capacity(directory.len().saturating_add(name.len()) + 1);
    path.push_str(directory);
    path.push('/');
    path.push_str(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, fstat};
    use std::os::unix::fs::symlink;
    use std::prelude::v1::*;

    fn root(directory: &tempfile::TempDir) -> OwnedFd {
        openat(CWD, directory.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn makes_directories_and_files() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(&directory);
        assert!(!ensure(root.as_fd(), "/a/./b//c", Kind::Directory).unwrap().1);
        assert!(ensure(root.as_fd(), "/a/b/c", Kind::Directory).unwrap().1);
        ensure(root.as_fd(), "/a/f/g", Kind::File).unwrap();
        assert!(directory.path().join("a/f/g").is_file());
        let (root_again, existed) = ensure(root.as_fd(), "/", Kind::Directory).unwrap();
        assert!(existed);
        assert_eq!(fstat(&root_again).unwrap().st_ino, fstat(&root).unwrap().st_ino);
    }

    #[test]
    fn links_stay_inside() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(&directory);
        let inside = directory.path().join("root");
        std::fs::create_dir(&inside).unwrap();
        symlink("/outside", inside.join("absolute")).unwrap();
        symlink("../../../outside", inside.join("relative")).unwrap();
        symlink("loop", inside.join("loop")).unwrap();
        let inner = open(root.as_fd(), "/root", OFlags::PATH).unwrap();
        ensure(inner.as_fd(), "/absolute/x", Kind::Directory).unwrap();
        ensure(inner.as_fd(), "/relative/y", Kind::File).unwrap();
        assert!(inside.join("outside/x").is_dir());
        assert!(inside.join("outside/y").is_file());
        assert!(!directory.path().join("outside").exists());
        assert_eq!(ensure(inner.as_fd(), "/loop/x", Kind::Directory).unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn a_file_is_no_directory() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(&directory);
        std::fs::write(directory.path().join("f"), "").unwrap();
        assert_eq!(ensure(root.as_fd(), "/f/x", Kind::File).unwrap_err(), Errno::NOTDIR);
        let (file, existed) = ensure(root.as_fd(), "/f", Kind::Directory).unwrap();
        assert!(existed);
        let mode = fstat(&file).unwrap().st_mode;
        assert_eq!(FileType::from_raw_mode(mode), FileType::RegularFile);
    }

    #[test]
    fn the_last_component_is_split_off() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(&directory);
        let (_, name) = ensure_parent(root.as_fd(), "/dev/null/").unwrap();
        assert_eq!(name, "null");
        assert!(directory.path().join("dev").is_dir());
        assert!(ensure_parent(root.as_fd(), "/").is_err());
        assert!(ensure_parent(root.as_fd(), "/a/..").is_err());
    }
}
