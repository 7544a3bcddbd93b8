//! Containers that are in no pod.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use containerd_shim_protos::api::{Empty, Status};
use containerd_shim_protos::events::task::TaskExit;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::{Code, Error};
use integration_tests::Lab;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::calls::Stdio;
use crate::shim::{Bundle, NAMESPACE, Shim, Whose, enter};
use crate::streams::{Reader, fifo, writer};

/// More than what lies between a program and its reader.
const BURST: usize = 8 << 20;
const BOTH: [Whose; 2] = [Whose::Ringfence, Whose::Runc];

/// Bytes that repeat in step with no buffer.
fn burst(length: usize) -> Vec<u8> {
    const STEP: usize = 65_521;
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    let mut bytes = (0..STEP).map(next).collect::<Vec<u8>>().repeat(length.div_ceil(STEP));
    bytes.truncate(length);
    bytes
}

/// A file with [`burst`], and the mount by which a container has it.
fn payload(lab: &Lab) -> (PathBuf, serde_json::Value) {
    let path = lab.scratch().join("payload");
    std::fs::write(&path, burst(BURST)).expect("it can be written");
    let mount = json!({
        "destination": "/tmp/payload", "type": "bind", "source": path, "options": ["rbind"],
    });
    (path, mount)
}

fn add_mount(config: &mut serde_json::Value, mount: serde_json::Value) {
    config["mounts"].as_array_mut().expect("an array").push(mount);
}

fn reader(lab: &Lab, name: &str) -> Reader {
    Reader::new(lab.scratch().join(name))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("the clock is right").as_secs()
}

/// What a container's life looks like from outside.
#[derive(Debug, PartialEq, Eq)]
struct Life {
    statuses: Vec<u32>,
    /// Sorted: what is told of a process and what of another one have no order.
    topics: Vec<String>,
    codes: Vec<u32>,
    output: String,
}

fn live(lab: &Lab, whose: Whose) -> Life {
    let id = format!("reference-life-{whose:?}").to_lowercase();
    let bundle = Bundle::shell(
        lab,
        &id,
        "i=0; while [ $i -lt 50 ]; do i=$((i + 1)); echo tick $i; done; exec sleep 1000",
    );
    let shim = Shim::start(lab, whose, &id, &bundle.path);
    let tasks = &shim.tasks;
    let named = |name: &str| reader(lab, &format!("{id}-{name}"));
    let (stdout, stderr) = (named("stdout"), named("stderr"));
    let stdio = Stdio { stdout: Some(&stdout), stderr: Some(&stderr), ..Stdio::default() };
    let made = tasks.create(&id, &bundle.path, bundle.rootfs.clone(), &stdio).expect("it is made");
    assert!(made.pid > 0);
    tasks.start(&id, "").expect("it can be started");
    assert_eq!(tasks.status(&id), Status::RUNNING);
    assert!(tasks.shim_pid(&id) > 0);
    stdout.wait_for("tick 50\n");

    let mut codes = Vec::new();
    for code in ["42", "255"] {
        let exec_id = format!("exit-{code}");
        tasks.exec(&id, &exec_id, &["/bin/sh", "-c", &format!("exit {code}")], &Stdio::default());
        codes.push(tasks.wait(&id, &exec_id));
        codes.push(tasks.delete(&id, &exec_id));
    }
    let (out, err) = (named("exec-stdout"), named("exec-stderr"));
    let stdio = Stdio { stdout: Some(&out), stderr: Some(&err), ..Stdio::default() };
    let before = now();
    tasks.exec(&id, "clock", &["/bin/date", "+%s"], &stdio);
    assert_eq!(tasks.wait(&id, "clock"), 0);
    let seen: u64 = String::from_utf8_lossy(&out.whole()).trim().parse().expect("a number");
    assert!((before - 2..=now() + 2).contains(&seen), "{seen} is not near {before}");
    tasks.delete(&id, "clock");

    // What is written before the end of the standard input comes back.
    let sent = burst(300_000);
    let input = lab.scratch().join(format!("{id}-stdin"));
    fifo(&input);
    let (out, err) = (named("cat-stdout"), named("cat-stderr"));
    let stdio = Stdio { stdin: Some(&input), stdout: Some(&out), stderr: Some(&err) };
    tasks.exec(&id, "cat", &["/bin/cat"], &stdio);
    let mut writing = writer(&input);
    writing.write_all(&sent).expect("it is taken");
    drop(writing);
    tasks.close_stdin(&id, "cat");
    assert_eq!(tasks.wait(&id, "cat"), 0);
    tasks.delete(&id, "cat");
    assert!(out.whole() == sent);

    let (waited, deleted) = tasks.remove(&id);
    let exit = shim.events.wait_for("/tasks/exit", |envelope| {
        let event = TaskExit::parse_from_bytes(&envelope.event.value);
        event.is_ok_and(|event| event.id == id && event.exit_status == 137)
    });
    assert_eq!(exit.namespace, NAMESPACE);
    shim.events.wait_for("/tasks/delete", |_| true);
    let mut topics = shim.events.topics();
    let of_container = ["/tasks/create", "/tasks/start", "/tasks/delete"];
    let order = topics.iter().filter(|topic| of_container.contains(&topic.as_str()));
    assert_eq!(order.collect::<Vec<_>>(), of_container);
    topics.sort();
    tasks.shut_down(&id);
    shim.expect_end();
    shim.clean_up();
    let output = String::from_utf8(stdout.whole()).expect("it is text");
    Life { statuses: vec![waited, deleted], topics, codes, output }
}

