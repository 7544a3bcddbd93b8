use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use file_server::state::ServerState;
use file_server::{
    CachePolicy, IdMap, IdRange, Limits, LockPolicy, Server, ServerConfig, Share, ShareKind,
};

use super::*;
use crate::bus::BusDevice;
use crate::testing::Driver;
use crate::virtio::state::DeviceState;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const READ: u32 = 15;
const OPEN: u32 = 14;
const SETLK: u32 = 32;
const SETLKW: u32 = 33;
const INIT: u32 = 26;

fn open(path: &Path) -> OwnedFd {
    std::fs::File::open(path).unwrap().into()
}

fn server_config(path: &Path) -> ServerConfig {
    // Reading needs no other owner than whoever runs the tests.
    let map = || IdMap::new(vec![IdRange { guest: 0, host: 0, count: 1 }]).unwrap();
    ServerConfig {
        proc_self_fd: open(Path::new("/proc/self/fd")),
        limits: Limits::default(),
        uid_map: map(),
        gid_map: map(),
        locks: LockPolicy::Host,
        shares: vec![Share {
            name: "s".to_owned(),
            root: open(path),
            kind: ShareKind::Directory,
            read_only: true,
            cache: CachePolicy::None,
            whiteouts: false,
        }],
    }
}

fn device(server: Arc<Server>, queues: u8) -> Box<Fs> {
    let config = FsConfig { tag: "root".to_owned(), queues };
    Box::new(Fs::new(&config, server, None).unwrap())
}

/// A driver of a device that serves a directory with one file, `f`.
fn driver(queues: u8) -> (Driver, tempfile::TempDir) {
    let directory = tempfile::TempDir::new().unwrap();
    std::fs::write(directory.path().join("f"), "content").unwrap();
    let server = Server::new(server_config(directory.path())).unwrap();
    let mut driver = Driver::new(device(server, queues));
    driver.start(u64::MAX, 64);
    (driver, directory)
}

/// The bytes of a request.
fn request(opcode: u32, node: u64, args: &[u8]) -> Vec<u8> {
    let len = u32::try_from(40 + args.len()).unwrap();
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&opcode.to_le_bytes());
    bytes.extend_from_slice(&7u64.to_le_bytes());
    bytes.extend_from_slice(&node.to_le_bytes());
    bytes.extend_from_slice(&[0; 16]);
    bytes.extend_from_slice(args);
    bytes
}

/// Sends a request on `queue` in two pieces and takes the reply in two; errno and body.
fn ask(driver: &mut Driver, queue: usize, opcode: u32, node: u64, args: &[u8]) -> (i32, Vec<u8>) {
    let bytes = request(opcode, node, args);
    let (head, rest) = bytes.split_at(40);
    let pieces: &[&[u8]] = if rest.is_empty() { &[head] } else { &[head, rest] };
    let reply = driver.request(queue, pieces, &[16, 4096]);
    let error = i32::from_le_bytes(reply[4..8].try_into().unwrap());
    (error, reply[16..].to_vec())
}

fn init(driver: &mut Driver) {
    let mut args = Vec::new();
    for word in [7u32, 41, 131_072, u32::MAX, u32::MAX] {
        args.extend_from_slice(&word.to_le_bytes());
    }
    args.extend_from_slice(&[0; 44]);
    let (error, body) = ask(driver, 1, INIT, 0, &args);
    assert_eq!((error, body.len()), (0, 64));
}

/// The node id that looking `name` up gives.
fn look_up(driver: &mut Driver, queue: usize, parent: u64, name: &str) -> u64 {
    let (error, body) = ask(driver, queue, LOOKUP, parent, format!("{name}\0").as_bytes());
    assert_eq!(error, 0, "{name}");
    u64::from_le_bytes(body[..8].try_into().unwrap())
}

fn read(driver: &mut Driver, queue: usize, node: u64, handle: u64) -> (i32, Vec<u8>) {
    let args = [handle, 0, 4096, 0, 0].map(u64::to_le_bytes).concat();
    ask(driver, queue, READ, node, &args)
}

