//! Each process is killed at each step of create, start, exec, pause and delete; afterwards
//! `delete --force` and `gc` leave the host as it was.
//!
//! strace ends a process at its N-th call of a system call, which is the same step on a slow host and on
//! a fast one. A supervisor writes its journal with rename(2): a kill there is one before each entry.

use std::time::{Duration, Instant};

use integration_tests::command::open_for_writing;
use integration_tests::detached::reap_strays;
use integration_tests::{Bundle, Invocation, Lab, Root, host};
use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};
use serde_json::json;

/// Entries of the journal over the life that [`live`] drives: claimed, cgroup, machine, created, handed
/// over, running, paused, running, ended.
const JOURNAL: usize = 9;
/// Those before `create` has handed over.
const CREATION: usize = 5;

/// How long killed processes may take to be gone.
const GONE: Duration = Duration::from_secs(60);

const CGROUP: &str = "/sys/fs/cgroup/ringfence-crash";

fn enter() -> (Lab, Bundle) {
    let lab = Lab::enter();
    set_child_subreaper(Some(getpid())).unwrap();
    let bundle = lab.bundle(Root::Shared("busybox")).script("exec sleep 604").edit(|config| {
        config["linux"]["cgroupsPath"] = json!("/ringfence-crash/c");
        config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
    });
    (lab, bundle)
}

/// A command whose outcome is of no interest: it may be killed, or its container be gone.
fn attempt(invocation: Invocation) -> i32 {
    // Files: a supervisor holds them for as long as it lives.
    let null = || open_for_writing("/dev/null");
    invocation.stdout(null()).stderr(null()).run().code()
}

fn about(id: &str, words: &[&str], more: &[&str]) -> Invocation {
    Invocation::new("ringfence").args(words).arg(id).args(more)
}

fn create(bundle: &Bundle, id: &str) -> Invocation {
    Invocation::new("ringfence").args(&["create", "--bundle"]).arg(bundle.write()).arg(id)
}

