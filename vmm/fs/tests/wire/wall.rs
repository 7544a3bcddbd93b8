//! What a hostile guest, or a host that changes under the server, must not achieve.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use file_server::wire::{
    CreateIn, EntryOut, InHeader, LinkIn, MkdirIn, MknodIn, Rename2In, opcode,
};
use file_server::{RequestError, Server};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use zerocopy::IntoBytes;

use crate::client::{Client, Fixture, bytes, c_string, config, is_root, share};

/// Names that are no component, each as it is sent.
fn bad_names() -> Vec<(Vec<u8>, Errno)> {
    let long = [vec![b'n'; 256], vec![0]].concat();
    let mut names = vec![(long, Errno::NAMETOOLONG), (b"\0".to_vec(), Errno::NOENT)];
    for name in [
        &b".\0"[..],
        b"..\0",
        b"/\0",
        b"a/b\0",
        b"/etc\0",
        b"../outside\0",
        b"./a\0",
        b"a/\0",
        b"a",
        b"",
    ] {
        names.push((name.to_vec(), Errno::INVAL));
    }
    names
}

/// The whole tree as paths, to see whether anything changed.
fn tree(path: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for entry in path.read_dir().unwrap() {
        let entry = entry.unwrap();
        paths.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            paths.extend(tree(&entry.path()));
        }
    }
    paths.sort();
    paths
}

#[test]
fn refuses_bad_names_in_every_operation_that_takes_one() {
    let mut f = Fixture::new();
    f.put("a", b"");
    std::fs::create_dir(f.path.join("d")).unwrap();
    std::fs::write(f.outside().join("outside"), "secret").unwrap();
    let before = tree(f.outside());
    let file = f.client.lookup(f.root, "a").unwrap().nodeid;
    let mkdir = MkdirIn { mode: 0o755, umask: 0 };
    let mknod = MknodIn { mode: 0o100_644, ..MknodIn::default() };
    let create = CreateIn { flags: 2, mode: 0o644, ..CreateIn::default() };
    let link = LinkIn { oldnodeid: file };
    let rename = Rename2In { newdir: f.root, flags: 0, padding: 0 };
    let good = c_string("a");
    let new = c_string("new");
    for (name, errno) in bad_names() {
        let name = name.as_slice();
        let requests: [(u32, Vec<&[u8]>); 12] = [
            (opcode::LOOKUP, vec![name]),
            (opcode::SYMLINK, vec![name, b"target\0"]),
            (opcode::MKNOD, vec![bytes(&mknod), name]),
            (opcode::MKDIR, vec![bytes(&mkdir), name]),
            (opcode::UNLINK, vec![name]),
            (opcode::RMDIR, vec![name]),
            (opcode::CREATE, vec![bytes(&create), name]),
            (opcode::LINK, vec![bytes(&link), name]),
            (opcode::RENAME, vec![f.root.as_bytes(), name, &new]),
            (opcode::RENAME, vec![f.root.as_bytes(), &good, name]),
            (opcode::RENAME2, vec![bytes(&rename), name, &new]),
            (opcode::RENAME2, vec![bytes(&rename), &good, name]),
        ];
        for (opcode, args) in requests {
            for node in [f.root, 1] {
                let reply = f.client.call(opcode, node, &args, 500);
                // Where bytes follow that end in NUL, a name without one swallows them.
                let swallowed = !name.ends_with(b"\0") && args.last() != Some(&name);
                let refused = reply.is_err_and(|found| found == errno || swallowed);
                assert!(refused, "opcode {opcode}, node {node}, {name:?}");
            }
        }
    }
    assert_eq!(tree(f.outside()), before);
}

#[test]
fn refuses_bytes_after_a_name() {
    let mut f = Fixture::new();
    f.put("a", b"");
    for (opcode, args) in [
        (opcode::LOOKUP, &b"a\0b\0"[..]),
        (opcode::UNLINK, b"a\0\0"),
        (opcode::RMDIR, b"a\0x"),
        (opcode::SYMLINK, b"n\0t\0x\0"),
        (opcode::REMOVEXATTR, b"user.x\0\0"),
    ] {
        assert_eq!(f.client.call(opcode, f.root, &[args], 500), Err(Errno::INVAL), "{opcode}");
    }
    assert!(f.path.join("a").exists());
}

