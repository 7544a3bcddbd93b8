//! The sandbox service: a pod that has no first container of containerd's.

use containerd_shim_protos::ttrpc::{Code, Error};
use integration_tests::{Root, host};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::shim::{New, Shim, enter, member};

const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";

fn code(error: &Error) -> Option<Code> {
    match error {
        Error::RpcStatus(status) => status.code.enum_value().ok(),
        _ => None,
    }
}

#[test]
fn a_sandbox_lives_without_a_container() {
    let lab = enter();
    // Only its directory is of use: there is no config.json in it.
    let directory = lab.bundle(Root::Shared("busybox"));
    let shim = Shim::start_in(&directory.path(""), "sandbox");
    assert_eq!(code(&shim.sandbox("other").ping().unwrap_err()), Some(Code::NOT_FOUND));
    let sandbox = shim.sandbox("sandbox");
    let options = sandbox.create("x.Unknown", &directory.path("")).unwrap_err();
    assert!(options.to_string().contains("x.Unknown"), "{options}");
    sandbox.create("", &directory.path("")).expect("it can be made");
    assert_eq!(
        code(&sandbox.create("", &directory.path("")).unwrap_err()),
        Some(Code::ALREADY_EXISTS)
    );
    assert_eq!(sandbox.status().state, NOT_READY);
    assert_eq!(code(&sandbox.ping().unwrap_err()), Some(Code::FAILED_PRECONDITION));
    let pid = sandbox.start();
    assert_eq!(sandbox.platform(), ("linux".to_owned(), "amd64".to_owned()));
    let status = sandbox.status();
    assert_eq!((status.state.as_str(), status.pid), (READY, pid));
    assert!(status.created_at.is_some() && status.exited_at.is_none());
    sandbox.ping().expect("it lives");

    // Containers come and go; the sandbox stays.
    let script = "echo one > /dev/shm/file; hostname; cat /etc/resolv.conf > /dev/null || exit 9; \
                  readlink /proc/self/ns/ipc; exit 4";
    let one = lab.bundle(Root::Copied("busybox")).script(script).edit(|config| {
        member(config, "sandbox", pid);
        // As containerd's CRI plugin leaves it out.
        config["mounts"]
            .as_array_mut()
            .expect("an array")
            .retain(|mount| mount["destination"] != json!("/dev/shm"));
    });
    let (status, first) = shim.run(New { id: "one", bundle: &one, rootfs: vec![] });
    assert_eq!(status, 4, "{first}");
    let one = one.script("cat /dev/shm/file; readlink /proc/self/ns/ipc");
    let (status, second) = shim.run(New { id: "one", bundle: &one, rootfs: vec![] });
    assert_eq!((status, second.lines().next()), (0, Some("one")), "{second}");
    assert_eq!(second.lines().nth(1), first.lines().nth(1));
    assert_eq!(sandbox.status().state, READY);
    assert!(sandbox.metrics().memory.is_some());

    // Its end ends what runs in it, and is none of its own.
    let runs = one.script("exec sleep 1000");
    shim.create(New { id: "runs", bundle: &runs, rootfs: vec![] }).expect("it can be made");
    shim.start_task("runs");
    sandbox.stop();
    assert_eq!(shim.wait("runs"), 137);
    shim.delete("runs");
    assert_eq!(sandbox.wait(), 0);
    let status = sandbox.status();
    assert_eq!((status.state.as_str(), status.pid), (NOT_READY, 0));
    assert!(status.exited_at.is_some());
    assert_eq!(code(&sandbox.ping().unwrap_err()), Some(Code::UNAVAILABLE));
    sandbox.shut_down();
    lab.expect_nothing_left();
}

#[test]
fn a_sandbox_whose_machine_dies_tells_so() {
    let lab = enter();
    let directory = lab.bundle(Root::Shared("busybox"));
    let shim = Shim::start_in(&directory.path(""), "sandbox");
    let sandbox = shim.sandbox("sandbox");
    sandbox.create("", &directory.path("")).expect("it can be made");
    let pid = i32::try_from(sandbox.start()).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(host::vmm_of(pid), Signal::KILL).expect("it runs");
    assert_eq!(sandbox.wait(), 250);
    assert_eq!(sandbox.status().state, NOT_READY);
    sandbox.shut_down();
    lab.expect_nothing_left();
}
