//! `ringfence run` with a virtual machine monitor that is played: every way in which a machine or
//! an agent can fail, without KVM and without root.

mod console;
mod detached;
mod exec;
mod fake_vmm;
mod harness;
mod operations;

use fake_vmm::Part;
use harness::Stage;
use std::time::Duration;

#[test]
fn a_container_that_ends_gives_its_status_and_its_output() {
    for (part, status) in [(Part::Exit(0), 0), (Part::Exit(7), 7), (Part::Killed(15), 143)] {
        let outcome = Stage::new(part).run();
        outcome.expect(status, "").leaves_nothing();
        assert_eq!(outcome.stdout, b"out\n", "{outcome:?}");
        assert_eq!(outcome.stderr, "err\n", "{outcome:?}");
    }
}

#[test]
fn a_socket_for_the_service_manager_is_passed_over_and_told() {
    let stage = Stage::new(Part::Exit(0));
    let mut command = stage.ringfence(&[]);
    command.env("NOTIFY_SOCKET", "/run/notify").args(["run", "--bundle"]);
    command.arg(stage.path("bundle")).arg("c1");
    detached::say(command).expect(0, "NOTIFY_SOCKET is passed over");
}

#[test]
fn input_and_its_end_reach_the_container() {
    let input: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    let outcome = Stage::new(Part::Cat).run_with_input(&input);
    outcome.expect(0, "").leaves_nothing();
    assert!(outcome.stdout == input, "{} bytes came back", outcome.stdout.len());
}

#[test]
fn a_full_disk_is_never_a_success() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let outcome = Stage::new(Part::Exit(0)).run_to(full.into());
    outcome.expect(253, "No space left on device").leaves_nothing();
    assert!(outcome.stderr.contains("err\n"), "{outcome:?}");
}

#[test]
fn a_closed_pipe_is_never_a_success() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let outcome = Stage::new(Part::Exit(0)).run_to(writer.into());
    outcome.expect(253, "Broken pipe").leaves_nothing();
}

#[test]
fn memory_that_was_used_up_has_a_reason() {
    let outcome = Stage::new(Part::OutOfMemory).run();
    outcome.expect(137, "used up its memory").leaves_nothing();
}

#[test]
fn a_signal_is_forwarded() {
    let stage = Stage::new(Part::WaitForSignal);
    let running = stage.start();
    running.wait_for_stdout(b"out\n");
    running.signal(rustix::process::Signal::USR2);
    let outcome = running.finish();
    outcome.expect(128 + 12, "").leaves_nothing();
}

#[test]
fn a_signal_before_the_start_gives_up() {
    let stage = Stage::new(Part::NoHello);
    let running = stage.start();
    running.wait_for_vmm();
    running.signal(rustix::process::Signal::TERM);
    running.finish().expect(125, "interrupted by signal 15").leaves_nothing();
}

#[test]
fn a_supervisor_that_is_killed_takes_its_machine_along_and_its_id_is_free_again() {
    let stage = Stage::new(Part::WaitForSignal);
    let running = stage.start();
    running.wait_for_stdout(b"out\n");
    running.signal(rustix::process::Signal::KILL);
    let outcome = running.finish();
    assert_eq!(outcome.status, None, "{outcome:?}");
    outcome.vmm_is_gone();
    stage.play(Part::Exit(0));
    stage.run().expect(0, "cleaned up").leaves_nothing();
}

#[test]
fn an_id_in_use_is_refused_and_its_owner_goes_on() {
    let stage = Stage::new(Part::WaitForSignal);
    let running = stage.start();
    running.wait_for_stdout(b"out\n");
    let second = stage.run();
    second.expect(125, "is in use by process");
    running.signal(rustix::process::Signal::INT);
    running.finish().expect(130, "").leaves_nothing();
}

#[test]
fn what_the_machine_monitor_refuses_is_told_in_terms_of_the_host() {
    Stage::new(Part::RefuseKernel).run().expect(125, "vmlinux").leaves_nothing();
    Stage::new(Part::RefuseKvm).run().expect(125, "KVM at").leaves_nothing();
}

#[test]
fn a_machine_that_dies_is_told_from_a_container_that_ends() {
    for (part, reason) in [
        (Part::DieBeforeBoot, "exited with status 3"),
        (Part::PanicAtBoot, "Kernel panic"),
        (Part::DieWhileRunning, "killed by signal"),
        (Part::KvmErrorWhileRunning, "KVM could not go on"),
    ] {
        let outcome = Stage::new(part).run();
        outcome.expect(250, "the virtual machine ended").expect(250, reason).leaves_nothing();
    }
    let outcome = Stage::new(Part::DieBeforeBoot).run();
    outcome.expect(250, "these are my last words");
}

