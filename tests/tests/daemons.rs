//! containerd and docker with ringfence as their runtime, through containerd's own shim for runc.

use std::time::{Duration, Instant};

use integration_tests::{Invocation, Lab, Outcome, Running};

/// From the start of a daemon to its first answer.
const DAEMON_STARTS: Duration = Duration::from_secs(300);

fn run(words: &[&str]) -> Outcome {
    Invocation::new(words[0]).args(&words[1..]).run()
}

/// Starts a daemon and waits until `question` gets an answer. It ends with the test.
fn daemon(words: &[&str], question: &[&str]) -> Running {
    let daemon = Invocation::new(words[0]).args(&words[1..]).deadline(Duration::MAX).start();
    let until = Instant::now() + DAEMON_STARTS;
    while run(question).code() != 0 {
        assert!(Instant::now() < until, "{} does not answer", words[0]);
        std::thread::sleep(Duration::from_millis(200));
    }
    daemon
}

#[track_caller]
fn expect(words: &[&str], code: i32, out: &str) {
    let outcome = run(words);
    outcome.expect_code(code);
    assert_eq!(outcome.out(), out, "{words:?}");
}

fn ringfence() -> String {
    let outcome = run(&["sh", "-c", "command -v ringfence"]);
    outcome.out().trim_end().to_owned()
}

#[test]
fn containerd_and_docker_run_containers_with_it() {
    let _containerd = daemon(&["containerd"], &["ctr", "version"]);
    let options = ["--bridge=none", "--iptables=false", "--ip6tables=false"];
    let socket = ["--containerd", "/run/containerd/containerd.sock"];
    let _dockerd = daemon(&[&["dockerd"][..], &options, &socket].concat(), &["docker", "version"]);
    let import = "tar -C \"${RINGFENCE_ROOTS:-/opt/roots}/busybox\" -c . | docker import - busybox";
    run(&["sh", "-c", import]).expect_code(0);
    // What the daemons make once for themselves belongs to no container.
    let docker = ["docker", "run", "--rm", "--network", "none"];
    run(&[&docker[..], &["busybox", "/bin/true"]].concat()).expect_code(0);
    let lab = Lab::enter();

    let roots = std::env::var("RINGFENCE_ROOTS").unwrap_or_else(|_| "/opt/roots".to_owned());
    let copy = lab.scratch().join("root");
    run(&["cp", "-a", &format!("{roots}/busybox"), copy.to_str().unwrap()]).expect_code(0);
    let binary = ringfence();
    let root = copy.to_str().unwrap();
    let ctr = ["ctr", "run", "--rm", "--runc-binary", &binary, "--rootfs", root];
    let kernel = "uname -r | grep -c ringfence; exit 3";
    expect(&[&ctr[..], &["one", "/bin/sh", "-c", kernel]].concat(), 3, "1\n");

    let with = [&docker[..], &["--runtime", "ringfence", "busybox"]].concat();
    expect(&[&with[..], &["/bin/sh", "-c", kernel]].concat(), 3, "1\n");
    let script = "trap 'exit 5' TERM; echo up; while :; do sleep 0.2; done";
    let detached = ["docker", "run", "-d", "--name", "two", "--network", "none"];
    let program = ["--runtime", "ringfence", "busybox", "/bin/sh", "-c", script];
    run(&[&detached[..], &program].concat()).expect_code(0);
    expect(&["docker", "exec", "two", "/bin/sh", "-c", "echo in; exit 4"], 4, "in\n");
    expect(&["docker", "stop", "two"], 0, "two\n");
    expect(&["docker", "logs", "two"], 0, "up\n");
    expect(&["docker", "inspect", "--format", "{{.State.ExitCode}}", "two"], 0, "5\n");
    expect(&["docker", "start", "two"], 0, "two\n");
    expect(&["docker", "kill", "two"], 0, "two\n");
    expect(&["docker", "wait", "two"], 0, "137\n");
    expect(&["docker", "rm", "two"], 0, "two\n");
    lab.expect_nothing_left();
}