#[test]
fn refuses_bad_names_of_attributes() {
    let mut f = Fixture::new();
    let long = [b"user.", &[b'n'; 251][..], b"\0"].concat();
    for (name, errno) in
        [(&b"\0"[..], Errno::NOENT), (b"user.x", Errno::INVAL), (&long, Errno::NAMETOOLONG)]
    {
        let sizes = [0u32; 4];
        let get = f.client.call(opcode::GETXATTR, f.root, &[[9u32, 0].as_bytes(), name], 500);
        assert_eq!(get, Err(errno));
        let set = f.client.call(opcode::SETXATTR, f.root, &[sizes.as_bytes(), name], 500);
        assert_eq!(set, Err(errno));
        assert_eq!(f.client.call(opcode::REMOVEXATTR, f.root, &[name], 500), Err(errno));
    }
    // A value that is said to be longer than what was sent.
    let args = [[100u32, 0, 0, 0].as_bytes(), b"user.x\0", b"short"];
    assert_eq!(f.client.call(opcode::SETXATTR, f.root, &args, 500), Err(Errno::INVAL));
}

#[test]
fn does_not_follow_links() {
    let mut f = Fixture::new();
    std::fs::create_dir(f.outside().join("far")).unwrap();
    std::fs::write(f.outside().join("far/secret"), "secret").unwrap();
    symlink("../far", f.path.join("out")).unwrap();
    symlink("../far/secret", f.path.join("file")).unwrap();
    symlink("/proc/self/root", f.path.join("magic")).unwrap();
    for name in ["out", "file", "magic"] {
        let link = f.client.lookup(f.root, name).unwrap();
        assert_eq!(link.attr.mode & 0o170_000, 0o120_000, "{name}");
        let node = link.nodeid;
        assert_eq!(f.client.lookup(node, "secret"), Err(Errno::NOTDIR));
        assert_eq!(f.client.open(node, libc::O_RDONLY), Err(Errno::ACCESS));
        assert_eq!(f.client.opendir(node), Err(Errno::NOTDIR));
        assert_eq!(f.client.mkdir(node, "new", 0o755).unwrap_err(), Errno::NOTDIR);
        let created = f.client.create(node, "new", libc::O_RDWR, 0o644);
        assert_eq!(created.unwrap_err(), Errno::NOTDIR);
        // Opened by name, with and without O_CREAT's promise of a new file.
        let flags = libc::O_RDWR | libc::O_TRUNC;
        assert_eq!(f.client.create(f.root, name, flags, 0o644).unwrap_err(), Errno::STALE);
        let unlink = f.client.done(opcode::UNLINK, node, &[&c_string("secret")]);
        assert_eq!(unlink, Err(Errno::NOTDIR));
        let args = [node.as_bytes(), &c_string("file"), &c_string("moved")];
        let renamed = f.client.done(opcode::RENAME, f.root, &args);
        assert_eq!(renamed, Err(Errno::NOTDIR));
    }
    assert_eq!(std::fs::read(f.outside().join("far/secret")).unwrap(), b"secret");
    assert_eq!(f.outside().join("far").read_dir().unwrap().count(), 1);
}

