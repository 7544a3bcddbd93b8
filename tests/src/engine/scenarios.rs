//! What people do with an engine's containers, the same for podman and docker.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Engine, PATIENCE};
use crate::command::{Invocation, Outcome};
use crate::terminal::Terminal;

/// In the foreground: streams, exit status, and a machine of the size that an annotation asks for.
pub fn run(engine: &Engine) {
    let size = ["--rm", "--interactive", "--annotation", "dev.ringfence.memory_mib=96"];
    let script = "echo out; echo err >&2; cat; uname -r | grep -c ringfence; \
                  awk '/MemTotal/ { print ($2 < 96 * 1024) }' /proc/meminfo; exit 3";
    let outcome = engine.run(&size, script).stdin("in\n").run();
    outcome.expect_code(3);
    assert_eq!((outcome.out(), outcome.err()), ("out\nin\n1\n1\n", "err\n"));
}

/// Told by a container that was asked for everything at once.
const LOOK: &str = r#"
    cat /dir/there /file
    echo made > /dir/made
    echo kept > /named/kept
    echo refused > /file
    echo refused > /usr/refused
    df -k /tmpfs /dev/shm | awk 'NR > 1 { print $2, $NF }'
    touch /tmpfs/made && ls /tmpfs
    id -u; id -g; grep CapEff /proc/self/status
    ulimit -S -n; ulimit -H -n
    cd /sys/fs/cgroup; cat memory.max cpu.max pids.max
    echo "$ONE,$TWO"
    tr '\0' '\n' < /proc/1/cmdline | head -n 1
    exit 3
"#;

/// Everything at once: `directory` is a scratch directory for the volumes.
#[must_use]
pub fn everything_at_once(engine: &Engine, directory: &Path) -> Outcome {
    let at = |name: &str| directory.join(name).to_str().expect("a plain path").to_owned();
    std::fs::create_dir_all(at("dir")).expect("a directory can be made");
    for (name, text) in
        [("dir/there", "there\n"), ("file", "file\n"), ("env", "ONE=1\nTWO=two words\n")]
    {
        std::fs::write(at(name), text).expect("a file can be written");
    }
    let outcome = engine
        .run(
            &[
                "--rm",
                "--volume",
                &format!("{}:/dir", at("dir")),
                "--volume",
                &format!("{}:/file:ro", at("file")),
                "--volume",
                "ringfence-test:/named",
                "--tmpfs",
                "/tmpfs:size=1m",
                "--shm-size",
                "2m",
                "--read-only",
                "--user",
                "0:1001",
                "--cap-drop",
                "ALL",
                "--cap-add",
                "CHOWN",
                "--ulimit",
                "nofile=100:200",
                "--memory",
                "64m",
                "--cpus",
                "0.5",
                "--pids-limit",
                "20",
                "--env-file",
                &at("env"),
                "--init",
                "--annotation",
                "org.example.ringfence=test",
            ],
            LOOK,
        )
        .run();
    let made = std::fs::read_to_string(at("dir/made"));
    assert_eq!(made.expect("the container has made it"), "made\n", "{outcome}");
    std::fs::remove_file(at("dir/made")).expect("it is there");
    engine.expect(&["volume", "rm", "ringfence-test"], 0, "ringfence-test\n");
    outcome
}

/// The script of a container that runs until it is told to end.
pub const UNTIL_TERM: &str =
    "trap 'echo ending; exit 5' TERM; echo up; while :; do sleep 0.2; done";

