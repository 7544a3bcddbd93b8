//! What an operator asks of a running container: its processes, what it uses, other limits.

use crate::fake_vmm::Part;
use crate::harness::Stage;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

fn running() -> Stage {
    let stage = Stage::new(Part::Live);
    stage.create(Part::Live);
    stage.say(&["start", "c1"]).expect(0, "");
    stage
}

impl Stage {
    #[track_caller]
    fn end_operations(&self) {
        self.say(&["kill", "c1", "KILL"]).expect(0, "");
        assert_eq!(self.wait(), 137);
        self.say(&["delete", "c1"]).expect(0, "");
        self.expect_nothing_left();
    }

    /// `events`, and what it prints.
    fn events(&self, options: &[&str]) -> (Child, impl Iterator<Item = Value> + use<>) {
        let mut command = self.ringfence(&[]);
        command.arg("events").args(options).arg("c1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()))
    }
}

#[test]
fn processes_are_listed_in_runcs_forms() {
    let stage = running();
    // The host's, supervisor and machine, and never the guest's, which are 2, 3 and 70000.
    let said = stage.say(&["state", "c1"]);
    let state: Value = serde_json::from_str(&said.expect(0, "").stdout).unwrap();
    let said = stage.say(&["ps", "--format", "json", "c1"]);
    let pids: Vec<Value> = serde_json::from_str(&said.expect(0, "").stdout).unwrap();
    assert!(pids.len() == 2 && pids.contains(&state["pid"]), "{said:?}");
    for options in [&["ps", "c1"][..], &["ps", "c1", "-ef"], &["ps", "--format", "table", "c1"]] {
        let said = stage.say(options);
        let lines: Vec<&str> = said.expect(0, "").stdout.lines().collect();
        assert!(lines[0].starts_with("UID "), "{said:?}");
        assert!(lines[3].contains(" 70000 ") && lines.len() == 4, "{said:?}");
        // What the guest says does not move a cursor.
        assert!(lines[1].ends_with("played 2\\u{1b}[2J"), "{said:?}");
    }
    let columns = stage.say(&["ps", "c1", "-o", "pid"]);
    let columns: Vec<&str> = columns.expect(0, "").stdout.split_whitespace().collect();
    assert_eq!(columns, ["PID", "2", "3", "70000"]);
    stage.say(&["ps", "c1", "-o", "wchan"]).expect(125, "wchan");
    stage.say(&["pause", "c1"]).expect(0, "");
    stage.say(&["ps", "c1"]).expect(125, "it is paused");
    assert_eq!(stage.say(&["ps", "--format", "json", "c1"]).expect(0, "").stdout, said.stdout);
    stage.say(&["resume", "c1"]).expect(0, "");
    stage.end_operations();
    stage.say(&["ps", "c1"]).expect(125, "does not exist");
}

#[test]
fn statistics_are_told_once_or_until_the_end() {
    let stage = running();
    let said = stage.say(&["events", "--stats", "c1"]);
    let event: Value = serde_json::from_str(&said.expect(0, "").stdout).unwrap();
    assert_eq!(event["data"]["memory"]["usage"]["usage"], 5 << 20);
    assert_eq!(said.stdout.lines().count(), 1);
    let (mut child, mut told) = stage.events(&["--interval", "10ms"]);
    for _ in 0..3 {
        assert_eq!(told.next().unwrap()["type"], "stats");
    }
    // While it is paused there is nothing to tell.
    stage.say(&["pause", "c1"]).expect(0, "");
    stage.say(&["events", "--stats", "c1"]).expect(125, "it is paused");
    stage.say(&["resume", "c1"]).expect(0, "");
    assert_eq!(told.next().unwrap()["type"], "stats");
    stage.say(&["kill", "c1", "KILL"]).expect(0, "");
    assert!(told.all(|event| event["type"] == "stats"));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(stage.wait(), 137);
    stage.say(&["events", "c1"]).expect(125, "container not running");
    stage.say(&["delete", "c1"]).expect(0, "");
}

#[test]
fn a_kill_for_memory_is_told_at_once() {
    let stage = running();
    let (mut child, mut told) = stage.events(&["--interval", "1h"]);
    // A watch that comes too late misses the first ones.
    let first = loop {
        stage.say(&["kill", "c1", "XCPU"]).expect(0, "");
        let (mut other, mut told_other) = stage.events(&["--interval", "5ms"]);
        let kind = told_other.next().unwrap()["type"].clone();
        other.kill().unwrap();
        other.wait().unwrap();
        if kind == "stats" {
            // By now the first watch stands.
            stage.say(&["kill", "c1", "XCPU"]).expect(0, "");
            break told.next().unwrap();
        }
    };
    assert_eq!(first, json!({ "type": "oom", "id": "c1" }));
    stage.end_operations();
    assert!(told.all(|event| event["type"] == "oom"));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_supervisor_that_is_killed_ends_the_events() {
    let stage = running();
    let (mut child, mut told) = stage.events(&["--interval", "10ms"]);
    told.next().unwrap();
    rustix::process::kill_process(stage.supervisor(), rustix::process::Signal::KILL).unwrap();
    assert!(told.all(|event| event["type"] == "stats"));
    assert_eq!(child.wait().unwrap().code(), Some(250));
    stage.say(&["delete", "--force", "c1"]).expect(0, "");
    assert_eq!(stage.wait(), 1009);
}

#[test]
fn limits_are_changed_by_options_and_by_files() {
    let stage = running();
    stage.say(&["update", "--memory", "64m", "--cpu-quota", "50000", "c1"]).expect(0, "");
    stage.wait_for_text("out", "memory.max=67108864\ncpu.max=50000 100000\n");
    stage.say(&["update", "--cpu-period", "50000", "--pids-limit", "9", "c1"]).expect(0, "");
    stage.wait_for_text("out", "pids.max=9\ncpu.max=50000 50000\n");
    let file = stage.path("resources.json");
    std::fs::write(&file, r#"{"cpu":{"shares":1024},"memory":{"limit":0}}"#).unwrap();
    stage.say(&["update", "--resources", file.to_str().unwrap(), "c1"]).expect(0, "");
    stage.wait_for_text("out", "cpu.weight=39\n");
    stage.say(&["update", "-r", file.to_str().unwrap(), "--memory", "64m", "c1"]).expect(125, "-r");
    let before = stage.text("out");
    for (options, named) in [
        (&["--memory", "100g"][..], "107374182400 bytes"),
        (&["--cpu-quota", "10000000"], "virtual CPUs"),
        (&["--kernel-memory", "64m"], "memory.kernel"),
        (&["--cpu-rt-runtime", "1"], "cpu.realtimeRuntime"),
        (&["--blkio-weight", "100"], "blockIO.weight is 100"),
        (&["--cpuset-mems", "0"], "cpu.mems is 0"),
        (&["--l3-cache-schema", "x"], "--l3-cache-schema x"),
        // Nothing of what stands beside it is done.
        (&["--pids-limit", "7", "--memory", "1"], "memory.limit is 1"),
    ] {
        let line = [&["update"], options, &["c1"]].concat();
        stage.say(&line).expect(125, named);
    }
    std::fs::write(&file, r#"{"unified":{"memory.high":"1"}}"#).unwrap();
    stage.say(&["update", "-r", file.to_str().unwrap(), "c1"]).expect(125, "because the part");
    std::fs::write(&file, r#"{"memroy":{"limit":1}}"#).unwrap();
    stage.say(&["update", "-r", file.to_str().unwrap(), "c1"]).expect(125, "memroy");
    std::fs::write(&file, r#"{"memory":{"limit":4194304,"checkBeforeUpdate":true}}"#).unwrap();
    stage.say(&["update", "-r", file.to_str().unwrap(), "c1"]).expect(125, "5242880 bytes");
    assert_eq!(stage.text("out"), before);
    stage.say(&["update", "c1"]).expect(0, "");
    stage.end_operations();
}

#[test]
fn a_process_can_wait_for_a_paused_container() {
    let stage = running();
    stage.say(&["pause", "c1"]).expect(0, "");
    stage.say(&["exec", "c1", "exit", "3"]).expect(125, "it is paused");
    let mut command = stage.ringfence(&[]);
    command.args(["exec", "--ignore-paused", "c1", "exit", "3"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    // Whether it waits cannot be seen from outside; that it has not ended can.
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none());
    stage.say(&["resume", "c1"]).expect(0, "");
    assert_eq!(child.wait().unwrap().code(), Some(3));
    stage.end_operations();
}