/// Kills at the N-th of a system call. With `all`, whatever process among the command and those that it
/// starts comes to its N-th first; strace stays behind for as long as they live.
fn killed_at(invocation: Invocation, call: &str, nth: usize, all: bool) -> Invocation {
    let trace = format!("trace={call}");
    let inject = format!("inject={call}:signal=KILL:when={nth}");
    let mut strace = vec!["strace", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    if all {
        strace.extend(["-D", "-f"]);
    }
    invocation.through(&strace)
}

/// The rest of a container's life, as far as it comes.
fn live(id: &str) {
    for (words, more) in [
        (&["start"][..], &[][..]),
        (&["exec"], &["true"]),
        (&["pause"], &[]),
        (&["resume"], &[]),
        (&["kill"], &["KILL"]),
    ] {
        attempt(about(id, words, more));
    }
}

/// Waits until the supervisor has come to its kill.
fn expect_killed(id: &str, step: &str) {
    let until = Instant::now() + GONE;
    loop {
        let state = about(id, &["state"], &[]).run();
        if state.out().contains("its supervisor was killed") {
            return;
        }
        assert!(Instant::now() < until, "{step}: {state}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait_until_it_runs(id: &str) {
    let until = Instant::now() + GONE;
    while !about(id, &["state"], &[]).run().out().contains("\"running\"") {
        assert!(Instant::now() < until, "it does not run");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn gc(words: &[&str]) -> String {
    let outcome = Invocation::new("ringfence").arg("gc").args(words).run();
    outcome.expect_code(0);
    outcome.out().to_owned()
}

/// Waits until no process is left.
fn wait_for_processes(step: &str) {
    let until = Instant::now() + GONE;
    loop {
        reap_strays();
        let left: Vec<String> = host::processes().into_iter().map(|left| left.shown).collect();
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < until, "{step}: {left:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// No process, and nothing else, is left.
fn expect_clean(lab: &Lab, step: &str) {
    wait_for_processes(step);
    let left = lab.left_behind();
    assert!(left.is_empty(), "{step}:\n{}", left.join("\n"));
}

/// What is left of a container goes by `delete --force`, and then there is nothing for the collector.
fn delete(lab: &Lab, id: &str, step: &str) {
    about(id, &["delete", "--force"], &[]).run().expect_code(0);
    assert_eq!(gc(&[]), "", "{step}");
    expect_clean(lab, step);
}

#[test]
fn a_supervisor_that_is_killed_at_any_entry_of_its_journal_leaves_nothing_for_good() {
    let (lab, bundle) = enter();
    for nth in 1..=JOURNAL {
        let step = format!("entry {nth}");
        let id = lab.new_id();
        let status = attempt(killed_at(create(&bundle, &id), "rename", nth, true));
        assert_eq!(status != 0, nth <= CREATION, "{step}: create ended with {status}");
        live(&id);
        if nth > CREATION {
            expect_killed(&id, &step);
        }
        // The two ways in turn, and both after each part of a life.
        if nth % 2 == 0 {
            delete(&lab, &id, &step);
        } else {
            // Its machine goes with it; how soon is chance.
            wait_for_processes(&step);
            let shown = gc(&["--crashed", "--dry-run"]).replace("would remove", "removed");
            assert_eq!(gc(&["--crashed"]), shown, "{step}");
            assert!(!shown.is_empty(), "{step}");
            expect_clean(&lab, &step);
        }
    }
}

#[test]
fn a_supervisor_that_is_killed_between_entries_leaves_nothing_for_good() {
    let (lab, bundle) = enter();
    // When cgroups are made, and when the container stands and its socket does not.
    for (call, nth) in [("mkdir", 3), ("listen", 1)] {
        let step = format!("{call} {nth}");
        let id = lab.new_id();
        attempt(killed_at(create(&bundle, &id), call, nth, true));
        let _ = gc(&[]);
        delete(&lab, &id, &step);
    }
}

#[test]
fn a_client_that_is_killed_at_any_step_hurts_nobody() {
    let (lab, bundle) = enter();
    let id = lab.new_id();
    // Before it asks, and when it waits for the answer.
    let steps = [("connect", 1), ("sendmsg", 1), ("recvmsg", 1)];
    attempt(create(&bundle, &id));
    for (words, more) in
        [(&["exec"][..], &["true"][..]), (&["pause"], &[]), (&["resume"], &[]), (&["start"], &[])]
    {
        for (call, nth) in steps {
            attempt(killed_at(about(&id, words, more), call, nth, false));
        }
        if words == ["pause"] {
            attempt(about(&id, &["resume"], &[]));
        }
    }
    // The supervisor has outlived them all, and serves.
    assert_eq!(gc(&["--crashed"]), "");
    attempt(about(&id, &["start"], &[]));
    // A start whose client was killed may still be under way, and then no other one is taken.
    wait_until_it_runs(&id);
    about(&id, &["exec"], &["true"]).run().expect_code(0);
    about(&id, &["kill"], &["KILL"]).run().expect_code(0);
    for (call, nth) in [("flock", 1), ("unlink", 1), ("unlink", 2), ("unlink", 3), ("rmdir", 1)] {
        attempt(killed_at(about(&id, &["delete", "--force"], &[]), call, nth, false));
    }
    delete(&lab, &id, "a killed client");
}

#[test]
fn a_machine_that_is_killed_while_it_is_made_is_no_container() {
    let (lab, bundle) = enter();
    // When its walls are about to go up, and when the last of them is: nobody else makes this call.
    for nth in [1, 2] {
        let step = format!("seccomp {nth}");
        let id = lab.new_id();
        let status = attempt(killed_at(create(&bundle, &id), "seccomp", nth, true));
        assert_ne!(status, 0, "{step}");
        wait_for_processes(&step);
        // Its supervisor lives, and has undone what it did.
        assert_eq!(gc(&["--crashed"]), "", "{step}");
        delete(&lab, &id, &step);
    }
}

#[test]
fn an_exec_ends_with_its_machine() {
    let (lab, bundle) = enter();
    let id = lab.new_id();
    attempt(create(&bundle, &id));
    about(&id, &["start"], &[]).run().expect_code(0);
    let exec = about(&id, &["exec"], &["sh", "-c", "echo in; exec sleep 603"]).start();
    exec.wait_for_stdout("in\n");
    kill_process(machine(), Signal::KILL).unwrap();
    let exec = exec.finish();
    assert!([137, 250].contains(&exec.code()), "{exec}");
    delete(&lab, &id, "exec");
}

/// The one machine that runs.
fn machine() -> Pid {
    let machine = host::processes().into_iter().find(|one| one.name.starts_with("ringfence-vmm"));
    let pid = i32::try_from(machine.expect("it runs").pid).ok();
    pid.and_then(Pid::from_raw).expect("a pid is positive")
}

#[test]
fn a_machine_that_is_killed_in_any_state_leaves_nothing_for_good() {
    let (lab, bundle) = enter();
    for verbs in [&[][..], &["start", "pause"]] {
        let step = format!("after create {verbs:?}");
        let id = lab.new_id();
        attempt(create(&bundle, &id));
        for verb in verbs {
            about(&id, &[verb], &[]).run().expect_code(0);
        }
        kill_process(machine(), Signal::KILL).unwrap();
        delete(&lab, &id, &step);
    }
}

#[test]
fn a_container_in_the_foreground_goes_with_the_collector() {
    let (lab, bundle) = enter();
    let id = lab.new_id();
    let run = Invocation::new("ringfence").args(&["run", "--bundle"]).arg(bundle.write()).arg(&id);
    let running = run.start();
    wait_until_it_runs(&id);
    assert_eq!(gc(&[]), "", "it is its supervisor's");
    running.signal(Signal::KILL);
    running.finish().expect_code(137);
    let removed = gc(&[]);
    for what in [&*id, "removed directory /run/ringfence/", &format!("removed cgroup {CGROUP}/c")] {
        assert!(removed.contains(what), "{what} is not in {removed:?}");
    }
    expect_clean(&lab, "the foreground");
}
