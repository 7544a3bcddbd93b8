//! A container that one command creates and others start, kill and delete, as an engine does it.

use crate::fake_vmm::Part;
use crate::harness::{Stage, runs, wait_until};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};
use serde_json::Value;
use std::fs::File;
use std::process::{Command, Stdio};

/// What a command has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn expect(&self, status: i32, message: &str) -> &Self {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert!(self.stderr.contains(message), "{message:?} is not said: {self:?}");
        self
    }
}

/// Runs a command that leaves nobody behind.
pub(crate) fn say(mut command: Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Said {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn what_was_run_to_be_kept_stays_until_it_is_deleted() {
    let stage = Stage::new(Part::Exit(7));
    stage.run_with(&["--keep"]).expect(7, "");
    let state: Value = serde_json::from_str(&stage.say(&["state", "c1"]).stdout).unwrap();
    assert_eq!((&state["status"], &state["pid"]), (&"stopped".into(), &0.into()), "{state}");
    assert_eq!(state["end"]["status"], 7, "{state}");
    stage.run().expect(125, "a container that is stopped");
    stage.say(&["delete", "c1"]).expect(0, "");
    stage.say(&["state", "c1"]).expect(125, "does not exist");
    // One that was not started is not kept.
    stage.play(Part::ProgramMissing);
    stage.run_with(&["--keep"]).expect(127, "").leaves_nothing();
}

impl Stage {
    /// `ringfence VERB …`.
    pub(crate) fn say(&self, line: &[&str]) -> Said {
        let mut command = self.ringfence(&[]);
        command.args(line);
        say(command)
    }

    /// `ringfence create` or `run --detach`, whose supervisor becomes a child of this process.
    pub(crate) fn leave(&self, verb: &[&str], options: &[&str]) -> Said {
        self.leave_through(self.ringfence(&[]), verb, options)
    }

    pub(crate) fn leave_through(
        &self,
        mut command: Command,
        verb: &[&str],
        options: &[&str],
    ) -> Said {
        set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        command.args(verb).arg("--bundle").arg(self.path("bundle"));
        command.arg("--pid-file").arg(self.path("pid")).args(options).arg("c1");
        let stream =
            |name| File::options().append(true).create(true).open(self.path(name)).unwrap();
        // Files: the supervisor holds them for as long as it lives.
        command.stdin(Stdio::null()).stdout(stream("out")).stderr(stream("err"));
        let status = command.status().unwrap().code();
        Said { status, stdout: self.text("out"), stderr: self.text("err") }
    }

    #[track_caller]
    pub(crate) fn create(&self, part: Part) {
        self.play(part);
        self.leave(&["create"], &[]).expect(0, "");
    }

    pub(crate) fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.path(file)).unwrap_or_default()
    }

    pub(crate) fn supervisor(&self) -> Pid {
        Pid::from_raw(self.text("pid").parse().unwrap()).unwrap()
    }

    pub(crate) fn vmm_pid(&self) -> Pid {
        Pid::from_raw(self.text("vmm.pid").trim().parse().unwrap()).unwrap()
    }

    /// Waits for the supervisor as its engine does: the exit status, or 1000 and the signal.
    #[track_caller]
    pub(crate) fn wait(&self) -> i32 {
        let pid = self.supervisor();
        let mut ended = None;
        wait_until(|| {
            ended = waitpid(Some(pid), WaitOptions::NOHANG).unwrap().map(|(_, status)| status);
            ended.is_some()
        });
        let status = ended.unwrap();
        status.exit_status().or(status.terminating_signal().map(|signal| 1000 + signal)).unwrap()
    }

    #[track_caller]
    pub(crate) fn state(&self) -> Value {
        let said = self.say(&["state", "c1"]);
        said.expect(0, "");
        serde_json::from_str(&said.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn expect_status(&self, status: &str) {
        assert_eq!(self.state()["status"], status);
    }

    pub(crate) fn wait_for_text(&self, file: &str, wanted: &str) {
        wait_until(|| self.text(file).ends_with(wanted));
    }

    /// No state and no machine.
    #[track_caller]
    pub(crate) fn expect_nothing_left(&self) {
        assert!(self.left().is_empty(), "{:?}", self.left());
        assert!(!runs(self.text("vmm.pid").trim()), "the VMM runs");
        self.say(&["state", "c1"]).expect(125, "does not exist");
        assert_eq!(self.say(&["list", "--quiet"]).stdout, "");
    }

    #[track_caller]
    fn delete(&self) {
        self.say(&["delete", "c1"]).expect(0, "");
        self.expect_nothing_left();
    }
}

#[test]
fn a_container_is_created_started_ended_and_deleted() {
    let stage = Stage::new(Part::Live);
    stage.create(Part::Live);
    let pid = stage.supervisor();
    assert_eq!(rustix::process::getsid(Some(pid)).unwrap(), pid, "a session of its own");
    let state = stage.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], "c1");
    assert_eq!(state["ociVersion"], "1.0.2");
    assert_eq!(state["pid"], pid.as_raw_nonzero().get());
    assert_eq!(state["bundle"], stage.path("bundle").to_str().unwrap());
    assert_eq!(state["rootfs"], stage.path("bundle/rootfs").to_str().unwrap());
    assert_eq!(stage.text("out"), "", "the program has not run");
    stage.say(&["start", "c1"]).expect(0, "");
    stage.expect_status("running");
    stage.wait_for_text("out", "out\n");
    stage.say(&["kill", "c1", "USR1"]).expect(0, "");
    stage.say(&["kill", "--all", "c1", "1"]).expect(0, "");
    stage.wait_for_text("out", "signal 10 false\nsignal 1 true\n");
    stage.say(&["kill", "c1"]).expect(0, "");
    assert_eq!(stage.wait(), 143);
    let state = stage.state();
    assert_eq!((&state["status"], &state["pid"]), (&"stopped".into(), &0.into()));
    assert_eq!(state["end"]["status"], 143);
    assert_eq!(stage.text("err"), "err\n");
    stage.delete();
}