#[test]
fn a_missing_monitor_is_named() {
    let stage = Stage::new(Part::Exit(0));
    std::fs::remove_file(stage.vmm()).unwrap();
    stage.run().expect(125, stage.vmm().to_str().unwrap()).leaves_nothing();
}

#[test]
fn an_agent_that_lies_is_told_from_a_machine_that_dies() {
    for (part, reason) in [
        (Part::Garbage, "agent"),
        (Part::OtherVersion, "version"),
        (Part::CloseBeforeHello, "agent"),
        (Part::WrongReply, "another kind"),
        (Part::CloseWhileRunning, "agent"),
    ] {
        let outcome = Stage::new(part).run();
        outcome.expect(251, reason).leaves_nothing();
    }
}

#[test]
fn what_the_guest_refuses_has_the_status_that_a_shell_gives() {
    for (part, status) in
        [(Part::ProgramMissing, 127), (Part::ProgramNotExecutable, 126), (Part::StepFailed, 125)]
    {
        let outcome = Stage::new(part).run();
        outcome.expect(status, "because the part says so").leaves_nothing();
    }
}

#[test]
fn nothing_waits_without_a_deadline() {
    for (part, reason) in [
        (Part::NoHello, "did not answer within 300 ms"),
        (Part::NoConfigure, "configuring the guest"),
        (Part::NoCreate, "creating the container"),
        (Part::NoStart, "starting the container"),
        (Part::OpenStream, "has not, for"),
    ] {
        let outcome = Stage::new(part).impatient().run();
        outcome.expect(252, reason).leaves_nothing();
        assert!(outcome.duration < Duration::from_secs(10), "{outcome:?}");
    }
}

#[test]
fn the_trace_has_every_phase() {
    let stage = Stage::new(Part::Exit(0));
    let trace = stage.path("trace.json");
    stage.run_with(&["--trace", trace.to_str().unwrap()]).expect(0, "").leaves_nothing();
    let text = std::fs::read_to_string(trace).unwrap();
    for phase in ["launcher", "vmm up", "kernel boot", "container ran", "teardown", "map memory"] {
        assert!(text.contains(phase), "{phase} is not in {text}");
    }
}

#[test]
fn the_pid_file_names_the_supervisor() {
    let stage = Stage::new(Part::WaitForSignal);
    let file = stage.path("pid");
    let running = stage.start_with(&["--pid-file", file.to_str().unwrap()]);
    running.wait_for_stdout(b"out\n");
    assert_eq!(std::fs::read_to_string(file).unwrap(), running.pid().to_string());
    running.signal(rustix::process::Signal::TERM);
    running.finish().expect(143, "").leaves_nothing();
}

#[test]
fn hooks_run_around_the_container() {
    let stage = Stage::new(Part::Exit(0));
    let log = stage.path("hooks.log");
    let hook = |name: &str| {
        let script = format!("read -r state; echo {name} \"$state\" >>{}", log.display());
        serde_json::json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }])
    };
    let names = ["prestart", "createRuntime", "poststart", "poststop"];
    stage.edit(|config| {
        for name in names {
            config["hooks"][name] = hook(name);
        }
    });
    stage.run().expect(0, "").leaves_nothing();
    let text = std::fs::read_to_string(&log).unwrap();
    let told: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(told, names);
    for (line, status) in text.lines().zip(["created", "created", "running", "stopped"]) {
        assert!(line.contains(&format!("\"status\":\"{status}\"")), "{line}");
    }
}

#[test]
fn a_hook_that_fails_ends_it_all() {
    for name in ["prestart", "poststart"] {
        let stage = Stage::new(Part::WaitForSignal);
        stage.edit(|config| config["hooks"][name] = serde_json::json!([{ "path": "/bin/false" }]));
        stage.run().expect(125, &format!("hooks.{name}[0]")).leaves_nothing();
    }
}

#[test]
fn a_log_in_json_has_the_error() {
    let stage = Stage::new(Part::ProgramMissing);
    let log = stage.path("log");
    let before = ["--log", log.to_str().unwrap(), "--log-format", "json"];
    stage.run_after(&before).expect(127, "").leaves_nothing();
    let text = std::fs::read_to_string(log).unwrap();
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "error");
    assert!(last["msg"].as_str().unwrap().contains("because the part says so"));
}
