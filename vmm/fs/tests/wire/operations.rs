//! Each operation through the wire format, on a directory of the host.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use crate::client::{Client, Fixture, bytes, c_string, config, needs_root, share};
use file_server::wire::{
    CopyFileRangeIn, EntryOut, FallocateIn, FsyncIn, GetattrIn, Kstatfs, LseekIn, LseekOut,
    MknodIn, OpenOut, ReleaseIn, SetattrIn, StatxIn, StatxOut, WRITE_KILL_SUIDGID, WriteOut, fattr,
    fopen, opcode,
};
use file_server::{CachePolicy, ShareKind};
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

const RDWR: i32 = libc::O_RDWR;

#[test]
fn creates_writes_and_reads_a_file() {
    let mut f = Fixture::new();
    let (entry, open) = f.client.create(f.root, "a", RDWR, 0o100_640).unwrap();
    assert_eq!(entry.attr.mode, 0o100_640);
    assert_eq!(f.client.write(entry.nodeid, open.fh, 0, b"hello"), Ok(5));
    assert_eq!(f.client.write(entry.nodeid, open.fh, 10, b"world"), Ok(5));
    assert_eq!(f.host("a"), b"hello\0\0\0\0\0world");
    assert_eq!(f.client.read(entry.nodeid, open.fh, 3, 100).unwrap(), b"lo\0\0\0\0\0world");
    assert_eq!(f.client.read(entry.nodeid, open.fh, 15, 100).unwrap(), b"");
    assert_eq!(f.client.getattr(entry.nodeid).unwrap().attr.size, 15);
    f.client.release(entry.nodeid, open.fh);
    assert_eq!(f.client.read(entry.nodeid, open.fh, 0, 1), Err(Errno::BADF));
}

#[test]
fn moves_a_megabyte_in_one_request() {
    let mut f = Fixture::new();
    let data: Vec<u8> = (0..1u32 << 20).map(|i| (i * 7 % 251).to_le_bytes()[0]).collect();
    let (entry, open) = f.client.create(f.root, "big", RDWR, 0o644).unwrap();
    assert_eq!(f.client.write(entry.nodeid, open.fh, 4096, &data), Ok(1 << 20));
    assert_eq!(f.client.read(entry.nodeid, open.fh, 4096, 1 << 20).unwrap(), data);
    let more = vec![0; (1 << 20) + 1];
    assert_eq!(f.client.write(entry.nodeid, open.fh, 0, &more), Err(Errno::INVAL));
}

#[test]
fn creates_exclusively_with_a_mode_that_forbids_writing() {
    let mut f = Fixture::new();
    let flags = RDWR | libc::O_CREAT | libc::O_EXCL;
    let (entry, open) = f.client.create(f.root, "ro", flags, 0o444).unwrap();
    assert_eq!(f.client.write(entry.nodeid, open.fh, 0, b"x"), Ok(1));
    assert_eq!(f.client.create(f.root, "ro", flags, 0o444).unwrap_err(), Errno::EXIST);
    // Without O_EXCL what exists is opened, and truncated only when asked.
    let flags = libc::O_RDONLY | libc::O_CREAT;
    let (again, open) = f.client.create(f.root, "ro", flags, 0o600).unwrap();
    assert_eq!((again.nodeid, again.attr.mode & 0o777), (entry.nodeid, 0o444));
    assert_eq!(f.client.read(again.nodeid, open.fh, 0, 9).unwrap(), b"x");
}

#[test]
fn applies_the_callers_umask() {
    let mut f = Fixture::new();
    let (entry, _) = f.client.create_with(f.root, "a", RDWR, 0o666, 0o027).unwrap();
    assert_eq!(entry.attr.mode & 0o7777, 0o640);
    let (entry, _) = f.client.create_with(f.root, "b", RDWR, 0o666, 0).unwrap();
    assert_eq!(entry.attr.mode & 0o7777, 0o666);
}

#[test]
fn appends_as_the_flags_of_each_write_say() {
    let mut f = Fixture::new();
    let (entry, open) = f.client.create(f.root, "log", RDWR | libc::O_APPEND, 0o644).unwrap();
    f.client.write(entry.nodeid, open.fh, 0, b"one").unwrap();
    f.client.write_with((entry.nodeid, open.fh), 0, b"two", libc::O_APPEND, 0).unwrap();
    assert_eq!(f.host("log"), b"onetwo");
    f.client.write(entry.nodeid, open.fh, 0, b"ONE").unwrap();
    assert_eq!(f.host("log"), b"ONEtwo");
}

#[test]
fn changes_modes_owners_sizes_and_times() {
    let mut f = Fixture::new();
    f.put("a", b"0123456789");
    let node = f.client.lookup(f.root, "a").unwrap().nodeid;
    let set = |valid, change: &dyn Fn(&mut SetattrIn)| {
        let mut args = SetattrIn { valid, ..SetattrIn::default() };
        change(&mut args);
        args
    };
    let out = f.client.setattr(node, &set(fattr::MODE, &|a| a.mode = 0o4750)).unwrap();
    assert_eq!(out.attr.mode & 0o7777, 0o4750);
    let out = f.client.setattr(node, &set(fattr::SIZE, &|a| a.size = 4)).unwrap();
    assert_eq!((out.attr.size, f.host("a")), (4, b"0123".to_vec()));
    let times = set(fattr::ATIME | fattr::MTIME, &|a| {
        (a.atime, a.atimensec, a.mtime, a.mtimensec) = (1, 999_999_999, (-5i64).cast_unsigned(), 7);
    });
    let out = f.client.setattr(node, &times).unwrap().attr;
    assert_eq!((out.atime, out.atimensec), (1, 999_999_999));
    assert_eq!((out.mtime.cast_signed(), out.mtimensec), (-5, 7));
    let now = set(fattr::MTIME | fattr::MTIME_NOW, &|_| {});
    f.client.setattr(node, &now).unwrap();
    let meta = f.path.join("a").metadata().unwrap();
    assert!(SystemTime::now().duration_since(meta.modified().unwrap()).unwrap().as_secs() < 60);
    assert_eq!(meta.atime(), 1);
    let bad = set(fattr::MTIME, &|a| a.mtimensec = 1_000_000_000);
    assert_eq!(f.client.setattr(node, &bad), Err(Errno::INVAL));
    let same = set(fattr::UID | fattr::GID, &|_| {});
    let out = f.client.setattr(node, &same).unwrap().attr;
    assert_eq!((out.uid, out.gid, out.mode & 0o7777), (0, 0, 0o750));
}

