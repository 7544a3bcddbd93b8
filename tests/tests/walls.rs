//! `ringfence state` and `list --walls`: the walls around a machine as the kernel shows them.

use std::path::PathBuf;

use integration_tests::detached::Detached;
use integration_tests::host::vmm_of;
use integration_tests::{Invocation, Lab, Root, Runtime};
use serde_json::{Value, json};

/// What a machine has for itself in any case.
const NAMESPACES: [&str; 5] = ["user", "mnt", "net", "ipc", "uts"];

#[test]
fn a_machine_has_its_walls_and_they_are_shown() {
    let lab = Lab::enter();
    let bundle = lab.bundle(Root::Shared("busybox")).script("echo up; exec sleep 605");
    let container = Detached::create(&lab, Runtime::Ringfence, &bundle);
    container.expect(&["start"], &[]);
    container.wait_for_stdout("up\n");

    let walls = container.state()["walls"].clone();
    let vmm = vmm_of(container.pid()).as_raw_nonzero();
    assert_eq!(walls["process"], json!(vmm.get()), "{walls}");
    for name in NAMESPACES {
        let own = walls["ownNamespaces"].as_array().unwrap();
        assert!(own.iter().any(|own| own == name), "{name}: {walls}");
        // Against the kernel's own word.
        let link = |who: String| std::fs::read_link(format!("/proc/{who}/ns/{name}")).unwrap();
        assert_ne!(link(vmm.to_string()), link("self".to_owned()), "{name}");
    }
    assert_eq!(walls["noNewPrivileges"], true, "{walls}");
    assert_eq!(walls["threads"], walls["filteredThreads"], "{walls}");
    assert!(walls["threads"].as_u64().unwrap() > 2, "{walls}");
    let mounts = walls["mounts"].as_array().unwrap();
    assert_eq!(mounts.len(), 1, "{walls}");
    assert!(mounts[0].as_str().unwrap().starts_with("/ tmpfs ro,"), "{walls}");
    assert_eq!(walls["limits"]["core"], "0 0", "{walls}");
    let may = |name: &str| {
        let capabilities = walls["capabilities"].as_array().unwrap();
        capabilities.iter().any(|capability| capability == name)
    };
    assert!(may("CAP_CHOWN") && !may("CAP_SYS_ADMIN") && !may("CAP_NET_ADMIN"), "{walls}");

    let list = Invocation::new("ringfence").args(&["list", "--walls"]).run();
    list.expect_code(0);
    let row = list.out().lines().find(|line| line.starts_with(container.id())).unwrap();
    assert!(row.ends_with(" up"), "{list}");
    let plain = Invocation::new("ringfence").args(&["list", "--format", "json"]).run();
    assert!(!plain.out().contains("walls"), "{plain}");
    container.delete_by_force();
}

#[test]
fn digests_are_those_of_what_was_booted() {
    let lab = Lab::enter();
    let path = std::env::var_os("PATH").unwrap();
    let mut directories = std::env::split_paths(&path);
    let bin = directories.find(|directory| directory.join("ringfence").is_file()).unwrap();
    let kernel = bin.join("../lib/ringfence/vmlinux");
    let copy = lab.scratch().join("vmlinux");
    std::fs::copy(&kernel, &copy).unwrap();
    let bundle = lab.bundle(Root::Shared("busybox")).script("exec sleep 606").edit(|config| {
        config["vm"] = json!({ "kernel": { "path": copy } });
    });
    let container = Detached::create(&lab, Runtime::Ringfence, &bundle);
    let boot = || -> Value {
        let outcome = container.command(&["state", "--digests"], &[]);
        outcome.expect_code(0);
        serde_json::from_str::<Value>(outcome.out()).unwrap()["boot"].clone()
    };
    let digest_of = |file: PathBuf| {
        let outcome = Invocation::new("sha256sum").arg(file).run();
        outcome.expect_code(0);
        outcome.out().split_whitespace().next().unwrap().to_owned()
    };
    let before = boot();
    assert_eq!(before["kernel"]["sha256"], digest_of(kernel), "{before}");
    assert_eq!(before["agent"]["sha256"], digest_of(bin.join("../lib/ringfence/initrd.cpio")));
    assert_eq!(before["commandLineSha256"].as_str().unwrap().len(), 64, "{before}");
    // Another kernel in its place is not the one that runs.
    let other = lab.scratch().join("other");
    std::fs::write(&other, "other").unwrap();
    std::fs::rename(&other, &copy).unwrap();
    let after = boot();
    assert_eq!(after["kernel"]["sha256"], Value::Null, "{after}");
    assert!(after["kernel"]["problem"].as_str().unwrap().contains("replaced"), "{after}");
    assert_eq!(container.state()["boot"]["kernel"]["sha256"], Value::Null);
    container.delete_by_force();
}