#[test]
fn the_supervisor_ends_with_the_containers_status() {
    for (part, status) in [(Part::Exit(0), 0), (Part::Exit(7), 7), (Part::Killed(6), 134)] {
        let stage = Stage::new(part);
        stage.create(part);
        stage.say(&["start", "c1"]).expect(0, "");
        assert_eq!(stage.wait(), status);
        assert_eq!((stage.text("out").as_str(), stage.text("err").as_str()), ("out\n", "err\n"));
        assert_eq!(stage.state()["end"]["status"], status);
        stage.delete();
    }
}

#[test]
fn what_a_container_is_not_ready_for_is_refused_and_changes_nothing() {
    let stage = Stage::new(Part::Live);
    for verb in ["start", "state", "kill", "delete"] {
        stage.say(&[verb, "c1"]).expect(125, "\"c1\" does not exist");
    }
    stage.create(Part::Live);
    stage.leave(&["create"], &[]).expect(125, "is in use by process");
    stage.expect_status("created");
    stage.say(&["start", "c1"]).expect(0, "");
    stage.say(&["start", "c1"]).expect(125, "started already");
    stage.say(&["delete", "c1"]).expect(125, "is running");
    stage.say(&["kill", "c1", "0"]).expect(0, "");
    stage.say(&["kill", "c1", "NOSUCH"]).expect(125, "NOSUCH");
    stage.expect_status("running");
    stage.say(&["kill", "c1", "KILL"]).expect(0, "");
    // Without waiting: the supervisor is a zombie until its parent does.
    wait_until(|| stage.state()["status"] == "stopped");
    // It is that as soon as its machine has ended; its supervisor writes down how, and ends.
    wait_until(|| !runs(&stage.text("pid")));
    stage.say(&["kill", "c1", "0"]).expect(125, "container not running");
    stage.say(&["kill", "c1", "9"]).expect(125, "container not running");
    // Nobody is left that has not got it.
    stage.say(&["kill", "--all", "c1", "9"]).expect(0, "");
    stage.say(&["kill", "--all", "c1", "0"]).expect(0, "");
    stage.say(&["start", "c1"]).expect(125, "cannot start a container that has stopped");
    stage.leave(&["create"], &[]).expect(125, "is in use by a container that is stopped");
    stage.delete();
    stage.say(&["delete", "c1"]).expect(125, "does not exist");
    stage.say(&["delete", "--force", "c1"]).expect(0, "");
    assert_eq!(stage.wait(), 137);
}