#[test]
fn truncates_by_handle_and_only_one_that_may_write() {
    let mut f = Fixture::new();
    f.put("a", b"0123456789");
    f.put("b", b"0123456789");
    let node = f.client.lookup(f.root, "a").unwrap().nodeid;
    let other = f.client.lookup(f.root, "b").unwrap().nodeid;
    let mut args = SetattrIn { valid: fattr::SIZE | fattr::FH, size: 3, ..SetattrIn::default() };
    args.fh = f.client.open(node, RDWR).unwrap().fh;
    assert_eq!(f.client.setattr(node, &args).unwrap().attr.size, 3);
    assert_eq!(f.client.setattr(other, &args), Err(Errno::BADF));
    args.fh = f.client.open(node, libc::O_RDONLY).unwrap().fh;
    args.size = 0;
    assert_eq!(f.client.setattr(node, &args), Err(Errno::INVAL));
    let open = f.client.open(node, libc::O_WRONLY | libc::O_TRUNC).unwrap();
    assert_eq!(f.host("a"), b"");
    f.client.release(node, open.fh);
}

#[test]
fn makes_directories_links_and_special_files() {
    let mut f = Fixture::new();
    let dir = f.client.mkdir(f.root, "d", 0o1755).unwrap();
    assert_eq!(dir.attr.mode, 0o041_755);
    let link: EntryOut =
        f.client.get(opcode::SYMLINK, f.root, &[&c_string("l"), &c_string("/etc/passwd")]).unwrap();
    assert_eq!(link.attr.mode & 0o170_000, 0o120_000);
    let target = f.client.call(opcode::READLINK, link.nodeid, &[], 4200).unwrap();
    assert_eq!(target, b"/etc/passwd");
    assert_eq!(f.client.call(opcode::READLINK, dir.nodeid, &[], 4200), Err(Errno::INVAL));

    let mut mknod = |name: &str, mode, rdev| {
        let args = MknodIn { mode, rdev, umask: 0o022, padding: 0 };
        f.client.get::<EntryOut>(opcode::MKNOD, f.root, &[bytes(&args), &c_string(name)])
    };
    assert_eq!(mknod("fifo", 0o010_666, 0).unwrap().attr.mode, 0o010_644);
    assert_eq!(mknod("sock", 0o140_777, 0).unwrap().attr.mode, 0o140_755);
    assert_eq!(mknod("file", 0o100_600, 0).unwrap().attr.mode, 0o100_600);
    for (mode, rdev) in [(0o020_666, 0x103), (0o020_666, 0), (0o060_666, 0x800), (0o666, 0)] {
        assert_eq!(mknod("dev", mode, rdev).map(|e| e.attr.mode), Err(Errno::PERM), "{mode:o}");
    }
    assert!(f.path.join("fifo").metadata().unwrap().file_type().is_fifo());

    let file = f.client.lookup(f.root, "file").unwrap().nodeid;
    let hard: EntryOut =
        f.client.get(opcode::LINK, dir.nodeid, &[&file.to_le_bytes(), &c_string("hard")]).unwrap();
    assert_eq!((hard.nodeid, hard.attr.nlink), (file, 2));
    // A link to the link itself, not to what it names.
    let of_link: EntryOut = f
        .client
        .get(opcode::LINK, dir.nodeid, &[&link.nodeid.to_le_bytes(), &c_string("l2")])
        .unwrap();
    assert_eq!(of_link.nodeid, link.nodeid);
    let to_dir =
        f.client.call(opcode::LINK, f.root, &[&dir.nodeid.to_le_bytes(), &c_string("no")], 500);
    assert_eq!(to_dir, Err(Errno::PERM));
}

#[test]
fn makes_whiteouts_where_the_share_allows_them() {
    let mut f = Fixture::with(|share| share.whiteouts = true);
    let mut mknod = |rdev| {
        let args = MknodIn { mode: 0o020_000, rdev, umask: 0, padding: 0 };
        f.client.get::<EntryOut>(opcode::MKNOD, f.root, &[bytes(&args), &c_string("w")])
    };
    assert_eq!(mknod(0x103).map(|_| ()), Err(Errno::PERM));
    assert_eq!(mknod(0).unwrap().attr.mode, 0o020_000);
    let node = f.client.lookup(f.root, "w").unwrap().nodeid;
    // Not even this device is opened on the host.
    assert_eq!(f.client.open(node, libc::O_RDONLY), Err(Errno::ACCESS));
}