/// The life of the container `name`, which runs [`UNTIL_TERM`]: what is asked of it while it runs,
/// then its ends.
pub fn life(engine: &Engine, name: &str, directory: &Path) {
    let exec = |script: &str| engine.command(&["exec", name, "/bin/sh", "-c", script]);
    let outcome = engine
        .invocation(&["exec", "--interactive", "--user", "1000:1001", "--workdir", "/tmp"])
        .args(&["--env", "A=b", name, "/bin/sh", "-c", "cat; id -u; id -g; pwd; echo $A; exit 4"])
        .stdin("in\n")
        .run();
    outcome.expect_code(4);
    assert_eq!(outcome.out(), "in\n1000\n1001\n/tmp\nb\n");
    // Which of them is the engine's choice.
    let outcome = engine.command(&["exec", name, "/no/such"]);
    assert!(matches!(outcome.code(), 126 | 127), "{outcome}");
    engine
        .command(&["exec", "--detach", name, "/bin/sh", "-c", "echo left > /left"])
        .expect_code(0);
    engine.wait_for(&["exec", name, "/bin/cat", "/left"], |outcome| outcome.out() == "left\n");
    stats(engine, name);
    copies(engine, name, directory);
    engine.expect(&["pause", name], 0, &format!("{name}\n"));
    assert_eq!(engine.inspect(name, "{{.State.Status}}"), "paused");
    engine.expect(&["unpause", name], 0, &format!("{name}\n"));
    exec("exit 6").expect_code(6);
    engine.expect(&["restart", "--time", "60", name], 0, &format!("{name}\n"));
    engine.wait_for(&["logs", name], |outcome| outcome.out() == "up\nending\nup\n");
    let waiting = engine.invocation(&["wait", name]).start();
    engine.expect(&["kill", name], 0, &format!("{name}\n"));
    let outcome = waiting.finish();
    assert_eq!(outcome.out(), "137\n", "{outcome}");
    assert_eq!(engine.inspect(name, "{{.State.ExitCode}}"), "137");
    engine.expect(&["start", name], 0, &format!("{name}\n"));
    engine.wait_for(&["logs", name], |outcome| outcome.out() == "up\nending\nup\nup\n");
    engine.expect(&["stop", "--time", "60", name], 0, &format!("{name}\n"));
    assert_eq!(engine.inspect(name, "{{.State.ExitCode}} {{.State.OOMKilled}}"), "5 false");
    engine.expect(&["rm", name], 0, &format!("{name}\n"));
}

fn stats(engine: &Engine, name: &str) {
    let format = "{{.Name}} {{.PIDs}} {{.MemUsage}}";
    let outcome = engine.command(&["stats", "--no-stream", "--format", format, name]);
    outcome.expect_code(0);
    let words: Vec<&str> = outcome.out().split_whitespace().collect();
    // The machine's threads and memory, as the host has them.
    let pids: u32 = words[1].parse().expect("a number");
    assert!(words[0] == name && pids > 1 && !words[2].starts_with("0B"), "{outcome}");
}

/// A copy reaches the container, and never the host's root.
fn copies(engine: &Engine, name: &str, directory: &Path) {
    let file = directory.join("copied");
    let path = file.to_str().expect("a plain path");
    let inside = format!("{name}:/ringfence-test-copied");
    std::fs::write(&file, "copied\n").expect("a file can be written");
    engine.command(&["cp", path, &inside]).expect_code(0);
    assert!(!Path::new("/ringfence-test-copied").exists(), "it was copied to the host's root");
    engine.expect(&["exec", name, "/bin/cat", "/ringfence-test-copied"], 0, "copied\n");
    let change = "echo changed > /ringfence-test-copied";
    engine.command(&["exec", name, "/bin/sh", "-c", change]).expect_code(0);
    engine.command(&["cp", &inside, path]).expect_code(0);
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "changed\n");
}

/// One that does not hear is ended after the time-out of `stop`.
pub fn deaf(engine: &Engine, name: &str) {
    engine.leave(name, &[], "trap '' TERM; echo up; while :; do sleep 0.2; done");
    engine.expect(&["stop", "--time", "1", name], 0, &format!("{name}\n"));
    assert_eq!(engine.inspect(name, "{{.State.ExitCode}} {{.State.OOMKilled}}"), "137 false");
    engine.expect(&["rm", name], 0, &format!("{name}\n"));
}

/// The script of a service: it answers what it is asked on the volume, then waits for its end.
const SERVICE: &str = "trap 'exit 5' TERM; echo up
    until test -e /shared/question; do sleep 0.2; done
    sed s/asked/answered/ /shared/question > /shared/new; mv /shared/new /shared/answer
    while :; do sleep 0.2; done";

/// The script of its client.
const CLIENT: &str = "echo asked > /shared/new; mv /shared/new /shared/question
    until test -e /shared/answer; do sleep 0.2; done
    cat /shared/answer; exit 3";

