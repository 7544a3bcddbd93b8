//! `linux.namespaces`, `hostname` and `domainname`.

use integration_tests::Bundle;
use integration_tests::differential::{Group, Stage, edit, look, scene, set};
use serde_json::json;

/// Nothing of its own but the mounts.
pub(crate) const SHARED: Group = Group {
    name: "shared-namespaces",
    bundle: |stage| {
        stage.shared().edit(|config| {
            config["linux"]["namespaces"] = json!([{ "type": "mount" }]);
            config.as_object_mut().expect("an object").remove("hostname");
        })
    },
    stories: &[],
    cases: &[
        look("pid", "test $$ = 1; echo $?"),
        look("network", "cat /sys/class/net/lo/mtu"),
        look("ipc", "cat /proc/sys/kernel/msgmax"),
        look("uts", "hostname | wc -l"),
        look("cgroup", "grep -c ^0::/ /proc/self/cgroup"),
        look("cgroup-is-not-the-root", "grep -c '^0::/$' /proc/self/cgroup"),
    ],
};

/// Which namespaces can be asked for.
pub(crate) const NAMESPACES: Group = Group {
    name: "namespaces",
    bundle: |stage| stage.shared(),
    stories: &[],
    cases: &[
        edit(
            "user",
            |_, bundle| {
                bundle.script("echo ran; cat /proc/self/uid_map").edit(|config| {
                    let list = config["linux"]["namespaces"].as_array_mut().expect("a list");
                    list.push(json!({ "type": "user" }));
                    let map = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
                    config["linux"]["uidMappings"] = map.clone();
                    config["linux"]["gidMappings"] = map;
                })
            },
            &["linux.namespaces", "user"],
        )
        .differs("user-namespace"),
        edit(
            "time",
            |_, bundle| {
                bundle.edit(|config| {
                    let list = config["linux"]["namespaces"].as_array_mut().expect("a list");
                    list.push(json!({ "type": "time" }));
                })
            },
            &["linux.namespaces", "time"],
        )
        .differs("time-namespace"),
        set(
            "path",
            &[("/linux/namespaces/1", r#"{ "type": "network", "path": "/proc/self/ns/net" }"#)],
            &["linux.namespaces[1].path", "/proc/self/ns/net"],
        )
        .differs("namespace-path"),
        set(
            "path-missing",
            &[("/linux/namespaces/1", r#"{ "type": "network", "path": "/no/such" }"#)],
            &["linux.namespaces[1].path", "/no/such"],
        ),
        scene("of-the-process-on-the-host", |stage| {
            let container = stage.start(&stage.shared().script("echo up; exec sleep 600"));
            let pid = container.pid().as_raw_nonzero();
            for kind in ["uts", "ipc", "net"] {
                let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).ok();
                let its = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
                stage.note(format!("{kind}: {}, of its own: {}", its.is_some(), own != its));
            }
            container.delete_by_force();
        })
        .differs("host-namespaces"),
        set("twice", &[("/linux/namespaces/-", r#"{ "type": "pid" }"#)], &["linux.namespaces[6]"]),
        set("unknown", &[("/linux/namespaces/-", r#"{ "type": "mind" }"#)], &["mind"]),
    ],
};

/// The names of a container's machine.
pub(crate) const NAMES: Group = Group {
    name: "names",
    bundle: |stage| stage.shared().script("echo ran; hostname; cat /proc/sys/kernel/domainname"),
    stories: &[],
    cases: &[
        edit("empty", |stage, _| names(stage, "", ""), &[]).differs("hostname-not-given"),
        edit("longest", |stage, _| names(stage, &"x".repeat(64), &"y".repeat(64)), &[]),
        edit("too-long", |stage, _| names(stage, &"x".repeat(65), ""), &["hostname"]),
        edit("with-a-space", |stage, _| names(stage, "two words", ""), &[]),
        set(
            "without-a-namespace",
            &[("/linux/namespaces", r#"[{ "type": "mount" }, { "type": "pid" }]"#)],
            &["hostname"],
        ),
    ],
};

fn names(stage: &Stage, hostname: &str, domainname: &str) -> Bundle {
    stage.shared().script("echo ran; hostname; cat /proc/sys/kernel/domainname").edit(|config| {
        config["hostname"] = json!(hostname);
        config["domainname"] = json!(domainname);
    })
}
