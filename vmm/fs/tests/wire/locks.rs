//! Locks: each kind against the host, against another sandbox and among programs of one guest, the
//! waits, the bounds, and what closing gives back.

use std::fs::File;
use std::os::fd::AsFd;

use file_server::LockPolicy;
use file_server::wire::{FileLock, FlushIn, LK_FLOCK, LkIn, LkOut, OutHeader, fopen, opcode};
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;
use zerocopy::FromBytes;

use crate::client::{Client, Fixture, Reply, WAITING, bytes, c_string, config, share};

const READ: u32 = 0;
const WRITE: u32 = 1;
const UNLOCK: u32 = 2;
/// The last byte of a lock without an end (`OFFSET_MAX`).
const END: u64 = i64::MAX.cast_unsigned();

/// An open file of a client.
#[derive(Clone, Copy)]
struct Open {
    node: u64,
    fh: u64,
}

fn open(client: &mut Client, root: u64, name: &str) -> Open {
    let node = client.lookup(root, name).unwrap().nodeid;
    Open { node, fh: client.open(node, libc::O_RDWR).unwrap().fh }
}

fn lk(file: Open, owner: u64, kind: u32, (start, end): (u64, u64)) -> LkIn {
    let pid = u32::try_from(owner).unwrap_or(0);
    LkIn { fh: file.fh, owner, lk: FileLock { start, end, kind, pid }, ..LkIn::default() }
}

fn flock_in(file: Open, kind: u32) -> LkIn {
    LkIn { lk_flags: LK_FLOCK, ..lk(file, file.fh, kind, (0, END)) }
}

fn set(client: &mut Client, file: Open, args: &LkIn) -> Reply<()> {
    client.done(opcode::SETLK, file.node, &[bytes(args)])
}

/// Who holds a conflicting lock: kind, range and process.
fn find(client: &mut Client, file: Open, args: &LkIn) -> Reply<FileLock> {
    client.get::<LkOut>(opcode::GETLK, file.node, &[bytes(args)]).map(|out| out.lk)
}

/// Sends a request that may wait; none if it does.
fn try_wait(client: &mut Client, request: &[u8]) -> Option<Reply<()>> {
    let reply = client.send(&mut request.to_vec(), 100).unwrap();
    if reply == WAITING {
        return None;
    }
    let (header, rest) = OutHeader::read_from_prefix(&reply).unwrap();
    assert!(rest.is_empty());
    Some(if header.error == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(-header.error)) })
}

fn waiting(client: &mut Client, file: Open, args: &LkIn) -> Vec<u8> {
    client.request(opcode::SETLKW, file.node, &[bytes(args)])
}

/// Two programs of one guest with one file, which the host has open too.
fn fixture() -> (Fixture, Open, File) {
    let mut f = Fixture::new();
    f.put("a", b"0123456789");
    let file = open(&mut f.client, f.root, "a");
    let host = File::options().read(true).write(true).open(f.path.join("a")).unwrap();
    (f, file, host)
}

