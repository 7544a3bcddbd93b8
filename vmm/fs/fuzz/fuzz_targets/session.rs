//! Whole sessions of well-formed operations in any order, on nodes and handles that the guest got,
//! gave back, or made up.
#![no_main]

use arbitrary::Arbitrary;
use file_server::wire::{
    CopyFileRangeIn, CreateIn, EntryOut, FallocateIn, FileLock, LkIn, LseekIn, MkdirIn, MknodIn,
    OpenIn, OpenOut, ReadIn, Rename2In, SetattrIn, WriteIn, opcode,
};
use file_server_fuzz::{Guest, on_own_thread};
use libfuzzer_sys::fuzz_target;
use zerocopy::{FromBytes, IntoBytes};

#[derive(Arbitrary, Debug)]
enum Op {
    Lookup { dir: u8, name: Name },
    Forget { node: u8, count: u8 },
    Getattr { node: u8 },
    Setattr { node: u8, valid: u16, fh: u8, size: u16, mode: u16, owner: u8 },
    Readlink { node: u8 },
    Symlink { dir: u8, name: Name, target: Name },
    Mknod { dir: u8, name: Name, mode: u16, rdev: u8, umask: u16 },
    Mkdir { dir: u8, name: Name, mode: u16, umask: u16 },
    Remove { dir: u8, name: Name, directory: bool },
    Rename { dir: u8, name: Name, to: u8, new: Name, flags: u8 },
    Link { node: u8, dir: u8, name: Name },
    Open { node: u8, flags: u16, kill: bool },
    Create { dir: u8, name: Name, flags: u16, mode: u16, umask: u16 },
    Tmpfile { dir: u8, flags: u16, mode: u16 },
    Read { fh: u8, offset: u32, size: u16 },
    Write { fh: u8, offset: u32, data: Vec<u8>, flags: u16, write_flags: u8 },
    Fallocate { fh: u8, mode: u8, offset: u16, length: u16 },
    Lseek { fh: u8, offset: u32, whence: u8 },
    Copy { from: u8, to: u8, offset: u16, len: u16 },
    Opendir { node: u8 },
    Readdir { node: u8, fh: u8, offset: u8, size: u16, plus: bool },
    Release { fh: u8, directory: bool },
    Xattr { node: u8, op: u8, attribute: u8, value: Vec<u8>, flags: u8 },
    Sync { node: u8, fh: u8, op: u8 },
    Lock { node: u8, fh: u8, owner: u8, kind: u8, start: u8, len: u16, op: u8, flock: bool },
    Interrupt,
}

#[derive(Arbitrary, Debug)]
enum Name {
    Known(u8),
    Any(Vec<u8>),
}

impl Name {
    fn bytes(&self) -> Vec<u8> {
        const NAMES: [&str; 10] =
            ["s", "d", "e", "f", "up", "magic", "root", "..", "d/../..", "new"];
        match self {
            Self::Known(index) => {
                let index = usize::from(*index) % NAMES.len();
                [NAMES[index].as_bytes(), b"\0"].concat()
            }
            Self::Any(bytes) => [bytes.as_slice(), b"\0"].concat(),
        }
    }
}

/// What the guest has been given.
struct Held {
    guest: Guest,
    nodes: Vec<u64>,
    handles: Vec<u64>,
}

impl Held {
    fn node(&self, index: u8) -> u64 {
        self.nodes.get(usize::from(index) % (self.nodes.len() + 1)).copied().unwrap_or(99_999)
    }

    fn handle(&self, index: u8) -> u64 {
        self.handles.get(usize::from(index) % (self.handles.len() + 1)).copied().unwrap_or(99_999)
    }

