//! Further processes of a running container: the same as with crun.

use std::time::Duration;

use integration_tests::detached::{Detached, reap};
use integration_tests::terminal::Terminal;
use integration_tests::{Bundle, Lab, Outcome, Root, Runtime};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

const BOTH: [Runtime; 2] = [Runtime::Ringfence, Runtime::Crun];

fn bundle(lab: &Lab) -> Bundle {
    lab.bundle(Root::Shared("busybox")).script("echo up; exec sleep 600")
}

fn running(lab: &Lab, runtime: Runtime, bundle: &Bundle) -> Detached {
    let container = Detached::create(lab, runtime, bundle);
    container.expect(&["start"], &[]);
    container.wait_for_stdout("up\n");
    container
}

/// Runs `run` in a container of each runtime, and compares what they said.
#[track_caller]
fn same(lab: &Lab, bundle: &Bundle, run: impl Fn(&Detached) -> Outcome) -> Outcome {
    let [ringfence, crun] = BOTH.map(|runtime| {
        let container = running(lab, runtime, bundle);
        let outcome = run(&container);
        assert_eq!(container.status(), "running", "{outcome}");
        container.delete_by_force();
        outcome
    });
    assert_eq!(ringfence.code(), crun.code(), "{ringfence}\n{crun}");
    assert_eq!(ringfence.out(), crun.out());
    ringfence
}

#[test]
fn a_process_gives_its_status_its_output_and_its_errors() {
    let lab = Lab::enter();
    for (script, code) in [("echo out; echo err >&2", 0), ("exit 3", 3), ("kill -9 $$", 137)] {
        let outcome = same(&lab, &bundle(&lab), |container| {
            container.command(&["exec"], &["/bin/sh", "-c", script])
        });
        outcome.expect_code(code).expect_no_deadline();
    }
}

#[test]
fn a_process_is_the_first_one_but_for_its_options() {
    let lab = Lab::enter();
    let bundle = bundle(&lab).env("FIRST=1").edit(|config| {
        config["process"]["user"] = json!({ "uid": 0, "gid": 0, "additionalGids": [7, 9] });
        config["process"]["cwd"] = json!("/etc");
        config["process"]["rlimits"] =
            json!([{ "type": "RLIMIT_NOFILE", "soft": 333, "hard": 444 }]);
    });
    let look = "id -u; id -g; echo $FIRST $SECOND; umask; cat /proc/1/comm";
    same(&lab, &bundle, |container| container.command(&["exec"], &["/bin/sh", "-c", look]));
    // crun takes less from the first process: not its working directory and its limits, and with
    // an option not its environment and its supplementary groups. runc takes all of it, and so does
    // ringfence.
    let look = format!("{look}; id -G; pwd; ulimit -n");
    let container = running(&lab, Runtime::Ringfence, &bundle);
    let options = ["exec", "--user", "5:6", "--cwd", "/tmp", "--env", "SECOND=2"];
    for (words, seen) in [
        (&["exec"][..], "0\n0\n1\n0022\nsleep\n0 7 9\n/etc\n333\n"),
        (&options, "5\n6\n1 2\n0022\nsleep\n6 7 9\n/tmp\n333\n"),
    ] {
        let outcome = container.command(words, &["/bin/sh", "-c", &look]);
        assert_eq!(outcome.out(), seen, "{words:?}");
    }
    container.delete_by_force();
}

#[test]
fn a_process_can_come_from_a_file() {
    let lab = Lab::enter();
    let file = lab.scratch().join("process.json");
    let process = json!({
        "terminal": false, "user": { "uid": 3, "gid": 4 }, "cwd": "/tmp",
        "env": ["PATH=/bin:/usr/bin", "A=b"], "args": ["sh", "-c", "id -u; pwd; echo $A; exit 6"],
    });
    std::fs::write(&file, process.to_string()).unwrap();
    let outcome = same(&lab, &bundle(&lab), |container| {
        container.command(&["exec", "--process", file.to_str().unwrap()], &[])
    });
    outcome.expect_code(6);
    assert_eq!(outcome.out(), "3\n/tmp\nb\n");
}

#[test]
fn input_its_end_and_all_output_arrive() {
    let lab = Lab::enter();
    let outcome = same(&lab, &bundle(&lab), |container| {
        container.invocation(&["exec"], &["cat"]).stdin("hello\n").run()
    });
    assert_eq!(outcome.out(), "hello\n");
    let container = running(&lab, Runtime::Ringfence, &bundle(&lab));
    let script = "head -c 8388608 /dev/zero; exit 4";
    let outcome = container.command(&["exec"], &["/bin/sh", "-c", script]);
    outcome.expect_code(4);
    assert_eq!(outcome.stdout.len(), 8 << 20);
}

#[test]
fn a_program_that_cannot_run_is_told_soon_and_the_container_goes_on() {
    let lab = Lab::enter();
    let container = running(&lab, Runtime::Ringfence, &bundle(&lab));
    for (program, code) in [("/no/such", 127), ("no-such", 127), ("/etc", 126)] {
        let outcome = container.command(&["exec"], &[program]);
        outcome.expect_code(code).expect_error(program).expect_no_deadline();
        assert_eq!(outcome.err().trim_end().lines().count(), 1, "one message\n{outcome}");
    }
    container.command(&["exec"], &["true"]).expect_code(0);
}

#[test]
fn a_container_that_has_ended_takes_no_process() {
    let lab = Lab::enter();
    for runtime in BOTH {
        let container = running(&lab, runtime, &bundle(&lab));
        container.expect(&["kill"], &["KILL"]);
        container.wait();
        let outcome = container.command(&["exec"], &["true"]);
        assert_ne!(outcome.code(), 0, "{outcome}");
        outcome.expect_no_deadline();
        container.delete();
    }
}