#[test]
fn never_opens_what_an_open_acts_on() {
    let mut f = Fixture::new();
    let args = MknodIn { mode: 0o010_666, ..MknodIn::default() };
    let fifo: EntryOut =
        f.client.get(opcode::MKNOD, f.root, &[bytes(&args), &c_string("fifo")]).unwrap();
    // Opening it on the host would wait for a writer.
    assert_eq!(f.client.open(fifo.nodeid, libc::O_RDONLY), Err(Errno::ACCESS));
    let created = f.client.create(f.root, "fifo", libc::O_RDONLY | libc::O_CREAT, 0o600);
    assert_eq!(created.unwrap_err(), Errno::STALE);
    let truncate = SetattrIn { valid: fattr::SIZE, ..SetattrIn::default() };
    assert_eq!(f.client.setattr(fifo.nodeid, &truncate), Err(Errno::INVAL));
    assert_eq!(f.client.open(f.root, libc::O_RDONLY), Err(Errno::ISDIR));
    assert_eq!(f.client.opendir(fifo.nodeid), Err(Errno::NOTDIR));
    f.client.done(opcode::SYNCFS, fifo.nodeid, &[&[0; 8]]).unwrap();
}

#[test]
fn removes_and_renames() {
    let mut f = Fixture::new();
    f.put("a", b"a");
    f.put("b", b"b");
    let dir = f.client.mkdir(f.root, "d", 0o755).unwrap().nodeid;
    let root = f.root;
    let mut rename = |from: &str, newdir: u64, to: &str, flags: u32| {
        let args = [newdir, u64::from(flags)];
        f.client.done(opcode::RENAME2, root, &[args.as_bytes(), &c_string(from), &c_string(to)])
    };
    assert_eq!(rename("a", root, "b", libc::RENAME_NOREPLACE), Err(Errno::EXIST));
    rename("a", root, "b", libc::RENAME_EXCHANGE).unwrap();
    assert_eq!(rename("a", root, "b", 8), Err(Errno::INVAL));
    assert_eq!(rename("a", root, "b", libc::RENAME_WHITEOUT), Err(Errno::INVAL));
    rename("a", dir, "c", 0).unwrap();
    assert_eq!(rename("d", dir, "e", 0), Err(Errno::INVAL));
    assert_eq!((f.host("d/c"), f.host("b")), (b"b".to_vec(), b"a".to_vec()));
    let old = [&dir.to_le_bytes()[..], &c_string("b"), &c_string("b2")];
    f.client.done(opcode::RENAME, f.root, &old).unwrap();
    assert_eq!(f.host("d/b2"), b"a");

    let mut remove = |opcode, node, name: &str| f.client.done(opcode, node, &[&c_string(name)]);
    assert_eq!(remove(opcode::RMDIR, f.root, "d"), Err(Errno::NOTEMPTY));
    assert_eq!(remove(opcode::UNLINK, f.root, "d"), Err(Errno::ISDIR));
    assert_eq!(remove(opcode::RMDIR, dir, "c"), Err(Errno::NOTDIR));
    remove(opcode::UNLINK, dir, "c").unwrap();
    remove(opcode::UNLINK, dir, "b2").unwrap();
    remove(opcode::RMDIR, f.root, "d").unwrap();
    assert_eq!(remove(opcode::UNLINK, f.root, "d"), Err(Errno::NOENT));
    // The directory is held and gone: nothing can be made in it.
    assert_eq!(f.client.mkdir(dir, "x", 0o755).unwrap_err(), Errno::NOENT);
}

#[test]
fn keeps_an_unlinked_file_as_long_as_it_is_held() {
    let mut f = Fixture::new();
    let (entry, open) = f.client.create(f.root, "a", RDWR, 0o644).unwrap();
    f.client.done(opcode::UNLINK, f.root, &[&c_string("a")]).unwrap();
    f.client.write(entry.nodeid, open.fh, 0, b"still").unwrap();
    f.client.release(entry.nodeid, open.fh);
    let open = f.client.open(entry.nodeid, libc::O_RDONLY).unwrap();
    assert_eq!(f.client.read(entry.nodeid, open.fh, 0, 10).unwrap(), b"still");
    let attr = f.client.getattr(entry.nodeid).unwrap().attr;
    assert_eq!((attr.nlink, attr.size), (0, 5));
    f.client.release(entry.nodeid, open.fh);
    f.client.forget(entry.nodeid, 1);
    assert_eq!(f.client.getattr(entry.nodeid), Err(Errno::STALE));
}

#[test]
fn counts_lookups() {
    let mut f = Fixture::new();
    f.put("a", b"");
    let node = f.client.lookup(f.root, "a").unwrap().nodeid;
    assert_eq!(f.client.lookup(f.root, "a").unwrap().nodeid, node);
    f.client.forget(node, 1);
    assert!(f.client.getattr(node).is_ok());
    f.client.forget(node, 1);
    assert_eq!(f.client.getattr(node), Err(Errno::STALE));
    // A new id, never the old one.
    let next = f.client.lookup(f.root, "a").unwrap().nodeid;
    assert!(next > node);
    let batch = [[2u64, 0], [next, 1], [next, 1], [77, 5]];
    f.client.post(opcode::BATCH_FORGET, 0, &[&4u64.to_le_bytes(), batch.as_bytes()]);
    assert_eq!(f.client.getattr(next), Err(Errno::STALE));
    f.client.forget(f.root, 1);
    assert_eq!(f.client.server.usage().inodes, 0);
}