#[test]
fn a_container_can_be_killed_before_its_start() {
    let stage = Stage::new(Part::Live);
    stage.create(Part::Live);
    stage.say(&["kill", "c1", "SIGKILL"]).expect(0, "");
    assert_eq!(stage.wait(), 137);
    assert_eq!(stage.text("out"), "");
    stage.expect_status("stopped");
    stage.delete();
}

#[test]
fn a_container_that_was_never_started_can_be_deleted() {
    let stage = Stage::new(Part::Live);
    stage.create(Part::Live);
    stage.delete();
    assert_eq!(stage.wait(), 137);
    assert_eq!(stage.text("out"), "");
}

#[test]
fn a_creation_that_fails_leaves_nothing_and_says_why() {
    for (part, status, reason) in [
        (Part::ProgramMissing, 127, "because the part says so"),
        (Part::ProgramNotExecutable, 126, "because the part says so"),
        (Part::StepFailed, 125, "because the part says so"),
        (Part::PanicAtBoot, 250, "Kernel panic"),
        (Part::DieBeforeBoot, 250, "these are my last words"),
        (Part::Garbage, 251, "agent"),
    ] {
        let stage = Stage::new(part);
        let said = stage.leave(&["create"], &[]);
        said.expect(status, reason);
        assert_eq!(said.stderr.matches("ringfence: error:").count(), 1, "{said:?}");
        stage.expect_nothing_left();
    }
    let stage = Stage::new(Part::NoHello).impatient();
    stage.leave(&["create"], &[]).expect(252, "did not answer within 300 ms");
    stage.expect_nothing_left();
    let stage = Stage::new(Part::Live);
    stage.leave(&["create"], &["--preserve-fds", "1"]).expect(125, "--preserve-fds 1");
    for (option, value) in
        [("--apparmor", "profile"), ("--process-label", "u:r:t"), ("--cgroup", "/below")]
    {
        stage.say(&["exec", option, value, "c1", "true"]).expect(125, option).expect(125, value);
        let none = stage.say(&["exec", option, "", "c1", "true"]);
        none.expect(125, "does not exist");
    }
    let mut command = stage.ringfence(&[]);
    command.env("LISTEN_FDS", "1");
    stage.leave_through(command, &["create"], &[]).expect(125, "LISTEN_FDS=1");
    stage.leave(&["create"], &["--frobnicate"]).expect(125, "--frobnicate");
    stage.leave(&["create"], &["--pid-file", "/no/such/dir/pid"]);
    stage.edit(|config| config["process"]["args"] = Value::Null);
    stage.leave(&["create"], &[]).expect(125, "process.args");
    assert!(stage.left().is_empty());
}

#[test]
fn a_start_that_fails_ends_the_container_and_says_why() {
    let stage = Stage::new(Part::NoStart).impatient();
    stage.create(Part::NoStart);
    stage.say(&["start", "c1"]).expect(252, "starting the container");
    assert_eq!(stage.wait(), 252);
    let state = stage.state();
    assert_eq!(state["status"], "stopped");
    assert!(state["end"]["reason"].as_str().unwrap().contains("did not answer"), "{state}");
    stage.delete();
}

