//! A server over a small directory, a guest that sends it bytes, and what must hold whatever the
//! bytes are.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use file_server::wire::{InHeader, InitIn, InitInExt, OutHeader, opcode};
use file_server::{
    CachePolicy, IdMap, Limits, LockPolicy, Request, Served, Server, ServerConfig, Share,
    ShareKind, Worker,
};
use tempfile::TempDir;
use vm_memory::VolatileSlice;
use zerocopy::{FromBytes, IntoBytes};

/// What lies outside the share and must never be read or changed.
const SECRET: &[u8] = b"this must not be seen through the share";

/// Largest file that a run may make; the test's directory is memory.
const FILE_SIZE: u64 = 1 << 20;

/// One guest of one server.
pub struct Guest {
    worker: Worker,
    server: Arc<Server>,
    directory: TempDir,
    unique: u64,
}

/// Runs `session` on a thread of its own, whose umask and current directory the server takes: the
/// fuzzer's own must stay.
pub fn on_own_thread(session: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        // Joined by hand: a scope waits for what the thread does, not for what its end frees.
        scope.spawn(session).join().expect("a session does not panic");
    });
}

impl Guest {
    /// A server over a new directory with a file, a directory and links that lead out of it.
    pub fn new() -> Self {
        bound_files();
        let directory = TempDir::new_in("/dev/shm").expect("a directory can be made");
        std::fs::write(directory.path().join("secret"), SECRET).expect("a file can be written");
        let share = directory.path().join("share");
        std::fs::create_dir_all(share.join("d/e")).expect("directories can be made");
        std::fs::write(share.join("d/f"), "content").expect("a file can be written");
        for (target, name) in [("../secret", "up"), ("/", "d/root"), ("/proc/self/fd", "magic")] {
            std::os::unix::fs::symlink(target, share.join(name)).expect("a link can be made");
        }
        let server = Server::new(config(&share)).expect("a server can be made");
        let worker = Worker::new(Arc::clone(&server)).expect("this thread can serve");
        let mut guest = Self { worker, server, directory, unique: 0 };
        let flags = u32::MAX;
        let init = InitIn { major: 7, minor: 41, max_readahead: 4096, flags };
        let extension = InitInExt { flags2: flags, unused: [0; 11] };
        guest.ask(opcode::INIT, 0, &[init.as_bytes(), extension.as_bytes()].concat(), 200);
        guest
    }

    /// Sends a well-formed header and `args`; the error and body of the reply.
    pub fn ask(&mut self, opcode: u32, nodeid: u64, args: &[u8], room: usize) -> (i32, Vec<u8>) {
        self.unique += 1;
        let header = InHeader {
            len: u32::try_from(size_of::<InHeader>() + args.len()).expect("requests are short"),
            opcode,
            unique: self.unique,
            nodeid,
            ..InHeader::default()
        };
        let mut request = [header.as_bytes(), args].concat();
        let reply = self.send(&mut request, room).unwrap_or_default();
        match OutHeader::read_from_prefix(&reply) {
            Ok((out, body)) => (out.error, body.to_vec()),
            Err(_) => (0, Vec::new()),
        }
    }

    /// Sends bytes as they are; the reply, unless the device would have stopped.
    pub fn send(&mut self, request: &mut [u8], room: usize) -> Option<Vec<u8>> {
        let unique = request.get(8..16).map(<[u8]>::to_vec);
        let mut reply = vec![0x5a; room];
        let (head, tail) = request.split_at_mut(request.len() / 3);
        let (front, back) = reply.split_at_mut(room / 2);
        let readable = [VolatileSlice::from(head), VolatileSlice::from(tail)];
        let writable = [VolatileSlice::from(front), VolatileSlice::from(back)];
        let request = Request { readable: &readable, writable: &writable };
        let len = match self.worker.handle(&request).ok()? {
            Served::Done(len) => len,
            Served::Waiting => 0,
        };
        assert!(len <= room, "{len} bytes were written into {room}");
        assert!(reply[len..].iter().all(|byte| *byte == 0x5a), "the reply is longer than said");
        reply.truncate(len);
        if len != 0 {
            let (out, _) = OutHeader::read_from_prefix(&reply).expect("a reply has a header");
            assert_eq!(usize::try_from(out.len), Ok(len));
            assert_eq!(Some(out.unique.to_le_bytes().to_vec()), unique);
            assert!((-4095..=0).contains(&out.error), "errno {}", out.error);
        }
        let seen = reply.windows(SECRET.len()).any(|window| window == SECRET);
        assert!(!seen, "the guest has read a file outside its share");
        Some(reply)
    }

    /// Ends the session: nothing is held, and what lies outside the share is as it was.
    pub fn finish(mut self) {
        self.ask(opcode::DESTROY, 0, &[], 100);
        let usage = self.server.usage();
        assert_eq!((usage.inodes, usage.handles, usage.locks, usage.waits), (0, 0, 0, 0));
        let secret = std::fs::read(self.directory.path().join("secret"));
        assert_eq!(secret.ok().as_deref(), Some(SECRET));
        let entries = std::fs::read_dir(self.directory.path()).map(Iterator::count);
        assert_eq!(entries.ok(), Some(2), "something was made outside the share");
    }
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

fn config(share: &Path) -> ServerConfig {
    let open = |path: PathBuf| File::open(path).expect("it can be opened").into();
    ServerConfig {
        proc_self_fd: open("/proc/self/fd".into()),
        limits: Limits { max_inodes: 64, max_handles: 32, max_locks: 16, ..Limits::default() },
        uid_map: IdMap::identity(),
        gid_map: IdMap::identity(),
        locks: LockPolicy::Host,
        shares: vec![Share {
            name: "s".to_owned(),
            root: open(share.to_owned()),
            kind: ShareKind::Directory,
            read_only: false,
            cache: CachePolicy::Auto,
            whiteouts: true,
        }],
    }
}

/// A file that grows past the bound is EFBIG, not a signal.
fn bound_files() {
    let limit = rustix::process::Rlimit { current: Some(FILE_SIZE), maximum: None };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Fsize, limit);
    // SAFETY: ignoring a signal runs no code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}
