//! File systems of the host that lack something, fail, or change while the guest looks.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use file_server::wire::{
    CreateIn, EntryOut, FallocateIn, Kstatfs, MknodIn, OpenOut, SetattrIn, fattr, opcode,
};
use file_server::{CachePolicy, Server, ServerError, ShareError, ShareKind};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::client::{Client, Fixture, bytes, c_string, config, is_root, open_path, share};

/// Ends a thread of a test, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A mounted file system, as long as this lives.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// None where mounting is refused, with a word to whoever reads the output.
    pub(crate) fn new(kind: &str, at: &Path, options: &CStr) -> Option<Self> {
        Self::check(at, mount(kind, at, kind, MountFlags::empty(), Some(options)))
    }

    fn bind(from: &Path, at: &Path) -> Option<Self> {
        Self::check(at, mount_bind(from, at))
    }

    fn check(at: &Path, mounted: Result<(), Errno>) -> Option<Self> {
        match mounted {
            Ok(()) => Some(Self(at.to_owned())),
            Err(errno) => {
                assert!(!is_root() || [Errno::PERM, Errno::NODEV].contains(&errno), "{errno}");
                eprintln!("not run: mounting a file system was refused with {errno}");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn client(path: &Path) -> (Client, u64) {
    let mut client = Client::new(config(vec![share("s", path)]));
    let root = client.lookup(1, "s").unwrap().nodeid;
    (client, root)
}

/// What every file system can: the usual life of files.
fn live(client: &mut Client, root: u64) {
    let dir = client.mkdir(root, "dir", 0o755).unwrap().nodeid;
    let (file, open) = client.create(dir, "file", libc::O_RDWR, 0o640).unwrap();
    assert_eq!(client.write(file.nodeid, open.fh, 3, b"text"), Ok(4));
    assert_eq!(client.read(file.nodeid, open.fh, 0, 100).unwrap(), b"\0\0\0text");
    client.release(file.nodeid, open.fh);
    let link: EntryOut =
        client.get(opcode::SYMLINK, dir, &[&c_string("link"), &c_string("file")]).unwrap();
    assert_eq!(client.call(opcode::READLINK, link.nodeid, &[], 200).unwrap(), b"file");
    let fifo = MknodIn { mode: 0o010_600, ..MknodIn::default() };
    client.get::<EntryOut>(opcode::MKNOD, dir, &[bytes(&fifo), &c_string("fifo")]).unwrap();
    let set = SetattrIn { valid: fattr::MODE | fattr::SIZE, mode: 0o600, ..SetattrIn::default() };
    let attr = client.setattr(file.nodeid, &set).unwrap().attr;
    assert_eq!((attr.mode, attr.size), (0o100_600, 0));
    let mut names: Vec<_> =
        client.list(dir, 4096, true).unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    assert_eq!(names, [".", "..", "fifo", "file", "link"]);
    let args = [root.as_bytes(), &c_string("file"), &c_string("moved")];
    client.done(opcode::RENAME, dir, &args).unwrap();
    client.done(opcode::UNLINK, root, &[&c_string("moved")]).unwrap();
    assert_eq!(client.lookup(root, "moved"), Err(Errno::NOENT));
    let statfs: Kstatfs = client.get(opcode::STATFS, root, &[]).unwrap();
    assert!(statfs.bsize > 0);
}

#[test]
fn a_file_system_without_attributes_works_as_far_as_it_does() {
    let dir = tempfile::TempDir::new().unwrap();
    let Some(_mount) = Mounted::new("ramfs", dir.path(), c"") else { return };
    let (mut client, root) = client(dir.path());
    live(&mut client, root);
    let (file, open) = client.create(root, "f", libc::O_RDWR, 0o644).unwrap();
    let node = file.nodeid;
    assert_eq!(client.setxattr(node, "user.x", b"1", 0), Err(Errno::OPNOTSUPP));
    assert_eq!(client.getxattr(node, "user.x", 10), Err(Errno::OPNOTSUPP));
    assert_eq!(client.setxattr(node, "system.posix_acl_access", b"", 0), Err(Errno::OPNOTSUPP));
    // A guest that is told "not supported" refuses the file to everybody but its owner.
    assert_eq!(client.getxattr(node, "system.posix_acl_access", 10), Err(Errno::NODATA));
    // The directory of all shares.
    assert_eq!(client.getxattr(1, "system.posix_acl_access", 10), Err(Errno::NODATA));
    assert_eq!(client.getxattr(1, "user.x", 10), Err(Errno::OPNOTSUPP));
    assert_eq!(client.listxattr(node, 100).unwrap(), b"");
    let allocate = FallocateIn { fh: open.fh, length: 1, ..FallocateIn::default() };
    let allocated = client.done(opcode::FALLOCATE, node, &[bytes(&allocate)]);
    assert_eq!(allocated, Err(Errno::OPNOTSUPP));
}

#[test]
fn a_file_system_in_memory_works() {
    let dir = tempfile::TempDir::new().unwrap();
    let Some(_mount) = Mounted::new("tmpfs", dir.path(), c"size=1m") else { return };
    let (mut client, root) = client(dir.path());
    live(&mut client, root);
    let args = CreateIn { flags: 2, mode: 0o600, ..CreateIn::default() };
    assert!(client.call(opcode::TMPFILE, root, &[bytes(&args), b"/\0"], 500).is_ok());
    // With O_EXCL it never gets a name.
    let args = CreateIn { flags: 2 | libc::O_EXCL.cast_unsigned(), ..args };
    let body = client.call(opcode::TMPFILE, root, &[bytes(&args), b"/\0"], 500).unwrap();
    let (entry, _) = EntryOut::read_from_prefix(&body).unwrap();
    let link = client.call(opcode::LINK, root, &[entry.nodeid.as_bytes(), &c_string("named")], 500);
    assert_eq!(link, Err(Errno::NOENT));
}

#[test]
fn a_read_only_file_system_is_read_and_refuses_changes() {
    let dir = tempfile::TempDir::new().unwrap();
    let Some(_mount) = Mounted::new("tmpfs", dir.path(), c"") else { return };
    std::fs::write(dir.path().join("f"), "text").unwrap();
    mount_remount(dir.path(), MountFlags::RDONLY, c"").unwrap();
    let (mut client, root) = client(dir.path());
    let node = client.lookup(root, "f").unwrap().nodeid;
    let fh = client.open(node, libc::O_RDONLY).unwrap().fh;
    assert_eq!(client.read(node, fh, 0, 10).unwrap(), b"text");
    assert_eq!(client.open(node, libc::O_RDWR), Err(Errno::ROFS));
    assert_eq!(client.open(node, libc::O_RDONLY | libc::O_TRUNC), Err(Errno::ROFS));
    assert_eq!(client.mkdir(root, "d", 0o755).unwrap_err(), Errno::ROFS);
    assert_eq!(client.create(root, "n", libc::O_RDWR, 0o644).unwrap_err(), Errno::ROFS);
    let set = SetattrIn { valid: fattr::MODE, mode: 0, ..SetattrIn::default() };
    assert_eq!(client.setattr(node, &set), Err(Errno::ROFS));
    assert_eq!(client.setxattr(node, "user.x", b"1", 0), Err(Errno::ROFS));
}

#[test]
fn an_overlay_works_and_copies_up_only_what_is_written() {
    let dir = tempfile::TempDir::new().unwrap();
    // On a file system that an overlay takes as its upper one, whatever the directory is on.
    let Some(_base) = Mounted::new("tmpfs", dir.path(), c"") else { return };
    let at = |name: &str| dir.path().join(name);
    for name in ["lower/d", "upper", "work", "merged"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    std::fs::write(at("lower/d/f"), "lower").unwrap();
    std::fs::write(at("lower/gone"), "").unwrap();
    let layers = ["lower", "upper", "work"].map(|name| at(name).display().to_string());
    let options = format!("lowerdir={},upperdir={},workdir={}\0", layers[0], layers[1], layers[2]);
    let options = CStr::from_bytes_with_nul(options.as_bytes()).unwrap();
    let Some(_mount) = Mounted::new("overlay", &at("merged"), options) else { return };
    let (mut client, root) = client(&at("merged"));
    let directory = client.walk(root, "d").unwrap();
    let file = client.lookup(directory, "f").unwrap();
    // Reading, read locks and questions leave the upper layer alone.
    let fh = client.open(file.nodeid, libc::O_RDONLY).unwrap().fh;
    assert_eq!(client.read(file.nodeid, fh, 0, 10).unwrap(), b"lower");
    let lock = [fh, 7, 0, 9, 0, 0];
    client.done(opcode::SETLK, file.nodeid, &[lock.as_bytes()]).unwrap();
    client.getattr(file.nodeid).unwrap();
    assert!(!at("upper/d").exists());
    client.release(file.nodeid, fh);
    // Writing copies it up; it stays the same file.
    let fh = client.open(file.nodeid, libc::O_RDWR).unwrap().fh;
    client.write(file.nodeid, fh, 0, b"UP").unwrap();
    client.release(file.nodeid, fh);
    assert_eq!(std::fs::read(at("upper/d/f")).unwrap(), b"UPwer");
    let again = client.lookup(directory, "f").unwrap();
    assert_eq!((again.nodeid, again.attr.ino), (file.nodeid, file.attr.ino));
    client.done(opcode::UNLINK, root, &[&c_string("gone")]).unwrap();
    assert_eq!(client.lookup(root, "gone"), Err(Errno::NOENT));
    let names: Vec<_> =
        client.list(root, 4096, true).unwrap().into_iter().map(|entry| entry.name).collect();
    assert!(!names.contains(&"gone".to_owned()), "{names:?}");
    assert!(at("upper/gone").symlink_metadata().unwrap().rdev() == 0);
    live(&mut client, directory);
}

#[test]
fn errors_of_the_device_are_errors_of_the_request() {
    // A file whose reads fail with EIO: memory of this process that is not mapped.
    let path = Path::new("/proc/self");
    let mut config = config(vec![share("s", path)]);
    config.shares[0].read_only = true;
    let mut client = Client::new(config);
    let root = client.lookup(1, "s").unwrap().nodeid;
    let node = client.lookup(root, "mem").unwrap().nodeid;
    let fh = client.open(node, libc::O_RDONLY).unwrap().fh;
    assert_eq!(client.read(node, fh, 0, 100), Err(Errno::IO));
    assert_eq!(client.read(node, fh, 4096, 100), Err(Errno::IO));
    assert!(client.getattr(node).is_ok());
    client.release(node, fh);
    // Its magic links are links and no more.
    let link = client.lookup(root, "root").unwrap();
    assert_eq!(client.lookup(link.nodeid, "etc"), Err(Errno::NOTDIR));
}

#[test]
fn shares_that_are_none_are_refused_by_name() {
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("f"), "").unwrap();
    let refused = |name: &str, path: &Path, kind| {
        let mut share = share(name, path);
        share.kind = kind;
        let error = Server::new(config(vec![share])).err().expect("it is refused");
        let ServerError::Share(error) = error else { panic!("{error}") };
        assert!(error.to_string().contains(name), "{error}");
        error
    };
    let kind = |error| matches!(error, ShareError::Kind { .. });
    assert!(kind(refused("file", &dir.path().join("f"), ShareKind::Directory)));
    assert!(kind(refused("directory", dir.path(), ShareKind::File)));
    assert!(kind(refused("device", Path::new("/dev/null"), ShareKind::File)));
    let mut config = config(vec![]);
    config.proc_self_fd = open_path(dir.path());
    assert!(matches!(Server::new(config).err(), Some(ServerError::ProcSelfFd(_))));
}

#[test]
fn lists_what_stays_exactly_once_while_the_rest_changes() {
    let mut f = Fixture::new();
    for i in 0..300 {
        f.put(&format!("stays-{i}"), b"");
    }
    let stop = AtomicBool::new(false);
    let path = f.path.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                let name = |i: usize| path.join(format!("moves-{}", i % 97));
                std::fs::write(name(i), "").unwrap();
                let _ = std::fs::rename(name(i), path.join(format!("renamed-{}", i % 53)));
                let _ = std::fs::remove_file(path.join(format!("renamed-{}", (i + 20) % 53)));
            }
        });
        let _stop = Stop(&stop);
        for round in 0..60 {
            let size = [600, 1024, 4096, 65_536][round % 4];
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            for entry in f.client.list(f.root, size, round % 2 == 0).unwrap() {
                if let Some(out) = entry.entry.filter(|out| out.nodeid != 0) {
                    f.client.forget(out.nodeid, 1);
                }
                *seen.entry(entry.name).or_default() += 1;
            }
            let stays = seen.iter().filter(|(name, _)| name.starts_with("stays-"));
            let counts: Vec<_> = stays.map(|(_, count)| *count).collect();
            assert_eq!(counts, [1; 300], "round {round}");
        }
    });
    assert_eq!(f.client.server.usage().inodes, 1, "each entry was counted as often as it was seen");
}