#[test]
fn what_children_hold_open_is_not_waited_for() {
    let lab = Lab::enter();
    let container = running(&lab, Runtime::Ringfence, &bundle(&lab));
    let script = "(sleep 60; echo late) & echo early; exit 2";
    let outcome = container.command(&["exec"], &["/bin/sh", "-c", script]);
    outcome.expect_code(2).expect_no_deadline();
    assert_eq!(outcome.out(), "early\n");
}

#[test]
fn a_process_ends_with_its_container_and_no_other_way_round() {
    let lab = Lab::enter();
    let container = running(&lab, Runtime::Ringfence, &bundle(&lab));
    let gone = container.invocation(&["exec"], &["/bin/sh", "-c", "echo in; sleep 600"]).start();
    gone.wait_for_stdout("in\n");
    // A client that goes away.
    drop(gone);
    container.command(&["exec"], &["true"]).expect_code(0);
    let exec = container.invocation(&["exec"], &["/bin/sh", "-c", "echo in; sleep 600"]).start();
    exec.wait_for_stdout("in\n");
    container.expect(&["kill"], &["KILL"]);
    exec.finish().expect_code(137);
    assert_eq!(container.wait(), 137);
    container.delete();
}

#[test]
fn a_terminal_works_as_with_crun() {
    let lab = Lab::enter();
    let script = "stty size; test -t 0 && echo is a terminal; read line; echo \"<$line>\"; exit 9";
    let mut screens = vec![];
    for runtime in BOTH {
        let container = running(&lab, runtime, &bundle(&lab));
        let mut terminal = Terminal::new(93, 31);
        let before = format!("{:?}", terminal.settings());
        let exec = container.invocation(&["exec", "--tty"], &["/bin/sh", "-c", script]);
        let exec = terminal.start(exec);
        terminal.wait_for("is a terminal\r\n");
        terminal.write(b"erased\x7f\x7f ok\r");
        terminal.wait_for("<eras ok>\r\n");
        exec.finish().expect_code(9);
        assert_eq!(format!("{:?}", terminal.settings()), before);
        screens.push(terminal.shown());
        container.delete_by_force();
    }
    assert!(screens[0].starts_with("31 93\r\n"), "{}", screens[0]);
    // crun sets the size after the program has started, so that there the first look may be early.
    let screens: Vec<&str> =
        screens.iter().map(|screen| screen.split_once('\n').expect("several lines").1).collect();
    assert_eq!(screens[0], screens[1]);
}

#[test]
fn a_process_can_be_left_behind() {
    let lab = Lab::enter();
    let pid_file = lab.scratch().join("exec.pid");
    let words = ["exec", "--detach", "--pid-file", pid_file.to_str().unwrap()];
    for runtime in BOTH {
        let container = running(&lab, runtime, &bundle(&lab));
        let leave = |script: &str| {
            let exec = container.invocation(&words, &["/bin/sh", "-c", script]);
            let null = || integration_tests::command::open_for_writing("/dev/null");
            exec.stdout(null()).stderr(null()).run().expect_code(0);
            let pid = std::fs::read_to_string(&pid_file).unwrap();
            Pid::from_raw(pid.trim().parse().unwrap()).unwrap()
        };
        assert_eq!(reap(leave("exit 6")), 6, "{runtime:?}");
        let pid = leave("trap 'exit 7' TERM; while :; do sleep 0.1; done");
        std::thread::sleep(Duration::from_millis(500));
        kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(reap(pid), 7, "{runtime:?}");
        let pid = leave("exec sleep 600");
        kill_process(pid, Signal::KILL).unwrap();
        assert_eq!(reap(pid), 137, "{runtime:?}");
        // What stood for it on the host is gone a little before it.
        std::thread::sleep(Duration::from_millis(500));
        let left = container.command(&["exec"], &["/bin/sh", "-c", "ps | grep -c 'sleep 60[0]'"]);
        assert_eq!(left.out(), "1\n", "{runtime:?}: the first process and no other");
        container.delete_by_force();
    }
}

#[test]
fn a_paused_container_stands_still() {
    let lab = Lab::enter();
    let script = "echo up; while :; do echo tick; sleep 0.1; done";
    for runtime in BOTH {
        let container = running(&lab, runtime, &bundle(&lab).script(script));
        container.wait_for_stdout("tick\ntick\n");
        container.expect(&["pause"], &[]);
        assert_eq!(container.status(), "paused", "{runtime:?}");
        // What is on its way arrives.
        std::thread::sleep(Duration::from_millis(500));
        let before = container.text("stdout").len();
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(container.text("stdout").len(), before, "{runtime:?}");
        container.expect(&["resume"], &[]);
        assert_eq!(container.status(), "running", "{runtime:?}");
        let ticks = "tick\n".repeat(container.text("stdout").matches("tick").count() + 2);
        container.wait_for_stdout(&ticks);
        container.expect(&["pause"], &[]);
        container.expect(&["kill"], &["KILL"]);
        assert_eq!(container.wait(), 137, "{runtime:?}");
        container.delete();
    }
}

#[test]
fn the_guests_clock_is_right_after_a_pause() {
    let lab = Lab::enter();
    let container = running(&lab, Runtime::Ringfence, &bundle(&lab));
    container.expect(&["pause"], &[]);
    std::thread::sleep(Duration::from_secs(5));
    container.expect(&["resume"], &[]);
    std::thread::sleep(Duration::from_secs(1));
    let guest = container.command(&["exec"], &["date", "+%s"]);
    let guest: i64 = guest.out().trim().parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let host = i64::try_from(now.as_secs()).unwrap();
    assert!((host - guest).abs() <= 3, "the guest says {guest}, the host {host}");
}
