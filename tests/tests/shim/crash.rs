//! Shims that are killed at each entry of their journal, and with nobody left to call `delete` for them:
//! `ringfence gc` finds what they have written down.

use std::path::PathBuf;

use integration_tests::command::open_for_writing;
use integration_tests::{Invocation, Lab, host};
use rustix::process::{Signal, kill_process};

use crate::{Containerd, SHIM, ctr, exec, pid, state, wait_for};

/// Entries of the journal until a pod stands: claimed, cgroup, machine, created.
const JOURNAL: usize = 4;
/// What the kernel keeps of the program's name (TASK_COMM_LEN).
pub(crate) const NAME: &str = "containerd-shim";
const PROGRAM: &str = "containerd-shim-ringfence-v2";
const STATE: &str = "/run/containerd/ringfence/default";

pub(crate) fn gc(words: &[&str]) -> String {
    let outcome = Invocation::new("ringfence").arg("gc").args(words).run();
    outcome.expect_code(0);
    outcome.out().to_owned()
}

/// A shim that comes to its N-th rename(2) and not beyond: one before each entry. containerd starts it by
/// its path; its `delete` is not held up.
fn doomed(lab: &Lab, nth: usize) -> String {
    at_rename(lab, nth, "KILL").0
}

/// One that stands still there, until it is sent SIGCONT; and the file that says when it does.
pub(crate) fn halted(lab: &Lab, nth: usize) -> (String, PathBuf) {
    at_rename(lab, nth, "STOP")
}

fn at_rename(lab: &Lab, nth: usize, signal: &str) -> (String, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::var_os("PATH").unwrap();
    let real = std::env::split_paths(&path).map(|directory| directory.join(PROGRAM));
    let real = real.into_iter().find(|file| file.is_file()).expect("the shim is on the PATH");
    let directory = lab.directory(&format!("{signal}-{nth}"));
    let trace = directory.join("trace");
    let shim = directory.join(PROGRAM);
    let strace = format!(
        "strace -D -f -o {} -e trace=rename -e inject=rename:signal={signal}:when={nth}",
        trace.display()
    );
    // strace lives as long as the shim, and must not hold what containerd reads to its end.
    let said = directory.join("said");
    let script = format!(
        "#!/bin/sh\nfor word; do [ \"$word\" != start ] || break; done\n\
         [ \"$word\" = start ] || exec {0} \"$@\"\n\
         {strace} {0} \"$@\" >{1} 2>&1\nstatus=$?\ncat {1}\nexit $status\n",
        real.display(),
        said.display()
    );
    std::fs::write(&shim, script).unwrap();
    std::fs::set_permissions(&shim, std::fs::Permissions::from_mode(0o755)).unwrap();
    (shim.to_str().unwrap().to_owned(), trace)
}

fn no_machine_is_left() -> bool {
    !host::processes().iter().any(|process| process.name.starts_with("ringfence-vmm"))
}

#[test]
fn a_shim_that_is_killed_at_any_entry_of_its_journal_leaves_nothing_for_good() {
    let (containerd, lab) = Containerd::start();
    for nth in 1..=JOURNAL {
        let id = format!("doomed-{nth}");
        let shim = doomed(&lab, nth);
        // Files: what is killed may leave others that hold them.
        let null = || open_for_writing("/dev/null");
        let run = containerd.run(&shim, &["--detach"], &id, "exec sleep 1000");
        let run = run.stdout(null()).stderr(null()).run();
        assert_ne!(run.code(), 0, "entry {nth}: {run}");
        wait_for("the end of the machine", no_machine_is_left);
        let _ = ctr(&["task", "delete", "--force", &id]);
        ctr(&["container", "delete", &id]).expect_code(0);
        let _ = gc(&[]);
        lab.expect_nothing_left();
    }
}

#[test]
fn what_a_shim_and_its_engine_leave_is_found_by_the_collector() {
    let (mut containerd, lab) = Containerd::start();
    // The first one has made the cgroup that both are in, and goes last.
    containerd.leave(&[], "lives", "exec sleep 1000");
    containerd.leave(&[], "lost", "exec sleep 1000");
    let shim = pid("lost");
    // Nobody is there to call `delete` for it.
    containerd.kill();
    kill_process(shim, Signal::KILL).expect("it runs");
    let directory = format!("{STATE}/lost");
    wait_for("the collector to see it", || gc(&["--dry-run"]).contains(&directory));
    let shown = gc(&["--dry-run"]).replace("would remove", "removed");
    let removed = gc(&[]);
    assert!(removed.contains(&format!("removed directory {directory}")), "{removed}");
    assert!(!removed.contains("lives"), "{removed}");
    // Its machine may have ended between the two.
    assert!(shown.lines().count() >= removed.lines().count(), "{shown}\n{removed}");
    assert_eq!(gc(&[]), "");
    containerd.restart();
    wait_for("the end of the task", || state("lost").is_none_or(|state| state == "STOPPED"));
    let _ = ctr(&["task", "delete", "--force", "lost"]);
    ctr(&["container", "delete", "lost"]).expect_code(0);
    exec("lives", "still", "exit 8").expect_code(8);
    containerd.remove("lives");
    assert_eq!(gc(&[]), "");
    lab.expect_nothing_left();
}

#[test]
fn a_machine_or_an_engine_that_is_killed_in_any_state_is_told_and_cleaned() {
    let (mut containerd, lab) = Containerd::start();
    // Not started, paused, and with an `exec` that lasts.
    let created = Invocation::new("ctr").args(&["container", "create", "--runtime", SHIM]);
    created.args(&["--rootfs", &containerd.root, "made", "/bin/true"]).run().expect_code(0);
    containerd.leave(&[], "paused", "exec sleep 1000");
    ctr(&["task", "pause", "paused"]).expect_code(0);
    containerd.leave(&[], "busy", "exec sleep 1000");
    exec("busy", "before", "sleep 1000 >/dev/null 2>&1 & exit 5").expect_code(5);
    containerd.restart();
    assert_eq!(state("paused").as_deref(), Some("PAUSED"));
    // The first one has made the cgroup that both are in, and goes last.
    for id in ["busy", "paused"] {
        kill_process(host::vmm_of(pid(id)), Signal::KILL).expect("it runs");
        wait_for("the end of the task", || state(id).is_none_or(|state| state == "STOPPED"));
        let _ = ctr(&["task", "delete", "--force", id]);
        ctr(&["container", "delete", id]).expect_code(0);
    }
    ctr(&["container", "delete", "made"]).expect_code(0);
    assert_eq!(gc(&[]), "");
    lab.expect_nothing_left();
}
