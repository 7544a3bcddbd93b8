//! As whom the server acts: the guest's users by their maps, on the worker's thread alone.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::sync::mpsc;

use file_server::wire::{CreateIn, EntryOut, SetattrIn, fattr, opcode};
use file_server::{IdMap, IdRange, OVERFLOW_ID, Server};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::client::{Client, bytes, c_string, config, needs_root, share};

/// A guest whose users are 1000 of the host from 100,000 on, and its groups from 200,000 on.
fn mapped(path: &Path) -> (Client, u64) {
    let map = |host| IdMap::new(vec![IdRange { guest: 0, host, count: 1000 }]).unwrap();
    let mut config = config(vec![share("s", path)]);
    (config.uid_map, config.gid_map) = (map(100_000), map(200_000));
    let mut client = Client::new(config);
    let root = client.lookup(1, "s").unwrap().nodeid;
    (client, root)
}

fn set_owner(uid: Option<u32>, gid: Option<u32>) -> SetattrIn {
    let mut args = SetattrIn::default();
    if let Some(uid) = uid {
        (args.valid, args.uid) = (args.valid | fattr::UID, uid);
    }
    if let Some(gid) = gid {
        (args.valid, args.gid) = (args.valid | fattr::GID, gid);
    }
    args
}

#[test]
fn maps_owners_both_ways() {
    if !needs_root("maps_owners_both_ways") {
        return;
    }
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("hosts"), "").unwrap();
    let (mut client, root) = mapped(dir.path());
    let owner = |name: &str| {
        let meta = dir.path().join(name).symlink_metadata().unwrap();
        (meta.uid(), meta.gid())
    };
    // A directory of the host's root is nobody's here, and root of the container may change it
    // only as far as the guest's kernel lets it.
    let hosts = client.lookup(root, "hosts").unwrap();
    assert_eq!((hosts.attr.uid, hosts.attr.gid), (OVERFLOW_ID, OVERFLOW_ID));
    for (uid, gid) in [(0, 0), (5, 7), (999, 999)] {
        (client.uid, client.gid) = (uid, gid);
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let (file, _) = client.create(root, &format!("f{uid}"), flags, 0o444).unwrap();
        assert_eq!((file.attr.uid, file.attr.gid), (uid, gid));
        assert_eq!(owner(&format!("f{uid}")), (100_000 + uid, 200_000 + gid));
        let made = client.mkdir(root, &format!("d{uid}"), 0o700).unwrap();
        assert_eq!((made.attr.uid, made.attr.gid), (uid, gid));
        let name = c_string(&format!("l{uid}"));
        let link: EntryOut =
            client.get(opcode::SYMLINK, root, &[&name, &c_string("target")]).unwrap();
        assert_eq!((link.attr.uid, link.attr.gid), (uid, gid));
        let args = CreateIn { flags: 2, mode: 0o600, ..CreateIn::default() };
        let made = client.call(opcode::TMPFILE, root, &[bytes(&args), b"/\0"], 500);
        assert!(made.is_ok());
    }
    // Users that there are not: nothing is made, nothing changes hands.
    (client.uid, client.gid) = (1000, 0);
    let before = dir.path().read_dir().unwrap().count();
    let create = client.create(root, "new", libc::O_RDWR, 0o644);
    assert_eq!(create.unwrap_err(), Errno::OVERFLOW);
    assert_eq!(client.mkdir(root, "new", 0o755).unwrap_err(), Errno::OVERFLOW);
    assert_eq!(dir.path().read_dir().unwrap().count(), before);
    (client.uid, client.gid) = (0, 0);
    let node = client.lookup(root, "f5").unwrap().nodeid;
    for args in [set_owner(Some(1000), None), set_owner(None, Some(5000))] {
        assert_eq!(client.setattr(node, &args), Err(Errno::INVAL));
    }
    assert_eq!(owner("f5"), (100_005, 200_007));
    let attr = client.setattr(node, &set_owner(Some(6), None)).unwrap().attr;
    assert_eq!((attr.uid, attr.gid), (6, 7));
    assert_eq!(owner("f5"), (100_006, 200_007));
}

#[test]
fn binds_file_capabilities_to_the_guests_root() {
    if !needs_root("binds_file_capabilities_to_the_guests_root") {
        return;
    }
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, "").unwrap();
    chown(&path, Some(100_000), Some(200_000)).unwrap();
    let (mut client, root) = mapped(dir.path());
    let node = client.lookup(root, "f").unwrap().nodeid;
    let name = "security.capability";
    assert_eq!(client.getxattr(node, name, 100), Err(Errno::NODATA));
    // cap_net_bind_service=ep, as setcap(8) writes it.
    let two = [&0x0200_0001u32.to_le_bytes()[..], &0x400u32.to_le_bytes(), &[0; 12]].concat();
    client.setxattr(node, name, &two, 0).unwrap();
    assert_eq!(client.getxattr(node, name, 100).unwrap(), two);
    assert_eq!(client.getxattr(node, name, 0).unwrap()[..4], 20u32.to_le_bytes());
    assert_eq!(client.getxattr(node, name, 19), Err(Errno::RANGE));
    assert_eq!(client.listxattr(node, 100).unwrap(), c_string(name));
    // On the host it holds for nobody but the guest's root.
    let mut value = [0; 100];
    let len = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
    assert_eq!((len, &value[20..24]), (24, &100_000u32.to_le_bytes()[..]));
    assert_eq!(client.setxattr(node, name, b"nonsense", 0), Err(Errno::INVAL));
    // One of the host's own is not the guest's to see.
    rustix::fs::lsetxattr(&path, name, &two, XattrFlags::empty()).unwrap();
    assert_eq!(client.getxattr(node, name, 100), Err(Errno::OVERFLOW));
}