#[test]
fn shows_tag_and_number_of_queues() {
    let (driver, _directory) = driver(3);
    let mut space = [0xff; 48];
    driver.transport.read(0x100, &mut space);
    assert_eq!(&space[..36], format!("{:\0<36}", "root").as_bytes());
    assert_eq!(space[36..40], [3, 0, 0, 0]);
    assert_eq!(driver.queues.len(), 4);
}

#[test]
fn refuses_tags_and_queues_that_do_not_fit() {
    let directory = tempfile::TempDir::new().unwrap();
    let server = Server::new(server_config(directory.path())).unwrap();
    let refused = |tag: &str, queues| {
        Fs::new(&FsConfig { tag: tag.to_owned(), queues }, server.clone(), None).err()
    };
    for tag in [String::new(), "a\0".to_owned(), "t".repeat(37)] {
        assert!(matches!(refused(&tag, 1), Some(FsConfigError::Tag(bad)) if bad == tag));
    }
    assert!(matches!(refused("t", 0), Some(FsConfigError::Queues(0))));
    assert!(matches!(refused("t", 33), Some(FsConfigError::Queues(33))));
    assert!(refused(&"t".repeat(36), 32).is_none());
}

#[test]
fn serves_files_on_every_queue() {
    let (mut driver, _directory) = driver(2);
    init(&mut driver);
    let root = look_up(&mut driver, 2, 1, "s");
    let file = look_up(&mut driver, 1, root, "f");
    let (error, body) = ask(&mut driver, 2, OPEN, file, &[0; 8]);
    assert_eq!(error, 0);
    let handle = u64::from_le_bytes(body[..8].try_into().unwrap());
    assert_eq!(read(&mut driver, 1, file, handle), (0, b"content".to_vec()));
    // A forget has no reply, and its chain comes back empty.
    let forget = request(FORGET, file, &1u64.to_le_bytes());
    assert!(driver.request(0, &[&forget], &[]).is_empty());
    assert_eq!(ask(&mut driver, 1, GETATTR, file, &[0; 16]).0, -libc::ESTALE);
}

#[test]
fn runs_the_hook_on_each_thread_after_it_has_become_a_worker() {
    let directory = tempfile::TempDir::new().unwrap();
    let server = Server::new(server_config(directory.path())).unwrap();
    let (names, received) = std::sync::mpsc::channel();
    let hook: crate::event_loop::ThreadHook = Arc::new(move |name| {
        let here = std::env::current_dir().is_ok_and(|path| path.ends_with("fd"));
        names.send((name.to_owned(), here)).unwrap();
    });
    let config = FsConfig { tag: "t".to_owned(), queues: 2 };
    let mut driver = Driver::new(Box::new(Fs::new(&config, server, Some(hook)).unwrap()));
    driver.start(u64::MAX, 8);
    let mut seen = [received.recv().unwrap(), received.recv().unwrap()];
    seen.sort();
    assert_eq!(seen, [("fs-0".to_owned(), true), ("fs-1".to_owned(), true)]);
}

#[test]
fn asks_for_a_reset_and_starts_afresh_when_the_driver_does_not_speak_fuse() {
    let (mut driver, _directory) = driver(1);
    init(&mut driver);
    let root = look_up(&mut driver, 1, 1, "s");
    for (readable, room) in [
        (vec![1; 39], 64),
        (request(GETATTR, 1, &[0; 15])[..50].to_vec(), 64),
        (request(GETATTR, 1, &[0; 16]), 15),
        (request(GETATTR, 1, &[0; 16]), 100),
    ] {
        let address = driver.buffer(&readable);
        let len = u32::try_from(readable.len()).unwrap();
        let reply = driver.allocate(u64::from(room));
        driver.queues[1].add(&[(address, len, false), (reply, room, true)]);
        driver.kick(1);
        driver.wait_needs_reset();
        driver.reset();
        driver.start(u64::MAX, 64);
        init(&mut driver);
        // What the driver held before the reset is gone.
        assert_eq!(ask(&mut driver, 1, GETATTR, root, &[0; 16]).0, -libc::ESTALE);
    }
    assert_eq!(driver.faults.lines().len(), 4, "{:?}", driver.faults.lines());
}

