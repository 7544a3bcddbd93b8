//! What an operator asks of a running container, and its limits while it runs: as with crun, or with
//! runc where crun does not have it.

use std::time::Duration;

use integration_tests::detached::Detached;
use integration_tests::{Bundle, Invocation, Lab, Outcome, Root, Runtime};
use serde_json::{Value, json};

fn bundle(lab: &Lab) -> Bundle {
    lab.bundle(Root::Shared("busybox")).script("sleep 601 & echo up; exec sleep 602").edit(
        |config| {
            config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
            config["linux"]["resources"]["pids"] = json!({ "limit": 50 });
        },
    )
}

fn running(lab: &Lab, runtime: Runtime, bundle: &Bundle) -> Detached {
    let container = Detached::create(lab, runtime, bundle);
    container.expect(&["start"], &[]);
    container.wait_for_stdout("up\n");
    container
}

#[test]
fn processes_are_listed_as_with_crun_and_runc() {
    let lab = Lab::enter();
    let bundle = bundle(&lab);
    // Pids of the host: supervisor and machine, or the container's processes.
    for (runtime, expected) in
        [(Runtime::Ringfence, ["ringfence", "ringfence-vmm"]), (Runtime::Crun, ["sleep", "sleep"])]
    {
        let container = running(&lab, runtime, &bundle);
        let outcome = container.command(&["ps", "--format", "json"], &[]);
        outcome.expect_code(0);
        let pids: Vec<u32> = serde_json::from_str(outcome.out()).unwrap();
        let name = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        let names: Vec<String> = pids.iter().map(name).collect();
        assert_eq!(names.concat().lines().collect::<Vec<_>>(), expected);
        container.delete_by_force();
    }
    // Of a line only user, terminal and command are the same everywhere; runc wants the pid too.
    let [ringfence, runc] = [Runtime::Ringfence, Runtime::Runc].map(|runtime| {
        let container = running(&lab, runtime, &bundle);
        let mut tables = vec![];
        for (options, shown) in [
            (&[][..], &[0, 5, 7][..]),
            (&["-ef"], &[0, 5, 7]),
            (&["-e", "-o", "pid,user,tty,args"], &[1, 2, 3]),
            (&["-eo", "uid=OWNER", "-o", "pid", "-o", "cmd="], &[0, 2]),
        ] {
            let outcome = container.command(&["ps"], options);
            outcome.expect_code(0);
            let mut rows: Vec<String> =
                outcome.out().lines().map(|line| words(line, shown)).collect();
            rows[1..].sort();
            tables.push(rows);
        }
        container.delete_by_force();
        tables
    });
    assert_eq!(ringfence, runc);
    assert!(ringfence[0].iter().any(|row| row == "root ? sleep 602"), "{ringfence:?}");
    let container = running(&lab, Runtime::Ringfence, &bundle);
    container.command(&["ps"], &["-o", "pid,rss"]).expect_code(125).expect_error("\"rss\"");
    container.command(&["ps"], &["aux"]).expect_code(125).expect_error("\"aux\"");
    container.delete_by_force();
    for runtime in [Runtime::Ringfence, Runtime::Runc] {
        let container = running(&lab, runtime, &bundle);
        container.expect(&["kill"], &["KILL"]);
        container.wait();
        let outcome = container.command(&["ps"], &[]);
        outcome.expect_code(0);
        assert_eq!(outcome.out().lines().count(), 1, "only a header: {outcome}");
        container.delete();
    }
}

/// These words of a line of which the last goes on to the line's end.
fn words(line: &str, numbers: &[usize]) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let last = numbers.len() - 1;
    let shown = numbers[..last].iter().map(|number| words[*number]);
    shown.chain(words.iter().skip(numbers[last]).copied()).collect::<Vec<_>>().join(" ")
}

/// Names of everything in an object, but for what a kernel counts under names of its own.
fn names(value: &Value, path: &str, found: &mut Vec<String>) {
    if let Value::Object(map) = value {
        for (name, value) in map {
            let path = format!("{path}.{name}");
            if name != "raw" && name != "blkio" && name != "hugetlb" {
                names(value, &path, found);
            }
            found.push(path);
        }
    }
}

fn stats(outcome: &Outcome) -> Value {
    outcome.expect_code(0);
    let event: Value = serde_json::from_str(outcome.out()).unwrap();
    assert_eq!(event["type"], "stats");
    event["data"].clone()
}

#[test]
fn statistics_have_the_names_and_limits_of_runc() {
    let lab = Lab::enter();
    let bundle = bundle(&lab);
    let [ours, theirs] = [Runtime::Ringfence, Runtime::Runc].map(|runtime| {
        let container = running(&lab, runtime, &bundle);
        let data = stats(&container.command(&["events", "--stats"], &[]));
        container.delete_by_force();
        data
    });
    let all = |data: &Value| {
        let mut found = vec![];
        names(data, "", &mut found);
        found.sort();
        found
    };
    let (mut ours_all, theirs_all) = (all(&ours), all(&theirs));
    // memory.peak: later versions of runc have it under the same name.
    ours_all.retain(|name| name != ".memory.usage.max" || theirs_all.contains(name));
    assert_eq!(ours_all, theirs_all);
    for path in ["/pids/current", "/pids/limit", "/memory/usage/limit", "/memory/swap/limit"] {
        assert_eq!(ours.pointer(path), theirs.pointer(path), "{path}");
    }
    let raw = ours["memory"]["raw"].as_object().unwrap();
    assert!(raw.contains_key("anon") && raw.contains_key("pgfault"), "{ours}");
    assert!(ours["cpu"]["usage"]["total"].as_u64() > Some(0), "{ours}");
    assert!(ours["memory"]["usage"]["usage"].as_u64() < Some(64 << 20), "{ours}");
}

