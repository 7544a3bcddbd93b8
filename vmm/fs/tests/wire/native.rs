//! Random operations through the wire on one directory and natively on another: results and trees
//! are equal.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use file_server::wire::{
    CopyFileRangeIn, CreateIn, EntryOut, FallocateIn, LseekIn, LseekOut, MknodIn, OpenOut,
    SetattrIn, WriteOut, fattr, opcode,
};
use proptest::prelude::*;
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom, XattrFlags,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use zerocopy::{FromBytes, IntoBytes};

use crate::client::{Client, Fixture, Reply, bytes, c_string, is_root};

/// A place in the tree: the directory that the test starts with or one below it, and a name there.
#[derive(Debug, Clone, Copy)]
struct Place {
    directory: Option<&'static str>,
    name: &'static str,
}

#[derive(Debug, Clone)]
enum Step {
    Write { at: Place, flags: i32, mode: u32, offset: u16, data: Vec<u8> },
    Read { at: Place },
    Truncate { at: Place, size: u16 },
    Punch { at: Place, offset: u16, length: u16 },
    Mkdir { at: Place, mode: u32 },
    Symlink { at: Place },
    Fifo { at: Place, mode: u32 },
    Link { from: Place, to: Place },
    Rename { from: Place, to: Place, flags: u32 },
    Unlink { at: Place },
    Rmdir { at: Place },
    Chmod { at: Place, mode: u32 },
    Times { at: Place, seconds: i32 },
    SetXattr { at: Place, flags: u32, value: u8 },
    RemoveXattr { at: Place },
    Allocate { at: Place, mode: u32, offset: u16, length: u16 },
    Seek { at: Place, offset: u16, whence: u32 },
    Copy { from: Place, to: Place, offset: u16, target: u16, length: u16 },
    Owner { at: Place, uid: Option<u32>, gid: Option<u32> },
    Unnamed { to: Place, mode: u32 },
    List { at: Place },
    Forget,
}

fn place() -> impl Strategy<Value = Place> {
    let name = || prop::sample::select(&["a", "b", "c"][..]);
    (prop::option::of(name()), name()).prop_map(|(directory, name)| Place { directory, name })
}

/// An owner to give a file to: only root has a choice.
fn owner() -> impl Strategy<Value = Option<u32>> {
    let owners: &[Option<u32>] =
        if is_root() { &[None, Some(0), Some(7), Some(1000), Some(65_534)] } else { &[None] };
    prop::sample::select(owners)
}

fn step() -> impl Strategy<Value = Step> {
    // The guest's root keeps set-id bits where it writes; beside it only the host's root does.
    let modes: &[u32] = &[0o644, 0o600, 0o755, 0o444, 0o1777, 0o2755, 0o4711];
    let modes = if is_root() { modes } else { &modes[..5] };
    let mode = || prop::sample::select(modes);
    let flags = prop::sample::select(
        &[0, libc::O_EXCL, libc::O_TRUNC, libc::O_APPEND, libc::O_EXCL | libc::O_TRUNC][..],
    );
    let data = prop::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        4 => (place(), flags, mode(), 0u16..5000, data).prop_map(
            |(at, flags, mode, offset, data)| Step::Write { at, flags, mode, offset, data }
        ),
        2 => place().prop_map(|at| Step::Read { at }),
        2 => (place(), 0u16..6000).prop_map(|(at, size)| Step::Truncate { at, size }),
        1 => (place(), 0u16..5000, 0u16..5000)
            .prop_map(|(at, offset, length)| Step::Punch { at, offset, length }),
        4 => (place(), mode()).prop_map(|(at, mode)| Step::Mkdir { at, mode }),
        1 => place().prop_map(|at| Step::Symlink { at }),
        1 => (place(), mode()).prop_map(|(at, mode)| Step::Fifo { at, mode }),
        2 => (place(), place()).prop_map(|(from, to)| Step::Link { from, to }),
        4 => (place(), place(), 0u32..4)
            .prop_map(|(from, to, flags)| Step::Rename { from, to, flags }),
        2 => place().prop_map(|at| Step::Unlink { at }),
        1 => place().prop_map(|at| Step::Rmdir { at }),
        2 => (place(), mode()).prop_map(|(at, mode)| Step::Chmod { at, mode }),
        1 => (place(), any::<i32>()).prop_map(|(at, seconds)| Step::Times { at, seconds }),
        2 => (place(), 0u32..3, any::<u8>())
            .prop_map(|(at, flags, value)| Step::SetXattr { at, flags, value }),
        1 => place().prop_map(|at| Step::RemoveXattr { at }),
        // Plain, KEEP_SIZE, PUNCH_HOLE without and with it, ZERO_RANGE without and with it.
        2 => (place(), prop::sample::select(&[0u32, 1, 2, 3, 16, 17][..]), 0u16..9000, 0u16..9000)
            .prop_map(|(at, mode, offset, length)| Step::Allocate { at, mode, offset, length }),
        // SEEK_DATA, SEEK_HOLE.
        1 => (place(), 0u16..9000, 3u32..5)
            .prop_map(|(at, offset, whence)| Step::Seek { at, offset, whence }),
        1 => (place(), place(), 0u16..5000, 0u16..5000, 0u16..5000).prop_map(
            |(from, to, offset, target, length)| Step::Copy { from, to, offset, target, length }
        ),
        1 => (place(), owner(), owner()).prop_map(|(at, uid, gid)| Step::Owner { at, uid, gid }),
        1 => (place(), mode()).prop_map(|(to, mode)| Step::Unnamed { to, mode }),
        2 => place().prop_map(|at| Step::List { at }),
        1 => Just(Step::Forget),
    ]
}