#[test]
fn serves_all_when_more_wait_than_one_turn_takes() {
    let directory = tempfile::TempDir::new().unwrap();
    let server = Server::new(server_config(directory.path())).unwrap();
    let mut driver = Driver::new(device(server, 1));
    driver.start(u64::MAX, 512);
    init(&mut driver);
    let bytes = request(GETATTR, 1, &[0; 16]);
    let (address, reply) = (driver.buffer(&bytes), driver.allocate(200));
    for _ in 0..200 {
        driver.queues[1].add(&[(address, 56, false), (reply, 200, true)]);
    }
    driver.kick(1);
    for _ in 0..200 {
        assert_eq!(driver.wait_used(1).1, 120);
    }
}

#[test]
fn goes_on_with_open_files_when_saved_and_restored() {
    let (mut driver, directory) = driver(1);
    init(&mut driver);
    let root = look_up(&mut driver, 1, 1, "s");
    let file = look_up(&mut driver, 1, root, "f");
    let (_, body) = ask(&mut driver, 1, OPEN, file, &[0; 8]);
    let handle = u64::from_le_bytes(body[..8].try_into().unwrap());

    driver.transport.pause();
    let state = driver.transport.save();
    let DeviceState::Fs(FsState { server, waiting }) = &state.device else { panic!("{state:?}") };
    assert!(waiting.is_empty());
    let server: &ServerState = server;
    let (server, lost) = Server::restore(server_config(directory.path()), server).unwrap();
    assert_eq!((lost.inodes, lost.handles), (0, 0));
    let mut clone = Driver::with_memory(device(server, 1), driver.memory.clone());
    clone.transport.restore(&state).unwrap();
    clone.queues = std::mem::take(&mut driver.queues);
    // Past what the first driver has allocated.
    clone.allocate(1 << 20);
    clone.transport.resume();
    assert_eq!(read(&mut clone, 1, file, handle), (0, b"content".to_vec()));
    assert_eq!(look_up(&mut clone, 1, root, "f"), file);
}

/// The arguments of SETLKW for flock(2), exclusive.
fn flock_args(handle: u64) -> Vec<u8> {
    let (write, of_flock) = (1u64, 1u64);
    [handle, 9, 0, i64::MAX.cast_unsigned(), write, of_flock].map(u64::to_le_bytes).concat()
}

/// Opens the file `f`.
fn open_file(driver: &mut Driver) -> (u64, u64) {
    let root = look_up(driver, 1, 1, "s");
    let file = look_up(driver, 1, root, "f");
    let (error, body) = ask(driver, 1, OPEN, file, &[0; 8]);
    assert_eq!(error, 0);
    (file, u64::from_le_bytes(body[..8].try_into().unwrap()))
}

/// Offers a request for the file's lock and gives where its reply will be.
fn offer_lock(driver: &mut Driver, queue: usize, (file, handle): (u64, u64)) -> u64 {
    let request = request(SETLKW, file, &flock_args(handle));
    let (address, reply) = (driver.buffer(&request), driver.allocate(16));
    let len = u32::try_from(request.len()).unwrap();
    driver.queues[queue].add(&[(address, len, false), (reply, 16, true)]);
    driver.kick(queue);
    reply
}

/// Something that the host has locked.
fn host_lock(directory: &Path) -> std::fs::File {
    let host = std::fs::File::open(directory.join("f")).unwrap();
    host.try_lock().unwrap();
    host
}

