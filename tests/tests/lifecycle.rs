//! The life of a container over several commands, as an engine drives it: the same as with crun.

use std::time::{Duration, Instant};

use integration_tests::detached::{Detached, reap, reap_strays, take_master};
use integration_tests::{Bundle, Invocation, Lab, Root, Runtime, host};
use rustix::process::{Signal, getsid, kill_process, test_kill_process};
use serde_json::json;

const BOTH: [Runtime; 2] = [Runtime::Ringfence, Runtime::Crun];

/// How long the end of a process may take to be seen.
const NOTICED: Duration = Duration::from_secs(60);

/// Tells what it has been sent, until that is SIGTERM.
const WAITS: &str = "trap 'echo got USR1' USR1; trap 'echo got TERM; exit 7' TERM; echo ready
while :; do sleep 600 & wait $!; done";

fn shared(lab: &Lab) -> Bundle {
    lab.bundle(Root::Shared("busybox"))
}

#[track_caller]
fn wait_for_status(container: &Detached, wanted: &str) {
    let until = Instant::now() + NOTICED;
    while container.status() != wanted {
        assert!(Instant::now() < until, "it is {} and not {wanted}", container.status());
    }
}

#[test]
fn a_container_is_created_started_ended_and_deleted() {
    let lab = Lab::enter();
    for runtime in BOTH {
        let bundle = shared(&lab).script(WAITS);
        let container = Detached::create(&lab, runtime, &bundle);
        let state = container.state();
        assert_eq!(state["status"], "created", "{runtime:?}");
        assert_eq!(state["id"], container.id());
        assert_eq!(state["pid"], container.pid().as_raw_nonzero().get());
        assert_eq!(state["bundle"], bundle.path("").to_str().unwrap().trim_end_matches('/'));
        test_kill_process(container.pid()).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(container.text("stdout"), "", "{runtime:?}: the program has not run");
        container.expect(&["start"], &[]);
        container.wait_for_stdout("ready\n");
        assert_eq!(container.status(), "running");
        container.expect(&["kill"], &["USR1"]);
        container.wait_for_stdout("got USR1\n");
        container.expect(&["kill"], &["SIGTERM"]);
        assert_eq!(container.wait(), 7, "{runtime:?}");
        assert_eq!(container.status(), "stopped", "{runtime:?}");
        assert_eq!(container.text("stdout"), "ready\ngot USR1\ngot TERM\n");
        assert_eq!(container.text("stderr"), "");
        let id = container.id().to_owned();
        container.delete();
        let gone = Invocation::new("ringfence").args(&["state", &id]).run();
        assert_ne!(gone.code(), 0, "{gone}");
        lab.expect_nothing_left();
    }
}

#[test]
fn the_process_on_the_host_ends_with_the_containers_status() {
    let lab = Lab::enter();
    for (script, code) in [("exit 0", 0), ("echo out; echo err >&2; exit 255", 255)] {
        let mut seen = vec![];
        for runtime in BOTH {
            let container = Detached::create(&lab, runtime, &shared(&lab).script(script));
            container.expect(&["start"], &[]);
            assert_eq!(container.wait(), code, "{runtime:?}");
            seen.push((container.text("stdout"), container.text("stderr")));
            container.delete();
        }
        assert_eq!(seen[0], seen[1]);
    }
}

#[test]
fn output_before_the_end_is_not_lost() {
    let lab = Lab::enter();
    let script = "dd if=/dev/zero bs=65536 count=128 2>/dev/null; exit 5";
    let container = Detached::create(&lab, Runtime::Ringfence, &shared(&lab).script(script));
    container.expect(&["start"], &[]);
    assert_eq!(container.wait(), 5);
    assert_eq!(container.text("stdout").len(), 8 << 20);
    container.delete();
}

#[test]
fn what_a_container_is_not_ready_for_is_refused() {
    let lab = Lab::enter();
    for runtime in BOTH {
        let container = Detached::create(&lab, runtime, &shared(&lab).script(WAITS));
        let refused = |words: &[&str], more: &[&str]| {
            let outcome = container.command(words, more);
            assert_ne!(outcome.code(), 0, "{runtime:?} {words:?}\n{outcome}");
        };
        container.expect(&["start"], &[]);
        container.wait_for_stdout("ready\n");
        refused(&["start"], &[]);
        refused(&["delete"], &[]);
        assert_eq!(container.status(), "running", "{runtime:?}");
        container.expect(&["kill"], &["KILL"]);
        assert_eq!(container.wait(), 137, "{runtime:?}");
        refused(&["start"], &[]);
        refused(&["kill"], &["TERM"]);
        container.delete();
        for verb in ["start", "state", "kill", "delete"] {
            let program = if runtime == Runtime::Crun { "crun" } else { "ringfence" };
            let outcome = Invocation::new(program).args(&[verb, "no-such-container"]).run();
            assert_ne!(outcome.code(), 0, "{outcome}");
        }
    }
}

