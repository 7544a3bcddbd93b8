//! `process.capabilities`.

use integration_tests::Bundle;
use integration_tests::differential::{Group, edit, look, set};
use serde_json::{Value, json};

/// The five sets, one differing from the other.
pub(crate) const SETS: Group = Group {
    name: "capability-sets",
    bundle: |stage| {
        let some = json!(["CAP_CHOWN", "CAP_NET_RAW", "CAP_SYS_PTRACE", "CAP_BPF"]);
        sets(
            stage.writable(),
            &json!({
                "bounding": ["CAP_CHOWN", "CAP_NET_RAW", "CAP_SYS_PTRACE", "CAP_BPF", "CAP_SYSLOG"],
                "permitted": some, "effective": ["CAP_CHOWN", "CAP_BPF"], "inheritable": some,
                "ambient": ["CAP_NET_RAW", "CAP_SYS_PTRACE"],
            }),
        )
    },
    stories: &[],
    cases: &[
        look("bounding", "grep CapBnd /proc/1/status"),
        look("permitted", "grep CapPrm /proc/1/status"),
        look("effective", "grep CapEff /proc/1/status"),
        look("inheritable", "grep CapInh /proc/1/status"),
        look("ambient", "grep CapAmb /proc/1/status"),
        look("children-have-them", "sh -c 'grep ^Cap /proc/self/status'"),
        look("what-is-given-works", "touch /tmp/x; chown 5:6 /tmp/x; stat -c '%u %g' /tmp/x"),
        look(
            "what-is-not-given-fails",
            "mknod /tmp/n c 1 3; echo $?; mount -t tmpfs x /tmp; echo $?",
        ),
        look("hostname-is-fixed", "hostname other; echo $?; hostname"),
        look("chroot-is-refused", "chroot / /bin/true; echo $?"),
        look("nice-is-refused", "renice -n -5 -p $$ 2>/dev/null; echo $?"),
        look("others-files", "touch /tmp/y; chown 5 /tmp/y; chmod 600 /tmp/y; echo $?"),
    ],
};

fn sets(bundle: Bundle, sets: &Value) -> Bundle {
    bundle.edit(|config| config["process"]["capabilities"] = sets.clone())
}

const SHOW: &str = "echo ran; grep ^Cap /proc/self/status";

/// Which sets can be asked for.
pub(crate) const CAPABILITIES: Group = Group {
    name: "capabilities",
    bundle: |stage| {
        stage.shared().edit(|config| config["process"]["noNewPrivileges"] = json!(false))
    },
    stories: &[],
    cases: &[
        edit(
            "none",
            |_, bundle| {
                bundle.script(SHOW).edit(|config| {
                    config["process"].as_object_mut().unwrap().remove("capabilities");
                })
            },
            &[],
        ),
        edit(
            "of-a-user",
            |_, bundle| {
                let chown = json!(["CAP_CHOWN"]);
                let all = json!({ "bounding": chown, "permitted": chown, "effective": chown });
                sets(bundle.script(SHOW), &all).edit(|config| {
                    config["process"]["user"] = json!({ "uid": 5, "gid": 5 });
                })
            },
            &[],
        ),
        edit(
            "name-without-meaning",
            |_, bundle| {
                let all = json!({ "bounding": ["CAP_CHOWN", "CAP_NOTHING", "cap_kill"] });
                sets(bundle.script(SHOW), &all)
            },
            &[],
        )
        .differs("strict-values"),
        set("set-is-text", &[("/process/capabilities/bounding", "\"CAP_CHOWN\"")], &["bounding"])
            .differs("strict-values"),
    ],
};
