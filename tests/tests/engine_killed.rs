//! An engine's processes are killed at each step that they have a runtime take. The engine then clears
//! away what it still knows of the container, `delete --force` and `gc` the rest, and the host is as it was.
//!
//! The engine's runtime is a script in the place of the real one. It kills the engine's processes when it
//! is asked for the step, before or after it has had that done: the same step on a slow host and on a fast
//! one.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use integration_tests::{Engine, Invocation, Lab, Outcome};

/// podman's own, and the monitor that it leaves with each container.
const PODMAN: &str = "podman";
const MONITOR: &str = "conmon";
const MOUNT_OF_PODMAN: &str = "/var/lib/containers/storage/overlay";
/// For a command whose engine or monitor is killed: it may wait for an answer that nobody gives.
const PATIENCE: Duration = Duration::from_secs(60);

/// Written down where the script finds it, since a monitor hands no environment on.
struct Trap {
    script: PathBuf,
    step: PathBuf,
}

impl Trap {
    fn new(lab: &Lab) -> Self {
        let script = lab.scratch().join("runtime");
        let step = lab.scratch().join("step");
        let text = format!(
            r#"#!/bin/sh
            for word; do
                case $word in create|start|exec|pause|resume|kill|delete) verb=$word; break ;; esac
            done
            read -r when what victim <{step} 2>/dev/null || when=never
            strike() {{
                [ "$when $what" = "$1 $verb" ] || return 0
                rm -f {step}
                pkill -KILL -x "$victim"
            }}
            strike before
            ringfence "$@"
            status=$?
            strike after
            exit $status
            "#,
            step = step.display(),
        );
        std::fs::write(&script, text).expect("a script can be written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).expect("its mode can be set");
        Self { script, step }
    }

    /// The next time that the runtime is asked for `what`, `victim` is killed.
    fn set(&self, when: &str, what: &str, victim: &str) {
        std::fs::write(&self.step, format!("{when} {what} {victim}\n")).expect("it can be written");
    }

    /// Whether it has come to that.
    fn has_struck(&self) -> bool {
        !self.step.exists()
    }

    /// Waits until the runtime does nothing more.
    fn wait_until_idle(&self) {
        let until = Instant::now() + PATIENCE;
        let script = format!("^/bin/sh {}", self.program());
        while Invocation::new("pgrep").args(&["-f", &script]).run().code() == 0 {
            assert!(Instant::now() < until, "the runtime comes to no end");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn program(&self) -> &str {
        self.script.to_str().expect("a plain path")
    }
}

/// A command whose outcome is of no interest: it is killed, or what it needs is.
fn attempt(invocation: Invocation) -> Outcome {
    invocation.deadline(PATIENCE).run()
}

/// The life of a container in which the trap is, up to the verb that springs it.
fn live(podman: &Engine, name: &str, verb: &str) {
    let script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done";
    if verb == "create" || verb == "start" {
        attempt(podman.run(&["--detach", "--name", name], script));
        return;
    }
    podman.leave(name, &[], script);
    let words: &[&[&str]] = match verb {
        "exec" => &[&["exec", name, "true"]],
        "pause" => &[&["pause", name]],
        "resume" => &[&["pause", name], &["unpause", name]],
        "kill" => &[&["stop", "--time", "5", name]],
        "delete" => &[&["kill", name], &["wait", name], &["rm", "--force", name]],
        other => panic!("no step {other}"),
    };
    for words in words {
        attempt(podman.invocation(words));
    }
}

/// Kills at this step, and has the engine clear away what it knows of.
fn killed(lab: &Lab, (when, verb, victim): (&str, &str, &str)) {
    let step = format!("{victim} killed {when} {verb}");
    let began = Instant::now();
    let trap = Trap::new(lab);
    let name = &lab.new_id();
    let podman = Engine::podman(trap.program());
    trap.set(when, verb, victim);
    live(&podman, name, verb);
    assert!(trap.has_struck(), "{step}: it did not come to that");
    // A monitor goes on without its engine; what it does is done before the engine looks again.
    trap.wait_until_idle();
    // Twice, as a user would: the first may find what the killed one has half done.
    let remove = ["rm", "--force", "--time", "0", "--ignore", name];
    attempt(podman.invocation(&remove));
    attempt(podman.invocation(&remove)).expect_code(0);
    podman.expect(&["ps", "--all", "--quiet"], 0, "");
    remove_forgotten(&step);
    let mut left = lab.left_behind();
    left.retain(|line| !line.starts_with(&format!("mount {MOUNT_OF_PODMAN} ")));
    assert!(left.is_empty(), "{step}:\n{}", left.join("\n"));
    eprintln!("{step}: {:?}", began.elapsed());
}

/// What the engine no longer knows goes by the runtime's own commands.
fn remove_forgotten(step: &str) {
    let list = Invocation::new("ringfence").args(&["list", "--quiet"]).run();
    for id in list.expect_code(0).out().lines() {
        eprintln!("{step}: the engine has forgotten {id}");
        let delete = Invocation::new("ringfence").args(&["delete", "--force", id]).run();
        delete.expect_code(0);
    }
    Invocation::new("ringfence").args(&["gc", "--crashed"]).run().expect_code(0);
}

#[test]
fn what_a_killed_engine_leaves_goes() {
    Engine::podman("crun").run(&["--rm", "--memory", "64m"], "true").run().expect_code(0);
    let lab = Lab::enter();
    for step in [
        ("before", "create", PODMAN),
        ("before", "start", MONITOR),
        ("after", "exec", MONITOR),
        ("after", "pause", PODMAN),
        ("before", "kill", PODMAN),
        ("before", "delete", PODMAN),
    ] {
        killed(&lab, step);
    }
    // podman's own, which it takes away at an end that it did not come to.
    while Invocation::new("umount").arg(MOUNT_OF_PODMAN).run().code() == 0 {}
}