#[test]
fn a_supervisor_that_is_killed_is_a_stopped_container() {
    for is_started in [false, true] {
        let stage = Stage::new(Part::Live);
        stage.create(Part::Live);
        if is_started {
            stage.say(&["start", "c1"]).expect(0, "");
        }
        kill_process(stage.supervisor(), Signal::KILL).unwrap();
        wait_until(|| stage.state()["status"] == "stopped");
        let state = stage.state();
        assert_eq!((&state["pid"], &state["end"]["status"]), (&0.into(), &137.into()));
        stage.say(&["kill", "c1"]).expect(125, "container not running");
        stage.say(&["start", "c1"]).expect(125, "is stopped");
        stage.leave(&["create"], &[]).expect(125, "delete that container");
        stage.delete();
        assert_eq!(stage.wait(), 1009);
    }
}

#[test]
fn a_machine_that_is_killed_is_a_stopped_container_with_another_reason() {
    for is_started in [false, true] {
        let stage = Stage::new(Part::Live);
        stage.create(Part::Live);
        if is_started {
            stage.say(&["start", "c1"]).expect(0, "");
        }
        kill_process(stage.vmm_pid(), Signal::KILL).unwrap();
        wait_until(|| stage.state()["status"] == "stopped");
        assert_eq!(stage.wait(), 250);
        let reason = stage.state()["end"]["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("killed by signal 9"), "{reason}");
        stage.delete();
    }
}

#[test]
fn a_container_that_used_up_its_memory_has_a_reason() {
    let stage = Stage::new(Part::OutOfMemory);
    stage.create(Part::OutOfMemory);
    stage.say(&["start", "c1"]).expect(0, "");
    assert_eq!(stage.wait(), 137);
    let state = stage.state();
    assert!(state["end"]["reason"].as_str().unwrap().contains("memory"), "{state}");
    stage.delete();
}

#[test]
fn force_deletes_what_is_in_the_way() {
    for (part, is_started) in [(Part::Live, false), (Part::Live, true)] {
        let stage = Stage::new(part);
        stage.create(part);
        if is_started {
            stage.say(&["start", "c1"]).expect(0, "");
        }
        stage.say(&["delete", "--force", "c1"]).expect(0, "");
        stage.expect_nothing_left();
        assert_eq!(stage.wait(), 137);
    }
    // What nobody can read any more.
    let stage = Stage::new(Part::Live);
    std::fs::create_dir_all(stage.path("state/c1")).unwrap();
    std::fs::write(stage.path("state/c1/state.json"), "{").unwrap();
    stage.say(&["state", "c1"]).expect(125, "is no state of this ringfence");
    stage.say(&["delete", "c1"]).expect(125, "is no state of this ringfence");
    stage.say(&["delete", "--force", "c1"]).expect(0, "");
    assert!(stage.left().is_empty());
}

#[test]
fn a_guest_that_does_not_take_the_last_signal_loses_its_machine() {
    let stage = Stage::new(Part::Deaf).impatient();
    stage.create(Part::Deaf);
    stage.say(&["start", "c1"]).expect(0, "");
    stage.say(&["kill", "c1", "TERM"]).expect(252, "did not answer");
    stage.expect_status("running");
    stage.say(&["kill", "c1", "KILL"]).expect(0, "");
    assert_eq!(stage.wait(), 137);
    stage.delete();
}

#[test]
fn a_machine_can_be_stopped_and_go_on() {
    let stage = Stage::new(Part::Live);
    stage.create(Part::Live);
    stage.say(&["pause", "c1"]).expect(125, "container not running");
    stage.say(&["start", "c1"]).expect(0, "");
    stage.wait_for_text("out", "out\n");
    stage.say(&["resume", "c1"]).expect(125, "is not paused");
    stage.say(&["pause", "c1"]).expect(0, "");
    stage.expect_status("paused");
    stage.say(&["pause", "c1"]).expect(125, "is paused already");
    stage.say(&["exec", "c1", "exit", "0"]).expect(125, "is paused");
    stage.say(&["start", "c1"]).expect(125, "started already");
    stage.say(&["delete", "c1"]).expect(125, "is paused");
    // It waits for the machine, as for a frozen cgroup.
    stage.say(&["kill", "c1", "USR1"]).expect(0, "");
    stage.say(&["kill", "c1", "USR1"]).expect(0, "");
    stage.say(&["resume", "c1"]).expect(0, "");
    stage.expect_status("running");
    wait_until(|| stage.text("out").lines().count() == 3);
    let mut told: Vec<String> = stage.text("out").lines().map(str::to_owned).collect();
    told.sort();
    assert_eq!(told, ["out", "signal 10 false", "time"], "the clock is set");
    stage.say(&["pause", "c1"]).expect(0, "");
    stage.say(&["kill", "c1", "KILL"]).expect(0, "");
    assert_eq!(stage.wait(), 137);
    stage.delete();
}

#[test]
fn run_can_leave_its_container_behind() {
    let stage = Stage::new(Part::Live);
    stage.leave(&["run", "--detach"], &[]).expect(0, "");
    stage.expect_status("running");
    stage.wait_for_text("out", "out\n");
    stage.say(&["kill", "c1"]).expect(0, "");
    assert_eq!(stage.wait(), 143);
    stage.delete();
    for (part, status) in [(Part::ProgramMissing, 127), (Part::DieBeforeBoot, 250)] {
        stage.play(part);
        stage.leave(&["run", "-d"], &[]).expect(status, "");
        stage.expect_nothing_left();
    }
    let stage = Stage::new(Part::NoStart).impatient();
    stage.leave(&["run", "-d"], &[]).expect(252, "starting the container");
    stage.expect_nothing_left();
}

#[test]
fn a_container_in_the_foreground_answers_too_and_goes_with_its_command() {
    let stage = Stage::new(Part::Live);
    let running = stage.start();
    running.wait_for_stdout(b"out\n");
    stage.expect_status("running");
    stage.say(&["start", "c1"]).expect(125, "started already");
    stage.say(&["kill", "c1", "TERM"]).expect(0, "");
    running.finish().expect(143, "").leaves_nothing();
    stage.expect_nothing_left();
    let running = stage.start();
    running.wait_for_stdout(b"out\n");
    stage.say(&["delete", "--force", "c1"]).expect(0, "");
    running.finish().expect(137, "").leaves_nothing();
}

#[test]
fn signals_to_the_supervisor_are_the_containers() {
    let stage = Stage::new(Part::Live);
    stage.create(Part::Live);
    stage.say(&["start", "c1"]).expect(0, "");
    kill_process(stage.supervisor(), Signal::HUP).unwrap();
    stage.wait_for_text("out", "signal 1 false\n");
    kill_process(stage.supervisor(), Signal::TERM).unwrap();
    assert_eq!(stage.wait(), 143);
    stage.delete();
}

#[test]
fn a_command_that_is_killed_before_the_container_stands_leaves_nothing() {
    let stage = Stage::new(Part::NoHello);
    let mut command = stage.ringfence(&[]);
    command.arg("create").arg("--bundle").arg(stage.path("bundle")).arg("c1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let mut child = command.spawn().unwrap();
    wait_until(|| stage.text("vmm.pid").ends_with('\n'));
    stage.expect_status("creating");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until(|| stage.left().is_empty());
    wait_until(|| !runs(stage.text("vmm.pid").trim()));
}

#[test]
fn a_supervisor_that_is_killed_before_the_container_stands_is_told_and_recovered() {
    let stage = Stage::new(Part::NoHello);
    let status = std::thread::scope(|scope| {
        let creating = scope.spawn(|| stage.leave(&["create"], &[]));
        wait_until(|| stage.text("vmm.pid").ends_with('\n'));
        let pid = stage.state()["pid"].as_i64().unwrap();
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        creating.join().unwrap()
    });
    status.expect(125, "the supervisor ended before the container was ready");
    stage.expect_status("stopped");
    wait_until(|| !runs(stage.text("vmm.pid").trim()));
    stage.create(Part::Live);
    stage.expect_status("created");
    stage.say(&["delete", "--force", "c1"]).expect(0, "");
    assert_eq!(stage.wait(), 137);
}

#[test]
fn nothing_that_the_caller_has_open_is_held() {
    let stage = Stage::new(Part::Live);
    let (mut reader, writer) = std::io::pipe().unwrap();
    // A shell hands the descriptor on as 9, without close-on-exec.
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 9>&0; exec \"$@\" </dev/null", "sh"]);
    let ringfence = stage.ringfence(&[]);
    shell.arg(ringfence.get_program()).args(ringfence.get_args());
    shell.args(["create", "--bundle"]).arg(stage.path("bundle"));
    shell.arg("--pid-file").arg(stage.path("pid")).arg("c1");
    set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    shell.stdin(writer).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(shell.status().unwrap().success());
    drop(shell);
    assert_eq!(std::io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
    let cwd = format!("/proc/{}/cwd", stage.text("pid"));
    assert_eq!(std::fs::read_link(cwd).unwrap().to_str(), Some("/"));
    stage.say(&["delete", "--force", "c1"]).expect(0, "");
    assert_eq!(stage.wait(), 137);
}

#[test]
fn hooks_run_in_the_order_of_the_specification() {
    let stage = Stage::new(Part::Live);
    let log = stage.path("hooks.log");
    let names = ["prestart", "createRuntime", "poststart", "poststop"];
    stage.edit(|config| {
        for name in names {
            let script = format!("read -r state; echo {name} \"$state\" >>{}", log.display());
            let hook = serde_json::json!({ "path": "/bin/sh", "args": ["sh", "-c", script] });
            config["hooks"][name] = serde_json::json!([hook]);
        }
        // A hook may ask about its container.
        let script = format!(
            "{} --root {} state c1 >{}",
            env!("CARGO_BIN_EXE_ringfence"),
            stage.path("state").display(),
            stage.path("asked").display(),
        );
        config["hooks"]["poststart"].as_array_mut().unwrap().push(
            serde_json::json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 20 }),
        );
    });
    let told = || -> Vec<String> {
        let text = stage.text("hooks.log");
        text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    };
    stage.create(Part::Live);
    assert_eq!(told(), names[..2]);
    stage.say(&["start", "c1"]).expect(0, "");
    assert_eq!(told(), names[..3]);
    assert!(stage.text("asked").contains("\"running\""), "{}", stage.text("asked"));
    stage.say(&["kill", "c1"]).expect(0, "");
    assert_eq!(stage.wait(), 143);
    assert_eq!(told(), names[..3], "poststop belongs to delete");
    stage.delete();
    assert_eq!(told(), names);
    for (line, status) in
        stage.text("hooks.log").lines().zip(["created", "created", "running", "stopped"])
    {
        assert!(line.contains(&format!("\"status\":\"{status}\"")), "{line}");
        assert!(line.contains(&format!("\"pid\":{}", stage.text("pid"))), "{line}");
    }
}

