//! Further processes of a running container.

use crate::console::{Master, receive};
use crate::detached::say;
use crate::fake_vmm::Part;
use crate::harness::{Stage, wait_until};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn running() -> Stage {
    let stage = Stage::new(Part::Live);
    stage.create(Part::Live);
    stage.say(&["start", "c1"]).expect(0, "");
    stage
}

impl Stage {
    fn exec(&self, line: &[&str]) -> Command {
        let mut command = self.ringfence(&[]);
        command.arg("exec").args(line);
        command
    }

    #[track_caller]
    fn end(&self) {
        self.expect_status("running");
        self.say(&["kill", "c1", "KILL"]).expect(0, "");
        assert_eq!(self.wait(), 137);
        self.say(&["delete", "c1"]).expect(0, "");
        self.expect_nothing_left();
    }
}

/// Writes to a command and reads its output to the end.
fn feed(mut child: Child, input: &[u8]) -> (Option<i32>, Vec<u8>) {
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    (output.status.code(), output.stdout)
}

#[test]
fn a_process_gives_its_status_and_its_output() {
    let stage = running();
    for status in [0, 7, 255] {
        let said = stage.say(&["exec", "c1", "exit", &status.to_string()]);
        said.expect(status, "exec err\n");
        assert_eq!(said.stdout, "exec out\n");
    }
    stage.end();
}

