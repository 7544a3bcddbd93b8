//! Limits that are changed while a container runs.

use integration_tests::Root;
use serde_json::json;

use crate::shim::{New, Shim, enter};

const CGROUP: &str = "/ringfence-calls-limits";

/// Of the machine, which is the container's with something for the machine itself.
fn quota() -> u64 {
    let file = format!("/sys/fs/cgroup{CGROUP}/cpu.max");
    let text = std::fs::read_to_string(file).expect("it is there");
    let quota = text.split_whitespace().next().and_then(|quota| quota.parse().ok());
    quota.unwrap_or_else(|| panic!("{text:?}"))
}

#[test]
fn an_update_changes_guest_and_host_or_neither() {
    let lab = enter();
    let script = "until grep -q '^80000 ' /sys/fs/cgroup/cpu.max; do sleep 0.2; done; exit 3";
    let bundle = lab.bundle(Root::Shared("busybox")).script(script).edit(|config| {
        config["linux"]["cgroupsPath"] = json!(CGROUP);
        config["linux"]["resources"]["cpu"] = json!({ "quota": 50_000, "period": 100_000 });
    });
    let shim = Shim::start("limits", &bundle);
    shim.create(New { id: "limits", bundle: &bundle, rootfs: vec![] }).expect("it can be made");
    shim.start_task("limits");
    let before = quota();
    assert!(before >= 50_000, "{before}");
    // More than the machine has room for.
    let too_much = json!({ "memory": { "limit": 1_u64 << 40 }, "cpu": { "quota": 70_000 } });
    let problem = shim.update("limits", &too_much).unwrap_err();
    assert!(problem.contains("memory.limit"), "{problem}");
    assert_eq!(quota(), before);
    let update = json!({ "cpu": { "quota": 80_000, "period": 100_000 } });
    shim.update("limits", &update).expect("it can be changed");
    assert_eq!(quota(), before + 30_000);
    assert_eq!(shim.wait("limits"), 3);
    shim.delete("limits");
    shim.shut_down();
    lab.expect_nothing_left();
}