#[test]
fn warnings_are_told_by_the_command_and_not_into_the_containers_errors() {
    let stage = Stage::new(Part::Live);
    stage.edit(|config| {
        let set = config["process"]["capabilities"]["bounding"].as_array_mut().unwrap();
        set.push("CAP_UNHEARD_OF".into());
        config["hooks"]["poststop"] = serde_json::json!([{ "path": "/bin/false" }]);
    });
    let said = stage.leave(&["create"], &[]);
    said.expect(0, "CAP_UNHEARD_OF");
    let before = said.stderr;
    kill_process(stage.vmm_pid(), Signal::KILL).unwrap();
    assert_eq!(stage.wait(), 250);
    assert_eq!(stage.text("err"), before);
    stage.say(&["delete", "c1"]).expect(0, "hooks.poststop[0]");
}

#[test]
fn a_poststart_hook_that_fails_ends_the_container() {
    let stage = Stage::new(Part::Live);
    stage.edit(|config| {
        config["hooks"]["poststart"] = serde_json::json!([{ "path": "/bin/false" }]);
    });
    stage.create(Part::Live);
    stage.say(&["start", "c1"]).expect(125, "hooks.poststart[0]");
    assert_eq!(stage.wait(), 125);
    stage.expect_status("stopped");
    stage.delete();
    stage.leave(&["run", "--detach"], &[]).expect(125, "hooks.poststart[0]");
    stage.expect_nothing_left();
}