#[test]
fn lists_directories_in_requests_of_any_size() {
    let mut f = Fixture::new();
    let mut expected: Vec<String> =
        (0..300).map(|i| format!("{i}-{}", "n".repeat(i % 200))).collect();
    for name in &expected {
        f.put(name, b"");
    }
    expected.extend([".".to_owned(), "..".to_owned()]);
    expected.sort();
    for (size, plus) in
        [(4096, false), (4096, true), (300, false), (400, true), (65_536, true), (1 << 20, false)]
    {
        let list = f.client.list(f.root, size, plus).unwrap();
        let mut names: Vec<_> = list.iter().map(|entry| entry.name.clone()).collect();
        names.sort();
        assert_eq!(names, expected, "{size} {plus}");
        for entry in list.iter().filter(|entry| plus && !entry.name.starts_with('.')) {
            let out = entry.entry.unwrap();
            assert_eq!((out.attr.ino, entry.kind), (entry.ino, 8));
            f.client.forget(out.nodeid, 1);
        }
    }
    assert_eq!(f.client.server.usage().inodes, 1, "every entry was counted once");
    assert_eq!(f.client.server.usage().handles, 0);
    let fh = f.client.opendir(f.root).unwrap();
    assert_eq!(f.client.readdir(f.root, fh, 0, 20, false).unwrap_err(), Errno::INVAL);
    assert_eq!(f.client.readdir(f.root, fh, 0, 150, true).unwrap_err(), Errno::INVAL);
}

#[test]
fn lists_again_from_a_cookie_and_from_the_start() {
    let mut f = Fixture::new();
    for i in 0..50 {
        f.put(&format!("f{i}"), b"");
    }
    let fh = f.client.opendir(f.root).unwrap();
    let first = f.client.readdir(f.root, fh, 0, 512, false).unwrap();
    let cookie = first[4].cookie;
    let rest = f.client.readdir(f.root, fh, cookie, 512, false).unwrap();
    assert_eq!(rest[0].name, first[5].name);
    f.put("new", b"");
    let again = f.client.readdir(f.root, fh, 0, 8192, false).unwrap();
    assert!(again.iter().any(|entry| entry.name == "new"));
}

#[test]
fn makes_files_without_a_name_and_names_them_later() {
    let mut f = Fixture::new();
    let args = file_server::wire::CreateIn {
        flags: RDWR.cast_unsigned(),
        mode: 0o600,
        ..file_server::wire::CreateIn::default()
    };
    let body = f.client.call(opcode::TMPFILE, f.root, &[bytes(&args), b"/\0"], 500).unwrap();
    let (entry, rest) = EntryOut::read_from_prefix(&body).unwrap();
    let open = OpenOut::read_from_bytes(rest).unwrap();
    assert_eq!(entry.attr.nlink, 0);
    f.client.write(entry.nodeid, open.fh, 0, b"tmp").unwrap();
    assert_eq!(f.path.read_dir().unwrap().count(), 0);
    let link = [&entry.nodeid.to_le_bytes()[..], &c_string("named")];
    let named: EntryOut = f.client.get(opcode::LINK, f.root, &link).unwrap();
    assert_eq!((named.nodeid, f.host("named")), (entry.nodeid, b"tmp".to_vec()));
}

#[test]
fn allocates_seeks_copies_and_syncs() {
    let mut f = Fixture::new();
    let (entry, open) = f.client.create(f.root, "a", RDWR, 0o644).unwrap();
    let (node, fh) = (entry.nodeid, open.fh);
    let allocate = FallocateIn { fh, offset: 0, length: 1 << 20, mode: 0, padding: 0 };
    f.client.done(opcode::FALLOCATE, node, &[bytes(&allocate)]).unwrap();
    f.client.write(node, fh, 0, &[7; 200_000]).unwrap();
    let punch = FallocateIn { mode: 3, offset: 65_536, length: 65_536, ..allocate };
    f.client.done(opcode::FALLOCATE, node, &[bytes(&punch)]).unwrap();
    let bad = FallocateIn { mode: 0x8000, ..allocate };
    assert_eq!(f.client.done(opcode::FALLOCATE, node, &[bytes(&bad)]), Err(Errno::OPNOTSUPP));
    let mut seek = |offset, whence| {
        let args = LseekIn { fh, offset, whence, padding: 0 };
        f.client.get::<LseekOut>(opcode::LSEEK, node, &[bytes(&args)]).map(|out| out.offset)
    };
    assert_eq!(seek(0, 4), Ok(65_536));
    assert_eq!(seek(65_536, 3), Ok(131_072));
    assert_eq!(seek(2 << 20, 3), Err(Errno::NXIO));
    assert_eq!(seek(0, 0), Err(Errno::INVAL));

    let (other, copy) = f.client.create(f.root, "b", RDWR, 0o644).unwrap();
    let args = CopyFileRangeIn {
        fh_in: fh,
        off_in: 10,
        nodeid_out: other.nodeid,
        fh_out: copy.fh,
        off_out: 5,
        len: 100,
        flags: 0,
    };
    let out: WriteOut = f.client.get(opcode::COPY_FILE_RANGE, node, &[bytes(&args)]).unwrap();
    assert_eq!((out.size, f.host("b").len()), (100, 105));
    for fsync_flags in [0, 1] {
        let args = FsyncIn { fh, fsync_flags, padding: 0 };
        f.client.done(opcode::FSYNC, node, &[bytes(&args)]).unwrap();
    }
    let dir = f.client.opendir(f.root).unwrap();
    let args = FsyncIn { fh: dir, ..FsyncIn::default() };
    f.client.done(opcode::FSYNCDIR, f.root, &[bytes(&args)]).unwrap();
    let flush = [fh, 0, 0];
    f.client.done(opcode::FLUSH, node, &[flush.as_bytes()]).unwrap();
    let statfs: Kstatfs = f.client.get(opcode::STATFS, f.root, &[]).unwrap();
    assert!(statfs.blocks > 0 && statfs.bsize > 0 && statfs.namelen == 255);
}

