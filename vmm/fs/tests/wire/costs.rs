//! What inodes cost the process, and what happens where it has no descriptor left. Both concern the
//! whole process: each test runs in one of its own.

use std::path::Path;
use std::process::Command;

use file_server::wire::EntryOut;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::client::{Client, config, share};

/// Set in the process that a test starts for itself.
const ALONE: &str = "FILE_SERVER_TEST_ALONE";

/// Runs `body` in a process in which nothing else happens.
fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let name = format!("costs::{test}");
    let mut command = Command::new(std::env::current_exe().unwrap());
    let status = command.args(["--exact", &name, "--nocapture"]).env(ALONE, "1").status();
    assert!(status.unwrap().success());
}

fn allow_descriptors(count: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum }).unwrap();
}

fn fill(path: &Path, count: usize) {
    for i in 0..count {
        std::fs::write(path.join(format!("f{i}")), "").unwrap();
    }
}

/// Resident memory of this process that is its own.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn an_inode_costs_less_memory_than_its_descriptor() {
    /// Not much less than what fills tables of 8,192 places to seven eighths, where they grow.
    const COUNT: usize = 7000;
    /// An inode with its counts: 64, as a compile-time check says, and 16 of the allocator. Two map
    /// entries of 25 and 33 with the places that are free.
    const BYTES: usize = 64 + 16 + (25 + 33) * 8 / 7;
    alone("an_inode_costs_less_memory_than_its_descriptor", || {
        allow_descriptors(8000);
        let dir = tempfile::TempDir::new().unwrap();
        fill(dir.path(), COUNT);
        let mut client = Client::new(config(vec![share("s", dir.path())]));
        let root = client.lookup(1, "s").unwrap().nodeid;
        let before = memory();
        for i in 0..COUNT {
            client.lookup(root, &format!("f{i}")).unwrap();
        }
        let each = memory().saturating_sub(before) / COUNT;
        println!("{each} bytes for an inode");
        // The counters of the kernel are exact to some pages only.
        assert!(each <= BYTES + 20, "{each} bytes for an inode, not {BYTES}");
    });
}

#[test]
fn a_process_without_descriptors_left_refuses_and_goes_on() {
    alone("a_process_without_descriptors_left_refuses_and_goes_on", || {
        let dir = tempfile::TempDir::new().unwrap();
        fill(dir.path(), 200);
        let mut client = Client::new(config(vec![share("s", dir.path())]));
        let root = client.lookup(1, "s").unwrap().nodeid;
        allow_descriptors(100);
        let mut held: Vec<EntryOut> = Vec::new();
        let refused = loop {
            match client.lookup(root, &format!("f{}", held.len())) {
                Ok(entry) => held.push(entry),
                Err(errno) => break errno,
            }
        };
        assert_eq!(refused, Errno::NFILE);
        assert!(held.len() > 20, "{}", held.len());
        let node = held[0].nodeid;
        assert_eq!(client.open(node, libc::O_RDONLY), Err(Errno::NFILE));
        assert_eq!(client.opendir(root), Err(Errno::NFILE));
        assert_eq!(client.create(root, "new", libc::O_RDWR, 0o644).unwrap_err(), Errno::NFILE);
        // What is held is as good as before, and what is forgotten makes room.
        assert!(client.getattr(node).is_ok());
        for entry in held.drain(1..) {
            client.forget(entry.nodeid, 1);
        }
        let open = client.open(node, libc::O_RDWR).unwrap();
        assert_eq!(client.write(node, open.fh, 0, b"text"), Ok(4));
        assert!(client.lookup(root, "f199").is_ok());
        assert!(client.create(root, "made", libc::O_RDWR, 0o644).is_ok());
    });
}