/// What a step gives apart from its error: bytes read or names listed.
type Outcome = Result<Vec<u8>, Errno>;

/// The guest: as a kernel without caches would use the server.
struct Guest {
    fixture: Fixture,
}

impl Guest {
    fn client(&mut self) -> &mut Client {
        &mut self.fixture.client
    }

    fn parent(&mut self, at: Place) -> Reply<u64> {
        let root = self.fixture.root;
        match at.directory {
            Some(name) => Ok(self.client().lookup(root, name)?.nodeid),
            None => Ok(root),
        }
    }

    fn node(&mut self, at: Place) -> Reply<EntryOut> {
        let parent = self.parent(at)?;
        self.client().lookup(parent, at.name)
    }

    fn run(&mut self, step: &Step) -> Outcome {
        let none = |()| Vec::new();
        match step {
            Step::Write { at, flags, mode, offset, data } => {
                self.write(*at, *flags, *mode, (*offset).into(), data)
            }
            Step::Read { at } => {
                let entry = self.node(*at)?;
                let node = entry.nodeid;
                openable(&entry)?;
                let fh = self.client().open(node, libc::O_RDONLY)?.fh;
                let data = self.client().read(node, fh, 0, 20_000)?;
                self.client().release(node, fh);
                Ok(data)
            }
            Step::Truncate { at, size } => {
                let entry = self.node(*at)?;
                openable(&entry)?;
                let size = u64::from(*size);
                self.setattr(entry.nodeid, SetattrIn { size, ..with(fattr::SIZE) })
            }
            Step::Punch { at, offset, length } => {
                self.allocate(*at, 3, (*offset).into(), (*length).into())
            }
            Step::Mkdir { at, mode } => {
                let parent = self.parent(*at)?;
                self.client().mkdir(parent, at.name, *mode).map(|_| Vec::new())
            }
            Step::Symlink { at } => {
                let args = [c_string(at.name), c_string("a/../b")];
                let parent = self.parent(*at)?;
                self.entry(opcode::SYMLINK, parent, &[&args[0], &args[1]])
            }
            Step::Fifo { at, mode } => {
                let args = MknodIn { mode: 0o010_000 | *mode, ..MknodIn::default() };
                let parent = self.parent(*at)?;
                self.entry(opcode::MKNOD, parent, &[bytes(&args), &c_string(at.name)])
            }
            Step::Link { from, to } => {
                let old = self.node(*from)?.nodeid;
                let parent = self.parent(*to)?;
                self.entry(opcode::LINK, parent, &[old.as_bytes(), &c_string(to.name)])
            }
            Step::Rename { from, to, flags } => {
                let (old, new) = (self.parent(*from)?, self.parent(*to)?);
                let args = [new, u64::from(*flags)];
                let names = [c_string(from.name), c_string(to.name)];
                let args = [args.as_bytes(), &names[0], &names[1]];
                self.client().done(opcode::RENAME2, old, &args).map(none)
            }
            Step::Unlink { at } => self.remove(opcode::UNLINK, *at),
            Step::Rmdir { at } => self.remove(opcode::RMDIR, *at),
            Step::Chmod { at, mode } => {
                let node = self.node(*at)?.nodeid;
                self.setattr(node, SetattrIn { mode: *mode, ..with(fattr::MODE) })
            }
            Step::Times { at, seconds } => {
                let node = self.node(*at)?.nodeid;
                let mtime = i64::from(*seconds).cast_unsigned();
                self.setattr(node, SetattrIn { mtime, mtimensec: 5, ..with(fattr::MTIME) })
            }
            Step::SetXattr { at, flags, value } => {
                let node = self.node(*at)?.nodeid;
                self.client().setxattr(node, "user.test", &[*value; 3], *flags).map(none)
            }
            Step::RemoveXattr { at } => {
                let node = self.node(*at)?.nodeid;
                self.client().done(opcode::REMOVEXATTR, node, &[b"user.test\0"]).map(none)
            }
            Step::List { at } => {
                let node = self.node(*at)?.nodeid;
                let list = self.client().list(node, 1000, node % 2 == 0)?;
                let mut names: Vec<_> = list.into_iter().map(|entry| entry.name).collect();
                names.sort();
                Ok(names.concat().into_bytes())
            }
            step => self.run_on_open_file(step),
        }
    }