#[test]
fn a_list_has_every_container_in_runcs_forms() {
    let stage = Stage::new(Part::Live);
    assert_eq!(stage.say(&["list", "--format", "json"]).stdout, "[]\n");
    stage.create(Part::Live);
    assert_eq!(stage.say(&["list", "-q"]).stdout, "c1\n");
    let table = stage.say(&["list"]).stdout;
    let row = table.lines().nth(1).unwrap();
    let owner = stage.state()["owner"].as_str().unwrap().to_owned();
    assert!(row.starts_with("c1") && row.contains("created") && row.ends_with(&owner), "{table}");
    let json = stage.say(&["list", "--format", "json"]).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    let mut state = stage.state();
    let more = state.as_object_mut().unwrap();
    // What engines do not ask for in a list; `list --walls` has it.
    assert_eq!(more.remove("walls").unwrap()["process"], stage.vmm_pid().as_raw_nonzero().get());
    let boot = more.remove("boot").unwrap();
    assert_eq!(boot["kernel"]["path"], stage.path("vmlinux").to_str().unwrap());
    assert_eq!(json[0], state);
    let json = stage.say(&["list", "--walls", "--format", "json"]).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["boot"], boot);
    assert!(json[0]["walls"].is_object());
    stage.say(&["delete", "-f", "c1"]).expect(0, "");
    assert_eq!(stage.wait(), 137);
}