#[test]
fn force_deletes_a_container_that_waits_and_one_that_runs() {
    let lab = Lab::enter();
    for runtime in BOTH {
        for is_started in [false, true] {
            let container = Detached::create(&lab, runtime, &shared(&lab).script(WAITS));
            if is_started {
                container.expect(&["start"], &[]);
                container.wait_for_stdout("ready\n");
            }
            container.delete_by_force();
            lab.expect_nothing_left();
        }
    }
}

#[test]
fn a_container_that_was_never_started_can_be_deleted() {
    let lab = Lab::enter();
    for runtime in BOTH {
        let container = Detached::create(&lab, runtime, &shared(&lab).script("echo ran"));
        container.delete_and_wait();
        lab.expect_nothing_left();
    }
}

#[test]
fn a_process_is_executed_before_the_containers_program() {
    let lab = Lab::enter();
    for runtime in BOTH {
        let container = Detached::create(&lab, runtime, &shared(&lab).script("cat /dev/shm/early"));
        let script = "echo early | tee /dev/shm/early; exit 3";
        let outcome = container.command(&["exec"], &["/bin/sh", "-c", script]);
        outcome.expect_code(3);
        assert_eq!(outcome.out(), "early\n", "{runtime:?}");
        assert_eq!(container.status(), "created", "{runtime:?}");
        container.expect(&["start"], &[]);
        assert_eq!(container.wait(), 0, "{runtime:?}");
        assert_eq!(container.text("stdout"), "early\n", "{runtime:?}");
        container.delete();
    }
}

#[test]
fn a_container_can_be_killed_before_its_start() {
    let lab = Lab::enter();
    for runtime in BOTH {
        let container = Detached::create(&lab, runtime, &shared(&lab).script("echo ran"));
        container.expect(&["kill"], &["KILL"]);
        assert_eq!(container.wait(), 137, "{runtime:?}");
        assert_eq!(container.status(), "stopped", "{runtime:?}");
        assert_eq!(container.text("stdout"), "");
        container.delete();
    }
}

#[test]
fn a_creation_that_fails_leaves_nothing() {
    let lab = Lab::enter();
    for (program, code) in [("/bin/missing", 127), ("/etc", 126)] {
        let bundle = shared(&lab).args(&[program]);
        let (container, outcome) =
            Detached::try_leave(&lab, Runtime::Ringfence, &bundle, &["create"]);
        outcome.expect_code(code);
        assert!(container.text("stderr").contains(program), "{}", container.text("stderr"));
        assert_eq!(container.text("stderr").lines().count(), 1);
        drop(container);
        lab.expect_nothing_left();
    }
}

#[test]
fn the_supervisor_has_a_session_of_its_own_and_all_that_it_needs() {
    let lab = Lab::enter();
    let bundle = shared(&lab).script(WAITS);
    let container = Detached::create(&lab, Runtime::Ringfence, &bundle);
    assert_eq!(getsid(Some(container.pid())).unwrap(), container.pid());
    container.expect(&["start"], &[]);
    container.wait_for_stdout("ready\n");
    let list = Invocation::new("ringfence").args(&["list"]).run();
    let row = list.out().lines().find(|line| line.starts_with(container.id())).expect("a row");
    assert!(row.contains("running"), "{list}");
    kill_process(container.pid(), Signal::TERM).unwrap();
    assert_eq!(container.wait(), 7);
    container.delete();
}

#[test]
fn a_supervisor_that_is_killed_is_a_stopped_container() {
    let lab = Lab::enter();
    let container = Detached::create(&lab, Runtime::Ringfence, &shared(&lab).script(WAITS));
    container.expect(&["start"], &[]);
    container.wait_for_stdout("ready\n");
    let vmm = host::vmm_of(container.pid());
    kill_process(container.pid(), Signal::KILL).unwrap();
    wait_for_status(&container, "stopped");
    assert_eq!(container.state()["pid"], 0);
    container.command(&["kill"], &["TERM"]).expect_error("container not running");
    assert_eq!(container.wait(), 137);
    // Its machine has become this process's child.
    reap(vmm);
    container.delete();
}