#[test]
fn shows_status_with_birth_time() {
    let mut f = Fixture::new();
    f.put("a", b"abc");
    let node = f.client.lookup(f.root, "a").unwrap().nodeid;
    let args = StatxIn { sx_mask: 0xfff, ..StatxIn::default() };
    let out: StatxOut = f.client.get(opcode::STATX, node, &[bytes(&args)]).unwrap();
    assert_eq!((out.stat.size, out.stat.mode & 0o170_000), (3, 0o100_000));
    if let Ok(created) = f.path.join("a").metadata().unwrap().created() {
        let since = created.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(out.stat.btime.tv_sec.cast_unsigned(), since.as_secs());
    }
    let root: StatxOut = f.client.get(opcode::STATX, 1, &[bytes(&args)]).unwrap();
    assert_eq!((root.stat.ino, root.stat.mode), (1, 0o040_555));
}

#[test]
fn keeps_extended_attributes_of_users_and_hides_the_hosts() {
    let mut f = Fixture::new();
    f.put("a", b"");
    let node = f.client.lookup(f.root, "a").unwrap().nodeid;
    f.client.setxattr(node, "user.one", b"1", 0).unwrap();
    f.client.setxattr(node, "user.two", &[2; 300], 0).unwrap();
    assert_eq!(f.client.setxattr(node, "user.one", b"x", 1), Err(Errno::EXIST));
    assert_eq!(f.client.setxattr(node, "user.three", b"x", 2), Err(Errno::NODATA));
    assert_eq!(f.client.getxattr(node, "user.one", 100).unwrap(), b"1");
    assert_eq!(f.client.getxattr(node, "user.two", 0).unwrap(), [300u32, 0].as_bytes());
    assert_eq!(f.client.getxattr(node, "user.two", 299), Err(Errno::RANGE));
    assert_eq!(f.client.getxattr(node, "user.none", 10), Err(Errno::NODATA));
    assert_eq!(f.client.listxattr(node, 100).unwrap(), b"user.one\0user.two\0");
    assert_eq!(f.client.listxattr(node, 0).unwrap(), [18u32, 0].as_bytes());
    assert_eq!(f.client.listxattr(node, 17), Err(Errno::RANGE));
    f.client.done(opcode::REMOVEXATTR, node, &[&c_string("user.two")]).unwrap();
    assert_eq!(f.client.getxattr(node, "user.two", 9), Err(Errno::NODATA));
    let big = vec![1; 65_537];
    assert_eq!(f.client.setxattr(node, "user.big", &big, 0), Err(Errno::TOOBIG));
    for (name, read, write) in [
        ("trusted.overlay.opaque", Errno::NODATA, Errno::PERM),
        ("security.selinux", Errno::OPNOTSUPP, Errno::OPNOTSUPP),
        ("system.nfs4_acl", Errno::OPNOTSUPP, Errno::OPNOTSUPP),
        ("nonsense", Errno::OPNOTSUPP, Errno::OPNOTSUPP),
    ] {
        assert_eq!(f.client.getxattr(node, name, 10), Err(read), "{name}");
        assert_eq!(f.client.setxattr(node, name, b"y", 0), Err(write), "{name}");
        let removed = f.client.done(opcode::REMOVEXATTR, node, &[&c_string(name)]);
        assert_eq!(removed, Err(write), "{name}");
    }
}

#[test]
fn reads_attributes_of_links_and_fifos_without_opening_them() {
    let mut f = Fixture::new();
    std::os::unix::fs::symlink("nowhere", f.path.join("l")).unwrap();
    let link = f.client.lookup(f.root, "l").unwrap().nodeid;
    assert_eq!(f.client.getxattr(link, "security.capability", 10), Err(Errno::NODATA));
    assert_eq!(f.client.listxattr(link, 10).unwrap(), b"");
    assert_eq!(f.client.setxattr(link, "user.x", b"1", 0), Err(Errno::PERM));
    let mode = SetattrIn { valid: fattr::MODE, mode: 0o600, ..SetattrIn::default() };
    assert_eq!(f.client.setattr(link, &mode), Err(Errno::OPNOTSUPP));
    let times = SetattrIn { valid: fattr::MTIME, mtime: 9, ..SetattrIn::default() };
    assert_eq!(f.client.setattr(link, &times).unwrap().attr.mtime, 9);
    let args = MknodIn { mode: 0o010_644, ..MknodIn::default() };
    let fifo: EntryOut =
        f.client.get(opcode::MKNOD, f.root, &[bytes(&args), &c_string("p")]).unwrap();
    assert_eq!(f.client.listxattr(fifo.nodeid, 10).unwrap(), b"");
    assert_eq!(f.client.setattr(fifo.nodeid, &mode).unwrap().attr.mode, 0o010_600);
}

