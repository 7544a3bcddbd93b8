//! A FUSE client without a kernel: writes requests as bytes, reads replies as bytes.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use file_server::wire::{
    AttrOut, CreateIn, EntryOut, GetattrIn, InHeader, InitIn, InitInExt, InitOut, MkdirIn, OpenIn,
    OpenOut, OutHeader, ReadIn, ReleaseIn, SetattrIn, WriteIn, WriteOut, opcode,
};
use file_server::{
    CachePolicy, IdMap, IdRange, Limits, LockPolicy, Request, RequestError, Served, Server,
    ServerConfig, Share, ShareKind, Worker,
};
use rustix::io::Errno;
use tempfile::TempDir;
use vm_memory::VolatileSlice;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What an operation gave: its body, or the errno of the reply.
pub(crate) type Reply<T> = Result<T, Errno>;

/// True if the tests run as root, who alone can act as other users.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that a test needs root and does not run.
pub(crate) fn needs_root(test: &str) -> bool {
    if !is_root() {
        eprintln!("{test}: not run, since only root can act as other users");
    }
    is_root()
}

/// Opens a directory or file as a launcher does.
pub(crate) fn open_path(path: &Path) -> OwnedFd {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap()
}

/// A directory share with the usual settings.
pub(crate) fn share(name: &str, path: &Path) -> Share {
    Share {
        name: name.to_owned(),
        root: open_path(path),
        kind: ShareKind::Directory,
        read_only: false,
        cache: CachePolicy::Auto,
        whiteouts: false,
    }
}

/// A configuration in which the guest's root is who runs the tests.
pub(crate) fn config(shares: Vec<Share>) -> ServerConfig {
    let map = |id: u32| {
        if is_root() {
            return IdMap::identity();
        }
        IdMap::new(vec![IdRange { guest: 0, host: id, count: 1 }]).unwrap()
    };
    ServerConfig {
        proc_self_fd: open_path(Path::new("/proc/self/fd")),
        limits: Limits::default(),
        uid_map: map(rustix::process::geteuid().as_raw()),
        gid_map: map(rustix::process::getegid().as_raw()),
        locks: LockPolicy::Host,
        shares,
    }
}

/// One guest: a worker on this thread, and who its caller is.
pub(crate) struct Client {
    pub(crate) server: Arc<Server>,
    worker: Worker,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    unique: u64,
}

/// What [`Client::send`] gives for a request that waits; no reply is that short.
pub(crate) const WAITING: &[u8] = b"waiting";

/// Bytes of a reply with the largest body that is not file data.
const ROOM: usize = 70_000;

impl Client {
    /// A client of a server whose session has not begun.
    pub(crate) fn raw(server: &Arc<Server>) -> Self {
        let worker = Worker::new(server.clone()).unwrap();
        Self { server: server.clone(), worker, uid: 0, gid: 0, unique: 0 }
    }

    /// A client of a new server, after FUSE_INIT.
    pub(crate) fn new(config: ServerConfig) -> Self {
        let mut client = Self::raw(&Server::new(config).unwrap());
        client.init(u64::MAX).unwrap();
        client
    }

    /// Begins a session with `features` offered.
    pub(crate) fn init(&mut self, features: u64) -> Reply<InitOut> {
        let flags = u32::try_from(features & 0xffff_ffff).unwrap();
        let init = InitIn { major: 7, minor: 41, max_readahead: 131_072, flags };
        let flags2 = u32::try_from(features >> 32).unwrap();
        let extension = InitInExt { flags2, unused: [0; 11] };
        self.get(opcode::INIT, 0, &[init.as_bytes(), extension.as_bytes()])
    }