#[test]
fn removes_all_that_it_lists_while_listing() {
    let mut f = Fixture::new();
    for i in 0..500 {
        f.put(&format!("{i}-{}", "n".repeat(i % 100)), b"");
    }
    let fh = f.client.opendir(f.root).unwrap();
    let (mut cookie, mut removed) = (0, 0);
    loop {
        let part = f.client.readdir(f.root, fh, cookie, 2048, false).unwrap();
        let Some(last) = part.last() else { break };
        cookie = last.cookie;
        for entry in part.iter().filter(|entry| !entry.name.starts_with('.')) {
            f.client.done(opcode::UNLINK, f.root, &[&c_string(&entry.name)]).unwrap();
            removed += 1;
        }
    }
    assert_eq!((removed, f.path.read_dir().unwrap().count()), (500, 0));
}

#[test]
fn holds_together_while_the_host_mounts_over_a_directory() {
    let mut f = Fixture::new();
    let other = f.outside().join("other");
    for path in [&f.path.join("d"), &other] {
        std::fs::create_dir(path).unwrap();
    }
    std::fs::write(f.path.join("d/f"), "below").unwrap();
    std::fs::write(other.join("f"), "above").unwrap();
    let at = f.path.join("d");
    // Private, so that other mount namespaces are not told each time.
    let Some(_base) = Mounted::bind(f.outside(), f.outside()) else { return };
    let _ = mount_change(f.outside(), rustix::mount::MountPropagationFlags::PRIVATE);
    f.client = Client::new(config(vec![share("s", &f.path)]));
    f.root = f.client.lookup(1, "s").unwrap().nodeid;
    let (mut below, mut above) = (0, 0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let mounted = Mounted::bind(&other, &at);
                std::thread::yield_now();
                drop(mounted);
            }
        });
        let _stop = Stop(&stop);
        for _ in 0..2000 {
            let dir = f.client.lookup(f.root, "d").unwrap();
            let file = f.client.lookup(dir.nodeid, "f").unwrap();
            let open: OpenOut = f.client.open(file.nodeid, libc::O_RDONLY).unwrap();
            let text = f.client.read(file.nodeid, open.fh, 0, 10).unwrap();
            // A directory that was found is what it was: the file in it is its own.
            if dir.attr.flags == 0 {
                below += 1;
                assert_eq!(text, b"below");
            } else {
                above += 1;
                assert_eq!(text, b"above");
            }
            f.client.release(file.nodeid, open.fh);
            f.client.forget(file.nodeid, 1);
            f.client.forget(dir.nodeid, 1);
        }
    });
    assert!(below > 0 && above > 0, "the race was not seen: {below} {above}");
    assert_eq!(f.client.server.usage().inodes, 1);
}

#[test]
fn an_exchanged_link_is_seen_by_the_next_lookup_without_a_cache() {
    let mut f = Fixture::with(|share| share.cache = CachePolicy::None);
    for i in 0..20 {
        // As deployments do it: a new link beside the old one, then one rename.
        std::os::unix::fs::symlink(format!("release-{i}"), f.path.join("next")).unwrap();
        std::fs::rename(f.path.join("next"), f.path.join("current")).unwrap();
        let entry = f.client.lookup(f.root, "current").unwrap();
        let kept = [entry.entry_valid, entry.attr_valid, entry.entry_valid_nsec.into()];
        assert_eq!(kept, [0; 3]);
        let target = f.client.call(opcode::READLINK, entry.nodeid, &[], 200).unwrap();
        assert_eq!(target, format!("release-{i}").into_bytes());
    }
}
