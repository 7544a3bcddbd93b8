//! A guest kernel of our own that attacks its virtual machine from ring 0. Whatever it does, the VMM
//! ends as it should, nothing outside the share is changed, and the next sandbox runs.

mod neighbour;
mod races;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use integration_tests::tree::listing;
use integration_tests::{Bundle, Invocation, Lab, Outcome, Root};
use serde_json::json;

/// The machine ended by itself, as the payload asks for when it is through.
const VM_DIED: i32 = 250;

/// What a VMM that has failed, or was killed by its own filter, would be told with.
const FAILURES: [&str; 3] = ["panicked", "killed by signal", "exited with status"];

/// Lines that the failures of devices may take in the log.
const MOST_LINES: usize = 200;

fn payload(lab: &Lab, attack: u32, seed: u64) -> PathBuf {
    let source = lab.scratch().join("payload.c");
    std::fs::write(&source, include_str!("payload.c")).unwrap();
    let program = lab.scratch().join(format!("payload-{attack}-{seed}"));
    let gcc = Invocation::new("gcc").args(&[
        "-O1",
        "-ffreestanding",
        "-fno-pic",
        "-no-pie",
        "-static",
        "-nostdlib",
        "-mno-red-zone",
        "-mgeneral-regs-only",
        "-fno-stack-protector",
        "-fcf-protection=none",
        "-fno-asynchronous-unwind-tables",
        "-fno-strict-aliasing",
        "-mcmodel=large",
        "-Wall",
        "-Wl,-Ttext-segment=0x1000000",
        "-Wl,--build-id=none",
        "-Wl,-z,noexecstack",
    ]);
    let define = |name: &str, value: u64| format!("-D{name}={value}");
    let gcc = gcc.arg(define("ATTACK", attack.into())).arg(define("SEED", seed));
    gcc.arg("-o").arg(&program).arg(&source).run().expect_code(0);
    program
}

/// A bundle with a directory beside its root, and links that lead there.
fn bundle(lab: &Lab, kernel: &Path) -> (Bundle, PathBuf) {
    let bundle = lab.bundle(Root::Copied("busybox")).edit(|config| {
        config["vm"] = json!({ "kernel": { "path": kernel } });
    });
    let canary = bundle.root().parent().unwrap().join("canary");
    std::fs::create_dir(&canary).unwrap();
    std::fs::write(canary.join("file"), "as it was").unwrap();
    std::os::unix::fs::symlink("/", canary.join("link")).unwrap();
    std::os::unix::fs::symlink(&canary, bundle.root().join("escape")).unwrap();
    std::os::unix::fs::symlink("../canary/file", bundle.root().join("file")).unwrap();
    std::fs::hard_link(bundle.root().join("bin/busybox"), canary.join("shared")).unwrap();
    (bundle, canary)
}

#[track_caller]
fn attack(lab: &Lab, number: u32, seed: u64) -> Outcome {
    let kernel = payload(lab, number, seed);
    let (bundle, canary) = bundle(lab, &kernel);
    // The shared file is the share's own; what it holds may change.
    let before = || {
        let mut tree = listing(&canary);
        tree.remove(Path::new("./shared"));
        tree.remove(Path::new("shared"));
        tree
    };
    let tree = before();
    let run = Invocation::new("ringfence").args(&["run", "--memory", "64", "--bundle"]);
    let outcome = run.arg(bundle.write()).arg(lab.new_id()).run();
    outcome.expect_code(VM_DIED);
    let mut lines = outcome.err().lines();
    let said = lines.find(|line| line.contains(&format!("hostile: attack {number} is over")));
    let said = said.unwrap_or_else(|| panic!("it did not come to its end\n{outcome}"));
    println!("{said}");
    assert_eq!(number == 1, said.contains("requests 0,"), "it did not attack\n{outcome}");
    for failure in FAILURES {
        assert!(!outcome.err().contains(failure), "{failure:?}\n{outcome}");
    }
    assert!(outcome.err().lines().count() <= MOST_LINES, "the log is full\n{outcome}");
    assert_eq!(before(), tree, "the tree beside the share was changed\n{outcome}");
    lab.expect_nothing_left();
    outcome
}

/// The next one is not disturbed.
#[track_caller]
fn expect_a_sandbox_runs(lab: &Lab) {
    let outcome = lab.ringfence(&lab.bundle(Root::Shared("busybox")).args(&["echo", "up"])).run();
    outcome.expect_code(0);
    assert_eq!(outcome.out(), "up\n");
}

#[test]
fn registers_and_ports() {
    let lab = Lab::enter();
    attack(&lab, 1, 0x5EED_0001);
}

#[test]
fn queues_of_every_device() {
    let lab = Lab::enter();
    attack(&lab, 2, 0x5EED_0002);
    expect_a_sandbox_runs(&lab);
}

#[test]
fn a_flood_of_the_console() {
    /// Bytes that are kept at once, and in a second.
    const RATE: u64 = 2000;
    let lab = Lab::enter();
    let kernel = payload(&lab, 5, 1);
    let (bundle, _) = bundle(&lab, &kernel);
    let bundle = bundle.edit(|config| {
        let rate = format!("bytes={RATE}/{RATE}");
        config["annotations"] = json!({ "dev.ringfence.console_rate": rate });
    });
    let id = lab.new_id();
    let run = Invocation::new("ringfence").args(&["run", "--memory", "64", "--bundle"]);
    let began = Instant::now();
    let running = run.arg(bundle.write()).arg(&id).start();
    let mut log = String::new();
    // It goes with its container: what was last seen of it is its end, or nearly.
    while neighbour::is_there(running.pid()) {
        log = std::fs::read_to_string(format!("/run/ringfence/{id}/console.log")).unwrap_or(log);
        std::thread::sleep(Duration::from_millis(2));
    }
    let seconds = began.elapsed().as_secs() + 1;
    running.finish().expect_code(VM_DIED);
    let bytes = u64::try_from(log.len()).unwrap();
    println!("{bytes} bytes of some 80000 in {seconds} s");
    assert!(log.contains("bytes were dropped"), "{log}");
    // A line may go over the limit, and is paid for afterwards.
    assert!(bytes <= RATE * (seconds + 1) + 1000, "{bytes} bytes in {seconds} s");
    lab.expect_nothing_left();
}

#[test]
fn a_neighbour_and_the_host_notice_nothing() {
    let lab = Lab::enter();
    let kernel = payload(&lab, 2, 0x5EED_0005);
    let (bundle, _) = bundle(&lab, &kernel);
    neighbour::expect_nothing_noticed(&lab, &bundle, "hostile: attack 2 is over", VM_DIED);
}

#[test]
fn requests_of_the_file_system() {
    let lab = Lab::enter();
    attack(&lab, 3, 0x5EED_0003);
}

#[test]
fn packets_of_the_socket_device() {
    let lab = Lab::enter();
    attack(&lab, 4, 0x5EED_0004);
}
