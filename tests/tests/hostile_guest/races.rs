//! A guest and the host race over the names of a share: whatever the host swaps under the file server's
//! hands, the guest neither reads nor changes what lies beside the share.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use integration_tests::tree::listing;
use integration_tests::{Lab, Root};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

/// How long they race, in seconds of the guest.
const SECONDS: &str = "6";

/// Swaps `d` and `out`, and replaces a file by links to the one beside the share, until it is over.
fn swap(share: &Path, canary: &Path, over: &AtomicBool) -> u64 {
    let swaps = AtomicU64::new(0);
    let [d, out, link, file] = ["d", "out", "next", "sub-link"].map(|name| share.join(name));
    while !over.load(Ordering::Relaxed) {
        if renameat_with(CWD, &d, CWD, &out, RenameFlags::EXCHANGE).is_ok() {
            swaps.fetch_add(1, Ordering::Relaxed);
        }
        // Also a name that is a file at one moment, and leads out at the next.
        if std::os::unix::fs::symlink(canary.join("file"), &link).is_ok() {
            let _ = std::fs::rename(&link, &file);
        }
        let _ = std::fs::write(&link, "a file");
        let _ = std::fs::rename(&link, &file);
        let _ = std::fs::remove_file(&link);
    }
    swaps.load(Ordering::Relaxed)
}

#[test]
fn names_that_the_host_swaps_lead_nowhere_else() {
    let lab = Lab::enter();
    let program = lab.compile("race", include_str!("race.c"));
    let share = lab.directory("share");
    let canary = lab.directory("canary");
    for place in [&canary, &share.join("d")] {
        std::fs::create_dir_all(place.join("sub")).unwrap();
    }
    std::fs::write(canary.join("file"), "the canary's own words").unwrap();
    std::fs::write(canary.join("sub/file"), "the canary's other words").unwrap();
    std::os::unix::fs::symlink("/", canary.join("up")).unwrap();
    std::fs::write(share.join("d/file"), "plain").unwrap();
    std::os::unix::fs::symlink("../../canary", share.join("d/out")).unwrap();
    std::os::unix::fs::symlink(&canary, share.join("out")).unwrap();
    let before = listing(&canary);

    let bundle = lab.bundle(Root::Copied("busybox"));
    let bundle = bundle.install(&program, "race").args(&["/race", SECONDS]).bind(
        &share,
        "/r",
        &["rbind", "rw"],
    );
    let bundle = bundle.edit(|config| {
        // The guest asks the host each time, and may mount.
        config["annotations"] = json!({ "dev.ringfence.file_cache": "none" });
        let all = json!([
            "CAP_SYS_ADMIN",
            "CAP_DAC_OVERRIDE",
            "CAP_CHOWN",
            "CAP_FOWNER",
            "CAP_FSETID",
            "CAP_MKNOD"
        ]);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = all.clone();
        }
        config["linux"].as_object_mut().unwrap().remove("seccomp");
    });
    let over = AtomicBool::new(false);
    let (outcome, swaps) = std::thread::scope(|scope| {
        let swapper = scope.spawn(|| swap(&share, &canary, &over));
        let outcome = lab.ringfence(&bundle).run();
        over.store(true, Ordering::Relaxed);
        (outcome, swapper.join().unwrap())
    });
    println!("{swaps} swaps, {}", outcome.out().trim_end());
    outcome.expect_code(0);
    assert_eq!(listing(&canary), before, "what lies beside the share was changed\n{outcome}");
    assert!(outcome.out().ends_with("secrets 0\n"), "the guest has read it\n{outcome}");
    assert!(!outcome.out().starts_with("tried 0 ") && swaps > 100, "{swaps} swaps\n{outcome}");
    lab.expect_nothing_left();
}
