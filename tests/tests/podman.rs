//! podman with ringfence as its runtime: conmon waits for the supervisor as for any container.

use std::path::Path;

use integration_tests::{Invocation, Lab, Outcome};

fn podman(runtime: &str, words: &[&str]) -> Outcome {
    Invocation::new("podman").args(&["--runtime", runtime]).args(words).run()
}

/// The container's root, with a writable layer of podman's.
fn root() -> String {
    let roots = std::env::var("RINGFENCE_ROOTS").unwrap_or_else(|_| "/opt/roots".to_owned());
    format!("{}:O", Path::new(&roots).join("busybox").display())
}

#[test]
fn podman_runs_containers_with_it() {
    // What podman makes once for itself (directories, a cgroup) belongs to no container.
    let first = ["run", "--rm", "--network", "none", "--rootfs"];
    podman("crun", &[&first[..], &[&root(), "true"]].concat()).expect_code(0);
    let lab = Lab::enter();
    let ringfence = |words: &[&str]| podman("ringfence", words);
    let root = root();
    let outcome = ringfence(&[&first[..], &[&root, "sh", "-c", "echo out; exit 3"]].concat());
    outcome.expect_code(3);
    assert_eq!(outcome.out(), "out\n");
    let script = "echo up; trap 'exit 5' TERM; while :; do sleep 0.2; done";
    let detached = ["run", "--detach", "--name", "ringfence-test", "--network", "none"];
    ringfence(&[&detached[..], &["--rootfs", &root, "sh", "-c", script]].concat()).expect_code(0);
    for (words, code, out) in [
        (&["exec", "ringfence-test", "sh", "-c", "echo in; exit 4"][..], 4, "in\n"),
        (&["exec", "ringfence-test", "/no/such"], 127, ""),
        (&["logs", "ringfence-test"], 0, "up\n"),
        (&["pause", "ringfence-test"], 0, "ringfence-test\n"),
        (&["unpause", "ringfence-test"], 0, "ringfence-test\n"),
        (&["stop", "ringfence-test"], 0, "ringfence-test\n"),
        (&["inspect", "--format", "{{.State.ExitCode}}", "ringfence-test"], 0, "5\n"),
        (&["start", "ringfence-test"], 0, "ringfence-test\n"),
        (&["kill", "ringfence-test"], 0, "ringfence-test\n"),
        (&["wait", "ringfence-test"], 0, "137\n"),
        (&["rm", "ringfence-test"], 0, "ringfence-test\n"),
    ] {
        let outcome = ringfence(words);
        outcome.expect_code(code);
        assert_eq!(outcome.out(), out, "{words:?}");
    }
    lab.expect_nothing_left();
}
