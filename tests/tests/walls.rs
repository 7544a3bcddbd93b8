//! `ringfence state` and `list --walls`: the walls around a machine as the kernel shows them.

use std::path::PathBuf;

use integration_tests::command::open_for_writing;
use integration_tests::detached::Detached;
use integration_tests::host::vmm_of;
use integration_tests::{Invocation, Lab, Root, Runtime};
use serde_json::{Value, json};

/// What a machine has for itself in any case.
const NAMESPACES: [&str; 7] = ["user", "mnt", "net", "ipc", "uts", "pid", "cgroup"];

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

    // A user of its own, and not even a group of the host's.
    let number = 2_000_000_000 + vmm.get();
    assert_eq!((&walls["uid"], &walls["gid"]), (&json!(number), &json!(number)), "{walls}");
    let status = std::fs::read_to_string(format!("/proc/{vmm}/status")).unwrap();
    assert!(status.lines().any(|line| line.trim_end() == "Groups:"), "{status}");
    assert!(
        status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")),
        "{status}"
    );
    assert_eq!((&walls["dumpable"], &walls["limits"]["nproc"]), (&json!(false), &json!("256 256")));
    assert!(walls["landlock"].as_u64().unwrap() >= 2, "{walls}");
    assert_eq!((&walls["missing"], &walls["reasons"]), (&json!([]), &json!([])), "{walls}");

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

/// A sysctl that is as it was when this value goes away.
struct Sysctl(&'static str, String);

impl Sysctl {
    fn set(file: &'static str, value: &str) -> Self {
        let before = std::fs::read_to_string(file).unwrap();
        std::fs::write(file, value).unwrap();
        Self(file, before)
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        std::fs::write(self.0, &self.1).unwrap();
    }
}

#[test]
fn a_host_without_a_wall_gets_no_machine_unless_its_configuration_says_so() {
    let lab = Lab::enter();
    let bundle = lab.bundle(Root::Shared("busybox")).args(&["echo", "up"]);
    let config = |text: &str| {
        let file = lab.scratch().join("config.toml");
        std::fs::write(&file, text).unwrap();
        Invocation::new("ringfence").arg("--config").arg(file)
    };
    let run = |text: &str| {
        let run = config(text).args(&["run", "--bundle"]).arg(bundle.write()).arg(lab.new_id());
        run.run()
    };
    // All of them are here.
    let outcome = run("walls = \"all\"");
    outcome.expect_code(0);
    // A user of its own is wished by the configuration only.
    run("walls = \"all\"\nvmm_users = 0").expect_code(0);
    {
        let _none = Sysctl::set("/proc/sys/user/max_user_namespaces", "0");
        let outcome = run("");
        outcome.expect_code(125).expect_error("namespaces of its own");
        lab.expect_nothing_left();
        let outcome = run("walls = \"report\"");
        outcome.expect_code(0);
        assert_eq!(outcome.out(), "up\n");
        let id = lab.new_id();
        let kept = config("walls = \"report\"").args(&["create", "--bundle"]);
        // A supervisor holds them for as long as it lives.
        let null = || open_for_writing("/dev/null");
        let kept = kept.arg(bundle.write()).arg(&id).stdout(null()).stderr(null());
        kept.run().expect_code(0);
        let state = Invocation::new("ringfence").arg("state").arg(&id).run();
        let walls = serde_json::from_str::<Value>(state.out()).unwrap()["walls"].clone();
        for wall in ["a user namespace of its own", "an empty root"] {
            assert!(walls["missing"].as_array().unwrap().iter().any(|one| one == wall), "{walls}");
        }
        assert!(walls["reasons"][0].as_str().unwrap().starts_with("namespaces"), "{walls}");
        let delete = Invocation::new("ringfence").args(&["delete", "--force"]).arg(&id).run();
        delete.expect_code(0);
    }
    run("").expect_code(0);
    lab.expect_nothing_left();
}