#[test]
fn input_and_its_end_reach_a_process() {
    let stage = running();
    let input: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    let mut command = stage.exec(&["c1", "cat"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let (status, output) = feed(command.spawn().unwrap(), &input);
    assert_eq!(status, Some(0));
    assert!(output == input, "{} bytes came back", output.len());
    stage.end();
}

#[test]
fn a_process_is_the_first_one_but_for_its_options() {
    let stage = running();
    let said = stage.say(&[
        "exec",
        "--user",
        "5:6",
        "-g",
        "7",
        "--cwd",
        "/tmp",
        "-e",
        "TERM=vt100",
        "-e",
        "A=b",
        "c1",
        "show",
    ]);
    said.expect(0, "");
    for shown in ["\"TERM=vt100\", \"A=b\"", " /tmp ", "uid: 5, gid: 6, additional_gids: [7]"] {
        assert!(said.stdout.contains(shown), "{said:?}");
    }
    assert_eq!(said.stdout.matches("TERM=").count(), 1, "{said:?}");
    let file = stage.path("process.json");
    std::fs::write(&file, r#"{"args":["show"],"cwd":"/x","env":["B=c"],"user":{"uid":9}}"#)
        .unwrap();
    let said = stage.say(&["exec", "--process", file.to_str().unwrap(), "c1"]);
    said.expect(0, "");
    assert!(said.stdout.starts_with("[\"B=c\"] /x ") && said.stdout.contains("uid: 9"), "{said:?}");
    std::fs::write(&file, r#"{"args":["show"],"cwd":"x"}"#).unwrap();
    stage.say(&["exec", "--process", file.to_str().unwrap(), "c1"]).expect(125, "cwd");
    let large = format!("LARGE={}", "x".repeat(100_000));
    let said = stage.say(&["exec", "-e", &large, "c1", "show"]);
    assert!(said.stdout.contains(&large), "{} bytes", said.stdout.len());
    stage.end();
}

#[test]
fn a_program_that_cannot_run_has_the_status_that_a_shell_gives() {
    let stage = running();
    for (program, status) in [("missing", 127), ("forbidden", 126)] {
        let began = Instant::now();
        let said = stage.say(&["exec", "c1", program]);
        said.expect(status, "because the part says so");
        assert!(began.elapsed() < Duration::from_secs(5));
        stage.say(&["exec", "--detach", "c1", program]).expect(status, "because the part says so");
    }
    stage.end();
}

#[test]
fn a_container_that_does_not_run_takes_no_process() {
    let stage = Stage::new(Part::Live);
    stage.say(&["exec", "c1", "exit", "0"]).expect(125, "does not exist");
    stage.create(Part::Live);
    stage.say(&["kill", "c1", "KILL"]).expect(0, "");
    assert_eq!(stage.wait(), 137);
    stage.say(&["exec", "c1", "exit", "0"]).expect(125, "container not running");
    stage.say(&["delete", "c1"]).expect(0, "");
}

#[test]
fn signals_are_the_processs_and_a_signal_is_its_status() {
    let stage = running();
    let mut command = stage.exec(&["c1", "wait"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    // Its output says that it takes signals.
    let mut child = child;
    let mut output = child.stdout.take().unwrap();
    let mut waiting = [0; 8];
    std::io::Read::read_exact(&mut output, &mut waiting).unwrap();
    kill_process(pid, Signal::USR1).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 10));
    stage.end();
}

#[test]
fn what_children_hold_open_is_not_waited_for() {
    let stage = running();
    let began = Instant::now();
    let said = stage.say(&["exec", "c1", "child"]);
    said.expect(0, "");
    assert_eq!(said.stdout, "from a parent\n");
    assert!(began.elapsed() < Duration::from_secs(5));
    stage.end();
}

#[test]
fn a_process_ends_with_its_container() {
    let stage = running();
    let mut command = stage.exec(&["c1", "wait"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut output, &mut [0; 8]).unwrap();
    stage.say(&["kill", "c1", "TERM"]).expect(0, "");
    assert_eq!(child.wait().unwrap().code(), Some(137));
    assert_eq!(stage.wait(), 143);
    stage.say(&["delete", "c1"]).expect(0, "");
}

#[test]
fn a_client_that_goes_away_is_no_matter() {
    let stage = running();
    let mut command = stage.exec(&["c1", "wait"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 8]).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    stage.say(&["exec", "c1", "exit", "3"]).expect(3, "");
    stage.end();
}

#[test]
fn a_supervisor_or_a_machine_that_is_killed_ends_the_wait() {
    for is_supervisor in [true, false] {
        let stage = running();
        let mut command = stage.exec(&["c1", "wait"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 8]).unwrap();
        let (pid, status) =
            if is_supervisor { (stage.supervisor(), 1009) } else { (stage.vmm_pid(), 250) };
        kill_process(pid, Signal::KILL).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(250), "{output:?}");
        stage.say(&["delete", "--force", "c1"]).expect(0, "");
        assert_eq!(stage.wait(), status);
    }
}

#[test]
fn a_guest_that_does_not_answer_has_a_deadline() {
    let stage = Stage::new(Part::Live).impatient();
    stage.create(Part::Live);
    stage.say(&["start", "c1"]).expect(0, "");
    stage.say(&["exec", "c1", "never"]).expect(252, "did not answer");
    stage.end();
}

fn wait_for(pid: Pid) -> i32 {
    let mut ended = None;
    wait_until(|| {
        ended = waitpid(Some(pid), WaitOptions::NOHANG).unwrap().map(|(_, status)| status);
        ended.is_some()
    });
    let status = ended.unwrap();
    status.exit_status().or(status.terminating_signal().map(|signal| 1000 + signal)).unwrap()
}

impl Stage {
    /// A process that is left behind, and the process that stands for it on the host.
    fn leave_exec(&self, options: &[&str], program: &[&str]) -> Pid {
        let file = self.path("exec.pid");
        drop(std::fs::remove_file(&file));
        let mut command = self.exec(&["--detach", "--pid-file", file.to_str().unwrap()]);
        command.args(options).arg("c1").args(program);
        let output = std::fs::File::create(self.path("exec.out")).unwrap();
        command.stdin(Stdio::null()).stdout(output).stderr(Stdio::null());
        assert!(command.status().unwrap().success());
        Pid::from_raw(self.text("exec.pid").parse().unwrap()).unwrap()
    }
}

#[test]
fn a_process_can_be_left_behind() {
    let stage = running();
    let pid = stage.leave_exec(&[], &["exit", "6"]);
    assert_eq!(wait_for(pid), 6);
    assert_eq!(stage.text("exec.out"), "exec out\n");
    let pid = stage.leave_exec(&[], &["wait"]);
    stage.wait_for_text("exec.out", "waiting\n");
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(wait_for(pid), 143);
    // What stands for a process takes it along.
    let pid = stage.leave_exec(&[], &["wait"]);
    kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(wait_for(pid), 1009);
    stage.end();
}

#[test]
fn a_process_that_cannot_be_told_of_is_ended() {
    let stage = running();
    let tasks = || std::fs::read_dir(format!("/proc/{}/task", stage.text("pid"))).unwrap().count();
    let before = tasks();
    for options in [&["exec"][..], &["exec", "--detach"]] {
        let line = [options, &["--pid-file", "/no/such/pid", "c1", "wait"]].concat();
        stage.say(&line).expect(125, "/no/such/pid");
    }
    // Nobody waits for the processes' ends any more.
    wait_until(|| tasks() <= before);
    stage.end();
}

#[test]
fn a_terminal_of_a_process_goes_to_whoever_takes_its_master() {
    let stage = running();
    let path = stage.path("exec.console");
    let listener = UnixListener::bind(&path).unwrap();
    let taker = std::thread::spawn(move || receive(&listener.accept().unwrap().0));
    let pid = stage.leave_exec(&["--tty", "--console-socket", path.to_str().unwrap()], &["wait"]);
    let mut master = Master::new(taker.join().unwrap());
    master.wait_for("waiting\n");
    master.write("hello\r");
    master.wait_for("read hello\r");
    master.resize(40, 100);
    master.wait_for("size 40 100\n");
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(wait_for(pid), 143);
    say(stage.exec(&["--tty", "-d", "c1", "wait"])).expect(125, "name a --console-socket");
    stage.end();
}

#[test]
fn nothing_of_a_process_stays_in_the_supervisor() {
    let stage = running();
    let count = |what: &str| {
        let directory = format!("/proc/{}/{what}", stage.text("pid"));
        std::fs::read_dir(directory).unwrap().count()
    };
    let run = || {
        stage.say(&["exec", "c1", "exit", "0"]).expect(0, "");
        stage.say(&["exec", "c1", "missing"]).expect(127, "");
        stage.say(&["kill", "c1", "USR1"]).expect(0, "");
    };
    run();
    // Client threads end a moment after their answers.
    std::thread::sleep(Duration::from_millis(200));
    let before = (count("fd"), count("task"));
    for _ in 0..15 {
        run();
    }
    wait_until(|| (count("fd"), count("task")) == before);
    stage.end();
}

#[test]
fn many_processes_at_once_neither_hang_nor_mix() {
    let stage = running();
    std::thread::scope(|scope| {
        for status in 0..24 {
            let stage = &stage;
            scope.spawn(move || {
                let said = stage.say(&["exec", "c1", "exit", &status.to_string()]);
                said.expect(status, "exec err\n");
                assert_eq!(said.stdout, "exec out\n");
            });
        }
    });
    stage.end();
}