    /// Steps that need a handle, ownership, and a new session.
    fn run_on_open_file(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Forget => {
                self.client().init(u64::MAX)?;
                self.fixture.root = self.client().lookup(1, "s")?.nodeid;
                Ok(Vec::new())
            }
            Step::Allocate { at, mode, offset, length } => {
                let (offset, length) = ((*offset).into(), (*length).into());
                self.allocate(*at, *mode, offset, length)
            }
            Step::Seek { at, offset, whence } => {
                let (node, fh) = self.open(*at, libc::O_RDONLY)?;
                let args = LseekIn { fh, offset: (*offset).into(), whence: *whence, padding: 0 };
                let found = self.client().get::<LseekOut>(opcode::LSEEK, node, &[bytes(&args)]);
                self.client().release(node, fh);
                found.map(|out| out.offset.to_le_bytes().to_vec())
            }
            Step::Copy { from, to, offset, target, length } => {
                let (node, fh_in) = self.open(*from, libc::O_RDONLY)?;
                let (nodeid_out, fh_out) = match self.open(*to, libc::O_WRONLY) {
                    Ok(open) => open,
                    Err(errno) => {
                        self.client().release(node, fh_in);
                        return Err(errno);
                    }
                };
                let (off_in, off_out, len) = ((*offset).into(), (*target).into(), (*length).into());
                let args =
                    CopyFileRangeIn { fh_in, off_in, nodeid_out, fh_out, off_out, len, flags: 0 };
                let opcode = opcode::COPY_FILE_RANGE;
                let copied = self.client().get::<WriteOut>(opcode, node, &[bytes(&args)]);
                self.client().release(node, fh_in);
                self.client().release(nodeid_out, fh_out);
                copied.map(|out| out.size.to_le_bytes().to_vec())
            }
            Step::Owner { at, uid, gid } => {
                let node = self.node(*at)?.nodeid;
                let valid = uid.map_or(0, |_| fattr::UID) | gid.map_or(0, |_| fattr::GID);
                let (uid, gid) = (uid.unwrap_or(0), gid.unwrap_or(0));
                self.setattr(node, SetattrIn { uid, gid, ..with(valid) })
            }
            Step::Unnamed { to, mode } => {
                let (root, parent) = (self.fixture.root, self.parent(*to)?);
                let args = CreateIn { flags: 2, mode: *mode, ..CreateIn::default() };
                let body =
                    self.client().call(opcode::TMPFILE, root, &[bytes(&args), b"/\0"], 500)?;
                let (entry, open) = EntryOut::read_from_prefix(&body).unwrap();
                let open = OpenOut::read_from_bytes(open).unwrap();
                self.client().write(entry.nodeid, open.fh, 0, b"unnamed")?;
                self.client().release(entry.nodeid, open.fh);
                let args = [entry.nodeid.as_bytes(), &c_string(to.name)];
                self.entry(opcode::LINK, parent, &args)
            }
            _ => Ok(Vec::new()),
        }
    }

    fn open(&mut self, at: Place, flags: i32) -> Reply<(u64, u64)> {
        let entry = self.node(at)?;
        openable(&entry)?;
        let fh = self.client().open(entry.nodeid, flags)?.fh;
        Ok((entry.nodeid, fh))
    }

    fn write(&mut self, at: Place, flags: i32, mode: u32, offset: u64, data: &[u8]) -> Outcome {
        let parent = self.parent(at)?;
        let flags = flags | libc::O_CREAT | libc::O_WRONLY;
        let (node, fh) = match self.client().lookup(parent, at.name) {
            Err(Errno::NOENT) => {
                let (entry, open) = self.client().create(parent, at.name, flags, mode)?;
                (entry.nodeid, open.fh)
            }
            Err(errno) => return Err(errno),
            Ok(_) if flags & libc::O_EXCL != 0 => return Err(Errno::EXIST),
            Ok(entry) => {
                openable(&entry)?;
                (entry.nodeid, self.client().open(entry.nodeid, flags)?.fh)
            }
        };
        let append = flags & libc::O_APPEND;
        let written = self.client().write_with((node, fh), offset, data, append, 0)?;
        self.client().release(node, fh);
        Ok(written.to_le_bytes().to_vec())
    }

    fn allocate(&mut self, at: Place, mode: u32, offset: u64, length: u64) -> Outcome {
        let (node, fh) = self.open(at, libc::O_RDWR)?;
        let args = FallocateIn { fh, offset, length, mode, padding: 0 };
        let done = self.client().done(opcode::FALLOCATE, node, &[bytes(&args)]);
        self.client().release(node, fh);
        done.map(|()| Vec::new())
    }

    fn entry(&mut self, opcode: u32, parent: u64, args: &[&[u8]]) -> Outcome {
        self.client().get::<EntryOut>(opcode, parent, args).map(|_| Vec::new())
    }

    fn remove(&mut self, opcode: u32, at: Place) -> Outcome {
        let parent = self.parent(at)?;
        self.client().done(opcode, parent, &[&c_string(at.name)]).map(|()| Vec::new())
    }

    fn setattr(&mut self, node: u64, args: SetattrIn) -> Outcome {
        self.client().setattr(node, &args).map(|_| Vec::new())
    }
}