#[test]
fn stays_inside_while_the_host_swaps_directories_and_links() {
    let mut f = Fixture::new();
    let outside = f.outside().join("far");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    let forbidden = [outside.clone(), outside.join("secret")].map(|p| p.metadata().unwrap().ino());
    std::fs::create_dir(f.path.join("d")).unwrap();
    std::fs::write(f.path.join("d/secret"), "inside").unwrap();
    symlink(&outside, f.path.join("l")).unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let (path, stopped) = (f.path.clone(), stop.clone());
    let swapper = std::thread::spawn(move || {
        let root = std::fs::File::open(path).unwrap();
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        while !stopped.load(Ordering::Relaxed) {
            rustix::fs::renameat_with(&root, "d", &root, "l", exchange).unwrap();
        }
    });
    let (mut found, mut links) = (0, 0);
    let end = Instant::now() + Duration::from_millis(700);
    while Instant::now() < end {
        let Ok(dir) = f.client.lookup(f.root, "d") else { continue };
        assert!(!forbidden.contains(&dir.attr.ino));
        match f.client.lookup(dir.nodeid, "secret") {
            Ok(file) => {
                assert!(!forbidden.contains(&file.attr.ino));
                let open = f.client.open(file.nodeid, libc::O_RDONLY).unwrap();
                assert_eq!(f.client.read(file.nodeid, open.fh, 0, 10).unwrap(), b"inside");
                f.client.release(file.nodeid, open.fh);
                f.client.forget(file.nodeid, 1);
                found += 1;
            }
            Err(Errno::NOTDIR) => links += 1,
            Err(errno) => panic!("{errno}"),
        }
        f.client.forget(dir.nodeid, 1);
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    assert!(found > 0 && links > 0, "the race was not seen: {found} {links}");
    assert_eq!(f.client.server.usage().inodes, 1);
}

#[test]
fn does_not_lead_up_from_a_directory_that_the_host_moved_out() {
    let mut f = Fixture::new();
    std::fs::create_dir_all(f.path.join("d/e")).unwrap();
    let dir = f.client.lookup(f.root, "d").unwrap().nodeid;
    std::fs::rename(f.path.join("d"), f.outside().join("moved")).unwrap();
    assert_eq!(f.client.lookup(dir, ".."), Err(Errno::INVAL));
    assert!(f.client.lookup(dir, "e").is_ok());
    assert_eq!(f.client.lookup(f.root, "d"), Err(Errno::NOENT));
}

#[test]
fn answers_forged_nodes_and_handles_with_errors() {
    let mut f = Fixture::new();
    f.put("a", b"text");
    let node = f.client.lookup(f.root, "a").unwrap().nodeid;
    let file = f.client.open(node, libc::O_RDWR).unwrap().fh;
    let dir = f.client.opendir(f.root).unwrap();
    for forged in [0, node + 1, u64::MAX, 1 << 63] {
        assert_eq!(f.client.getattr(forged), Err(Errno::STALE));
        assert_eq!(f.client.lookup(forged, "a"), Err(Errno::STALE));
        assert_eq!(f.client.open(forged, 0), Err(Errno::STALE));
        assert_eq!(f.client.mkdir(forged, "x", 0).unwrap_err(), Errno::STALE);
        f.client.forget(forged, u64::MAX);
        f.client.post(opcode::BATCH_FORGET, 0, &[[1u64, forged, 9].as_bytes()]);
    }
    for forged in [0, 77, u64::MAX] {
        assert_eq!(f.client.read(node, forged, 0, 1), Err(Errno::BADF));
        assert_eq!(f.client.write(node, forged, 0, b"x"), Err(Errno::BADF));
        assert_eq!(f.client.readdir(f.root, forged, 0, 100, false).unwrap_err(), Errno::BADF);
    }
    assert_eq!(f.client.read(f.root, dir, 0, 1), Err(Errno::BADF));
    assert_eq!(f.client.readdir(node, file, 0, 100, false).unwrap_err(), Errno::NOTDIR);
    assert_eq!(f.client.readdir(f.root, file, 0, 100, true).unwrap_err(), Errno::NOTDIR);
    // Offsets that are none.
    for offset in [u64::MAX, 1 << 63, (1 << 63) - 1] {
        assert!(f.client.write(node, file, offset, b"xy").is_err());
        let read = f.client.read(node, file, offset, 10);
        assert!(read.is_err() || read.unwrap().is_empty());
        let _ = f.client.readdir(f.root, dir, offset, 1000, false);
    }
    assert_eq!(f.host("a"), b"text");
}

#[test]
fn holds_the_guest_to_its_limits() {
    let dir = tempfile::TempDir::new().unwrap();
    for i in 0..20 {
        std::fs::write(dir.path().join(format!("f{i:02}")), "").unwrap();
    }
    let mut config = config(vec![share("s", dir.path())]);
    (config.limits.max_inodes, config.limits.max_handles, config.limits.max_shares) = (5, 3, 1);
    let mut client = Client::new(config);
    let root = client.lookup(1, "s").unwrap().nodeid;
    let nodes: Vec<_> =
        (0..4).map(|i| client.lookup(root, &format!("f{i:02}")).unwrap().nodeid).collect();
    assert_eq!(client.lookup(root, "f04"), Err(Errno::NFILE));
    assert!(client.lookup(root, "f03").is_ok(), "what is held can be looked up again");
    let listed = client.list(root, 4096, true).unwrap();
    assert_eq!(listed.len(), 22);
    let with_node = listed.iter().filter(|entry| entry.entry.unwrap().nodeid != 0);
    assert_eq!(with_node.count(), 4);
    assert_eq!(client.create(root, "new", libc::O_RDWR, 0o644).unwrap_err(), Errno::NFILE);
    assert_eq!(client.mkdir(root, "new", 0o755).unwrap_err(), Errno::NFILE);
    assert!(!dir.path().join("new").exists(), "nothing is made that cannot be given");
    client.forget(nodes[0], 2);
    let (new, open) = client.create(root, "new", libc::O_RDWR, 0o644).unwrap();
    client.opendir(root).unwrap();
    client.open(nodes[1], libc::O_RDONLY).unwrap();
    let truncate = libc::O_WRONLY | libc::O_TRUNC;
    client.write(new.nodeid, open.fh, 0, b"kept").unwrap();
    assert_eq!(client.open(new.nodeid, truncate), Err(Errno::NFILE));
    assert_eq!(client.opendir(root), Err(Errno::NFILE));
    assert_eq!(std::fs::read(dir.path().join("new")).unwrap(), b"kept");
    assert!(client.server.add_share(share("t", dir.path())).is_err());
}

#[test]
fn refuses_requests_that_are_none() {
    let mut f = Fixture::new();
    assert_eq!(f.client.send(&mut [], 100), Err(RequestError::Short(0)));
    assert_eq!(f.client.send(&mut [0; 39], 100), Err(RequestError::Short(39)));
    let request = f.client.request(opcode::GETATTR, 1, &[&[0; 16]]);
    for len in [0u32, 39, 55, 57, u32::MAX] {
        let mut request = request.clone();
        request[..4].copy_from_slice(&len.to_le_bytes());
        let refused = f.client.send(&mut request, 200);
        assert_eq!(refused, Err(RequestError::Length { stated: len, held: 56 }));
    }
    let room = |need, room| Err(RequestError::Room { opcode: opcode::GETATTR, need, room });
    assert_eq!(f.client.send(&mut request.clone(), 15), room(16, 15));
    assert_eq!(f.client.send(&mut request.clone(), 119), room(120, 119));
    assert_eq!(f.client.send(&mut request.clone(), 120).unwrap().len(), 120);
    // Larger than any request that is no data.
    let huge = vec![1; (128 << 10) - size_of::<InHeader>() + 1];
    assert_eq!(f.client.call(opcode::SYMLINK, f.root, &[&huge], 100), Err(Errno::TOOBIG));
    // Every opcode with too few bytes.
    for opcode in 0..60 {
        for len in 0..8 {
            let mut request = f.client.request(opcode, f.root, &[&vec![0; len]]);
            let _ = f.client.send(&mut request, 300);
        }
    }
}

#[test]
fn serves_nothing_before_a_session() {
    let dir = tempfile::TempDir::new().unwrap();
    let mut client = Client::raw(&Server::new(config(vec![share("s", dir.path())])).unwrap());
    assert_eq!(client.lookup(1, "s"), Err(Errno::PROTO));
    assert!(client.init(0).is_err());
    assert_eq!(client.lookup(1, "s"), Err(Errno::PROTO));
    client.init(u64::MAX).unwrap();
    let root = client.lookup(1, "s").unwrap().nodeid;
    // A second session starts with nothing.
    client.init(u64::MAX).unwrap();
    assert_eq!(client.getattr(root), Err(Errno::STALE));
}

#[test]
fn survives_a_share_that_vanishes_on_the_host() {
    let mut f = Fixture::new();
    f.put("a", b"text");
    let node = f.client.lookup(f.root, "a").unwrap().nodeid;
    let fh = f.client.open(node, libc::O_RDONLY).unwrap().fh;
    std::fs::remove_dir_all(&f.path).unwrap();
    assert_eq!(f.client.read(node, fh, 0, 10).unwrap(), b"text");
    assert_eq!(f.client.lookup(f.root, "a"), Err(Errno::NOENT));
    assert_eq!(f.client.create(f.root, "b", libc::O_RDWR, 0o644).unwrap_err(), Errno::NOENT);
    assert_eq!(f.client.mkdir(f.root, "b", 0o755).unwrap_err(), Errno::NOENT);
    assert_eq!(f.client.getattr(f.root).unwrap().attr.nlink, 0);
    assert!(f.client.lookup(1, "s").is_ok());
}

#[test]
fn serves_several_workers_at_once_while_shares_come_and_go() {
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("f"), "text").unwrap();
    let server = Server::new(config(vec![share("s", dir.path())])).unwrap();
    Client::raw(&server).init(u64::MAX).unwrap();
    let end = Instant::now() + Duration::from_millis(500);
    let worker = |number: usize| {
        let mut client = Client::raw(&server);
        while Instant::now() < end {
            let names = ["s", "late"];
            let Ok(root) = client.lookup(1, names[number % 2]) else { continue };
            let Ok(file) = client.lookup(root.nodeid, "f") else { continue };
            if let Ok(open) = client.open(file.nodeid, libc::O_RDONLY) {
                match client.read(file.nodeid, open.fh, 0, 10) {
                    Ok(data) => assert_eq!(data, b"text"),
                    Err(errno) => assert_eq!(errno, Errno::BADF),
                }
                let release = [open.fh, 0, 0];
                let _ = client.done(opcode::RELEASE, file.nodeid, &[release.as_bytes()]);
            }
            let made = format!("new{number}");
            if let Ok((entry, open)) = client.create(root.nodeid, &made, libc::O_RDWR, 0o600) {
                let release = [open.fh, 0, 0];
                let _ = client.done(opcode::RELEASE, entry.nodeid, &[release.as_bytes()]);
                client.forget(entry.nodeid, 1);
            }
            let _ = client.done(opcode::UNLINK, root.nodeid, &[&c_string(&made)]);
            client.forget(file.nodeid, 1);
            client.forget(root.nodeid, 1);
        }
    };
    std::thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || worker(number));
        }
        while Instant::now() < end {
            server.add_share(share("late", dir.path())).unwrap();
            std::thread::sleep(Duration::from_millis(3));
            server.remove_share("late").unwrap();
        }
    });
    let usage = server.usage();
    assert_eq!((usage.inodes, usage.handles, usage.shares), (0, 0, 1));
}