#[test]
fn features_are_told_in_json() {
    let said = Stage::new(Part::Live).say(&["features"]);
    let features: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(features["ociVersionMin"], "1.0.0");
    assert_eq!(features["linux"]["cgroup"]["v2"], true);
}

#[test]
fn what_is_not_there_yet_says_so() {
    let stage = Stage::new(Part::Live);
    for verb in ["checkpoint", "restore"] {
        stage.say(&[verb, "c1"]).expect(125, "is not supported yet");
    }
    stage.say(&["supervise", "1", "create", "c1"]).expect(125, "");
    stage.say(&["supervise", "77", "create", "c1"]).expect(125, "");
}

#[test]
fn commands_at_the_same_time_neither_hang_nor_corrupt() {
    let stage = Stage::new(Part::Live);
    let created: Vec<Said> = std::thread::scope(|scope| {
        let run = || scope.spawn(|| stage.leave(&["create"], &[]));
        let running: Vec<_> = (0..6).map(|_| run()).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let at_once = |line: &[&str]| -> Vec<Said> {
        std::thread::scope(|scope| {
            let run = || scope.spawn(|| stage.say(line));
            let running: Vec<_> = (0..12).map(|_| run()).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    let good = |said: &[Said]| said.iter().filter(|said| said.status == Some(0)).count();
    assert_eq!(good(&created), 1, "{created:?}");
    assert_eq!(good(&at_once(&["start", "c1"])), 1);
    assert_eq!(good(&at_once(&["state", "c1"])), 12);
    std::thread::scope(|scope| {
        scope.spawn(|| at_once(&["kill", "c1", "KILL"]));
        for _ in 0..50 {
            let status = stage.state()["status"].clone();
            assert!(status == "running" || status == "stopped", "{status}");
        }
    });
    assert_eq!(stage.wait(), 137);
    let deleted = at_once(&["delete", "c1"]);
    assert_eq!(good(&deleted), 1, "{deleted:?}");
    stage.expect_nothing_left();
}

#[test]
fn a_supervisor_that_stands_still_holds_up_nobody_for_ever() {
    let stage = Stage::new(Part::Live);
    stage.create(Part::Live);
    kill_process(stage.supervisor(), Signal::STOP).unwrap();
    stage.expect_status("created");
    stage.say(&["start", "c1"]).expect(252, "has not answered for 10 s");
    stage.say(&["delete", "--force", "c1"]).expect(0, "");
    stage.expect_nothing_left();
    assert_eq!(stage.wait(), 1009);
}