fn with(valid: u32) -> SetattrIn {
    SetattrIn { valid, ..SetattrIn::default() }
}

/// The guest's kernel opens only regular files through the server.
fn openable(entry: &EntryOut) -> Result<(), Errno> {
    check_kind(FileType::from_raw_mode(entry.attr.mode))
}

fn check_kind(kind: FileType) -> Result<(), Errno> {
    match kind {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::LOOP),
    }
}

/// The same steps as system calls.
struct Native {
    root: OwnedFd,
}

impl Native {
    fn parent(&self, at: Place) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = at.directory.unwrap_or(".");
        rustix::fs::openat(&self.root, name, flags, Mode::empty())
    }

    fn kind(&self, at: Place) -> Result<FileType, Errno> {
        let parent = self.parent(at)?;
        let stat = rustix::fs::statat(&parent, at.name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(stat.st_mode))
    }

    fn open(&self, at: Place, flags: OFlags) -> Result<File, Errno> {
        check_kind(self.kind(at)?)?;
        let flags = flags | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(self.parent(at)?, at.name, flags, Mode::empty())?.into())
    }

    /// A path that names the same file for calls that take paths only.
    fn path(&self, at: Place) -> Result<String, Errno> {
        self.kind(at)?;
        let root = self.root.as_raw_fd();
        let directory = at.directory.unwrap_or(".");
        Ok(format!("/proc/self/fd/{root}/{directory}/{}", at.name))
    }

    fn run(&self, step: &Step) -> Outcome {
        let none = |()| Vec::new();
        let parent = |at: Place| self.parent(at);
        match step {
            Step::Write { at, flags, mode, offset, data } => {
                self.write(*at, *flags, *mode, (*offset).into(), data)
            }
            Step::Read { at } => {
                let file = self.open(*at, OFlags::RDONLY)?;
                let mut data = vec![0; 20_000];
                let len = file.read_at(&mut data, 0).unwrap();
                data.truncate(len);
                Ok(data)
            }
            Step::Truncate { at, size } => {
                let file = self.open(*at, OFlags::WRONLY)?;
                rustix::fs::ftruncate(&file, u64::from(*size)).map(none)
            }
            Step::Punch { at, offset, length } => {
                let file = self.open(*at, OFlags::RDWR)?;
                let mode = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE;
                let (offset, length) = (u64::from(*offset), u64::from(*length));
                rustix::fs::fallocate(&file, mode, offset, length).map(none)
            }
            Step::Mkdir { at, mode } => {
                let parent = parent(*at)?;
                rustix::fs::mkdirat(&parent, at.name, Mode::from_raw_mode(*mode))?;
                self.fix_mode(&parent, at.name, *mode & 0o1777)
            }
            Step::Symlink { at } => {
                rustix::fs::symlinkat("a/../b", parent(*at)?, at.name).map(none)
            }
            Step::Fifo { at, mode } => {
                let parent = parent(*at)?;
                let perm = Mode::from_raw_mode(*mode);
                rustix::fs::mknodat(&parent, at.name, FileType::Fifo, perm, 0)?;
                self.fix_mode(&parent, at.name, *mode)
            }
            Step::Link { from, to } => {
                self.kind(*from)?;
                let (old, new) = (parent(*from)?, parent(*to)?);
                rustix::fs::linkat(old, from.name, new, to.name, AtFlags::empty()).map(none)
            }
            Step::Rename { from, to, flags } => {
                let flags = RenameFlags::from_bits_retain(*flags);
                let (old, new) = (parent(*from)?, parent(*to)?);
                rustix::fs::renameat_with(old, from.name, new, to.name, flags).map(none)
            }
            Step::Unlink { at } => {
                rustix::fs::unlinkat(parent(*at)?, at.name, AtFlags::empty()).map(none)
            }
            Step::Rmdir { at } => {
                rustix::fs::unlinkat(parent(*at)?, at.name, AtFlags::REMOVEDIR).map(none)
            }
            step => self.change(step),
        }
    }

    /// Steps about attributes, and listings.
    fn change(&self, step: &Step) -> Outcome {
        let none = |()| Vec::new();
        let parent = |at: Place| self.parent(at);
        match step {
            Step::Chmod { at, mode } => {
                if self.kind(*at)? == FileType::Symlink {
                    return Err(Errno::OPNOTSUPP);
                }
                let mode = Mode::from_raw_mode(*mode);
                rustix::fs::chmodat(parent(*at)?, at.name, mode, AtFlags::empty()).map(none)
            }
            Step::Times { at, seconds } => {
                let time = |tv_sec, tv_nsec| rustix::fs::Timespec { tv_sec, tv_nsec };
                let times = rustix::fs::Timestamps {
                    last_access: time(0, rustix::fs::UTIME_OMIT),
                    last_modification: time((*seconds).into(), 5),
                };
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(parent(*at)?, at.name, &times, flags).map(none)
            }
            Step::SetXattr { at, flags, value } => {
                let flags = XattrFlags::from_bits_retain(*flags);
                let path = self.path(*at)?;
                rustix::fs::lsetxattr(path, "user.test", &[*value; 3], flags).map(none)
            }
            Step::RemoveXattr { at } => {
                rustix::fs::lremovexattr(self.path(*at)?, "user.test").map(none)
            }
            Step::List { at } => {
                if self.kind(*at)? != FileType::Directory {
                    return Err(Errno::NOTDIR);
                }
                let mut names: Vec<_> = [".".to_owned(), "..".to_owned()].into();
                for entry in std::fs::read_dir(self.path(*at)?).unwrap() {
                    names.push(entry.unwrap().file_name().into_string().unwrap());
                }
                names.sort();
                Ok(names.concat().into_bytes())
            }
            step => self.change_open_file(step),
        }
    }

    /// Steps that need an open file, and ownership.
    fn change_open_file(&self, step: &Step) -> Outcome {
        match step {
            Step::Allocate { at, mode, offset, length } => {
                let file = self.open(*at, OFlags::RDWR)?;
                let mode = FallocateFlags::from_bits_retain(*mode);
                let (offset, length) = (u64::from(*offset), u64::from(*length));
                rustix::fs::fallocate(&file, mode, offset, length).map(|()| Vec::new())
            }
            Step::Seek { at, offset, whence } => {
                let file = self.open(*at, OFlags::RDONLY)?;
                let offset = u64::from(*offset);
                let from =
                    if *whence == 3 { SeekFrom::Data(offset) } else { SeekFrom::Hole(offset) };
                Ok(rustix::fs::seek(&file, from)?.to_le_bytes().to_vec())
            }
            Step::Copy { from, to, offset, target, length } => {
                let from = self.open(*from, OFlags::RDONLY)?;
                let to = self.open(*to, OFlags::WRONLY)?;
                let (mut offset, mut target) = ((*offset).into(), (*target).into());
                let length = (*length).into();
                let copied = rustix::fs::copy_file_range(
                    &from,
                    Some(&mut offset),
                    &to,
                    Some(&mut target),
                    length,
                )?;
                Ok(u32::try_from(copied).unwrap().to_le_bytes().to_vec())
            }
            Step::Owner { at, uid, gid } => {
                self.kind(*at)?;
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(self.parent(*at)?, at.name, uid, gid, flags)
                    .map(|()| Vec::new())
            }
            Step::Unnamed { to, mode } => {
                let parent = self.parent(*to)?;
                let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&self.root, ".", flags, Mode::empty())?;
                // After all that the umask of this thread, which is the server's affair, may take.
                rustix::fs::fchmod(&file, Mode::from_raw_mode(*mode))?;
                let file = File::from(file);
                file.write_at(b"unnamed", 0).unwrap();
                // To write has cleared what an ordinary user may not keep.
                rustix::fs::fchmod(&file, Mode::from_raw_mode(*mode))?;
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                let flags = AtFlags::SYMLINK_FOLLOW;
                rustix::fs::linkat(rustix::fs::CWD, path, parent, to.name, flags)
                    .map(|()| Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }

    fn write(&self, at: Place, flags: i32, mode: u32, offset: u64, data: &[u8]) -> Outcome {
        let flags = OFlags::from_bits_retain(flags.cast_unsigned()) | OFlags::WRONLY;
        let parent = self.parent(at)?;
        let file = match self.kind(at) {
            Err(Errno::NOENT) => {
                let flags = flags | OFlags::CREATE | OFlags::CLOEXEC;
                let perm = Mode::from_raw_mode(mode);
                let file = rustix::fs::openat(&parent, at.name, flags, perm)?;
                self.fix_mode(&parent, at.name, mode)?;
                File::from(file)
            }
            Err(errno) => return Err(errno),
            Ok(_) if flags.contains(OFlags::EXCL) => return Err(Errno::EXIST),
            Ok(_) => self.open(at, flags)?,
        };
        let written = file.write_at(data, offset).unwrap();
        Ok(u32::try_from(written).unwrap().to_le_bytes().to_vec())
    }

    /// The umask of this thread is the server's affair; what a directory hands down stays.
    fn fix_mode(&self, parent: &OwnedFd, name: &str, mode: u32) -> Outcome {
        let stat = rustix::fs::statat(parent.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(mode | (stat.st_mode & 0o2000));
        rustix::fs::chmodat(parent.as_fd(), name, mode, AtFlags::empty()).map(|()| Vec::new())
    }
}

/// Everything of a tree that does not depend on when and where it was made.
fn snapshot(root: &Path, prefix: &str, out: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        let meta = entry.path().symlink_metadata().unwrap();
        let name = format!("{prefix}/{}", entry.file_name().to_str().unwrap());
        let mut text = format!(
            "{:o} {} {} {}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            if meta.is_dir() { 0 } else { meta.nlink() },
        );
        if meta.mtime_nsec() == 5 {
            text += &format!(" time {}", meta.mtime());
        }
        let mut value = [0; 100];
        if let Ok(len) = rustix::fs::lgetxattr(entry.path(), "user.test", &mut value[..]) {
            text += &format!(" xattr {:?}", &value[..len]);
        }
        if meta.is_file() {
            text += &format!(" {:?}", std::fs::read(entry.path()).ok());
        } else if meta.is_symlink() {
            text += &format!(" {:?}", std::fs::read_link(entry.path()).unwrap());
        } else if meta.is_dir() {
            // Its mode has been noted; not only root is to see what is in it.
            let all = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(entry.path(), all).unwrap();
            snapshot(&entry.path(), &name, out);
        } else {
            assert!(meta.file_type().is_fifo());
        }
        out.insert(name, text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn behaves_as_the_directory_itself(steps in prop::collection::vec(step(), 1..60)) {
        let fixture = Fixture::new();
        let path = fixture.outside().join("native");
        std::fs::create_dir(&path).unwrap();
        let native = Native { root: File::open(&path).unwrap().into() };
        let mut guest = Guest { fixture };
        for (index, step) in steps.iter().enumerate() {
            let (through, direct) = (guest.run(step), native.run(step));
            prop_assert_eq!(through, direct, "step {} of {:#?}", index, &steps[..=index]);
        }
        let (mut through, mut direct) = (BTreeMap::new(), BTreeMap::new());
        snapshot(&guest.fixture.path, "", &mut through);
        snapshot(&path, "", &mut direct);
        prop_assert_eq!(through, direct, "after {:#?}", steps);
        guest.client().done(opcode::DESTROY, 0, &[]).unwrap();
        let usage = guest.fixture.client.server.usage();
        prop_assert_eq!((usage.inodes, usage.handles), (0, 0));
    }
}
