//! A disk that is full where the state of pods is.

use std::path::{Path, PathBuf};

use integration_tests::Invocation;

use crate::{Containerd, SHIM, crash, ctr, exec, expect_state};

const STATE: &str = "/run/containerd/ringfence";
const PAGE: u64 = 4096;
/// With so many pages there is room for a container.
const ENOUGH: u64 = 16;

/// A small file system in the place of the state; gone with the value.
struct Small {
    filler: PathBuf,
}

impl Small {
    fn mount() -> Self {
        std::fs::create_dir_all(STATE).expect("a directory can be made");
        let mount = Invocation::new("mount").args(&["-t", "tmpfs", "-o", "size=1m,mode=700"]);
        mount.args(&["small", STATE]).run().expect_code(0);
        Self { filler: Path::new(STATE).join("filler") }
    }

    /// Leaves so many pages.
    fn leave(&self, pages: u64) {
        std::fs::write(&self.filler, "").expect("it can be made empty");
        let free = rustix::fs::statvfs(STATE).expect("it is there").f_bavail;
        let bytes = (free - pages) * PAGE;
        let bytes = vec![0; usize::try_from(bytes).expect("it is small")];
        std::fs::write(&self.filler, bytes).expect("there is room");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Invocation::new("umount").args(&["--lazy", STATE]).run();
    }
}

#[test]
fn a_full_disk_is_told_and_hurts_nobody_else() {
    std::fs::create_dir_all(STATE).expect("a directory can be made");
    let (containerd, lab) = Containerd::start();
    let small = Small::mount();
    containerd.leave(&[], "other", "exec sleep 1000");
    let made = (0..ENOUGH).find(|pages| {
        small.leave(*pages);
        let outcome = containerd.run(SHIM, &["--detach"], "full", "exec sleep 1000").run();
        if outcome.code() == 0 {
            return true;
        }
        outcome.expect_error("No space left on device");
        ctr(&["container", "delete", "full"]).expect_code(0);
        assert_eq!(crash::gc(&[]), "", "{pages} pages");
        exec("other", "meanwhile", "exit 9").expect_code(9);
        false
    });
    assert!(made.is_some_and(|pages| pages > 0), "{made:?}");
    // What runs goes on when there is no room at all, and can be ended.
    let free = rustix::fs::statvfs(STATE).expect("it is there").f_bavail;
    std::fs::write(Path::new(STATE).join("rest"), vec![0; usize::try_from(free * PAGE).unwrap()])
        .expect("there is room");
    exec("full", "one", "exit 8").expect_code(8);
    ctr(&["task", "kill", "--signal", "SIGKILL", "full"]).expect_code(0);
    expect_state("full", "STOPPED");
    for id in ["full", "other"] {
        containerd.remove(id);
    }
    drop(small);
    lab.expect_nothing_left();
}
