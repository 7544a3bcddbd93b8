//! containerd and docker with ringfence as their runtime, through containerd's own shim for runc.

use std::time::{Duration, Instant};

use integration_tests::engine::scenarios;
use integration_tests::{Engine, Invocation, Lab, Outcome, Running};

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

    scenarios::run(&Engine::docker("ringfence"));
    // Its own shim, which needs no line in daemon.json.
    scenarios::run(&Engine::docker("io.containerd.ringfence.v2"));
    let [ringfence, runc] = ["ringfence", "runc"]
        .map(|runtime| scenarios::everything_at_once(&Engine::docker(runtime), lab.scratch()));
    ringfence.expect_code(3);
    assert_eq!((ringfence.out(), ringfence.err()), (runc.out(), runc.err()));
    let docker = Engine::docker("ringfence");
    let name = &lab.new_id();
    // Unhealthy, or not yet healthy, until the file is there.
    let health = ["--health-cmd", "test -e /healthy", "--health-interval", "1s"];
    docker.leave(name, &health, scenarios::UNTIL_TERM);
    docker.command(&["exec", name, "/bin/touch", "/healthy"]).expect_code(0);
    let status = ["inspect", "--format", "{{.State.Health.Status}}", name];
    docker.wait_for(&status, |outcome| outcome.out() == "healthy\n");
    top(&docker, name);
    docker.command(&["update", "--pids-limit", "77", name]).expect_code(0);
    docker.expect(&["exec", name, "/bin/cat", "/sys/fs/cgroup/pids.max"], 0, "77\n");
    scenarios::life(&docker, name, lab.scratch());
    scenarios::deaf(&docker, &lab.new_id());
    scenarios::terminals(&docker, &lab.new_id());
    scenarios::out_of_memory(&docker, &lab.new_id());
    scenarios::two_services(&docker, [&lab.new_id(), &lab.new_id()]);
    lab.expect_nothing_left();
}

/// The processes are those that the container is on the host.
fn top(docker: &Engine, name: &str) {
    let outcome = docker.command(&["top", name, "-o", "pid,comm"]);
    outcome.expect_code(0);
    let pid = docker.inspect(name, "{{.State.Pid}}");
    let rows: Vec<Vec<&str>> =
        outcome.out().lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 2, "{outcome}");
    assert!(rows.iter().any(|row| row[..] == [pid.as_str(), "ringfence"]), "{outcome}");
    assert!(rows.iter().any(|row| row[1] == "ringfence-vmm"), "{outcome}");
}