    /// Sends bytes as they are; what the worker wrote, or why it refused to answer.
    pub(crate) fn send(
        &mut self,
        request: &mut [u8],
        room: usize,
    ) -> Result<Vec<u8>, RequestError> {
        // Pieces of odd sizes, as a hostile or a thrifty driver may give them.
        let mut reply = vec![0xaa_u8; room];
        let (a, b) = request.split_at_mut(request.len().min(57));
        let (c, d) = reply.split_at_mut(room.min(21));
        let readable = [VolatileSlice::from(a), VolatileSlice::from(b)];
        let writable = [VolatileSlice::from(c), VolatileSlice::from(d)];
        let request = Request { readable: &readable, writable: &writable };
        let Served::Done(len) = self.worker.handle(&request)? else {
            // Nothing was written, and the test says what is to come of it.
            assert!(reply.iter().all(|byte| *byte == 0xaa));
            return Ok(WAITING.to_vec());
        };
        reply.truncate(len);
        Ok(reply)
    }

    /// The bytes of a request.
    pub(crate) fn request(&mut self, opcode: u32, nodeid: u64, args: &[&[u8]]) -> Vec<u8> {
        self.unique += 1;
        let args = args.concat();
        let header = InHeader {
            len: u32::try_from(size_of::<InHeader>() + args.len()).unwrap(),
            opcode,
            unique: self.unique,
            nodeid,
            uid: self.uid,
            gid: self.gid,
            pid: 1,
            ..InHeader::default()
        };
        [header.as_bytes(), &args].concat()
    }

    /// Sends a request and gives the reply's body.
    pub(crate) fn call(
        &mut self,
        opcode: u32,
        nodeid: u64,
        args: &[&[u8]],
        room: usize,
    ) -> Reply<Vec<u8>> {
        let mut request = self.request(opcode, nodeid, args);
        let reply = self.send(&mut request, room).unwrap();
        let (header, body) = OutHeader::read_from_prefix(&reply).unwrap();
        assert_eq!(header.unique, self.unique);
        assert_eq!(usize::try_from(header.len).unwrap(), reply.len());
        if header.error != 0 {
            assert!(body.is_empty() && header.error < 0);
            return Err(Errno::from_raw_os_error(-header.error));
        }
        Ok(body.to_vec())
    }

    /// A call whose body is one structure.
    pub(crate) fn get<T: FromBytes>(
        &mut self,
        opcode: u32,
        nodeid: u64,
        args: &[&[u8]],
    ) -> Reply<T> {
        let body = self.call(opcode, nodeid, args, ROOM)?;
        Ok(T::read_from_bytes(&body).map_err(|_| body.len()).expect("the body has the right size"))
    }

    /// A call without a body.
    pub(crate) fn done(&mut self, opcode: u32, nodeid: u64, args: &[&[u8]]) -> Reply<()> {
        let body = self.call(opcode, nodeid, args, ROOM)?;
        assert!(body.is_empty(), "{body:?}");
        Ok(())
    }

    /// A request that has no reply.
    pub(crate) fn post(&mut self, opcode: u32, nodeid: u64, args: &[&[u8]]) {
        let mut request = self.request(opcode, nodeid, args);
        assert_eq!(self.send(&mut request, 0), Ok(vec![]));
    }

    pub(crate) fn lookup(&mut self, parent: u64, name: &str) -> Reply<EntryOut> {
        self.get::<EntryOut>(opcode::LOOKUP, parent, &[&c_string(name)]).and_then(|entry| {
            // Node 0: a name that is known not to be there.
            if entry.nodeid == 0 { Err(Errno::NOENT) } else { Ok(entry) }
        })
    }

    /// Walks from a node along names.
    pub(crate) fn walk(&mut self, mut node: u64, path: &str) -> Reply<u64> {
        for name in path.split('/').filter(|name| !name.is_empty()) {
            node = self.lookup(node, name)?.nodeid;
        }
        Ok(node)
    }

    pub(crate) fn forget(&mut self, node: u64, count: u64) {
        self.post(opcode::FORGET, node, &[&count.to_le_bytes()]);
    }

    pub(crate) fn getattr(&mut self, node: u64) -> Reply<AttrOut> {
        self.get(opcode::GETATTR, node, &[GetattrIn::default().as_bytes()])
    }