#[test]
fn a_machine_that_is_killed_is_a_stopped_container() {
    let lab = Lab::enter();
    let container = Detached::create(&lab, Runtime::Ringfence, &shared(&lab).script(WAITS));
    container.expect(&["start"], &[]);
    container.wait_for_stdout("ready\n");
    kill_process(host::vmm_of(container.pid()), Signal::KILL).unwrap();
    wait_for_status(&container, "stopped");
    assert_eq!(container.wait(), 250);
    let state = container.state();
    assert!(state["end"]["reason"].as_str().unwrap().contains("virtual machine"), "{state}");
    container.delete();
}

#[test]
fn run_can_leave_its_container_behind() {
    let lab = Lab::enter();
    for runtime in BOTH {
        let bundle = shared(&lab).script(WAITS);
        let container = Detached::leave(&lab, runtime, &bundle, &["run", "--detach"]);
        assert_eq!(container.status(), "running", "{runtime:?}");
        container.wait_for_stdout("ready\n");
        container.expect(&["kill"], &["TERM"]);
        assert_eq!(container.wait(), 7, "{runtime:?}");
        container.delete();
        // crun leaves a process of its own to whoever reaps.
        reap_strays();
    }
}

#[test]
fn hooks_run_in_the_order_of_the_specification() {
    let lab = Lab::enter();
    let names = ["prestart", "createRuntime", "poststart", "poststop"];
    for runtime in BOTH {
        let log = lab.scratch().join(format!("{runtime:?}"));
        let bundle = shared(&lab).script(WAITS).edit(|config| {
            for name in names {
                let script = format!("echo {name} >>{}", log.display());
                let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script] });
                config["hooks"][name] = json!([hook]);
            }
        });
        let told = || std::fs::read_to_string(&log).unwrap().lines().count();
        let container = Detached::create(&lab, runtime, &bundle);
        assert_eq!(told(), 2, "{runtime:?}");
        container.expect(&["start"], &[]);
        container.wait_for_stdout("ready\n");
        assert_eq!(told(), 3, "{runtime:?}");
        container.expect(&["kill"], &["KILL"]);
        container.wait();
        container.delete();
        let text = std::fs::read_to_string(&log).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), names, "{runtime:?}");
    }
}

#[test]
fn a_terminal_goes_to_whoever_listens_for_it() {
    let lab = Lab::enter();
    let script = "stty size; echo ready; read line; echo \"<$line>\"; exit 4";
    for runtime in BOTH {
        let bundle = shared(&lab).script(script).edit(|config| {
            config["process"]["terminal"] = json!(true);
            config["process"]["consoleSize"] = json!({ "height": 31, "width": 93 });
        });
        let socket = lab.scratch().join(format!("{runtime:?}"));
        let master = take_master(&socket);
        let words = ["create", "--console-socket", socket.to_str().unwrap()];
        let container = Detached::leave(&lab, runtime, &bundle, &words);
        let mut master = std::fs::File::from(master.join().unwrap());
        // An engine may wait until nobody has the streams any more that it gave to the command.
        for number in 0..3 {
            let stream = format!("/proc/{}/fd/{number}", container.pid().as_raw_nonzero());
            let stream = std::fs::read_link(stream).unwrap();
            assert!(!stream.starts_with(lab.scratch()), "{runtime:?} has {stream:?}");
        }
        container.expect(&["start"], &[]);
        let mut shown = String::new();
        let mut read_until = |master: &mut std::fs::File, wanted: &str| {
            let mut chunk = [0; 256];
            while !shown.contains(wanted) {
                let count = std::io::Read::read(master, &mut chunk).unwrap_or(0);
                assert!(count > 0, "{runtime:?}: {wanted:?} is not in {shown:?}");
                shown.push_str(&String::from_utf8_lossy(&chunk[..count]));
            }
        };
        read_until(&mut master, "ready\r\n");
        std::io::Write::write_all(&mut master, b"erased\x7f\x7f ok\r").unwrap();
        read_until(&mut master, "<eras ok>\r\n");
        assert!(shown.starts_with("31 93\r\n"), "{runtime:?}: {shown:?}");
        assert_eq!(container.wait(), 4, "{runtime:?}");
        container.delete();
    }
}

#[test]
fn several_containers_live_side_by_side() {
    let lab = Lab::enter();
    let bundle = shared(&lab).script(WAITS);
    let containers: Vec<Detached> =
        (0..3).map(|_| Detached::create(&lab, Runtime::Ringfence, &bundle)).collect();
    for container in &containers {
        container.expect(&["start"], &[]);
    }
    for container in &containers {
        container.wait_for_stdout("ready\n");
    }
    containers[1].expect(&["kill"], &["TERM"]);
    assert_eq!(containers[1].wait(), 7);
    assert_eq!(containers[0].status(), "running");
    assert_eq!(containers[2].status(), "running");
    // Each of them is deleted by force when it is dropped.
}