#[test]
fn refuses_every_change_of_a_read_only_share() {
    let mut f = Fixture::with(|share| share.read_only = true);
    f.put("a", b"text");
    std::fs::create_dir(f.path.join("d")).unwrap();
    let root = f.root;
    let node = f.client.lookup(root, "a").unwrap().nodeid;
    let fh = f.client.open(node, libc::O_RDONLY).unwrap().fh;
    assert_eq!(f.client.read(node, fh, 0, 10).unwrap(), b"text");
    for flags in [libc::O_WRONLY, RDWR, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(f.client.open(node, flags), Err(Errno::ROFS));
    }
    assert_eq!(f.client.write(node, fh, 0, b"x"), Err(Errno::ROFS));
    let name = c_string("d");
    let new = c_string("new");
    let pair = [&root.to_le_bytes()[..], &name, &new].concat();
    let link = [&node.to_le_bytes()[..], &new].concat();
    let xattr = [[1u32, 0, 0, 0].as_bytes(), b"user.x\0", b"1"].concat();
    let none = [0; 88];
    let with_name = |len: usize| [&vec![0; len][..], &new].concat();
    let allocate = FallocateIn { fh, length: 1, ..FallocateIn::default() };
    let copy = CopyFileRangeIn { fh_in: fh, fh_out: fh, len: 1, ..CopyFileRangeIn::default() };
    for (opcode, node, args) in [
        (opcode::SETATTR, node, &none[..]),
        (opcode::MKNOD, root, &with_name(16)),
        (opcode::MKDIR, root, &with_name(8)),
        (opcode::CREATE, root, &with_name(16)),
        (opcode::TMPFILE, root, &with_name(16)),
        (opcode::SYMLINK, root, &[new.clone(), new.clone()].concat()),
        (opcode::UNLINK, root, &c_string("a")),
        (opcode::RMDIR, root, &name),
        (opcode::RENAME, root, &pair),
        (opcode::LINK, root, &link),
        (opcode::SETXATTR, node, &xattr),
        (opcode::REMOVEXATTR, node, &c_string("user.x")),
        (opcode::FALLOCATE, node, allocate.as_bytes()),
        (opcode::COPY_FILE_RANGE, node, copy.as_bytes()),
    ] {
        let reply = f.client.call(opcode, node, &[args], 500);
        assert_eq!(reply, Err(Errno::ROFS), "opcode {opcode}");
    }
    assert_eq!(f.path.read_dir().unwrap().count(), 2);
}

#[test]
fn shows_shares_as_submounts_and_keeps_them_apart() {
    let dir = tempfile::TempDir::new().unwrap();
    for name in ["x", "y"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("x/f"), "x").unwrap();
    std::fs::write(dir.path().join("alone"), "secret").unwrap();
    let mut alone = share("alone", &dir.path().join("alone"));
    alone.kind = ShareKind::File;
    let shares = vec![share("x", &dir.path().join("x")), share("y", &dir.path().join("y")), alone];
    let mut client = Client::new(config(shares));
    let names: Vec<_> =
        client.list(1, 4096, true).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [".", "..", "alone", "x", "y"]);
    let names: Vec<_> =
        client.list(1, 32, false).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [".", "..", "alone", "x", "y"]);
    assert_eq!(client.getattr(1).unwrap().attr.mode, 0o040_555);
    let x = client.lookup(1, "x").unwrap();
    let y = client.lookup(1, "y").unwrap();
    let alone = client.lookup(1, "alone").unwrap();
    assert_eq!((x.attr.flags, y.attr.flags, alone.attr.flags), (1, 1, 0));
    assert_eq!((x.entry_valid, x.entry_valid_nsec), (0, 0));
    let args = [&y.nodeid.to_le_bytes()[..], &c_string("f"), &c_string("f")];
    assert_eq!(client.done(opcode::RENAME, x.nodeid, &args), Err(Errno::XDEV));
    let f = client.lookup(x.nodeid, "f").unwrap();
    assert_eq!(f.attr.flags, 0);
    let args = [&f.nodeid.to_le_bytes()[..], &c_string("f")];
    assert_eq!(client.call(opcode::LINK, y.nodeid, &args, 500), Err(Errno::XDEV));
    // The single file can be used, and has neither children nor neighbours.
    let open = client.open(alone.nodeid, RDWR).unwrap();
    assert_eq!(client.read(alone.nodeid, open.fh, 0, 10).unwrap(), b"secret");
    client.setxattr(alone.nodeid, "user.x", b"1", 0).unwrap();
    assert_eq!(client.lookup(alone.nodeid, "x"), Err(Errno::NOTDIR));
    let args = [&alone.nodeid.to_le_bytes()[..], &c_string("f")];
    assert_eq!(client.call(opcode::LINK, 1, &args, 500), Err(Errno::ROFS));
    for (opcode, name) in [(opcode::UNLINK, "alone"), (opcode::RMDIR, "x")] {
        assert_eq!(client.done(opcode, 1, &[&c_string(name)]), Err(Errno::ROFS));
    }
    assert_eq!(client.mkdir(1, "z", 0o755).unwrap_err(), Errno::ROFS);
}

#[test]
fn adds_and_removes_shares_while_the_guest_uses_them() {
    let mut f = Fixture::new();
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("a"), "a").unwrap();
    f.client.server.add_share(share("late", dir.path())).unwrap();
    assert!(f.client.server.add_share(share("late", dir.path())).is_err());
    let late = f.client.lookup(1, "late").unwrap().nodeid;
    let node = f.client.lookup(late, "a").unwrap().nodeid;
    let fh = f.client.open(node, libc::O_RDONLY).unwrap().fh;
    f.client.server.remove_share("late").unwrap();
    assert!(f.client.server.remove_share("late").is_err());
    assert_eq!(f.client.lookup(1, "late"), Err(Errno::NOENT));
    assert_eq!(f.client.getattr(node), Err(Errno::STALE));
    assert_eq!(f.client.read(node, fh, 0, 1), Err(Errno::BADF));
    let usage = f.client.server.usage();
    assert_eq!((usage.inodes, usage.handles, usage.shares), (1, 0, 1));
    // The guest forgets what is gone already; the other share is as it was.
    f.client.forget(node, 1);
    assert!(f.client.getattr(f.root).is_ok());
    for name in ["", ".", "..", "a/b", &"n".repeat(256)] {
        assert!(f.client.server.add_share(share(name, dir.path())).is_err(), "{name}");
    }
    let mut file = share("file", dir.path());
    file.kind = ShareKind::File;
    assert!(f.client.server.add_share(file).is_err());
}