#[test]
fn goes_on_while_a_request_waits_for_a_lock() {
    let (mut driver, directory) = driver(1);
    init(&mut driver);
    let open = open_file(&mut driver);
    let host = host_lock(directory.path());
    offer_lock(&mut driver, 1, open);
    // Of the same queue, others are served.
    for _ in 0..100 {
        assert_eq!(read(&mut driver, 1, open.0, open.1), (0, b"content".to_vec()));
    }
    drop(host);
    // While they are, it gets its turn: its reply comes in place of one of theirs.
    let (address, reply) = {
        let request = request(GETATTR, 1, &[0; 16]);
        (driver.buffer(&request), driver.allocate(200))
    };
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        assert!(std::time::Instant::now() < end, "the lock was not seen to be free");
        driver.queues[1].add(&[(address, 56, false), (reply, 200, true)]);
        driver.kick(1);
        let first = driver.wait_used(1).1;
        if first == 16 {
            assert_eq!(driver.wait_used(1).1, 120);
            break;
        }
        assert_eq!(first, 120);
    }
    // Held by the guest now; a second handle waits until the first is unlocked.
    let second = open_file(&mut driver);
    offer_lock(&mut driver, 1, second);
    assert_eq!(read(&mut driver, 1, open.0, open.1).0, 0);
    let unlock = [&flock_args(open.1)[..32], &2u64.to_le_bytes(), &1u64.to_le_bytes()].concat();
    let unlock = request(SETLK, open.0, &unlock);
    let (address, reply) = (driver.buffer(&unlock), driver.allocate(16));
    driver.queues[1]
        .add(&[(address, u32::try_from(unlock.len()).unwrap(), false), (reply, 16, true)]);
    driver.kick(1);
    assert_eq!((driver.wait_used(1).1, driver.wait_used(1).1), (16, 16));
}

#[test]
fn a_waiting_request_survives_a_pause_and_a_restore() {
    let (mut driver, directory) = driver(2);
    init(&mut driver);
    let open = open_file(&mut driver);
    let host = host_lock(directory.path());
    offer_lock(&mut driver, 2, open);
    assert_eq!(read(&mut driver, 2, open.0, open.1).0, 0);
    driver.transport.pause();
    driver.transport.resume();
    assert_eq!(read(&mut driver, 2, open.0, open.1).0, 0);
    driver.transport.pause();

    let state = driver.transport.save();
    let DeviceState::Fs(FsState { server, waiting }) = &state.device else { panic!("{state:?}") };
    assert_eq!(waiting.iter().map(|one| one.queue).collect::<Vec<_>>(), [2]);
    let (server, _) = Server::restore(server_config(directory.path()), server).unwrap();
    let config = FsConfig { tag: "root".to_owned(), queues: 2 };
    let fs = Fs::new(&config, server, None).unwrap().with_waiting(waiting.clone());
    let mut clone = Driver::with_memory(Box::new(fs), driver.memory.clone());
    clone.transport.restore(&state).unwrap();
    clone.queues = std::mem::take(&mut driver.queues);
    clone.allocate(1 << 20);
    clone.transport.resume();
    assert_eq!(read(&mut clone, 2, open.0, open.1).0, 0);
    drop(host);
    assert_eq!(clone.wait_used(2).1, 16);
}

#[test]
fn forged_waiting_requests_fail_their_queue_only() {
    let (mut driver, directory) = driver(2);
    init(&mut driver);
    driver.transport.pause();
    let state = driver.transport.save();
    let DeviceState::Fs(FsState { server, .. }) = &state.device else { panic!("{state:?}") };
    let (server, _) = Server::restore(server_config(directory.path()), server).unwrap();
    let config = FsConfig { tag: "root".to_owned(), queues: 2 };
    let forged = [(2, u16::MAX), (77, 0)].map(|(queue, head)| WaitingState { queue, head });
    let fs = Fs::new(&config, server, None).unwrap().with_waiting(forged.to_vec());
    let mut clone = Driver::with_memory(Box::new(fs), driver.memory.clone());
    clone.transport.restore(&state).unwrap();
    clone.queues = std::mem::take(&mut driver.queues);
    clone.allocate(1 << 20);
    clone.transport.resume();
    clone.wait_needs_reset();
    look_up(&mut clone, 1, 1, "s");
}

#[test]
fn a_reset_forgets_what_waits() {
    let (mut driver, directory) = driver(1);
    init(&mut driver);
    let open = open_file(&mut driver);
    let host = host_lock(directory.path());
    offer_lock(&mut driver, 1, open);
    assert_eq!(read(&mut driver, 1, open.0, open.1).0, 0);
    driver.reset();
    driver.start(u64::MAX, 64);
    init(&mut driver);
    drop(host);
    let open = open_file(&mut driver);
    assert_eq!(read(&mut driver, 1, open.0, open.1).0, 0);
    host_lock(directory.path());
}