#[test]
fn memory_that_was_used_up_is_told_while_the_container_goes_on() {
    let lab = Lab::enter();
    let bundle = bundle(&lab);
    for runtime in [Runtime::Ringfence, Runtime::Runc] {
        let container = running(&lab, runtime, &bundle);
        let events = container.invocation(&["events", "--interval", "1s"], &[]).start();
        events.wait_for_stdout("\"stats\"");
        let outcome = container.command(&["exec"], &["tail", "/dev/zero"]);
        outcome.expect_code(137);
        events.wait_for_stdout(&format!("{{\"type\":\"oom\",\"id\":\"{}\"}}", container.id()));
        assert_eq!(container.status(), "running", "{runtime:?}");
        container.expect(&["kill"], &["KILL"]);
        // It ends with the container.
        let outcome = events.finish();
        outcome.expect_code(0);
        assert_eq!(container.wait(), 137);
        container.delete();
    }
}

const LOOK: &str = "cd /sys/fs/cgroup; cat memory.max memory.low memory.swap.max pids.max cpu.max \
                    cpu.weight cpu.max.burst";

#[test]
fn limits_are_changed_as_with_crun() {
    let lab = Lab::enter();
    let bundle = bundle(&lab).edit(|config| {
        config["linux"]["resources"]["memory"] = json!({ "limit": 96 << 20 });
        // Within one CPU, which any host has.
        config["linux"]["resources"]["cpu"] = json!({ "quota": 95_000, "period": 100_000 });
    });
    let file = lab.scratch().join("resources.json");
    let [ringfence, crun] = [Runtime::Ringfence, Runtime::Crun].map(|runtime| {
        let container = running(&lab, runtime, &bundle);
        let mut seen = vec![];
        let mut look = || {
            let outcome = container.command(&["exec"], &["/bin/sh", "-c", LOOK]);
            outcome.expect_code(0);
            seen.push(outcome.out().to_owned());
        };
        look();
        let options = ["--memory", "67108864", "--memory-reservation", "1048576"];
        container.expect(&[&["update"], &options[..]].concat(), &[]);
        look();
        let options = ["--pids-limit", "33", "--cpu-share", "512", "--cpu-quota", "80000"];
        container.expect(&[&["update", "--cpu-period", "90000"], &options[..]].concat(), &[]);
        look();
        let resources = json!({
            "memory": { "limit": 80 << 20, "swap": 90 << 20 }, "pids": { "limit": 0 },
            "cpu": { "quota": 50_000, "period": 100_000 },
        });
        std::fs::write(&file, resources.to_string()).unwrap();
        container.expect(&["update", "--resources", file.to_str().unwrap()], &[]);
        look();
        container.delete_by_force();
        seen
    });
    assert_eq!(ringfence, crun);
    assert!(ringfence[1].starts_with("67108864\n1048576\n"), "{ringfence:?}");
}

#[test]
fn a_machine_does_not_grow_and_nothing_is_done_by_half() {
    let lab = Lab::enter();
    let container = running(&lab, Runtime::Ringfence, &bundle(&lab));
    let look = || container.command(&["exec"], &["/bin/sh", "-c", LOOK]).out().to_owned();
    let before = look();
    for (options, named) in [
        (&["--pids-limit", "9", "--memory", "1g"][..], "1073741824 bytes"),
        (&["--pids-limit", "9", "--cpu-quota", "9000000"], "virtual CPUs"),
        (&["--pids-limit", "9", "--kernel-memory", "1m"], "memory.kernel"),
        (&["--pids-limit", "9", "--blkio-weight", "10"], "blockIO.weight is 10"),
    ] {
        let outcome = container.command(&[&["update"], options].concat(), &[]);
        outcome.expect_code(125).expect_error(named);
    }
    // The guest's kernel refuses the last of them.
    let resources = json!({ "pids": { "limit": 9 }, "unified": { "memory.high": "nonsense" } });
    let outcome = container
        .invocation(&["update", "--resources", "-"], &[])
        .stdin(resources.to_string())
        .run();
    outcome.expect_code(125).expect_error("memory.high");
    assert_eq!(look(), before);
    container.expect(&["pause"], &[]);
    let outcome = container.command(&["update", "--pids-limit", "9"], &[]);
    outcome.expect_code(125).expect_error("it is paused");
    container.expect(&["resume"], &[]);
    container.delete_by_force();
}

#[test]
fn a_process_waits_for_a_paused_container_as_with_runc() {
    let lab = Lab::enter();
    let container = running(&lab, Runtime::Ringfence, &bundle(&lab));
    container.expect(&["pause"], &[]);
    container.command(&["exec"], &["true"]).expect_code(125).expect_error("it is paused");
    let exec: Invocation = container.invocation(&["exec", "--ignore-paused"], &["echo", "gone on"]);
    let exec = exec.start();
    std::thread::sleep(Duration::from_millis(500));
    container.expect(&["resume"], &[]);
    let outcome = exec.finish();
    outcome.expect_code(0);
    assert_eq!(outcome.out(), "gone on\n");
    container.delete_by_force();
}
