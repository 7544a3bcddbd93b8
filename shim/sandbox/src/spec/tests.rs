//! Whole documents: what is carried over, what is refused, and that nothing panics.

use super::*;
use proptest::prelude::*;
use serde_json::json;

const HOST: HostFacts = HostFacts { cpus: 4, memory_mib: 8192, selinux: false };

fn plan_of(document: Value) -> Result<Plan, SpecError> {
    Bundle::from_document("/bundle".into(), document).plan(
        "c1",
        &Overrides::default(),
        &HostConfig::default(),
        HOST,
    )
}

/// The default document with the value at a JSON pointer replaced.
fn with(pointer: &str, value: Value) -> Value {
    let mut document = default_config();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap_or_else(|| panic!("no {pointer}"));
    match parent {
        Value::Object(map) => {
            map.insert(name.to_owned(), value);
        }
        Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
        _ => panic!("{pointer} has no parent"),
    }
    document
}

fn without(pointer: &str) -> Value {
    with(pointer, Value::Null)
}

#[test]
fn the_default_document_becomes_a_plan() {
    let plan = plan_of(default_config()).unwrap();
    assert_eq!(plan.notes, Notes::default());
    assert_eq!(plan.shares.len(), 1);
    assert_eq!(plan.shares[0].path, Path::new("/bundle/rootfs"));
    assert!(plan.shares[0].read_only);
    assert_eq!((plan.vm.memory_mib, plan.vm.vcpus), (2048, 2));
    assert!(plan.container.terminal());
    let container = plan.container.finish(&[], None, StdioPlan::default());
    assert_eq!(container.hostname.as_deref(), Some("ringfence"));
    assert_eq!(container.mounts.len(), 7);
    assert!(container.devices.is_empty());
    assert_eq!(container.init.args, ["sh"]);
    assert_eq!(container.init.capabilities.effective, 1 << 29 | 1 << 5 | 1 << 10);
    assert_eq!(container.init.rlimits[0].resource, 7);
    assert!(container.cgroup.device_program.is_some());
}