#[test]
fn a_guest_without_shares_gets_later_ones_as_they_come_and_go() {
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("a"), "a").unwrap();
    let mut client = Client::new(config(Vec::new()));
    // A name that is not there is an error and no entry that could be believed for a while.
    assert_eq!(client.lookup(1, "late"), Err(Errno::NOENT));
    let mut nodes = Vec::new();
    for _ in 0..3 {
        client.server.add_share(share("late", dir.path())).unwrap();
        let root = client.lookup(1, "late").unwrap();
        // The root's names are asked for each time; the policy of the share itself is in force.
        assert_eq!((root.entry_valid, root.entry_valid_nsec), (0, 0));
        assert!(root.attr_valid_nsec > 0, "{root:?}");
        let node = client.lookup(root.nodeid, "a").unwrap();
        assert!(!nodes.contains(&root.nodeid), "one node stands for two shares");
        nodes.push(root.nodeid);
        client.server.remove_share("late").unwrap();
        assert_eq!(client.getattr(root.nodeid), Err(Errno::STALE));
        assert_eq!(client.lookup(root.nodeid, "a"), Err(Errno::STALE));
        assert_eq!(client.getattr(node.nodeid), Err(Errno::STALE));
        assert_eq!(client.lookup(1, "late"), Err(Errno::NOENT));
        let usage = client.server.usage();
        assert_eq!((usage.inodes, usage.handles, usage.shares), (0, 0, 0));
    }
}

#[test]
fn keeps_caches_as_the_policy_says() {
    for (policy, seconds, negative) in [
        (CachePolicy::None, 0, false),
        (CachePolicy::Auto, 0, true),
        (CachePolicy::Always, 86_400, true),
    ] {
        let mut f = Fixture::with(|share| share.cache = policy);
        f.put("a", b"a");
        let entry = f.client.lookup(f.root, "a").unwrap();
        assert_eq!((entry.entry_valid, entry.attr_valid), (seconds, seconds));
        assert_eq!(entry.attr_valid_nsec == 900_000_000, policy == CachePolicy::Auto);
        let absent = f.client.call(opcode::LOOKUP, f.root, &[&c_string("none")], 500);
        assert_eq!(absent.is_ok(), negative);
        let flags = f.client.open(entry.nodeid, libc::O_RDONLY).unwrap().open_flags;
        let expected = match policy {
            CachePolicy::None => fopen::DIRECT_IO,
            CachePolicy::Auto => 0,
            CachePolicy::Always => fopen::KEEP_CACHE,
        };
        assert_eq!(flags & (fopen::DIRECT_IO | fopen::KEEP_CACHE), expected, "{policy:?}");
    }
}

#[test]
fn keeps_data_of_an_unchanged_settled_file_between_opens() {
    let mut f = Fixture::new();
    let file = f.put("a", b"a");
    let node = f.client.lookup(f.root, "a").unwrap().nodeid;
    let mut keeps = || {
        let open = f.client.open(node, libc::O_RDONLY).unwrap();
        f.client.release(node, open.fh);
        open.open_flags & fopen::KEEP_CACHE != 0
    };
    // It changed just now: a second change could have the same times.
    assert_eq!((keeps(), keeps()), (false, false));
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!((keeps(), keeps(), keeps()), (false, true, true));
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!((keeps(), keeps()), (false, false));
}

#[test]
fn acts_as_the_caller_of_the_guest() {
    if !needs_root("acts_as_the_caller_of_the_guest") {
        return;
    }
    let mut f = Fixture::new();
    (f.client.uid, f.client.gid) = (1000, 1001);
    let flags = RDWR | libc::O_CREAT | libc::O_EXCL;
    let (entry, open) = f.client.create(f.root, "mine", flags, 0o400).unwrap();
    assert_eq!((entry.attr.uid, entry.attr.gid), (1000, 1001));
    f.client.write(entry.nodeid, open.fh, 0, b"x").unwrap();
    let dir = f.client.mkdir(f.root, "dir", 0o755).unwrap();
    assert_eq!((dir.attr.uid, dir.attr.gid), (1000, 1001));
    // A directory that hands its group down.
    std::os::unix::fs::chown(f.path.join("dir"), None, Some(2000)).unwrap();
    let set = SetattrIn { valid: fattr::MODE, mode: 0o2755, ..SetattrIn::default() };
    assert_eq!(f.client.setattr(dir.nodeid, &set).unwrap().attr.mode & 0o7777, 0o2755);
    let (inner, _) = f.client.create(dir.nodeid, "inner", flags, 0o2755).unwrap();
    assert_eq!((inner.attr.uid, inner.attr.gid, inner.attr.mode & 0o7777), (1000, 2000, 0o2755));
    let sub = f.client.mkdir(dir.nodeid, "sub", 0o755).unwrap();
    assert_eq!((sub.attr.gid, sub.attr.mode & 0o7777), (2000, 0o2755));
    // And root again, on the same thread.
    (f.client.uid, f.client.gid) = (0, 0);
    let (entry, _) = f.client.create(f.root, "roots", flags, 0o600).unwrap();
    assert_eq!((entry.attr.uid, entry.attr.gid), (0, 0));
}