#[test]
fn record_locks_are_seen_by_the_host_and_see_the_hosts() {
    let (mut f, file, host) = fixture();
    set(&mut f.client, file, &lk(file, 7, WRITE, (0, END))).unwrap();
    let locked = fcntl_lock(&host, FlockOperation::NonBlockingLockShared).unwrap_err();
    assert!([Errno::AGAIN, Errno::ACCESS].contains(&locked), "{locked}");
    set(&mut f.client, file, &lk(file, 7, UNLOCK, (0, END))).unwrap();
    fcntl_lock(&host, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(set(&mut f.client, file, &lk(file, 7, READ, (5, 5))), Err(Errno::AGAIN));
    // This test is one process with the server, whose closing of the file has unlocked it.
    fcntl_lock(&host, FlockOperation::NonBlockingLockExclusive).unwrap();
    // Of the host's programs the guest does not learn who they are.
    let found = find(&mut f.client, file, &lk(file, 7, READ, (5, 5))).unwrap();
    assert_eq!(found, FileLock { start: 0, end: END, kind: WRITE, pid: 0 });
    fcntl_lock(&host, FlockOperation::NonBlockingUnlock).unwrap();
    assert_eq!(set(&mut f.client, file, &lk(file, 7, READ, (5, 5))), Ok(()));
}

#[test]
fn read_locks_become_write_locks_without_a_gap() {
    let (mut f, file, _host) = fixture();
    let mut other = Client::new(config(vec![share("s", &f.path)]));
    let root = other.lookup(1, "s").unwrap().nodeid;
    let theirs = open(&mut other, root, "a");
    let c = &mut f.client;
    set(c, file, &lk(file, 7, READ, (0, 9))).unwrap();
    set(c, file, &lk(file, 7, READ, (20, 29))).unwrap();
    set(&mut other, theirs, &lk(theirs, 1, READ, (5, 5))).unwrap();
    assert_eq!(set(c, file, &lk(file, 7, WRITE, (0, 9))), Err(Errno::AGAIN));
    assert_eq!(set(&mut other, theirs, &lk(theirs, 1, WRITE, (25, 25))), Err(Errno::AGAIN));
    set(&mut other, theirs, &lk(theirs, 1, UNLOCK, (0, END))).unwrap();
    set(c, file, &lk(file, 7, WRITE, (0, 9))).unwrap();
    assert_eq!(set(&mut other, theirs, &lk(theirs, 1, READ, (0, 0))), Err(Errno::AGAIN));
    assert_eq!(set(&mut other, theirs, &lk(theirs, 1, WRITE, (25, 25))), Err(Errno::AGAIN));
    assert_eq!(set(&mut other, theirs, &lk(theirs, 1, READ, (25, 25))), Ok(()));
}

#[test]
fn whole_file_locks_are_seen_by_the_host_and_see_the_hosts() {
    let (mut f, file, host) = fixture();
    set(&mut f.client, file, &flock_in(file, READ)).unwrap();
    flock(&host, FlockOperation::NonBlockingLockShared).unwrap();
    assert_eq!(set(&mut f.client, file, &flock_in(file, WRITE)), Err(Errno::AGAIN));
    // A lock that cannot be converted is lost, as flock(2) says.
    flock(&host, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(set(&mut f.client, file, &flock_in(file, READ)), Err(Errno::AGAIN));
    flock(&host, FlockOperation::NonBlockingUnlock).unwrap();
    set(&mut f.client, file, &flock_in(file, WRITE)).unwrap();
    let locked = flock(&host, FlockOperation::NonBlockingLockShared);
    assert_eq!(locked, Err(Errno::AGAIN));
    // They and record locks do not know each other.
    set(&mut f.client, file, &lk(file, 1, WRITE, (0, END))).unwrap();
    f.client.release(file.node, file.fh);
    flock(&host, FlockOperation::NonBlockingLockExclusive).unwrap();
}

#[test]
fn sandboxes_see_each_others_locks() {
    let (mut f, file, _host) = fixture();
    let mut other = Client::new(config(vec![share("s", &f.path)]));
    let root = other.lookup(1, "s").unwrap().nodeid;
    let theirs = open(&mut other, root, "a");
    // The same owner number in both: owners are a guest's own.
    set(&mut f.client, file, &lk(file, 7, WRITE, (0, 9))).unwrap();
    assert_eq!(set(&mut other, theirs, &lk(theirs, 7, WRITE, (9, 20))), Err(Errno::AGAIN));
    assert_eq!(set(&mut other, theirs, &lk(theirs, 7, WRITE, (10, 20))), Ok(()));
    let found = find(&mut f.client, file, &lk(file, 7, READ, (0, END))).unwrap();
    assert_eq!(found, FileLock { start: 10, end: 20, kind: WRITE, pid: 0 });
    set(&mut f.client, file, &flock_in(file, WRITE)).unwrap();
    assert_eq!(set(&mut other, theirs, &flock_in(theirs, READ)), Err(Errno::AGAIN));
    // A sandbox that ends holds nothing.
    f.client.server.reset();
    set(&mut other, theirs, &flock_in(theirs, WRITE)).unwrap();
    set(&mut other, theirs, &lk(theirs, 7, WRITE, (0, END))).unwrap();
}

#[test]
fn programs_of_one_guest_see_each_other_by_process() {
    let (mut f, file, _host) = fixture();
    let c = &mut f.client;
    set(c, file, &lk(file, 7, WRITE, (10, 19))).unwrap();
    set(c, file, &lk(file, 8, READ, (30, END))).unwrap();
    let found = |c: &mut Client, owner, kind, range| find(c, file, &lk(file, owner, kind, range));
    let seven = FileLock { start: 10, end: 19, kind: WRITE, pid: 7 };
    assert_eq!(found(c, 8, READ, (0, END)), Ok(seven));
    let eight = FileLock { start: 30, end: END, kind: READ, pid: 8 };
    assert_eq!(found(c, 7, WRITE, (15, 40)), Ok(eight));
    assert_eq!(found(c, 7, READ, (15, 40)).unwrap().kind, UNLOCK);
    assert_eq!(found(c, 9, WRITE, (20, 29)).unwrap().kind, UNLOCK);
    // Convert, split and unlock in parts.
    set(c, file, &lk(file, 7, READ, (12, 14))).unwrap();
    assert_eq!(c.server.usage().locks, 4);
    assert_eq!(set(c, file, &lk(file, 8, READ, (13, 13))), Ok(()));
    assert_eq!(set(c, file, &lk(file, 8, READ, (15, 15))), Err(Errno::AGAIN));
    set(c, file, &lk(file, 7, UNLOCK, (0, END))).unwrap();
    set(c, file, &lk(file, 8, WRITE, (0, END))).unwrap();
    assert_eq!(c.server.usage().locks, 1);
}

#[test]
fn closing_a_file_gives_its_processs_record_locks_back() {
    let (mut f, first, _host) = fixture();
    let second = open(&mut f.client, f.root, "a");
    let c = &mut f.client;
    set(c, first, &lk(first, 7, WRITE, (0, 9))).unwrap();
    set(c, second, &lk(second, 8, WRITE, (20, 29))).unwrap();
    // Any descriptor of the file does (fcntl(2)), and only those of the process that closes.
    let flush = FlushIn { fh: second.fh, lock_owner: 7, ..FlushIn::default() };
    c.done(opcode::FLUSH, second.node, &[bytes(&flush)]).unwrap();
    assert_eq!(set(c, first, &lk(first, 9, WRITE, (0, 19))), Ok(()));
    assert_eq!(set(c, first, &lk(first, 9, WRITE, (0, 20))), Err(Errno::AGAIN));
    // A lock of an open file description has its own owner and goes with the last descriptor.
    set(c, second, &lk(second, u64::MAX, READ, (40, 40))).unwrap();
    c.release(second.node, second.fh);
    assert_eq!(set(c, first, &lk(first, 9, WRITE, (0, END))), Ok(()));
    assert_eq!(c.server.usage().locks, 1);
    c.release(first.node, first.fh);
    assert_eq!(c.server.usage().locks, 0);
}

#[test]
fn files_open_for_writing_are_flushed_where_locks_are_the_hosts() {
    for (policy, flushed) in
        [(LockPolicy::Host, true), (LockPolicy::Guest, false), (LockPolicy::Refused, false)]
    {
        let (mut f, ..) = fixture();
        let mut config = config(vec![share("s", &f.path)]);
        config.locks = policy;
        f.client = Client::new(config);
        f.root = f.client.lookup(1, "s").unwrap().nodeid;
        let node = f.client.lookup(f.root, "a").unwrap().nodeid;
        let flags = |f: &mut Fixture, flags| f.client.open(node, flags).unwrap().open_flags;
        assert_eq!(flags(&mut f, libc::O_RDWR) & fopen::NOFLUSH == 0, flushed, "{policy:?}");
        assert_ne!(flags(&mut f, libc::O_RDONLY) & fopen::NOFLUSH, 0);
    }
}

#[test]
fn waits_until_the_lock_is_free() {
    let (mut f, file, host) = fixture();
    let c = &mut f.client;
    set(c, file, &lk(file, 7, WRITE, (0, 9))).unwrap();
    let request = waiting(c, file, &lk(file, 8, WRITE, (5, 15)));
    let before = c.server.unlocks();
    assert_eq!(try_wait(c, &request), None);
    assert_eq!(try_wait(c, &request), None);
    assert_eq!((c.server.unlocks(), c.server.usage().waits), (before, 1));
    set(c, file, &lk(file, 7, UNLOCK, (0, END))).unwrap();
    assert_ne!(c.server.unlocks(), before, "whoever waits is told to look again");
    assert_eq!(try_wait(c, &request), Some(Ok(())));
    assert_eq!((c.server.usage().waits, c.server.usage().locks), (0, 1));
    // For a lock of the host too.
    flock(&host, FlockOperation::NonBlockingLockExclusive).unwrap();
    let request = waiting(c, file, &flock_in(file, READ));
    assert_eq!(try_wait(c, &request), None);
    flock(&host, FlockOperation::NonBlockingUnlock).unwrap();
    assert_eq!(try_wait(c, &request), Some(Ok(())));
    assert_eq!(set(c, file, &flock_in(file, UNLOCK)), Ok(()));
}

#[test]
fn closing_and_ending_wake_what_waits() {
    let (mut f, file, host) = fixture();
    let other = open(&mut f.client, f.root, "a");
    let c = &mut f.client;
    for step in 0..2 {
        set(c, other, &lk(other, 7, WRITE, (0, 9))).unwrap();
        let request = waiting(c, file, &lk(file, 8, WRITE, (0, 0)));
        assert_eq!(try_wait(c, &request), None);
        let before = c.server.unlocks();
        if step == 0 {
            let flush = FlushIn { fh: other.fh, lock_owner: 7, ..FlushIn::default() };
            c.done(opcode::FLUSH, other.node, &[bytes(&flush)]).unwrap();
        } else {
            c.release(other.node, other.fh);
        }
        assert_ne!(c.server.unlocks(), before);
        assert_eq!(try_wait(c, &request), Some(Ok(())));
        set(c, file, &lk(file, 8, UNLOCK, (0, END))).unwrap();
    }
    // What waits when its share goes is answered.
    flock(&host, FlockOperation::NonBlockingLockExclusive).unwrap();
    let request = waiting(c, file, &flock_in(file, WRITE));
    assert_eq!(try_wait(c, &request), None);
    let before = c.server.unlocks();
    c.server.remove_share("s").unwrap();
    assert_ne!(c.server.unlocks(), before);
    assert_eq!(try_wait(c, &request), Some(Err(Errno::BADF)));
}

#[test]
fn a_removed_share_has_no_locks() {
    let (mut f, file, host) = fixture();
    set(&mut f.client, file, &lk(file, 7, WRITE, (0, 9))).unwrap();
    set(&mut f.client, file, &flock_in(file, WRITE)).unwrap();
    f.client.server.remove_share("s").unwrap();
    assert_eq!(f.client.server.usage().locks, 0);
    fcntl_lock(&host, FlockOperation::NonBlockingLockExclusive).unwrap();
    flock(&host, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(set(&mut f.client, file, &lk(file, 7, WRITE, (0, 9))), Err(Errno::BADF));
}

#[test]
fn an_interrupted_wait_is_given_up() {
    let (mut f, file, _host) = fixture();
    let c = &mut f.client;
    set(c, file, &lk(file, 7, WRITE, (0, 9))).unwrap();
    let request = waiting(c, file, &lk(file, 8, WRITE, (0, 9)));
    assert_eq!(try_wait(c, &request), None);
    let before = c.server.unlocks();
    c.post(opcode::INTERRUPT, 0, &[&request[8..16]]);
    assert_ne!(c.server.unlocks(), before);
    assert_eq!(try_wait(c, &request), Some(Err(Errno::INTR)));
    assert_eq!(c.server.usage().waits, 0);
    // An interrupt of what does not wait says nothing about a later request.
    c.post(opcode::INTERRUPT, 0, &[&999u64.to_le_bytes()]);
    assert_eq!(try_wait(c, &request), None);
}

#[test]
fn a_wait_that_would_never_end_is_refused() {
    let (mut f, file, _host) = fixture();
    let c = &mut f.client;
    set(c, file, &lk(file, 7, WRITE, (0, 0))).unwrap();
    set(c, file, &lk(file, 8, WRITE, (1, 1))).unwrap();
    let seven = waiting(c, file, &lk(file, 7, WRITE, (1, 1)));
    assert_eq!(try_wait(c, &seven), None);
    let eight = waiting(c, file, &lk(file, 8, READ, (0, 0)));
    assert_eq!(try_wait(c, &eight), Some(Err(Errno::DEADLK)));
    set(c, file, &lk(file, 8, UNLOCK, (1, 1))).unwrap();
    assert_eq!(try_wait(c, &seven), Some(Ok(())));
}

#[test]
fn locks_are_bounded() {
    let (mut f, _, _) = fixture();
    let mut config = config(vec![share("s", &f.path)]);
    config.limits.max_locks = 4;
    f.client = Client::new(config);
    let root = f.client.lookup(1, "s").unwrap().nodeid;
    let file = open(&mut f.client, root, "a");
    let c = &mut f.client;
    for owner in 0..4 {
        set(c, file, &lk(file, owner, READ, (0, 9))).unwrap();
    }
    assert_eq!(set(c, file, &lk(file, 4, READ, (0, 9))), Err(Errno::NOLCK));
    // One more by conversion, or by a hole.
    assert_eq!(set(c, file, &lk(file, 0, UNLOCK, (5, 5))), Err(Errno::NOLCK));
    assert_eq!(set(c, file, &lk(file, 0, UNLOCK, (5, 9))), Ok(()));
    assert_eq!(set(c, file, &lk(file, 0, READ, (5, 20))), Ok(()));
    assert_eq!(c.server.usage().locks, 4);
    for owner in 0..4 {
        set(c, file, &lk(file, owner, UNLOCK, (0, END))).unwrap();
    }
    set(c, file, &lk(file, 0, WRITE, (0, END))).unwrap();
    let waits: Vec<_> =
        (0..5).map(|owner| waiting(c, file, &lk(file, owner + 10, WRITE, (0, 0)))).collect();
    for (place, request) in waits.iter().enumerate() {
        let expected = if place < 4 { None } else { Some(Err(Errno::NOLCK)) };
        assert_eq!(try_wait(c, request), expected);
    }
    c.done(opcode::DESTROY, 0, &[]).unwrap();
    let usage = c.server.usage();
    assert_eq!((usage.locks, usage.waits, usage.handles), (0, 0, 0));
}

#[test]
fn refuses_locks_that_are_none() {
    let (mut f, file, host) = fixture();
    f.put("b", b"");
    let other = open(&mut f.client, f.root, "b");
    let dir = f.client.opendir(f.root).unwrap();
    let c = &mut f.client;
    let good = lk(file, 7, WRITE, (0, 9));
    for (start, end) in [(1, 0), (0, END + 1), (u64::MAX, u64::MAX), (END + 1, u64::MAX)] {
        assert_eq!(set(c, file, &lk(file, 7, WRITE, (start, end))), Err(Errno::INVAL));
        assert_eq!(find(c, file, &lk(file, 7, READ, (start, end))), Err(Errno::INVAL));
    }
    assert_eq!(set(c, file, &lk(file, 7, 3, (0, 9))), Err(Errno::INVAL));
    assert_eq!(set(c, file, &flock_in(file, 9)), Err(Errno::INVAL));
    assert_eq!(set(c, file, &LkIn { lk_flags: 2, ..good }), Err(Errno::INVAL));
    assert_eq!(find(c, file, &flock_in(file, WRITE)), Err(Errno::INVAL));
    // Handles that are not the file's.
    for fh in [0, 999, other.fh, dir] {
        assert_eq!(set(c, file, &LkIn { fh, ..good }), Err(Errno::BADF));
    }
    assert_eq!(set(c, Open { node: 999, ..file }, &good), Err(Errno::BADF));
    assert_eq!(c.server.usage().locks, 0);
    fcntl_lock(host.as_fd(), FlockOperation::NonBlockingLockExclusive).unwrap();
}

#[test]
fn a_read_only_share_gives_read_locks_only() {
    let mut f = Fixture::with(|share| share.read_only = true);
    let host = f.put("a", b"text");
    let node = f.client.lookup(f.root, "a").unwrap().nodeid;
    let file = Open { node, fh: f.client.open(node, libc::O_RDONLY).unwrap().fh };
    set(&mut f.client, file, &lk(file, 7, READ, (0, 9))).unwrap();
    assert_eq!(set(&mut f.client, file, &lk(file, 7, WRITE, (0, 9))), Err(Errno::BADF));
    // flock(2) needs no right to write.
    set(&mut f.client, file, &flock_in(file, WRITE)).unwrap();
    assert_eq!(flock(&host, FlockOperation::NonBlockingLockShared), Err(Errno::AGAIN));
}

#[test]
fn refuses_locks_where_the_configuration_does() {
    let (f, _, _) = fixture();
    for (policy, errno) in [(LockPolicy::Refused, Errno::NOLCK), (LockPolicy::Guest, Errno::NOSYS)]
    {
        let mut config = config(vec![share("s", &f.path)]);
        config.locks = policy;
        let mut client = Client::new(config);
        let root = client.lookup(1, "s").unwrap().nodeid;
        let file = open(&mut client, root, "a");
        assert_eq!(set(&mut client, file, &lk(file, 7, READ, (0, 0))), Err(errno));
        assert_eq!(set(&mut client, file, &flock_in(file, UNLOCK)), Err(errno));
        assert_eq!(find(&mut client, file, &lk(file, 7, READ, (0, 0))), Err(errno));
        let request = waiting(&mut client, file, &lk(file, 7, READ, (0, 0)));
        assert_eq!(try_wait(&mut client, &request), Some(Err(errno)));
    }
}

#[test]
fn saved_locks_are_taken_again_or_counted_as_lost() {
    let (mut f, file, host) = fixture();
    f.put("b", b"");
    let whole = open(&mut f.client, f.root, "b");
    let c = &mut f.client;
    set(c, file, &lk(file, 7, WRITE, (0, 9))).unwrap();
    set(c, file, &lk(file, 8, READ, (20, END))).unwrap();
    set(c, whole, &flock_in(whole, WRITE)).unwrap();
    let state = c.server.save();
    assert_eq!(state.locks.len(), 2);
    let restore = |path: &std::path::Path| {
        file_server::Server::restore(config(vec![share("s", path)]), &state).unwrap()
    };
    // Beside the one that was saved nothing that excludes can be had.
    let (server, lost) = restore(&f.path);
    assert_eq!((lost.inodes, lost.handles, lost.locks), (0, 0, 2));
    drop(server);
    c.server.reset();
    let (server, lost) = restore(&f.path);
    assert_eq!((lost.locks, server.usage().locks), (0, 2));
    assert_eq!(server.save(), state);
    let locked = fcntl_lock(&host, FlockOperation::NonBlockingLockExclusive);
    assert!(locked.is_err());
    let mut clone = Client::raw(&server);
    let found = find(&mut clone, file, &lk(file, 9, READ, (0, 0))).unwrap();
    assert_eq!(found, FileLock { start: 0, end: 9, kind: WRITE, pid: 7 });
    assert_eq!(set(&mut clone, whole, &flock_in(whole, UNLOCK)), Ok(()));
    // A file that is gone takes its locks along.
    drop((clone, server));
    std::fs::remove_file(f.path.join("a")).unwrap();
    let (_, lost) = restore(&f.path);
    assert_eq!((lost.inodes, lost.handles, lost.locks), (1, 1, 2));
}

#[test]
fn unlinked_files_can_be_locked() {
    let (mut f, file, host) = fixture();
    f.client.done(opcode::UNLINK, f.root, &[&c_string("a")]).unwrap();
    set(&mut f.client, file, &lk(file, 7, WRITE, (0, END))).unwrap();
    assert!(fcntl_lock(&host, FlockOperation::NonBlockingLockShared).is_err());
}
