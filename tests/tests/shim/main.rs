//! containerd with its runtime `io.containerd.ringfence.v2`: the shim, its tasks, pods and ends.

mod crash;
mod full;
mod held;

use std::path::Path;
use std::time::{Duration, Instant};

use integration_tests::terminal::Terminal;
use integration_tests::{Invocation, Lab, Outcome, Running, host};
use rustix::process::{Pid, Signal, kill_process};

/// From the start of a daemon to its first answer, and for what it does on its own.
const PATIENCE: Duration = Duration::from_secs(300);
const SHIM: &str = "io.containerd.ringfence.v2";
const RUNC: &str = "io.containerd.runc.v2";
/// For what runs as long as its test.
const DAY: Duration = Duration::from_secs(86_400);
/// How a process ends whose machine has died.
const VM_DIED: &str = "250";

/// containerd, and a root for its containers.
struct Containerd {
    daemon: Option<Running>,
    root: String,
}

fn ctr(words: &[&str]) -> Outcome {
    Invocation::new("ctr").args(words).run()
}

fn start() -> Running {
    let daemon = Invocation::new("containerd").deadline(DAY).start();
    wait_for("containerd's answer", || ctr(&["version"]).code() == 0);
    daemon
}

#[track_caller]
fn wait_for(what: &str, mut happens: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !happens() {
        assert!(Instant::now() < until, "waiting for {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

impl Containerd {
    /// Starts it; the root is a copy, since containers write to it.
    fn start() -> (Self, Lab) {
        let daemon = start();
        let lab = Lab::enter();
        let roots = std::env::var("RINGFENCE_ROOTS").unwrap_or_else(|_| "/opt/roots".to_owned());
        let root = lab.scratch().join("root").to_str().expect("a plain path").to_owned();
        Invocation::new("cp")
            .args(&["-a", &format!("{roots}/busybox"), &root])
            .run()
            .expect_code(0);
        (Self { daemon: Some(daemon), root }, lab)
    }

    fn restart(&mut self) {
        self.kill();
        self.daemon = Some(start());
    }

    fn kill(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.signal(Signal::KILL);
            let _ = daemon.finish();
        }
    }

    /// `ctr run` with a script, in the foreground.
    fn run(&self, runtime: &str, options: &[&str], id: &str, script: &str) -> Invocation {
        Invocation::new("ctr")
            .args(&["run", "--runtime", runtime])
            .args(options)
            .args(&["--rootfs", &self.root, id, "/bin/sh", "-c", script])
    }

    /// Leaves a container that runs a script.
    #[track_caller]
    fn leave(&self, options: &[&str], id: &str, script: &str) {
        self.run(SHIM, &[&["--detach"], options].concat(), id, script).run().expect_code(0);
    }

    #[track_caller]
    fn remove(&self, id: &str) {
        ctr(&["task", "delete", "--force", id]).expect_code(0);
        ctr(&["container", "delete", id]).expect_code(0);
    }
}

fn state(id: &str) -> Option<String> {
    let tasks = ctr(&["task", "list"]);
    let line = tasks.out().lines().find(|line| line.split_whitespace().next() == Some(id))?;
    line.split_whitespace().nth(2).map(str::to_owned)
}

fn pid(id: &str) -> Pid {
    let tasks = ctr(&["task", "list"]);
    let row = tasks.out().lines().find(|line| line.split_whitespace().next() == Some(id));
    let pid = row.and_then(|row| row.split_whitespace().nth(1)).and_then(|pid| pid.parse().ok());
    pid.and_then(Pid::from_raw).unwrap_or_else(|| panic!("no pid of {id}\n{tasks}"))
}

#[track_caller]
fn expect_state(id: &str, wanted: &str) {
    wait_for(&format!("{id} to be {wanted}"), || state(id).as_deref() == Some(wanted));
}

#[track_caller]
fn exec(id: &str, exec_id: &str, script: &str) -> Outcome {
    ctr(&["task", "exec", "--exec-id", exec_id, id, "/bin/sh", "-c", script])
}

fn metric(id: &str, name: &str) -> u64 {
    let metrics = ctr(&["task", "metrics", id]);
    let line = metrics.out().lines().find(|line| line.split_whitespace().next() == Some(name));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name}\n{metrics}"))
}

/// The topics of what happens to containers whose ids begin so, without what is in them.
fn topics(events: &str, id: &str) -> Vec<String> {
    let container = format!("\"container_id\":\"{id}\"");
    let lines = events.lines().filter(|line| line.contains(&container));
    lines
        .filter_map(|line| line.split(' ').find(|word| word.starts_with("/tasks/")))
        .map(str::to_owned)
        .collect()
}

#[test]
fn tasks_live_as_with_runc() {
    let (containerd, lab) = Containerd::start();
    let events = Invocation::new("ctr").arg("events").deadline(DAY).start();
    let mut told = Vec::new();
    for (runtime, id) in [(SHIM, "shim"), (RUNC, "runc")] {
        let once = format!("{id}-once");
        let script = "echo out; echo err >&2; exit 3";
        let outcome = containerd.run(runtime, &["--rm"], &once, script).run();
        outcome.expect_code(3);
        assert_eq!((outcome.out(), outcome.err()), ("out\n", "err\n"), "{runtime}");
        // Output written just before the end is not lost.
        let burst = "head -c 8388608 /dev/zero | tr '\\0' x; exit 0";
        let outcome = containerd.run(runtime, &["--rm"], &format!("{id}-burst"), burst).run();
        assert_eq!(outcome.out().len(), 8 << 20, "{runtime}");
        let missing = Invocation::new("ctr").args(&["run", "--rm", "--runtime", runtime]);
        let missing =
            missing.args(&["--rootfs", &containerd.root, &format!("{id}-none"), "/nope"]).run();
        missing.expect_code(1).expect_error("/nope");

        let script = "trap 'echo bye; exit 7' TERM; while :; do sleep 0.1; done";
        containerd.run(runtime, &["--detach"], id, script).run().expect_code(0);
        expect_state(id, "RUNNING");
        let outcome = exec(id, "one", "echo in; exit 4");
        outcome.expect_code(4);
        assert_eq!(outcome.out(), "in\n");
        ctr(&["task", "exec", "--exec-id", "two", id, "/nope"]).expect_code(1);
        let before = metric(id, "cpu.usage_usec");
        assert!(before > 0 && metric(id, "memory.usage") > 0 && metric(id, "pids.current") > 0);
        ctr(&["task", "pause", id]).expect_code(0);
        expect_state(id, "PAUSED");
        ctr(&["task", "resume", id]).expect_code(0);
        expect_state(id, "RUNNING");
        wait_for("CPU time", || metric(id, "cpu.usage_usec") > before);
        ctr(&["task", "delete", id]).expect_code(1);
        ctr(&["task", "kill", "--signal", "SIGTERM", id]).expect_code(0);
        expect_state(id, "STOPPED");
        told.push(ctr(&["task", "delete", id]).err().contains("exit code 7"));
        ctr(&["container", "delete", id]).expect_code(0);
    }
    assert_eq!(told, [true, true]);
    events.wait_for_stdout("/containers/delete {\"id\":\"runc\"}");
    events.signal(Signal::KILL);
    let events = events.finish();
    let [shim, runc] = ["shim", "runc"].map(|id| topics(events.out(), id));
    assert_eq!(shim, runc, "{events}");
    assert!(shim.len() > 8, "{shim:?}");
    // runc leaves the directory of the namespace; it goes only if it is empty.
    let _ = std::fs::remove_dir("/sys/fs/cgroup/default");
    lab.expect_nothing_left();
}

#[test]
fn streams_and_terminals_reach_a_task() {
    let (containerd, lab) = Containerd::start();
    let script = "echo ready; cat; echo end";
    let mut running = containerd.run(SHIM, &["--rm"], "cat", script).stdin_held().start();
    running.wait_for_stdout("ready\n");
    running.write(b"line\n");
    running.wait_for_stdout("line\n");
    running.close_stdin();
    let outcome = running.finish();
    outcome.expect_code(0);
    assert_eq!(outcome.out(), "ready\nline\nend\n");

    let talk = "while [ \"$(stty size)\" != '41 97' ]; do sleep 0.1; done; \
                echo si''zed; read line; echo got $line; exit 6";
    let mut terminal = Terminal::new(97, 41);
    let running = terminal.start(containerd.run(SHIM, &["--rm", "--tty"], "tty", talk));
    terminal.wait_for("sized");
    terminal.write(b"hello\r");
    terminal.wait_for("got hello");
    running.finish().expect_code(6);

    let log = lab.scratch().join("log");
    let uri = format!("file://{}", log.display());
    containerd.leave(&["--log-uri", &uri], "logged", "echo kept; exec sleep 1000");
    wait_for("the log", || std::fs::read(&log).is_ok_and(|text| text == b"kept\n"));
    containerd.remove("logged");

    // A program takes it, and ends when it does.
    let logger = lab.scratch().join("logger");
    let script = "#!/bin/sh\nexec 5>&-\ncat <&4 >$1.err &\ncat <&3 >$1.out\nwait\n\
                  echo $CONTAINER_ID $CONTAINER_NAMESPACE >$1.id\n";
    std::fs::write(&logger, script).expect("it can be written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&logger, mode).expect("it can be made executable");
    let uri = format!("binary://{}?{}", logger.display(), log.display());
    containerd.leave(&["--log-uri", &uri], "program", "echo out; echo err >&2; exit 3");
    expect_state("program", "STOPPED");
    containerd.remove("program");
    let read = |end: &str| std::fs::read_to_string(log.with_extension(end)).unwrap_or_default();
    assert_eq!((read("out"), read("err")), ("out\n".to_owned(), "err\n".to_owned()));
    assert_eq!(read("id"), "program default\n");
    lab.expect_nothing_left();
}

/// Options of a pod's first container, and of one that joins it.
fn pod(id: &str, pid: Option<Pid>) -> Vec<String> {
    let annotation = |name: &str, value: &str| {
        ["--annotation".to_owned(), format!("io.kubernetes.cri.{name}={value}")]
    };
    let Some(pid) = pid else { return annotation("container-type", "sandbox").to_vec() };
    let mut options = annotation("container-type", "container").to_vec();
    options.extend(annotation("sandbox-id", id));
    for (kind, file) in [("ipc", "ipc"), ("uts", "uts"), ("network", "net")] {
        options.push("--with-ns".to_owned());
        options.push(format!("{kind}:/proc/{}/ns/{file}", pid.as_raw_nonzero()));
    }
    options
}

#[test]
fn a_pod_is_one_machine() {
    let (containerd, lab) = Containerd::start();
    let volume = lab.directory("volume");
    let mount = format!("type=bind,src={},dst=/volume,options=rbind:rw", volume.display());
    let words = |options: &[String]| -> Vec<String> {
        options.iter().cloned().chain(["--mount".to_owned(), mount.clone()]).collect()
    };
    let leave = |options: Vec<String>, id: &str, script: &str| {
        let options = words(&options);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        containerd.leave(&options, id, script);
    };
    leave(pod("pod", None), "pod", "hostname in-the-pod; exec sleep 1000");
    let keeper = pid("pod");
    let script = "cat /volume/from-two 2>/dev/null; echo one > /volume/from-one; \
                  nc -l -p 7000 > /volume/heard; exec sleep 1000";
    leave(pod("pod", Some(keeper)), "one", script);
    let script = "echo two > /volume/from-two; cat /volume/from-one; \
                  until echo over localhost | nc 127.0.0.1 7000; do sleep 0.2; done; \
                  readlink /proc/self/ns/uts; exec sleep 1000";
    leave(pod("pod", Some(keeper)), "two", script);
    let heard = volume.join("heard");
    wait_for("what was said", || {
        std::fs::read(&heard).is_ok_and(|text| text == b"over localhost\n")
    });
    assert_eq!((pid("one"), pid("two")), (keeper, keeper), "one process stands for all of them");
    let vmms = host::processes().into_iter().filter(|process| process.name == "ringfence-vmm");
    assert_eq!(vmms.count(), 1);
    // Each sees its own processes, and the same names.
    let seen = |id: &str, kind: &str| {
        let outcome = exec(id, kind, &format!("readlink /proc/self/ns/{kind}"));
        outcome.expect_code(0);
        outcome.out().to_owned()
    };
    for kind in ["uts", "ipc", "net"] {
        assert_eq!(seen("one", kind), seen("two", kind));
    }
    assert_ne!(seen("one", "pid"), seen("two", "pid"));

    // One ends and is made anew, and the others go on.
    for _ in 0..3 {
        containerd.remove("one");
        leave(pod("pod", Some(keeper)), "one", "test -s /volume/from-two && exec sleep 1000");
        expect_state("one", "RUNNING");
        exec("one", "again", "cat /volume/from-one").expect_code(0);
    }
    assert_eq!(state("two").as_deref(), Some("RUNNING"));
    let stranger = words(&pod("nobody", Some(keeper)));
    let stranger: Vec<&str> = stranger.iter().map(String::as_str).collect();
    let outcome =
        containerd.run(SHIM, &[&["--detach"], &stranger[..]].concat(), "stranger", "true").run();
    outcome.expect_code(1).expect_error("nobody");
    ctr(&["container", "delete", "stranger"]).expect_code(0);
    for id in ["one", "two", "pod"] {
        containerd.remove(id);
    }
    lab.expect_nothing_left();
}

#[test]
fn whatever_is_killed_is_told_and_cleaned() {
    let (mut containerd, lab) = Containerd::start();
    let script = "exec sleep 1000";
    for id in ["other", "vmm", "shim", "stuck"] {
        containerd.leave(&[], id, script);
    }
    let vmm = |id: &str| host::vmm_of(pid(id));
    kill_process(vmm("vmm"), Signal::KILL).expect("it runs");
    expect_state("vmm", "STOPPED");
    let deleted = ctr(&["task", "delete", "vmm"]);
    deleted.expect_error(&format!("exit code {VM_DIED}"));
    ctr(&["container", "delete", "vmm"]).expect_code(0);

    kill_process(pid("shim"), Signal::KILL).expect("it runs");
    wait_for("the end of the task", || state("shim").is_none_or(|state| state == "STOPPED"));
    let _ = ctr(&["task", "delete", "--force", "shim"]);
    ctr(&["container", "delete", "shim"]).expect_code(0);

    // One that stands still holds up nobody, and its end does not wait for it.
    let stopped = vmm("stuck");
    kill_process(stopped, Signal::STOP).expect("it runs");
    exec("other", "meanwhile", "exit 9").expect_code(9);
    assert_eq!(state("other").as_deref(), Some("RUNNING"));
    containerd.remove("stuck");

    // containerd finds its tasks again.
    containerd.restart();
    assert_eq!(state("other").as_deref(), Some("RUNNING"));
    exec("other", "again", "exit 8").expect_code(8);
    containerd.remove("other");
    lab.expect_nothing_left();
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let (containerd, lab) = Containerd::start();
    let refuse = |options: &[&str], named: &str| {
        let outcome = containerd.run(SHIM, options, "refused", "true").run();
        outcome.expect_code(1).expect_error(named);
        let _ = ctr(&["container", "delete", "refused"]);
    };
    refuse(&["--annotation", "dev.ringfence.wings=2"], "dev.ringfence.wings");
    refuse(&["--log-uri", "syslog:///bin/true"], "syslog");
    refuse(&["--log-uri", "binary:///no/logger"], "/no/logger");
    refuse(&["--annotation", "io.kubernetes.cri.container-type=tree"], "tree");
    containerd.leave(&[], "there", "exec sleep 1000");
    let image = Path::new("/nowhere");
    let checkpoint =
        ctr(&["task", "checkpoint", "--image-path", &image.display().to_string(), "there"]);
    checkpoint.expect_code(1).expect_error("not implemented");
    containerd.remove("there");
    lab.expect_nothing_left();
}
