//! A sandbox that is made without a word of what it is for, and containers that know nothing of it but
//! whose shim they are made in.

use std::path::Path;

use containerd_shim_protos::api::Status;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, PingRequest, PlatformRequest, SandboxStatusRequest,
    SandboxStatusResponse, ShutdownSandboxRequest, StartSandboxRequest, StopSandboxRequest,
    WaitSandboxRequest,
};
use containerd_shim_protos::sandbox_sync::SandboxClient;
use containerd_shim_protos::ttrpc::context::{Context, with_duration};
use containerd_shim_protos::ttrpc::{Code, Error};
use integration_tests::{Invocation, Lab};
use serde_json::{Value, json};

use crate::calls::{DEADLINE, Stdio};
use crate::shim::{Bundle, Shim, Whose, enter};
use crate::streams::Reader;

const ID: &str = "sandbox";

fn context() -> Context {
    with_duration(DEADLINE)
}

fn code(error: &Error) -> Option<Code> {
    match error {
        Error::RpcStatus(status) => status.code.enum_value().ok(),
        _ => None,
    }
}

/// A shim whose bundle says nothing.
struct Sandbox {
    shim: Shim,
    client: SandboxClient,
}

impl Sandbox {
    fn start_shim(lab: &Lab, name: &str) -> Self {
        let bundle = lab.directory(name);
        let config = json!({ "ociVersion": "1.0.2", "annotations": { "x.unknown": "2" } });
        std::fs::write(bundle.join("config.json"), config.to_string()).expect("it can be written");
        let shim = Shim::start(lab, Whose::Ringfence, ID, &bundle);
        let client = SandboxClient::new(shim.client.clone());
        Self { shim, client }
    }

    fn create(&self, id: &str, bundle: &Path, network: &str) -> Result<(), Error> {
        let request = CreateSandboxRequest {
            sandbox_id: id.to_owned(),
            bundle_path: bundle.display().to_string(),
            netns_path: network.to_owned(),
            ..CreateSandboxRequest::default()
        };
        self.client.create_sandbox(context(), &request).map(drop)
    }

    fn start(&self) -> Result<u32, Error> {
        let request = StartSandboxRequest { sandbox_id: ID.to_owned(), ..Default::default() };
        let started = self.client.start_sandbox(context(), &request)?;
        assert!(started.created_at.seconds > 0);
        Ok(started.pid)
    }

    #[track_caller]
    fn status(&self) -> SandboxStatusResponse {
        let request = SandboxStatusRequest {
            sandbox_id: ID.to_owned(),
            verbose: true,
            ..SandboxStatusRequest::default()
        };
        self.client.sandbox_status(context(), &request).expect("it is known")
    }

    #[track_caller]
    fn stop(&self) {
        let request = StopSandboxRequest { sandbox_id: ID.to_owned(), ..Default::default() };
        self.client.stop_sandbox(context(), &request).expect("it can be stopped");
    }

    #[track_caller]
    fn shut_down(&self) {
        let request = ShutdownSandboxRequest { sandbox_id: ID.to_owned(), ..Default::default() };
        self.client.shutdown_sandbox(context(), &request).expect("it can be shut down");
        self.shim.expect_end();
        self.shim.clean_up();
    }

    /// Makes a container and starts it.
    #[track_caller]
    fn run(&self, lab: &Lab, id: &str, script: &str, edit: impl FnOnce(&mut Value)) -> Reader {
        let bundle = Bundle::new(lab, id, &["/bin/sh", "-c", script], edit);
        let stdout = Reader::new(bundle.path.join("stdout"));
        let stdio = Stdio { stdout: Some(&stdout), ..Stdio::default() };
        let made = self.shim.tasks.create(id, &bundle.path, bundle.rootfs, &stdio);
        made.unwrap_or_else(|error| panic!("{id}: {error}"));
        self.shim.tasks.start(id, "").unwrap_or_else(|error| panic!("{id}: {error}"));
        stdout
    }

    /// Waits for the end of one, and removes it.
    #[track_caller]
    fn end(&self, id: &str) -> u32 {
        let status = self.shim.tasks.wait(id, "");
        assert_eq!(self.shim.tasks.delete(id, ""), status);
        status
    }

    /// Runs one from its making to its removal; returns its output.
    #[track_caller]
    fn whole(&self, lab: &Lab, id: &str, script: &str, edit: impl FnOnce(&mut Value)) -> String {
        let output = self.run(lab, id, script, edit);
        assert_eq!(self.end(id), 0, "{id}: {}", output.so_far());
        String::from_utf8(output.whole()).expect("it is text")
    }
}