    /// Asks for something whose reply may start with an entry, and may end with a handle.
    fn ask(&mut self, opcode: u32, node: u64, args: &[&[u8]]) {
        let (error, body) = self.guest.ask(opcode, node, &args.concat(), 5000);
        if error != 0 {
            return;
        }
        let entry = matches!(
            opcode,
            opcode::LOOKUP | opcode::SYMLINK | opcode::MKNOD | opcode::MKDIR | opcode::LINK
        );
        let created = matches!(opcode, opcode::CREATE | opcode::TMPFILE);
        let opened = matches!(opcode, opcode::OPEN | opcode::OPENDIR);
        if (entry || created)
            && let Ok((entry, _)) = EntryOut::read_from_prefix(&body)
            && self.nodes.len() < 60
        {
            self.nodes.push(entry.nodeid);
        }
        if (created || opened)
            && let Ok((_, open)) = OpenOut::read_from_suffix(&body)
        {
            self.handles.push(open.fh);
        }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Lookup { dir, name } => {
                self.ask(opcode::LOOKUP, self.node(dir), &[&name.bytes()]);
            }
            Op::Forget { node, count } => {
                self.ask(opcode::FORGET, self.node(node), &[&u64::from(count % 4).to_le_bytes()]);
            }
            Op::Getattr { node } => {
                let op = if node % 2 == 0 { opcode::GETATTR } else { opcode::STATX };
                self.ask(op, self.node(node), &[&[0; 24]]);
            }
            Op::Setattr { node, valid, fh, size, mode, owner } => {
                let args = SetattrIn {
                    valid: valid.into(),
                    fh: self.handle(fh),
                    size: size.into(),
                    mode: mode.into(),
                    uid: owner.into(),
                    gid: owner.into(),
                    ..SetattrIn::default()
                };
                self.ask(opcode::SETATTR, self.node(node), &[args.as_bytes()]);
            }
            Op::Readlink { node } => self.ask(opcode::READLINK, self.node(node), &[]),
            Op::Symlink { dir, name, target } => {
                let args = [name.bytes(), target.bytes()];
                self.ask(opcode::SYMLINK, self.node(dir), &[&args[0], &args[1]]);
            }
            Op::Mknod { dir, name, mode, rdev, umask } => {
                let (mode, rdev, umask) = (mode.into(), rdev.into(), umask.into());
                let args = MknodIn { mode, rdev, umask, padding: 0 };
                self.ask(opcode::MKNOD, self.node(dir), &[args.as_bytes(), &name.bytes()]);
            }
            Op::Mkdir { dir, name, mode, umask } => {
                let args = MkdirIn { mode: mode.into(), umask: umask.into() };
                self.ask(opcode::MKDIR, self.node(dir), &[args.as_bytes(), &name.bytes()]);
            }
            Op::Remove { dir, name, directory } => {
                let op = if directory { opcode::RMDIR } else { opcode::UNLINK };
                self.ask(op, self.node(dir), &[&name.bytes()]);
            }
            Op::Rename { dir, name, to, new, flags } => {
                let args = Rename2In { newdir: self.node(to), flags: flags.into(), padding: 0 };
                let args = [args.as_bytes(), &name.bytes(), &new.bytes()];
                self.ask(opcode::RENAME2, self.node(dir), &args);
            }
            Op::Link { node, dir, name } => {
                let old = self.node(node).to_le_bytes();
                self.ask(opcode::LINK, self.node(dir), &[&old, &name.bytes()]);
            }
            op => self.run_on_open(op),
        }
    }

    fn run_on_open(&mut self, op: Op) {
        match op {
            Op::Open { node, flags, kill } => {
                let args = OpenIn { flags: flags.into(), open_flags: kill.into() };
                self.ask(opcode::OPEN, self.node(node), &[args.as_bytes()]);
            }
            Op::Create { dir, name, flags, mode, umask } => {
                let (flags, mode, umask) = (flags.into(), mode.into(), umask.into());
                let args = CreateIn { flags, mode, umask, open_flags: 0 };
                self.ask(opcode::CREATE, self.node(dir), &[args.as_bytes(), &name.bytes()]);
            }
            Op::Tmpfile { dir, flags, mode } => {
                let (flags, mode) = (flags.into(), mode.into());
                let args = CreateIn { flags, mode, ..CreateIn::default() };
                self.ask(opcode::TMPFILE, self.node(dir), &[args.as_bytes(), b"/\0"]);
            }
            Op::Read { fh, offset, size } => {
                let (fh, offset, size) = (self.handle(fh), offset.into(), size.into());
                let args = ReadIn { fh, offset, size, ..ReadIn::default() };
                self.ask(opcode::READ, 0, &[args.as_bytes()]);
            }
            Op::Write { fh, offset, data, flags, write_flags } => {
                let size = u32::try_from(data.len()).unwrap_or_default();
                let args = WriteIn {
                    fh: self.handle(fh),
                    offset: offset.into(),
                    size,
                    write_flags: write_flags.into(),
                    flags: flags.into(),
                    ..WriteIn::default()
                };
                self.ask(opcode::WRITE, 0, &[args.as_bytes(), &data]);
            }
            Op::Fallocate { fh, mode, offset, length } => {
                let (offset, length) = (offset.into(), length.into());
                let (fh, mode) = (self.handle(fh), mode.into());
                let args = FallocateIn { fh, offset, length, mode, padding: 0 };
                self.ask(opcode::FALLOCATE, 0, &[args.as_bytes()]);
            }
            Op::Lseek { fh, offset, whence } => {
                let (fh, offset, whence) = (self.handle(fh), offset.into(), whence.into());
                let args = LseekIn { fh, offset, whence, padding: 0 };
                self.ask(opcode::LSEEK, 0, &[args.as_bytes()]);
            }
            Op::Copy { from, to, offset, len } => {
                let (fh_in, fh_out) = (self.handle(from), self.handle(to));
                let (off_in, len) = (offset.into(), len.into());
                let args =
                    CopyFileRangeIn { fh_in, off_in, fh_out, len, ..CopyFileRangeIn::default() };
                self.ask(opcode::COPY_FILE_RANGE, 0, &[args.as_bytes()]);
            }
            Op::Opendir { node } => {
                self.ask(opcode::OPENDIR, self.node(node), &[&[0; 8]]);
            }
            Op::Readdir { node, fh, offset, size, plus } => {
                let (fh, offset, size) = (self.handle(fh), offset.into(), size.into());
                let args = ReadIn { fh, offset, size, ..ReadIn::default() };
                let op = if plus { opcode::READDIRPLUS } else { opcode::READDIR };
                self.ask(op, self.node(node), &[args.as_bytes()]);
            }
            Op::Release { fh, directory } => {
                let op = if directory { opcode::RELEASEDIR } else { opcode::RELEASE };
                self.ask(op, 2, &[&self.handle(fh).to_le_bytes(), &[0; 16]]);
            }
            Op::Xattr { node, op, attribute, value, flags } => {
                self.xattr(node, op, attribute, &value, flags);
            }
            Op::Sync { node, fh, op } => {
                let ops = [opcode::FSYNC, opcode::FSYNCDIR, opcode::FLUSH, opcode::STATFS];
                let op = ops[usize::from(op) % ops.len()];
                self.ask(op, self.node(node), &[&self.handle(fh).to_le_bytes(), &[0; 16]]);
            }
            Op::Lock { node, fh, owner, kind, start, len, op, flock } => {
                let (start, end) = (u64::from(start), u64::from(start) + u64::from(len));
                let lk = FileLock { start, end, kind: u32::from(kind % 4), pid: 1 };
                let (fh, owner, lk_flags) = (self.handle(fh), owner.into(), flock.into());
                let args = LkIn { fh, owner, lk, lk_flags, padding: 0 };
                let op = [opcode::SETLK, opcode::SETLKW, opcode::GETLK][usize::from(op % 3)];
                self.ask(op, self.node(node), &[args.as_bytes()]);
            }
            _ => self.ask(opcode::INTERRUPT, 0, &[&[0; 8]]),
        }
    }

    fn xattr(&mut self, node: u8, op: u8, attribute: u8, value: &[u8], flags: u8) {
        const ATTRIBUTES: [&[u8]; 6] = [
            b"user.a\0",
            b"user.b\0",
            b"trusted.overlay.opaque\0",
            b"security.capability\0",
            b"system.posix_acl_access\0",
            b"system.posix_acl_default\0",
        ];
        let name = ATTRIBUTES[usize::from(attribute) % ATTRIBUTES.len()];
        let size = u32::try_from(value.len()).unwrap_or_default();
        let node = self.node(node);
        match op % 4 {
            0 => {
                let head = [size, flags.into(), u32::from(flags % 2), 0];
                self.ask(opcode::SETXATTR, node, &[head.as_bytes(), name, value]);
            }
            1 => self.ask(opcode::GETXATTR, node, &[[size, 0].as_bytes(), name]),
            2 => self.ask(opcode::LISTXATTR, node, &[[size, 0].as_bytes()]),
            _ => self.ask(opcode::REMOVEXATTR, node, &[name]),
        }
    }
}

fuzz_target!(|ops: Vec<Op>| on_own_thread(|| run(ops)));

fn run(ops: Vec<Op>) {
    let mut held = Held { guest: Guest::new(), nodes: vec![1], handles: Vec::new() };
    held.ask(opcode::LOOKUP, 1, &[b"s\0"]);
    for op in ops.into_iter().take(60) {
        held.run(op);
    }
    held.guest.finish();
}