#[test]
fn every_field_of_a_process_is_carried_over() {
    let process = json!({
        "terminal": true, "consoleSize": { "height": 24, "width": 80 },
        "args": ["/bin/a", "b"], "env": ["A=0", "B=", "A=1"], "cwd": "/work",
        "user": { "uid": 7, "gid": 8, "umask": 0o77, "additionalGids": [1, 2] },
        "capabilities": { "ambient": ["CAP_CHOWN"] },
        "rlimits": [{ "type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX }],
        "noNewPrivileges": false, "oomScoreAdj": -5,
        "ioPriority": { "class": "IOPRIO_CLASS_IDLE" },
        "scheduler": { "policy": "SCHED_BATCH", "nice": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"] },
        "apparmorProfile": "", "selinuxLabel": "",
    });
    let plan = plan_of(with("/process", process)).unwrap();
    assert_eq!(plan.container.console_size(), Some(WindowSize { rows: 24, columns: 80 }));
    let init = plan.container.finish(&[], None, StdioPlan::default()).init;
    assert_eq!(init.env, ["A=1", "B="]);
    assert_eq!((init.user.uid, init.user.gid, init.user.umask), (7, 8, Some(0o77)));
    assert_eq!(init.user.additional_gids, [1, 2]);
    assert_eq!(init.capabilities.ambient, 1);
    assert_eq!(init.rlimits[0].hard, u64::MAX);
    assert_eq!(init.oom_score_adj, Some(-5));
    assert_eq!(init.io_priority.map(|io| io.class), Some(3));
    assert_eq!(init.scheduler.map(|scheduler| (scheduler.policy, scheduler.flags)), Some((3, 1)));
}

#[test]
fn every_field_of_linux_is_carried_over() {
    let mut document = with("/linux/sysctl", json!({ "net.core.somaxconn": "256" }));
    document["linux"]["personality"] = json!({ "domain": "LINUX32" });
    document["linux"]["rootfsPropagation"] = json!("shared");
    document["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
    document["linux"]["devices"] = json!([
        { "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600, "uid": 1 },
        { "path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o20666 },
        { "path": "/run/pipe", "type": "p" },
    ]);
    document["vm"] = json!({ "kernel": { "path": "/k", "parameters": ["a=1"], "initrd": "/i" } });
    document["domainname"] = json!("example.org");
    let plan = plan_of(document).unwrap();
    assert_eq!(plan.vm.kernel.as_deref(), Some(Path::new("/k")));
    assert_eq!(plan.vm.initrd.as_deref(), Some(Path::new("/i")));
    assert_eq!(plan.vm.parameters, ["a=1"]);
    assert!(plan.container.seccomp().is_some());
    let container = plan.container.finish(&[], None, StdioPlan::default());
    assert_eq!(container.sysctl[0].path, "net/core/somaxconn");
    assert_eq!(container.init.personality, Some(8));
    assert_eq!(container.domainname.as_deref(), Some("example.org"));
    assert_eq!(container.root.propagation, 1 << 20 | 16384);
    let device = |path: &str| {
        container.devices.iter().find(|device| device.path == path).unwrap_or_else(|| panic!())
    };
    assert_eq!(container.devices.len(), 3);
    assert_eq!(device("/dev/fuse").mode, 0o020_600);
    assert_eq!(device("/dev/null").mode, 0o020_666);
    assert_eq!(device("/run/pipe").mode, 0o010_666);
}

#[test]
fn a_single_file_share_is_no_directory() {
    let document = with(
        "/mounts/0",
        json!({ "destination": "/etc/hosts", "type": "bind", "source": "/h", "options": ["ro"] }),
    );
    let plan = plan_of(document).unwrap();
    let name = plan.shares[1].name.clone();
    let container = plan.container.finish(&[name], None, StdioPlan::default());
    assert!(matches!(container.mounts[0].source, MountSource::Share { directory: false, .. }));
}

#[test]
fn other_versions_are_refused() {
    for version in ["1.0.0", "1.0.2-dev", "1.1.0", "1.2.1", "1.3.0+build"] {
        assert!(plan_of(with("/ociVersion", json!(version))).is_ok(), "{version}");
    }
    for version in ["2.0.0", "0.9.0", "1", "1.0", "one", ""] {
        let error = plan_of(with("/ociVersion", json!(version))).unwrap_err().to_string();
        assert!(error.starts_with(&format!("ociVersion is \"{version}\"")), "{error}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_cannot_be_done_is_refused_by_name() {
    for (pointer, value, beginning) in [
        ("/ociVersion", Value::Null, "ociVersion is missing"),
        ("/process", Value::Null, "process is missing"),
        ("/process", json!([]), "process must be an object"),
        ("/process/args", Value::Null, "process.args is missing"),
        ("/process/args", json!([]), "process.args is []"),
        ("/process/args", json!([""]), "process.args is"),
        ("/process/args", json!([1]), "process.args[0] must be a string"),
        ("/process/args", json!(["a\0b"]), "process.args[0] is"),
        ("/process/cwd", Value::Null, "process.cwd is missing"),
        ("/process/cwd", json!("tmp"), "process.cwd is \"tmp\""),
        ("/process/env", json!(["A=1", "B"]), "process.env[1] is \"B\""),
        ("/process/user", json!("root"), "process.user must be an object"),
        ("/process/user/uid", json!("root"), "process.user.uid must be a whole number"),
        ("/process/user/uid", json!(-1), "process.user.uid is -1"),
        ("/process/user/uid", json!(u32::MAX), "process.user.uid is 4294967295"),
        ("/process/user/gid", json!(u32::MAX), "process.user.gid is 4294967295"),
        ("/process/user/additionalGids", json!([1, u32::MAX]), "process.user.additionalGids[1] is"),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_X"] }),
            "linux.seccomp.architectures[1] is \"SCMP_ARCH_X\"",
        ),
        ("/process/user/username", json!("root"), "process.user.username is \"root\""),
        ("/process/user/umask", json!(4096), "process.user.umask is 4096"),
        ("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj is 1001"),
        ("/process/apparmorProfile", json!("x"), "process.apparmorProfile is \"x\""),
        ("/process/selinuxLabel", json!("x"), "process.selinuxLabel is \"x\""),
        ("/process/commandLine", json!("x"), "process.commandLine is \"x\""),
        ("/process/execCPUAffinity", json!({ "initial": "0" }), "process.execCPUAffinity is"),
        ("/process/rlimits/0/type", json!("RLIMIT_X"), "process.rlimits[0].type is"),
        ("/process/rlimits/0/soft", json!(2000), "process.rlimits[0] is"),
        ("/process/scheduler", json!({ "policy": "SCHED_ISO" }), "process.scheduler.policy is"),
        ("/process/ioPriority", json!({ "class": "X" }), "process.ioPriority.class is"),
        (
            "/process/ioPriority",
            json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 }),
            "process.ioPriority.priority is 8",
        ),
        (
            "/process/consoleSize",
            json!({ "height": 70_000, "width": 1 }),
            "process.consoleSize.height is 70000",
        ),
        ("/root", Value::Null, "root is missing"),
        ("/root/path", Value::Null, "root.path is missing"),
        ("/root/path", json!(""), "root.path is \"\""),
        ("/root/readonly", json!("yes"), "root.readonly must be true or false"),
        ("/hostname", json!("x".repeat(65)), "hostname is"),
        ("/linux", Value::Null, "linux is missing"),
        ("/linux/namespaces/0", json!({ "type": "user" }), "linux.uidMappings is missing"),
        ("/linux/namespaces/0", json!({ "type": "time" }), "linux.namespaces[0].type is \"time\""),
        ("/linux/namespaces/0", json!({ "type": "x" }), "linux.namespaces[0].type is \"x\""),
        ("/linux/namespaces/1", json!({ "type": "pid" }), "linux.namespaces[1] is"),
        (
            "/linux/namespaces/1",
            json!({ "type": "ipc", "path": "/proc/7/ns/ipc" }),
            "linux.namespaces[1].path is",
        ),
        ("/linux/uidMappings", json!([{}]), "linux.uidMappings is"),
        ("/linux/devices", json!([{ "path": "dev/x", "type": "c" }]), "linux.devices[0].path is"),
        ("/linux/devices", json!([{ "path": "/dev/x", "type": "q" }]), "linux.devices[0].type is"),
        (
            "/linux/devices",
            json!([{ "path": "/dev/x", "type": "c" }]),
            "linux.devices[0].major is missing",
        ),
        ("/linux/maskedPaths", json!(["proc"]), "linux.maskedPaths is"),
        ("/linux/readonlyPaths", json!("x"), "linux.readonlyPaths must be an array"),
        ("/linux/sysctl", json!({ "net/../x": "1" }), "linux.sysctl is"),
        ("/linux/sysctl", json!({ "a.b": 1 }), "linux.sysctl[\"a.b\"] must be a string"),
        ("/linux/cgroupsPath", json!("/a/../../b"), "linux.cgroupsPath is"),
        ("/linux/rootfsPropagation", json!("x"), "linux.rootfsPropagation is \"x\""),
        ("/linux/personality", json!({ "domain": "X" }), "linux.personality.domain is"),
        (
            "/linux/personality",
            json!({ "domain": "LINUX", "flags": ["x"] }),
            "linux.personality.flags is",
        ),
        ("/linux/intelRdt", json!({ "closID": "x" }), "linux.intelRdt is"),
        ("/linux/mountLabel", json!(["x"]), "linux.mountLabel must"),
        ("/linux/timeOffsets", json!({ "boottime": {} }), "linux.timeOffsets is"),
        ("/linux/netDevices", json!({ "eth0": {} }), "linux.netDevices is"),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_NOTIFY" }),
            "linux.seccomp.defaultAction is",
        ),
        ("/windows", json!({ "layerFolders": ["x"] }), "windows is"),
        ("/solaris", json!({ "milestone": "x" }), "solaris is"),
        ("/zos", json!({ "namespaces": [1] }), "zos is"),
        ("/vm", json!({ "hypervisor": { "path": "/x" } }), "vm.hypervisor is"),
        ("/vm", json!({ "image": { "path": "/x", "format": "raw" } }), "vm.image is"),
        ("/vm", json!({ "kernel": {} }), "vm.kernel.path is missing"),
        ("/vm", json!({ "kernel": { "path": "vmlinux" } }), "vm.kernel.path is \"vmlinux\""),
        (
            "/vm",
            json!({ "kernel": { "path": "/k", "parameters": ["a\n"] } }),
            "vm.kernel.parameters is",
        ),
        ("/annotations", json!({ "dev.ringfence.x": "1" }), "annotations[\"dev.ringfence.x\"] is"),
        ("/annotations", json!({ "a": 1 }), "annotations[\"a\"] must be a string"),
        ("/hooks", json!({ "createContainer": [{ "path": "/x" }] }), "hooks.createContainer is"),
        ("/hooks", json!({ "startContainer": [{ "path": "x" }] }), "hooks.startContainer[0].path"),
        ("/hooks", json!({ "prestart": [{ "path": "x" }] }), "hooks.prestart[0].path is \"x\""),
        (
            "/hooks",
            json!({ "poststop": [{ "path": "/x", "timeout": 0 }] }),
            "hooks.poststop[0].timeout is 0",
        ),
    ] {
        let error = match plan_of(with(pointer, value)) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{pointer} was accepted; expected {beginning:?}"),
        };
        assert!(error.starts_with(beginning), "{error:?} does not begin with {beginning:?}");
    }
}

#[test]
fn start_hooks_are_for_the_guest() {
    let hooks = json!({ "startContainer": [
        { "path": "/x" },
        { "path": "/y", "args": ["y", "1"], "env": ["A=b"], "timeout": 7 },
        { "path": "/z", "env": [] },
    ] });
    let plan = plan_of(with("/hooks", hooks)).unwrap();
    let [first, second, third] = plan.hooks.in_start.as_slice() else { panic!("{:?}", plan.hooks) };
    assert_eq!((first.name.as_str(), first.timeout_s), ("hooks.startContainer[0]", 3600));
    assert_eq!(first.args, ["/x"]);
    assert_eq!(first.env, plan.container.finish(&[], None, StdioPlan::default()).init.env);
    assert!(!first.env.is_empty());
    assert_eq!((second.path.as_str(), second.timeout_s), ("/y", 7));
    assert_eq!(
        (second.args.as_slice(), second.env.as_slice()),
        (&["y".into(), "1".into()][..], &["A=b".into()][..])
    );
    assert!(third.env.is_empty());
    let many = json!({ "startContainer": vec![json!({ "path": "/x" }); 65] });
    let error = plan_of(with("/hooks", many)).unwrap_err().to_string();
    assert!(error.starts_with("hooks.startContainer[64]"), "{error}");
}

#[test]
fn a_hostname_needs_a_uts_namespace() {
    let error = plan_of(with("/linux/namespaces", json!([{ "type": "mount" }]))).unwrap_err();
    assert!(error.to_string().starts_with("hostname is"), "{error}");
}

#[test]
fn a_container_may_share_all_that_a_guest_has() {
    for namespaces in [json!([]), Value::Null] {
        let mut document = with("/linux/namespaces", namespaces);
        document["hostname"] = Value::Null;
        let plan = plan_of(document).unwrap();
        let plan = plan.container.finish(&[], None, StdioPlan::default());
        assert_eq!(plan.namespaces, Namespaces::default());
    }
}

#[test]
fn unknown_properties_are_ignored_with_a_warning() {
    let plan = plan_of(with("/process/no_new_privs", json!(true))).unwrap();
    assert!(plan.notes.ignored[0].starts_with("process.no_new_privs "), "{:?}", plan.notes);
}

#[test]
fn a_label_for_mounts_needs_a_host_with_labels() {
    let document = with("/linux/mountLabel", json!("u:r:t:s0"));
    let plan = plan_of(document.clone()).unwrap();
    assert!(plan.notes.warnings[0].starts_with("linux.mountLabel "), "{:?}", plan.notes);
    assert_eq!(plan_of(with("/linux/mountLabel", json!(""))).unwrap().notes, Notes::default());
    let bundle = Bundle::from_document("/bundle".into(), document);
    let host = HostFacts { selinux: true, ..HOST };
    let error = bundle.plan("c", &Overrides::default(), &HostConfig::default(), host).unwrap_err();
    assert!(error.to_string().starts_with("linux.mountLabel is \"u:r:t:s0\""), "{error}");
}

#[test]
fn the_command_line_decides_about_the_machine() {
    let bundle = Bundle::from_document("/bundle".into(), without("/linux/resources"));
    let plan = |memory_mib, vcpus| {
        let overrides = Overrides { memory_mib, vcpus, ..Overrides::default() };
        bundle.plan("c", &overrides, &HostConfig::default(), HOST)
    };
    let vm = plan(Some(256), Some(1)).unwrap().vm;
    assert_eq!((vm.memory_mib, vm.vcpus), (256, 1));
    let error = plan(Some(1), None).unwrap_err().to_string();
    assert!(error.starts_with("--memory is 1:") && error.contains("48"), "{error}");
    let error = plan(None, Some(0)).unwrap_err().to_string();
    assert!(error.starts_with("--vcpus is 0:"), "{error}");
}

#[test]
fn the_annotation_says_what_the_guest_keeps_of_each_share() {
    let plan = |value: &str| {
        let mut document = default_config();
        document["annotations"] = json!({ "dev.ringfence.file_cache": value });
        document["mounts"] = json!([
            { "destination": "/data/", "type": "bind", "source": "/x" },
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" },
            { "destination": "rel", "type": "bind", "source": "/y" },
        ]);
        plan_of(document)
            .map(|plan| plan.shares.iter().map(|share| share.cache).collect::<Vec<_>>())
    };
    use CachePolicy::{Always, Auto, None};
    assert_eq!(plan("none").unwrap(), [None, None, None]);
    assert_eq!(plan("/data=always").unwrap(), [Auto, Always, Auto]);
    assert_eq!(plan("always,/=auto,/rel=none").unwrap(), [Auto, Always, None]);
    for destination in ["/tmp", "/dat", "/data/x"] {
        let error = plan(&format!("{destination}=none")).unwrap_err().to_string();
        assert!(error.contains(&format!("is \"{destination}=none\"")), "{error}");
    }
}

#[test]
fn a_missing_bundle_and_broken_json_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = Bundle::read(&directory.path().join("none")).unwrap_err().to_string();
    assert!(error.contains("none"), "{error}");
    let error = Bundle::read(directory.path()).unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
    std::fs::write(directory.path().join("config.json"), "{\n \"a\": }").unwrap();
    let error = Bundle::read(directory.path()).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("line 2"), "{cause}");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof![
            Just("a"),
            Just("/"),
            Just("SCMP_ACT_ERRNO"),
            Just("-1"),
            Just("x\0y"),
            Just("ä")
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let name = prop_oneof![Just("path"), Just("type"), Just("limit"), Just("names"), Just("x")];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(name.prop_map(str::to_owned), inner, 0..4)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// Pointers to every value of the document.
fn pointers(value: &Value, prefix: &str, found: &mut Vec<String>) {
    let mut visit = |name: &str, child: &Value| {
        let pointer = format!("{prefix}/{name}");
        found.push(pointer.clone());
        pointers(child, &pointer, found);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(name, child)| visit(name, child)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, child)| visit(&at.to_string(), child));
        }
        _ => {}
    }
}