/// Two services with a volume between them, as they are composed: each sees what the other writes.
pub fn two_services(engine: &Engine, [service, client]: [&str; 2]) {
    let volume = "ringfence-test-shared";
    engine.expect(&["volume", "create", volume], 0, &format!("{volume}\n"));
    let shared = ["--volume", &format!("{volume}:/shared")];
    engine.leave(service, &shared, SERVICE);
    let options = [&["--rm", "--name", client], &shared[..]].concat();
    let outcome = engine.run(&options, CLIENT).run();
    outcome.expect_code(3);
    assert_eq!(outcome.out(), "answered\n");
    engine.expect(&["stop", "--time", "60", service], 0, &format!("{service}\n"));
    assert_eq!(engine.inspect(service, "{{.State.ExitCode}}"), "5");
    engine.expect(&["rm", service], 0, &format!("{service}\n"));
    engine.expect(&["volume", "rm", volume], 0, &format!("{volume}\n"));
}

/// One that uses up its memory.
pub fn out_of_memory(engine: &Engine, name: &str) {
    let limits = ["--name", name, "--memory", "64m", "--memory-swap", "64m"];
    // It keeps a line until its end, which does not come.
    let script = "exec tail /dev/zero";
    engine.run(&limits, script).run().expect_code(137);
    // podman's conmon leaves a note of it where it was started.
    let _ = std::fs::remove_file("oom");
    assert_eq!(engine.inspect(name, "{{.State.ExitCode}} {{.State.OOMKilled}}"), "137 true");
    engine.expect(&["rm", name], 0, &format!("{name}\n"));
}

/// After which a line that was not answered is typed again.
const PAUSE: Duration = Duration::from_secs(10);

/// Waits, in a container, until the terminal has its size; then talks.
const TALK: &str = "while [ \"$(stty size)\" != '41 97' ]; do sleep 0.1; done; \
                    echo si''zed; read line; echo got $line; exit 7";

/// Types lines until one is answered: what is typed before the engine has the terminal may be lost.
/// Nothing is on its way then.
fn type_until_heard(terminal: &mut Terminal, line: &str) {
    let until = Instant::now() + PATIENCE;
    for number in 0.. {
        terminal.write(format!("{line} {number}\r").as_bytes());
        let next = Instant::now() + PAUSE;
        while Instant::now() < next {
            if terminal.shown().contains(&format!("got {line} {number}")) {
                return;
            }
        }
        assert!(Instant::now() < until, "{:?}", terminal.shown());
    }
}

/// `run`, `exec` and `attach` with a terminal.
pub fn terminals(engine: &Engine, name: &str) {
    let talk = |invocation: Invocation| {
        let mut terminal = Terminal::new(97, 41);
        let running = terminal.start(invocation);
        terminal.wait_for("sized");
        terminal.write(b"hello\r");
        terminal.wait_for("got hello");
        running.finish().expect_code(7);
    };
    talk(engine.run(&["--rm", "--interactive", "--tty"], TALK));
    let script = "echo up; while read line; do echo got $line; done; exit 8";
    engine.leave(name, &["--interactive", "--tty"], script);
    talk(engine.invocation(&["exec", "--interactive", "--tty", name, "/bin/sh", "-c", TALK]));
    let attach = |options: &[&str], line: &str, end: &[u8]| {
        let words = [&["attach"], options, &[name]].concat();
        let mut terminal = Terminal::new(97, 41);
        let running = terminal.start(engine.invocation(&words));
        type_until_heard(&mut terminal, line);
        terminal.write(end);
        running.finish()
    };
    // With which status is the engine's choice.
    let outcome = attach(&["--detach-keys", "ctrl-x"], "one", b"\x18");
    assert_eq!(engine.inspect(name, "{{.State.Status}}"), "running", "{outcome}");
    // Control-D: the end of its input. podman does not end with the container's status here.
    let _ = attach(&[], "two", b"\x04");
    engine.expect(&["wait", name], 0, "8\n");
    engine.expect(&["rm", name], 0, &format!("{name}\n"));
}
