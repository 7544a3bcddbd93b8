//! `linux.namespaces`, `hostname` and `domainname`.

use integration_tests::Bundle;
use integration_tests::differential::{Group, Stage, edit, look, scene, set};
use serde_json::json;
use std::os::unix::fs::MetadataExt;

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
            &[("/linux/namespaces/2", r#"{ "type": "ipc", "path": "/proc/self/ns/ipc" }"#)],
            &["linux.namespaces[2].path", "/proc/self/ns/ipc"],
        )
        .differs("namespace-path"),
        set(
            "network-of-the-host",
            &[("/linux/namespaces/1", r#"{ "type": "network", "path": "/proc/1/ns/net" }"#)],
            &["/proc/1/ns/net", "is the host's"],
        )
        .differs("network-of-the-host"),
        set(
            "path-missing",
            &[("/linux/namespaces/1", r#"{ "type": "network", "path": "/no/such" }"#)],
            &["/no/such", "cannot be opened"],
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

/// Ids of a user namespace: root and 999 others are users of the host that own nothing else.
const FIRST: u32 = 70_000;

fn with_users(stage: &Stage) -> Bundle {
    let bundle = stage.writable();
    // What a user namespace's root must be able to change: the places of mounts.
    for place in ["", "tmp", "dev", "proc", "sys"] {
        let path = bundle.root().join(place);
        std::fs::create_dir_all(&path).expect("a directory");
        std::os::unix::fs::chown(&path, Some(FIRST), Some(FIRST)).expect("an owner");
    }
    bundle.edit(|config| {
        let list = config["linux"]["namespaces"].as_array_mut().expect("a list");
        list.push(json!({ "type": "user" }));
        let map = json!([{ "containerID": 0, "hostID": FIRST, "size": 1000 }]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
    })
}

/// A container whose root is another user outside.
pub(crate) const USERS: Group = Group {
    name: "user-namespace",
    bundle: |stage| with_users(stage),
    stories: &[],
    cases: &[
        look("maps", "cat /proc/self/uid_map /proc/self/gid_map | xargs; cat /proc/self/setgroups"),
        look("root", "id -u; id -g; id -G; stat -c %u:%g / /proc /dev /tmp /bin"),
        look("its-root-has-what-was-asked-for", "grep ^Cap /proc/self/status"),
        look(
            "devices",
            "echo x >/dev/null && echo null; head -c 3 /dev/zero | wc -c; stat -c %u:%g /dev/null /dev/zero",
        ),
        look(
            "device-nodes-are-refused",
            "mknod /dev/x c 1 3 2>/dev/null; test $? -ne 0 && echo refused",
        ),
        look("network", "cat /sys/class/net/lo/mtu"),
        look(
            "own-files",
            "touch /tmp/a; chown 5:6 /tmp/a && stat -c %u:%g /tmp/a; chown 1000 /tmp/a 2>/dev/null; echo $?",
        ),
        look(
            "other-namespaces-are-its-own",
            "hostname -F /etc/hostname 2>/dev/null; readlink /proc/self/ns/user | cut -d: -f1",
        ),
        scene("owner-outside", |stage| {
            let bundle =
                with_users(stage).script("echo ran; touch /tmp/made; chown 7:8 /tmp/made; exit 3");
            let path = bundle.root().to_owned();
            let outcome = stage.run_of(bundle).run();
            stage.note_run(&outcome);
            let made = std::fs::metadata(path.join("tmp/made")).expect("a file that was made");
            stage.note(format!("{}:{}", made.uid(), made.gid()));
        }),
        scene("limits", |stage| {
            let bundle = with_users(stage)
                .script("echo ran; ulimit -n; cat /proc/self/oom_score_adj")
                .edit(|config| {
                    config["process"]["oomScoreAdj"] = json!(-100);
                    config["process"]["rlimits"] =
                        json!([{ "type": "RLIMIT_NOFILE", "soft": 600_000, "hard": 600_000 }]);
                });
            let outcome = stage.run_of(bundle).run();
            stage.note_run(&outcome);
        }),
        scene("another-user", |stage| {
            let bundle = with_users(stage)
                .script("echo ran; id -u; id -G; echo again >/dev/stdout")
                .edit(|config| {
                    config["process"]["user"] =
                        json!({ "uid": 10, "gid": 20, "additionalGids": [30] });
                });
            let outcome = stage.run_of(bundle).run();
            stage.note_run(&outcome);
        }),
        scene("user-that-is-not-mapped", |stage| {
            let bundle = with_users(stage).script("echo ran").edit(|config| {
                config["process"]["user"]["uid"] = json!(1000);
            });
            let outcome = stage.run_of(bundle).run();
            stage.note(format!(
                "ran: {}, fails: {}",
                outcome.out().contains("ran"),
                outcome.code() != 0
            ));
        }),
        scene("exec", |stage| {
            let bundle = with_users(stage).script("echo up; sleep 600");
            let container = stage.start(&bundle);
            for options in [&[][..], &["--user", "10:20"][..]] {
                stage.exec(
                    &container,
                    options,
                    &["sh", "-c", "cat /proc/self/uid_map | xargs; id; exit 5"],
                );
            }
        }),
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