#[test]
fn a_container_lives_as_with_runc() {
    let lab = enter();
    let [ours, theirs] = BOTH.map(|whose| live(&lab, whose));
    assert_eq!(ours, theirs);
    assert_eq!((&ours.codes[..], &ours.statuses[..]), (&[42, 42, 255, 255][..], &[137, 137][..]));
    assert_eq!(ours.output.lines().count(), 50);
    lab.expect_nothing_left();
}

#[test]
fn a_shutdown_while_a_container_runs_loses_nothing() {
    let lab = enter();
    let (path, mount) = payload(&lab);
    let sent = std::fs::read(&path).expect("it is there");
    for whose in BOTH {
        let id = format!("reference-burst-{whose:?}").to_lowercase();
        let bundle = Bundle::new(&lab, &id, &["/bin/cat", "/tmp/payload"], |config| {
            add_mount(config, mount.clone());
        });
        let shim = Shim::start(&lab, whose, &id, &bundle.path);
        let named = |name: &str| reader(&lab, &format!("{id}-{name}"));
        let (out, err) = (named("stdout"), named("stderr"));
        let stdio = Stdio { stdout: Some(&out), stderr: Some(&err), ..Stdio::default() };
        shim.tasks.create(&id, &bundle.path, bundle.rootfs.clone(), &stdio).expect("it is made");
        shim.tasks.start(&id, "").expect("it can be started");
        let began = Instant::now();
        shim.tasks.shut_down(&id);
        assert!(out.whole() == sent, "{whose:?}");
        println!("{whose:?}: all of the output {:?} after its start", began.elapsed());
        match whose {
            // Nobody has deleted the container: its shim still serves it.
            Whose::Ringfence => {
                assert!(!shim.processes().is_empty());
                shim.clean_up();
                assert!(shim.processes().is_empty(), "{:?}", shim.processes());
            }
            Whose::Runc => {
                assert_eq!((shim.tasks.wait(&id, ""), shim.tasks.delete(&id, "")), (0, 0));
                shim.tasks.shut_down(&id);
                shim.expect_end();
            }
        }
    }
    lab.expect_nothing_left();
}

#[test]
fn a_cleaning_up_ends_what_still_runs() {
    let lab = enter();
    let (path, mount) = payload(&lab);
    let id = "cleaned";
    let bundle = Bundle::new(&lab, id, &["/bin/sleep", "1000"], |config| {
        add_mount(config, mount);
    });
    let shim = Shim::start(&lab, Whose::Ringfence, id, &bundle.path);
    let tasks = &shim.tasks;
    // What is not offered says so.
    for (service, wanted) in [
        ("containerd.services.transfer.v1.Transfer", Some(Code::UNIMPLEMENTED)),
        ("x.Unknown", Some(Code::INVALID_ARGUMENT)),
    ] {
        let answer = tasks.call_of::<Empty>(service, "Transfer", &Empty::default());
        let code = match answer.unwrap_err() {
            Error::RpcStatus(status) => status.code.enum_value().ok(),
            _ => None,
        };
        assert_eq!(code, wanted, "{service}");
    }
    tasks.create(id, &bundle.path, bundle.rootfs.clone(), &Stdio::default()).expect("it is made");
    tasks.start(id, "").expect("it can be started");
    let out = reader(&lab, "exec-stdout");
    let stdio = Stdio { stdout: Some(&out), ..Stdio::default() };
    tasks.exec(id, "cat", &["/bin/cat", "/tmp/payload"], &stdio);
    let began = Instant::now();
    tasks.shut_down(id);
    let (answered, whole) = (began.elapsed(), out.whole());
    println!("shutdown {answered:?}, all of the output {:?}", began.elapsed());
    assert!(answered < Duration::from_secs(5), "{answered:?}");
    assert!(whole == std::fs::read(path).expect("it is there"));
    // One that stands still has no say in it.
    let pid = i32::try_from(tasks.shim_pid(id)).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, Signal::STOP).expect("it runs");
    println!("delete {:?}", shim.clean_up());
    assert!(shim.processes().is_empty(), "{:?}", shim.processes());
    drop(shim);
    lab.expect_nothing_left();
}

#[test]
fn a_container_that_wants_too_much_memory_is_killed() {
    let lab = enter();
    let id = "hungry";
    let bundle = Bundle::new(&lab, id, &["/bin/tail", "/dev/zero"], |config| {
        let limit = 64 << 20;
        config["linux"]["resources"] = json!({ "memory": { "limit": limit, "swap": limit } });
    });
    let shim = Shim::start(&lab, Whose::Ringfence, id, &bundle.path);
    let tasks = &shim.tasks;
    tasks.create(id, &bundle.path, bundle.rootfs.clone(), &Stdio::default()).expect("it is made");
    tasks.start(id, "").expect("it can be started");
    assert_eq!((tasks.wait(id, ""), tasks.delete(id, "")), (137, 137));
    shim.events.wait_for("/tasks/oom", |_| true);
    tasks.shut_down(id);
    shim.expect_end();
    shim.clean_up();
    drop(shim);
    lab.expect_nothing_left();
}