fn alone(_: &mut Value) {}

/// Names a namespace by a path that nobody has looked up.
fn shares(kind: &str) -> impl FnOnce(&mut Value) {
    let namespace = json!({ "type": kind, "path": format!("/proc/1/ns/{kind}") });
    move |config| {
        let namespaces = &mut config["linux"]["namespaces"];
        namespaces.as_array_mut().expect("an array").push(namespace);
    }
}

fn with_mount(mount: Value) -> impl FnOnce(&mut Value) {
    move |config| config["mounts"].as_array_mut().expect("an array").push(mount)
}

fn both(one: impl FnOnce(&mut Value), other: impl FnOnce(&mut Value)) -> impl FnOnce(&mut Value) {
    |config| {
        one(config);
        other(config);
    }
}

fn shared_memory(config: &mut Value) {
    let mount = json!({
        "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    });
    with_mount(mount)(config);
}

fn may_set_names(config: &mut Value) {
    let sets = json!(["CAP_SYS_ADMIN"]);
    let all = json!({ "bounding": sets, "effective": sets, "permitted": sets });
    config["process"]["capabilities"] = all;
}

fn lives_and_has_members(lab: &Lab, sandbox: &Sandbox) {
    let tasks = &sandbox.shim.tasks;
    // One that stays while others come and go, with a directory of the host.
    let volume = lab.directory("volume");
    let write = |text: &str| std::fs::write(volume.join("data"), text).expect("it can be written");
    write("AAA\n");
    let mount = json!({
        "destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "rw"],
    });
    // Of the same length: the size of a file may be seen late.
    let script = "echo here; exec sleep 4242";
    let observer = sandbox.run(lab, "observer", script, both(shares("pid"), with_mount(mount)));
    observer.wait_for("here\n");
    for number in 1..=3 {
        sandbox.run(lab, &format!("one-{number}"), &format!("echo token {number}"), alone);
    }
    for number in 1..=3 {
        assert_eq!(sandbox.end(&format!("one-{number}")), 0);
    }
    assert_eq!(tasks.status("observer"), Status::RUNNING);

    for (turn, text) in ["AAA\n", "BBB\n"].into_iter().enumerate() {
        write(text);
        let exec_id = format!("cat-{turn}");
        let out = Reader::new(lab.scratch().join(&exec_id));
        let stdio = Stdio { stdout: Some(&out), ..Stdio::default() };
        tasks.exec("observer", &exec_id, &["/bin/cat", "/data/data"], &stdio);
        assert_eq!((tasks.wait("observer", &exec_id), tasks.delete("observer", &exec_id)), (0, 0));
        assert_eq!(String::from_utf8_lossy(&out.whole()), text);
    }

    // A kill for memory concerns whose limit it was.
    let limit = json!({ "memory": { "limit": 64 << 20, "swap": 64 << 20 } });
    sandbox.run(lab, "hungry", "exec tail /dev/zero", |config| {
        config["linux"]["resources"] = limit;
    });
    assert_eq!(sandbox.end("hungry"), 137);
    assert_eq!(tasks.status("observer"), Status::RUNNING);
    assert_eq!(sandbox.status().state, "SANDBOX_READY");
}

fn share_what_they_name(lab: &Lab, sandbox: &Sandbox) {
    let seen = sandbox.whole(lab, "sees", "ps -o args", shares("pid"));
    assert!(seen.contains("sleep 4242"), "{seen}");
    let seen = sandbox.whole(lab, "sees-not", "ps -o args", alone);
    assert!(!seen.contains("sleep 4242"), "{seen}");

    let script = "echo kept > /dev/shm/file; readlink /proc/self/ns/ipc";
    let first = sandbox.whole(lab, "writes", script, both(shares("ipc"), shared_memory));
    let script = "cat /dev/shm/file 2>/dev/null || echo none; readlink /proc/self/ns/ipc";
    let second = sandbox.whole(lab, "reads", script, both(shares("ipc"), shared_memory));
    assert_eq!(second, format!("kept\n{first}"));
    let other = sandbox.whole(lab, "reads-not", script, shared_memory);
    assert!(other.starts_with("none\n") && !other.contains(first.trim()), "{other}");

    let edit = both(shares("uts"), may_set_names);
    sandbox.whole(lab, "names", "hostname of-all", edit);
    assert_eq!(sandbox.whole(lab, "named", "hostname", shares("uts")), "of-all\n");
    assert_ne!(sandbox.whole(lab, "named-not", "hostname", alone), "of-all\n");

    // One network, without a word of it.
    sandbox.run(lab, "listens", "echo heard | nc -l -p 7000", alone);
    let script = "until nc 127.0.0.1 7000 | grep heard; do sleep 0.1; done";
    assert_eq!(sandbox.whole(lab, "connects", script, alone), "heard\n");
    assert_eq!(sandbox.end("listens"), 0);
}

#[test]
fn a_sandbox_and_its_containers_need_no_annotations() {
    let lab = enter();
    let sandbox = Sandbox::start_shim(&lab, "sandbox");
    let bundle = lab.scratch().join("sandbox");
    let early = sandbox.start().unwrap_err();
    assert_eq!(code(&early), Some(Code::FAILED_PRECONDITION), "{early}");
    sandbox.create(ID, &bundle, "").expect("it can be made");
    let again = sandbox.create("sandbox-dup", Path::new("."), "").unwrap_err();
    assert_eq!(code(&again), Some(Code::ALREADY_EXISTS));
    assert!(again.to_string().contains("already exists"), "{again}");
    let pid = sandbox.start().expect("it can be started");
    let request = PingRequest { sandbox_id: ID.to_owned(), ..PingRequest::default() };
    sandbox.client.ping_sandbox(context(), &request).expect("it lives");
    let request = PlatformRequest { sandbox_id: ID.to_owned(), ..PlatformRequest::default() };
    let platform = sandbox.client.platform(context(), &request).expect("it is known").platform;
    assert_eq!((platform.os.as_str(), platform.architecture.as_str()), ("linux", "amd64"));
    let status = sandbox.status();
    assert_eq!((status.state.as_str(), status.pid), ("SANDBOX_READY", pid));
    assert!(status.created_at.seconds > 0);
    assert_eq!(status.info["pid"], pid.to_string());
    assert_eq!(status.info["state"], "SANDBOX_READY");

    lives_and_has_members(&lab, &sandbox);
    share_what_they_name(&lab, &sandbox);
    assert_eq!(sandbox.shim.tasks.remove("observer"), (137, 137));

    let waiter = sandbox.client.clone();
    let waiting = std::thread::spawn(move || {
        let request = WaitSandboxRequest { sandbox_id: ID.to_owned(), ..Default::default() };
        waiter.wait_sandbox(context(), &request).map(|answer| answer.exit_status)
    });
    sandbox.stop();
    assert_eq!(waiting.join().expect("it returns").expect("it ends"), 0);
    assert_eq!(sandbox.status().state, "SANDBOX_NOTREADY");
    sandbox.stop();
    sandbox.shut_down();
    drop(sandbox);
    lab.expect_nothing_left();
}

#[test]
fn a_sandbox_has_the_network_that_it_is_given() {
    let ip = |words: &[&str]| {
        Invocation::new("ip").args(words).run().expect_code(0);
    };
    let namespace = "ringfence-conformance";
    // The first one of a machine makes the place for all.
    ip(&["netns", "add", namespace]);
    ip(&["netns", "delete", namespace]);
    let lab = enter();
    let place = lab.scratch().join("no-network");
    std::fs::write(&place, "").expect("it can be written");
    ip(&["netns", "add", namespace]);
    let inside = ["-n", namespace];
    ip(&[&inside[..], &["link", "add", "vh", "type", "veth", "peer", "name", "vp"]].concat());
    ip(&[&inside[..], &["address", "add", "10.244.7.1/30", "dev", "vh"]].concat());
    for device in ["lo", "vh", "vp"] {
        ip(&[&inside[..], &["link", "set", device, "up"]].concat());
    }
    let network = format!("/var/run/netns/{namespace}");
    for (name, network, wanted) in [
        ("empty", place.to_str().expect("a plain path"), "1: lo"),
        ("real", network.as_str(), "10.244.7.1/30"),
    ] {
        let sandbox = Sandbox::start_shim(&lab, name);
        sandbox.create(ID, &lab.scratch().join(name), network).expect("it can be made");
        sandbox.start().expect("it can be started");
        assert_eq!(sandbox.status().info["networkSandboxPath"], network);
        let script = "ip -o address";
        let seen = sandbox.whole(&lab, &format!("{name}-member"), script, alone);
        assert!(seen.contains(wanted) && seen.contains("127.0.0.1/8"), "{seen}");
        sandbox.stop();
        sandbox.shut_down();
    }
    ip(&["netns", "delete", namespace]);
    lab.expect_nothing_left();
}
