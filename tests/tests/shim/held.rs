//! Calls that are in the middle when containerd is killed, or when a machine stands still.

use std::path::PathBuf;

use integration_tests::command::open_for_writing;
use integration_tests::{Invocation, Lab, Root, Running, host};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{Containerd, DAY, SHIM, ctr, exec, expect_state, pid, state, wait_for};

/// Hooks that wait until they are let go.
struct Gate {
    directory: PathBuf,
}

impl Gate {
    fn new(lab: &Lab) -> Self {
        Self { directory: lab.directory("gate") }
    }

    /// A hook, as a bundle has it.
    fn hook(&self, name: &str) -> Value {
        let script = format!(
            "cat >/dev/null; cd {0:?} && : >{name}; until [ -e go ]; do sleep 0.2; done",
            self.directory
        );
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }])
    }

    fn wait_for(&self, name: &str) {
        wait_for(name, || self.directory.join(name).exists());
    }

    fn open(&self) {
        std::fs::write(self.directory.join("go"), "").expect("it can be written");
    }
}

/// Leaves the command to itself: containerd, which it asks, is about to end.
fn start(invocation: Invocation) -> Running {
    let null = || open_for_writing("/dev/null");
    invocation.stdout(null()).stderr(null()).start()
}

/// Tasks that are there or not can be removed, and nothing of them is left for the collector.
fn clean<'i>(ids: impl Iterator<Item = &'i str>) {
    for id in ids {
        wait_for("an answer about the task", || {
            let _ = ctr(&["task", "delete", "--force", id]);
            state(id).is_none()
        });
        ctr(&["container", "delete", id]).expect_code(0);
    }
    assert_eq!(crate::crash::gc(&[]), "");
}

#[test]
fn an_engine_that_is_killed_in_the_middle_of_any_call_finds_its_tasks_or_cleans_them() {
    let (mut containerd, lab) = Containerd::start();
    let gate = Gate::new(&lab);
    let run = |id: &str, hook: &str, script: &str| {
        let bundle = lab.bundle(Root::Shared("busybox")).script(script).edit(|config| {
            config["root"] = json!({ "path": containerd.root });
            config["linux"]["cgroupsPath"] = json!(format!("/default/{id}"));
            config["hooks"][hook] = gate.hook(id);
        });
        let config = lab.scratch().join(format!("{id}.json"));
        std::fs::copy(bundle.write().join("config.json"), &config).expect("it can be copied");
        let run = Invocation::new("ctr").args(&["run", "--runtime", SHIM, "--detach", "--config"]);
        run.arg(config).arg(id)
    };
    let events = Invocation::new("ctr").arg("events").deadline(DAY).start();
    // One that stays, so that the cgroup that all of them are in does.
    containerd.leave(&[], "executing", "exec sleep 1000");
    run("deleting", "poststop", "exit 3").run().expect_code(0);
    expect_state("deleting", "STOPPED");
    let stopped = host::vmm_of(pid("executing"));
    kill_process(stopped, Signal::STOP).expect("it runs");

    let mut clients = vec![
        start(run("creating", "createRuntime", "exec sleep 1000")),
        start(run("starting", "poststart", "exec sleep 1000")),
        start(Invocation::new("ctr").args(&["task", "delete", "deleting"])),
    ];
    let words = ["task", "exec", "--exec-id", "held", "executing", "/bin/true"];
    clients.push(start(Invocation::new("ctr").args(&words)));
    for id in ["creating", "starting", "deleting"] {
        gate.wait_for(id);
    }
    events.wait_for_stdout("/tasks/exec-added");
    containerd.kill();
    for client in clients {
        assert_ne!(client.finish().code(), 0, "its containerd has ended");
    }
    events.signal(Signal::KILL);
    drop(events.finish());
    containerd.restart();
    gate.open();
    kill_process(stopped, Signal::CONT).expect("it is there");

    // What ran runs, and what was about to run does.
    exec("executing", "again", "exit 8").expect_code(8);
    expect_state("starting", "RUNNING");
    clean(["creating", "deleting", "starting", "executing"].into_iter());
    lab.expect_nothing_left();
}

#[test]
fn calls_to_a_machine_that_stands_still_end_and_hold_up_nobody() {
    let (containerd, lab) = Containerd::start();
    let config = lab.scratch().join("short.toml");
    // Long enough for a slow host, and short enough to wait for.
    std::fs::write(&config, "boot_timeout_ms = 120000\nrequest_timeout_ms = 20000\n")
        .expect("it can be written");
    let config = config.to_str().expect("a plain path");
    containerd.leave(&["--runtime-config-path", config], "stuck", "exec sleep 1000");
    containerd.leave(&[], "other", "exec sleep 1000");
    kill_process(host::vmm_of(pid("stuck")), Signal::STOP).expect("it runs");
    let ask = |words: &[&str]| Invocation::new("ctr").args(&["task"]).args(words).start();
    let asked = [
        ask(&["exec", "--exec-id", "one", "stuck", "/bin/true"]),
        ask(&["exec", "--exec-id", "two", "stuck", "/bin/true"]),
        ask(&["metrics", "stuck"]),
        ask(&["pause", "stuck"]),
    ];
    assert_eq!(state("stuck").as_deref(), Some("RUNNING"));
    exec("other", "meanwhile", "exit 9").expect_code(9);
    for running in asked {
        let outcome = running.finish();
        outcome.expect_no_deadline();
        assert_ne!(outcome.code(), 0, "{outcome}");
        // containerd says nothing more of metrics that it has not got.
        let is_told = ["20000 ms", "no metrics"].iter().any(|text| outcome.err().contains(text));
        assert!(is_told, "{outcome}");
    }
    // The first one has made the cgroup that both are in, and goes last.
    for id in ["other", "stuck"] {
        containerd.remove(id);
    }
    lab.expect_nothing_left();
}

/// Entries of the journal until a container stands.
const ENTRIES: usize = 4;

#[test]
fn an_engine_that_is_killed_at_any_entry_of_the_journal_finds_its_tasks_or_cleans_them() {
    let (mut containerd, lab) = Containerd::start();
    // The last entry first: the first one is made while nobody else may claim a name.
    let entries = || (1..=ENTRIES).rev();
    let names: Vec<String> = entries().map(|nth| format!("entry-{nth}")).collect();
    let mut clients = vec![];
    // One after the other: the first one makes the cgroup that all are in, and goes last.
    for (nth, name) in entries().zip(&names) {
        let (shim, trace) = crate::crash::halted(&lab, nth);
        clients.push(start(containerd.run(&shim, &["--detach"], name, "exec sleep 1000")));
        wait_for(name, || {
            std::fs::read_to_string(&trace).is_ok_and(|said| said.contains("stopped by SIGSTOP"))
        });
    }
    containerd.kill();
    for client in clients {
        assert_ne!(client.finish().code(), 0, "its containerd has ended");
    }
    let shims = host::processes().into_iter().filter(|one| one.name == crate::crash::NAME);
    for shim in shims {
        let pid = i32::try_from(shim.pid).ok().and_then(Pid::from_raw).expect("a process id");
        // One that has ended meanwhile needs nothing.
        let _ = kill_process(pid, Signal::CONT);
    }
    containerd.restart();
    clean(names.iter().rev().map(String::as_str));
    lab.expect_nothing_left();
}