/// A document in which everything is used.
fn full_document() -> Value {
    let mut document = default_config();
    document["annotations"] = json!({ "dev.ringfence.vcpus": "1" });
    document["vm"] = json!({ "kernel": { "path": "/k", "parameters": ["a"], "initrd": "/i" } });
    document["hooks"] = json!({ "prestart": [{ "path": "/h", "args": ["h"], "timeout": 1 }] });
    document["process"]["scheduler"] = json!({ "policy": "SCHED_RR", "priority": 1 });
    document["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 1 });
    document["linux"]["devices"] =
        json!([{ "path": "/dev/x", "type": "b", "major": 1, "minor": 1 }]);
    document["linux"]["sysctl"] = json!({ "a.b": "1" });
    document["linux"]["resources"]["memory"] = json!({ "limit": 100_000_000, "swap": 200_000_000 });
    document["linux"]["resources"]["cpu"] = json!({ "shares": 5, "quota": 50_000, "cpus": "0-1" });
    document["linux"]["resources"]["unified"] = json!({ "pids.max": "5" });
    document["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ALLOW",
                       "args": [{ "index": 0, "value": 1, "op": "SCMP_CMP_EQ" }] }],
    });
    document
}

proptest! {
    #[test]
    fn any_document_is_planned_or_refused(document in any_json()) {
        drop(plan_of(document));
    }

    #[test]
    fn any_value_anywhere_is_planned_or_refused(at in any::<prop::sample::Index>(), value in any_json()) {
        let mut document = full_document();
        let mut all = Vec::new();
        pointers(&document, "", &mut all);
        let pointer = &all[at.index(all.len())];
        *document.pointer_mut(pointer).unwrap() = value;
        if let Ok(plan) = plan_of(document) && let Some(seccomp) = plan.container.seccomp() {
            drop(seccomp.compile());
        }
    }
}
