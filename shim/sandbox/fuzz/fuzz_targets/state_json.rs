//! A state.json of another version, cut off, or written by somebody else: looking at it neither fails
//! nor takes what it says for more than it is. Nothing is removed by what it says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbox::{Container, Detail, GcOptions, gc, list};
use std::path::PathBuf;
use std::sync::LazyLock;

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = tempfile::TempDir::new_in("/dev/shm").expect("a directory can be made");
    let root = directory.keep();
    std::fs::create_dir(root.join("c1")).expect("a directory can be made");
    root
});

fuzz_target!(|bytes: &[u8]| {
    let root = ROOT.as_path();
    std::fs::write(root.join("c1/state.json"), bytes).expect("a file can be written");
    let listed = list(root, Detail::Digests).expect("the root can be read");
    match Container::find(root, "c1") {
        Ok(container) => assert_eq!(container.report(Detail::State).id, listed[0].id),
        Err(error) => assert!(listed.is_empty() && !error.to_string().is_empty()),
    }
    // It looks at every process of the host, which is slow.
    if !listed.is_empty() {
        gc(root, GcOptions { dry_run: true, crashed: true }).expect("the root can be read");
    }
});