    pub(crate) fn setattr(&mut self, node: u64, args: &SetattrIn) -> Reply<AttrOut> {
        self.get(opcode::SETATTR, node, &[args.as_bytes()])
    }

    pub(crate) fn mkdir(&mut self, parent: u64, name: &str, mode: u32) -> Reply<EntryOut> {
        let args = MkdirIn { mode, umask: 0 };
        self.get(opcode::MKDIR, parent, &[args.as_bytes(), &c_string(name)])
    }

    pub(crate) fn create(
        &mut self,
        parent: u64,
        name: &str,
        flags: i32,
        mode: u32,
    ) -> Reply<(EntryOut, OpenOut)> {
        self.create_with(parent, name, flags, mode, 0)
    }

    pub(crate) fn create_with(
        &mut self,
        parent: u64,
        name: &str,
        flags: i32,
        mode: u32,
        umask: u32,
    ) -> Reply<(EntryOut, OpenOut)> {
        let flags = flags.cast_unsigned();
        let args = CreateIn { flags, mode, umask, open_flags: 0 };
        let body = self.call(opcode::CREATE, parent, &[args.as_bytes(), &c_string(name)], ROOM)?;
        let (entry, rest) = EntryOut::read_from_prefix(&body).unwrap();
        Ok((entry, OpenOut::read_from_bytes(rest).unwrap()))
    }

    pub(crate) fn open(&mut self, node: u64, flags: i32) -> Reply<OpenOut> {
        let args = OpenIn { flags: flags.cast_unsigned(), open_flags: 0 };
        self.get(opcode::OPEN, node, &[args.as_bytes()])
    }

    pub(crate) fn release(&mut self, node: u64, fh: u64) {
        let args = ReleaseIn { fh, ..ReleaseIn::default() };
        self.done(opcode::RELEASE, node, &[args.as_bytes()]).unwrap();
    }