/// A small file system of its own, mounted as long as this lives.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Option<Self> {
        let options = Some(c"size=64k,nr_inodes=20");
        match mount("tmpfs", at, "tmpfs", MountFlags::empty(), options) {
            Ok(()) => Some(Self(at.to_owned())),
            Err(errno) => {
                assert!(!is_root() || errno == Errno::PERM, "{errno}");
                eprintln!("not run: mounting a file system was refused with {errno}");
                None
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn shows_a_mount_in_a_share_as_a_file_system_of_its_own() {
    let mut f = Fixture::new();
    std::fs::create_dir(f.path.join("m")).unwrap();
    f.put("a", b"");
    let Some(_mount) = Tmpfs::mount(&f.path.join("m")) else { return };
    std::fs::write(f.path.join("m/f"), "").unwrap();
    let mounted = f.client.lookup(f.root, "m").unwrap();
    assert_eq!(mounted.attr.flags, 1);
    assert_eq!(f.client.lookup(mounted.nodeid, "f").unwrap().attr.flags, 0);
    let listed = f.client.list(f.root, 4096, true).unwrap();
    let entry = listed.iter().find(|entry| entry.name == "m").unwrap();
    assert_eq!(entry.entry.unwrap(), EntryOut::default());
    let args = [mounted.nodeid.as_bytes(), &c_string("a"), &c_string("a")];
    assert_eq!(f.client.done(opcode::RENAME, f.root, &args), Err(Errno::XDEV));
    assert_eq!(f.client.done(opcode::RMDIR, f.root, &[&c_string("m")]), Err(Errno::BUSY));
    // A name in a share beside it is not that of the mount.
    let usage = f.client.server.usage();
    assert_eq!(usage.inodes, 4, "{usage:?}");
}

#[test]
fn passes_on_a_full_disk_and_full_inode_tables() {
    let dir = tempfile::TempDir::new().unwrap();
    let Some(_mount) = Tmpfs::mount(dir.path()) else { return };
    let mut client = Client::new(config(vec![share("s", dir.path())]));
    let root = client.lookup(1, "s").unwrap().nodeid;
    let (entry, open) = client.create(root, "a", libc::O_RDWR, 0o644).unwrap();
    // What fits is written and counted; what does not is an error.
    let written = client.write(entry.nodeid, open.fh, 0, &[1; 100_000]).unwrap();
    assert!(written < 100_000 && written > 0, "{written}");
    let more = client.write(entry.nodeid, open.fh, written.into(), &[1; 4096]);
    assert_eq!(more, Err(Errno::NOSPC));
    let made = (0..40).map_while(|i| client.mkdir(root, &format!("d{i}"), 0o755).ok()).count();
    assert!(made < 40);
    assert_eq!(client.mkdir(root, "last", 0o755).unwrap_err(), Errno::NOSPC);
    assert_eq!(client.create(root, "x", libc::O_RDWR, 0o644).unwrap_err(), Errno::NOSPC);
}