#[test]
fn writing_takes_file_capabilities_away() {
    if !needs_root("writing_takes_file_capabilities_away") {
        return;
    }
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("f"), "text").unwrap();
    let mut client = Client::new(config(vec![share("s", dir.path())]));
    let root = client.lookup(1, "s").unwrap().nodeid;
    let node = client.lookup(root, "f").unwrap().nodeid;
    let fh = client.open(node, libc::O_RDWR).unwrap().fh;
    let name = "security.capability";
    let value = [&0x0200_0001u32.to_le_bytes()[..], &0x400u32.to_le_bytes(), &[0; 12]].concat();
    // By root too: whoever changes a program takes its privileges, as on a local file system.
    for step in 0..3 {
        client.setxattr(node, name, &value, 0).unwrap();
        assert_eq!(client.getxattr(node, name, 100).unwrap(), value);
        match step {
            0 => assert_eq!(client.write(node, fh, 0, b"x"), Ok(1)),
            1 => {
                let size = SetattrIn { valid: fattr::SIZE, size: 1, ..SetattrIn::default() };
                client.setattr(node, &size).unwrap();
            }
            // A chown(2) that names no owner.
            _ => assert!(client.setattr(node, &SetattrIn::default()).is_ok()),
        }
        assert_eq!(client.getxattr(node, name, 100), Err(Errno::NODATA), "step {step}");
    }
}

#[test]
fn maps_the_users_of_access_control_lists() {
    if !needs_root("maps_the_users_of_access_control_lists") {
        return;
    }
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, "").unwrap();
    let (mut client, root) = mapped(dir.path());
    let node = client.lookup(root, "f").unwrap().nodeid;
    let acl = |user: u32, group: u32| {
        let entries = [
            (1u16, 6u16, u32::MAX),
            (2, 4, user),
            (4, 4, u32::MAX),
            (8, 4, group),
            (16, 6, u32::MAX),
            (32, 0, u32::MAX),
        ];
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            bytes.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    };
    let name = "system.posix_acl_access";
    match client.setxattr(node, name, &acl(5, 7), 0) {
        Err(Errno::OPNOTSUPP) => return eprintln!("not run: the directory has no ACLs"),
        set => set.unwrap(),
    }
    let mut value = [0; 100];
    let len = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
    assert_eq!(value[..len], acl(100_005, 200_007));
    assert_eq!(client.getxattr(node, name, 100).unwrap(), acl(5, 7));
    assert_eq!(client.setxattr(node, name, &acl(1000, 7), 0), Err(Errno::INVAL));
    assert_eq!(client.setxattr(node, name, &acl(5, 1000), 0), Err(Errno::INVAL));
}

/// File-system ids, creation mask and current directory of the calling thread.
fn own_credentials() -> (String, std::path::PathBuf) {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let lines = status.lines().filter(|line| {
        ["Umask", "Uid", "Gid", "Groups", "Cap"].iter().any(|name| line.starts_with(name))
    });
    (lines.collect::<Vec<_>>().join("\n"), std::env::current_dir().unwrap())
}

#[test]
fn leaves_the_credentials_of_other_threads_alone() {
    if !needs_root("leaves_the_credentials_of_other_threads_alone") {
        return;
    }
    let dir = tempfile::TempDir::new().unwrap();
    let before = own_credentials();
    let server = Server::new(config(vec![share("s", dir.path())])).unwrap();
    let (created, creates) = mpsc::channel();
    let (go, goes) = mpsc::channel::<()>();
    let worker = std::thread::spawn(move || {
        let mut client = Client::raw(&server);
        client.init(u64::MAX).unwrap();
        let root = client.lookup(1, "s").unwrap().nodeid;
        for uid in [1000, 0, 2000] {
            (client.uid, client.gid) = (uid, uid);
            let mode = client.create_with(root, &uid.to_string(), 2, 0o666, 0o077);
            created.send((mode.unwrap().0.attr.mode, own_credentials())).unwrap();
            goes.recv().unwrap();
        }
    });
    for uid in [1000, 0, 2000] {
        let (mode, workers) = creates.recv().unwrap();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(own_credentials(), before, "while the worker acts as {uid}");
        assert_ne!(workers, before);
        let line = |name: &str| workers.0.lines().find(|line| line.starts_with(name)).unwrap();
        // Real, effective, saved and file-system id: only the last one is the guest's user.
        let expected = format!("Uid:\t0\t0\t0\t{uid}");
        assert_eq!(line("Uid:"), expected);
        assert_eq!(line("Gid:"), expected.replace("Uid", "Gid"));
        go.send(()).unwrap();
    }
    worker.join().unwrap();
}