    pub(crate) fn read(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Reply<Vec<u8>> {
        let args = ReadIn { fh, offset, size, ..ReadIn::default() };
        self.call(opcode::READ, node, &[args.as_bytes()], 16 + usize::try_from(size).unwrap())
    }

    pub(crate) fn write(&mut self, node: u64, fh: u64, offset: u64, data: &[u8]) -> Reply<u32> {
        self.write_with((node, fh), offset, data, 0, 0)
    }

    pub(crate) fn write_with(
        &mut self,
        (node, fh): (u64, u64),
        offset: u64,
        data: &[u8],
        flags: i32,
        write_flags: u32,
    ) -> Reply<u32> {
        let size = u32::try_from(data.len()).unwrap();
        let flags = flags.cast_unsigned();
        let args = WriteIn { fh, offset, size, write_flags, flags, ..WriteIn::default() };
        let out: WriteOut = self.get(opcode::WRITE, node, &[args.as_bytes(), data])?;
        Ok(out.size)
    }

    pub(crate) fn setxattr(
        &mut self,
        node: u64,
        name: &str,
        value: &[u8],
        flags: u32,
    ) -> Reply<()> {
        self.setxattr_with(node, name, value, flags, 0)
    }

    pub(crate) fn setxattr_with(
        &mut self,
        node: u64,
        name: &str,
        value: &[u8],
        flags: u32,
        extended: u32,
    ) -> Reply<()> {
        let size = u32::try_from(value.len()).unwrap();
        let args = [size, flags, extended, 0];
        self.done(opcode::SETXATTR, node, &[args.as_bytes(), &c_string(name), value])
    }

    pub(crate) fn getxattr(&mut self, node: u64, name: &str, size: u32) -> Reply<Vec<u8>> {
        self.call(opcode::GETXATTR, node, &[[size, 0].as_bytes(), &c_string(name)], ROOM)
    }

    pub(crate) fn listxattr(&mut self, node: u64, size: u32) -> Reply<Vec<u8>> {
        self.call(opcode::LISTXATTR, node, &[[size, 0].as_bytes()], ROOM)
    }

    pub(crate) fn opendir(&mut self, node: u64) -> Reply<u64> {
        let out: OpenOut = self.get(opcode::OPENDIR, node, &[OpenIn::default().as_bytes()])?;
        Ok(out.fh)
    }

    /// One READDIR or READDIRPLUS.
    pub(crate) fn readdir(
        &mut self,
        node: u64,
        fh: u64,
        offset: u64,
        size: u32,
        plus: bool,
    ) -> Reply<Vec<DirEntry>> {
        let args = ReadIn { fh, offset, size, ..ReadIn::default() };
        let opcode = if plus { opcode::READDIRPLUS } else { opcode::READDIR };
        let room = 16 + usize::try_from(size).unwrap();
        let body = self.call(opcode, node, &[args.as_bytes()], room)?;
        assert!(body.len() <= usize::try_from(size).unwrap());
        Ok(DirEntry::parse(&body, plus))
    }

    /// The whole of a directory, in requests of `size` bytes.
    pub(crate) fn list(&mut self, node: u64, size: u32, plus: bool) -> Reply<Vec<DirEntry>> {
        let fh = self.opendir(node)?;
        let mut all: Vec<DirEntry> = Vec::new();
        loop {
            let offset = all.last().map_or(0, |entry| entry.cookie);
            let part = self.readdir(node, fh, offset, size, plus)?;
            if part.is_empty() {
                break;
            }
            all.extend(part);
        }
        let args = ReleaseIn { fh, ..ReleaseIn::default() };
        self.done(opcode::RELEASEDIR, node, &[args.as_bytes()])?;
        Ok(all)
    }
}

/// An entry of a directory listing.
#[derive(Debug, Clone)]
pub(crate) struct DirEntry {
    pub(crate) name: String,
    pub(crate) ino: u64,
    pub(crate) cookie: u64,
    pub(crate) kind: u32,
    pub(crate) entry: Option<EntryOut>,
}

impl DirEntry {
    fn parse(mut body: &[u8], plus: bool) -> Vec<Self> {
        let mut entries = Vec::new();
        while !body.is_empty() {
            let mut entry = None;
            if plus {
                let (out, rest) = EntryOut::read_from_prefix(body).unwrap();
                entry = Some(out);
                body = rest;
            }
            let (head, rest) = file_server::wire::Dirent::read_from_prefix(body).unwrap();
            let len = usize::try_from(head.namelen).unwrap();
            let name = String::from_utf8(rest[..len].to_vec()).unwrap();
            body = &rest[(24 + len).next_multiple_of(8) - 24..];
            entries.push(Self { name, ino: head.ino, cookie: head.off, kind: head.kind, entry });
        }
        entries
    }
}

/// A name as it is sent.
pub(crate) fn c_string(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

/// One directory share `s` in a temporary directory, with its root looked up.
pub(crate) struct Fixture {
    pub(crate) client: Client,
    pub(crate) root: u64,
    pub(crate) path: PathBuf,
    _directory: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// A fixture whose share was changed by `change`.
    pub(crate) fn with(change: impl FnOnce(&mut Share)) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("root");
        std::fs::create_dir(&path).unwrap();
        let mut share = share("s", &path);
        change(&mut share);
        let mut client = Client::new(config(vec![share]));
        let root = client.lookup(1, "s").unwrap().nodeid;
        Self { client, root, path, _directory: directory }
    }

    /// The directory that holds the share's root, which the guest must never see.
    pub(crate) fn outside(&self) -> &Path {
        self.path.parent().unwrap()
    }

    /// The content of a file on the host.
    pub(crate) fn host(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.path.join(path)).unwrap()
    }

    /// Makes a file on the host.
    pub(crate) fn put(&self, path: &str, content: &[u8]) -> File {
        std::fs::write(self.path.join(path), content).unwrap();
        File::open(self.path.join(path)).unwrap()
    }
}

/// Bytes of a plain structure, for arguments.
pub(crate) fn bytes<T: IntoBytes + Immutable>(value: &T) -> &[u8] {
    value.as_bytes()
}