#[test]
fn clears_set_id_bits_only_for_callers_without_the_capability() {
    if !needs_root("clears_set_id_bits_only_for_callers_without_the_capability") {
        return;
    }
    let mut f = Fixture::new();
    f.put("a", b"text");
    let node = f.client.lookup(f.root, "a").unwrap().nodeid;
    let set = SetattrIn { valid: fattr::MODE, mode: 0o6755, ..SetattrIn::default() };
    let mode = |f: &mut Fixture| f.client.getattr(node).unwrap().attr.mode & 0o7777;
    let fh = f.client.open(node, RDWR).unwrap().fh;

    f.client.setattr(node, &set).unwrap();
    f.client.write(node, fh, 0, b"x").unwrap();
    assert_eq!(mode(&mut f), 0o6755);
    (f.client.uid, f.client.gid) = (1000, 1000);
    f.client.write_with((node, fh), 0, b"x", 0, WRITE_KILL_SUIDGID).unwrap();
    assert_eq!(mode(&mut f), 0o755);

    f.client.setattr(node, &set).unwrap();
    let kill = fattr::SIZE | fattr::KILL_SUIDGID;
    f.client.setattr(node, &SetattrIn { valid: kill, size: 1, ..SetattrIn::default() }).unwrap();
    assert_eq!(mode(&mut f), 0o755);

    f.client.setattr(node, &set).unwrap();
    let args = [(libc::O_WRONLY | libc::O_TRUNC).cast_unsigned(), 1];
    let _: OpenOut = f.client.get(opcode::OPEN, node, &[args.as_bytes()]).unwrap();
    assert_eq!(mode(&mut f), 0o755);
    // chown clears them for everybody.
    f.client.setattr(node, &set).unwrap();
    let chown = SetattrIn { valid: fattr::UID, uid: 5, ..SetattrIn::default() };
    assert_eq!(f.client.setattr(node, &chown).unwrap().attr.mode & 0o7777, 0o755);
}

#[test]
fn keeps_set_id_bits_where_the_server_lacks_the_capability() {
    // As in a user namespace of its own; for this thread, before it becomes a worker.
    let mut sets = rustix::thread::capabilities(None).unwrap();
    let fsetid = rustix::thread::CapabilitySet::FSETID;
    (sets.effective, sets.permitted) = (sets.effective - fsetid, sets.permitted - fsetid);
    rustix::thread::set_capabilities(None, sets).unwrap();
    let mut f = Fixture::new();
    f.put("a", b"text");
    let node = f.client.lookup(f.root, "a").unwrap().nodeid;
    let set = SetattrIn { valid: fattr::MODE, mode: 0o6755, ..SetattrIn::default() };
    f.client.setattr(node, &set).unwrap();
    let mode = |f: &mut Fixture| f.client.getattr(node).unwrap().attr.mode & 0o7777;
    let fh = f.client.open(node, RDWR).unwrap().fh;
    f.client.write(node, fh, 0, b"x").unwrap();
    assert_eq!(mode(&mut f), 0o6755);
    let size = SetattrIn { valid: fattr::SIZE, size: 2, ..SetattrIn::default() };
    assert_eq!(f.client.setattr(node, &size).unwrap().attr.mode & 0o7777, 0o6755);
    f.client.open(node, libc::O_WRONLY | libc::O_TRUNC).unwrap();
    assert_eq!(mode(&mut f), 0o6755);
    f.client.write_with((node, fh), 0, b"x", 0, WRITE_KILL_SUIDGID).unwrap();
    assert_eq!(mode(&mut f), 0o755);
}

#[test]
fn keeps_acls_and_gives_them_precedence_over_the_umask() {
    let mut f = Fixture::new();
    // user::rwx user:0:r-x group::r-x mask::rwx other::r-x
    let entries =
        [(1u16, 7u16, u32::MAX), (2, 5, 0), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 5, u32::MAX)];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    let set = f.client.setxattr(f.root, "system.posix_acl_default", &acl, 0);
    if set == Err(Errno::OPNOTSUPP) {
        eprintln!("keeps_acls: not run, the temporary directory has no ACLs");
        return;
    }
    set.unwrap();
    assert_eq!(f.client.getxattr(f.root, "system.posix_acl_default", 200).unwrap(), acl);
    let (entry, _) = f.client.create_with(f.root, "a", RDWR, 0o666, 0o077).unwrap();
    assert_eq!(entry.attr.mode & 0o777, 0o664);
    assert!(f.client.getxattr(entry.nodeid, "system.posix_acl_access", 200).is_ok());
    let names = f.client.listxattr(entry.nodeid, 200).unwrap();
    assert_eq!(names, b"system.posix_acl_access\0");
    // A caller that may not keep the set-group-ID bit loses it with the ACL.
    let mode = SetattrIn { valid: fattr::MODE, mode: 0o2775, ..SetattrIn::default() };
    f.client.setattr(entry.nodeid, &mode).unwrap();
    let name = "system.posix_acl_access";
    f.client.setxattr_with(entry.nodeid, name, &acl, 0, 1).unwrap();
    assert_eq!(f.client.getattr(entry.nodeid).unwrap().attr.mode & 0o7777, 0o775);
}

#[test]
fn answers_what_it_does_not_serve() {
    let mut f = Fixture::new();
    for opcode in [opcode::ACCESS, opcode::BMAP, opcode::POLL, 7, 99] {
        assert_eq!(f.client.done(opcode, f.root, &[&[0; 64]]), Err(Errno::NOSYS), "{opcode}");
    }
    assert_eq!(f.client.done(opcode::IOCTL, f.root, &[&[0; 32]]), Err(Errno::NOTTY));
    let release = ReleaseIn { fh: 12_345, ..ReleaseIn::default() };
    assert_eq!(f.client.done(opcode::RELEASE, f.root, &[bytes(&release)]), Err(Errno::BADF));
    f.client.post(opcode::INTERRUPT, 0, &[&[0; 8]]);
    f.client.done(opcode::DESTROY, 0, &[]).unwrap();
    assert_eq!(f.client.getattr(1), Err(Errno::PROTO));
    assert_eq!(f.client.server.usage().inodes, 0);
    f.client.init(u64::MAX).unwrap();
    let args = GetattrIn::default();
    assert!(f.client.call(opcode::GETATTR, 1, &[bytes(&args)], 200).is_ok());
}
