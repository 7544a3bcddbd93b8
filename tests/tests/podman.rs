//! podman with ringfence as its runtime: conmon waits for the supervisor as for any container.

use integration_tests::engine::scenarios;
use integration_tests::{Engine, Lab};

/// The engine, once it has what it makes once for itself (directories, a cgroup): that belongs to no
/// container.
fn podman(runtime: &str) -> Engine {
    Engine::podman("crun").run(&["--rm", "--memory", "64m"], "true").run().expect_code(0);
    Engine::podman(runtime)
}

#[test]
fn podman_runs_containers_with_it() {
    let podman = podman("ringfence");
    let lab = Lab::enter();
    let name = &lab.new_id();
    scenarios::run(&podman);
    let health = ["--health-cmd", "test -e /healthy", "--health-interval", "disable"];
    podman.leave(name, &health, scenarios::UNTIL_TERM);
    podman.command(&["healthcheck", "run", name]).expect_code(1);
    podman.command(&["exec", name, "/bin/touch", "/healthy"]).expect_code(0);
    podman.command(&["healthcheck", "run", name]).expect_code(0);
    top(&podman, name);
    podman.command(&["update", "--pids-limit", "77", name]).expect_code(0);
    podman.expect(&["exec", name, "/bin/cat", "/sys/fs/cgroup/pids.max"], 0, "77\n");
    scenarios::life(&podman, name, lab.scratch());
    scenarios::deaf(&podman, &lab.new_id());
    scenarios::two_services(&podman, [&lab.new_id(), &lab.new_id()]);
    lab.expect_nothing_left();
}

/// It looks for processes in the container's view, where the host's are not; its own are in the guest.
fn top(podman: &Engine, name: &str) {
    let outcome = podman.command(&["top", name]);
    outcome.expect_code(0);
    assert_eq!(outcome.out().lines().count(), 1, "{outcome}");
    let outcome = podman.command(&["exec", name, "/bin/ps", "-o", "pid,args"]);
    assert!(outcome.out().contains("1 /bin/sh -c trap"), "{outcome}");
}

#[test]
fn a_container_is_as_podman_was_asked_for() {
    let _ = podman("ringfence");
    let lab = Lab::enter();
    let [ringfence, crun] = ["ringfence", "crun"]
        .map(|runtime| scenarios::everything_at_once(&Engine::podman(runtime), lab.scratch()));
    ringfence.expect_code(3);
    assert_eq!((ringfence.out(), ringfence.err()), (crun.out(), crun.err()));
    lab.expect_nothing_left();
}

#[test]
fn terminals_of_podman_are_terminals() {
    let podman = podman("ringfence");
    let lab = Lab::enter();
    scenarios::terminals(&podman, &lab.new_id());
    lab.expect_nothing_left();
}

#[test]
fn podman_sees_that_a_container_used_up_its_memory() {
    let _ = podman("ringfence");
    let lab = Lab::enter();
    for runtime in ["ringfence", "crun"] {
        scenarios::out_of_memory(&Engine::podman(runtime), &lab.new_id());
    }
    lab.expect_nothing_left();
}
