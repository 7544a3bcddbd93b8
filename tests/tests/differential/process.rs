//! `process`: what runs, and how it begins.

use integration_tests::Bundle;
use integration_tests::differential::{Group, Stage, edit, look, set};
use serde_json::json;

/// What a process finds when it begins.
pub(crate) const PROCESS: Group = Group {
    name: "process",
    bundle: |stage| {
        let bundle = stage.shared().env("PLAIN=value").env("EMPTY=").env("EQUALS=a=b=c");
        let bundle = bundle.env("SPACED= two  words\ttab ").env("UTF8=Grüße, 世界").env("TWICE=1");
        bundle.env("TWICE=2").edit(|config| {
            config["process"]["cwd"] = json!("/var/tmp");
            config["process"]["oomScoreAdj"] = json!(321);
        })
    },
    stories: &[],
    cases: &[
        look("environment", "env | sort"),
        look("environment-raw", "tr '\\0' '\\n' </proc/1/environ"),
        look("variable-twice", "tr '\\0' '\\n' </proc/1/environ | grep ^TWICE="),
        look("home", "echo $HOME"),
        look("cwd", "pwd; readlink /proc/1/cwd"),
        look("pid", "echo $$; awk '{ print $4 }' /proc/1/stat"),
        look("session", "awk '{ print $5, $6, $7, $8 }' /proc/1/stat"),
        look("umask", "umask; grep Umask /proc/1/status"),
        look("oom-score-adj", "cat /proc/1/oom_score_adj"),
        look("no-new-privileges", "grep NoNewPrivs /proc/1/status"),
        look("no-seccomp", "grep -w Seccomp: /proc/1/status"),
        look("signals-blocked", "grep SigBlk /proc/1/status"),
        look("signals-ignored", "grep SigIgn /proc/1/status"),
        look("descriptors", "ls /proc/1/fd"),
        look("nice", "awk '{ print $18, $19 }' /proc/1/stat"),
        look("policy", "awk '{ print $40, $41 }' /proc/1/stat"),
        look("io-priority", "ionice -p 1"),
        look("personality", "cat /proc/1/personality; uname -m"),
        look("timer-slack", "cat /proc/1/timerslack_ns"),
        look("coredump-filter", "cat /proc/1/coredump_filter").differs("core-dump-headers"),
        look("name", "cat /proc/1/comm; readlink /proc/1/exe"),
        look("root", "readlink /proc/1/root; ls -d /.."),
        look("threads", "grep -E '^(Threads|TracerPid)' /proc/1/status"),
        look("others-of-it", "cd /proc; set -- [0-9]*; echo $#"),
        look("readonly-root", "(echo x >/new) 2>&1; echo $?; (mkdir /d) 2>&1; echo $?"),
        look("killed-child", "sh -c 'kill -9 $$'; echo $?"),
        look(
            "orphan",
            "sh -c 'sleep 0.5 & echo $! >/dev/shm/x'; awk '{ print $4 }' /proc/$(cat /dev/shm/x)/stat",
        ),
        look("namespaces", "ls /proc/self/ns"),
        look("network", "ls -A /sys/class/net; ip -o addr show lo | awk '{ print $3, $4 }'"),
        look("routes", "ip route; ip -6 route | grep -v ::1"),
        look("loopback", "cat /sys/class/net/lo/operstate /sys/class/net/lo/mtu"),
        look(
            "no-limits",
            "cd /sys/fs/cgroup; cat memory.max memory.swap.max pids.max cpu.max cpu.weight",
        ),
        look("ids-of-its-proc", "stat -c '%u %g' /proc/1/mem /proc/1/fd"),
    ],
};

/// A program in the bundle's root.
fn with_file(stage: &Stage, text: &str, mode: u32) -> Bundle {
    let bundle = stage.writable();
    let path = bundle.root().join("bin/x");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    bundle.args(&["/bin/x"])
}

/// Which program is executed, with what.
pub(crate) const PROGRAM: Group = Group {
    name: "program",
    bundle: |stage| stage.writable(),
    stories: &[],
    cases: &[
        edit(
            "arguments",
            |_, bundle| {
                let script = "echo ran; for word; do echo \"[$word]\"; done";
                let words = ["", "two words", "$HOME", "a\nb", "--", "-x", "ü", "'\"\\"];
                bundle.args(&[&["/bin/sh", "-c", script, "name"][..], &words].concat())
            },
            &[],
        ),
        edit("found-by-path", |_, bundle| bundle.args(&["echo", "ran"]), &[]),
        edit(
            "no-path",
            |_, bundle| {
                bundle.args(&["echo", "ran"]).edit(|config| config["process"]["env"] = json!([]))
            },
            &["echo"],
        ),
        edit("missing", |_, bundle| bundle.args(&["/bin/missing"]), &["/bin/missing"]),
        edit("not-executable", |stage, _| with_file(stage, "echo ran\n", 0o644), &["/bin/x"]),
        edit("interpreter-missing", |stage, _| with_file(stage, "#!/none\n", 0o755), &["/bin/x"]),
        edit("writes-both", |_, bundle| bundle.script("echo ran; echo no >&2; exit 3"), &[]),
        edit("ends-its-children", |_, bundle| bundle.script("echo ran; sleep 600 & exit 255"), &[]),
        edit(
            "cwd-is-made",
            |_, bundle| {
                let bundle = bundle.script("echo ran; pwd; stat -c '%a %u' /not/there /not");
                bundle.edit(|config| {
                    config["process"]["cwd"] = json!("/not/there");
                    config["process"]["user"] = json!({ "uid": 7, "gid": 8 });
                })
            },
            &[],
        ),
        edit(
            "cwd-is-made-in-a-readonly-root",
            |_, bundle| {
                let bundle = bundle.script("echo ran; pwd; stat -c '%a %u' /not/there /not");
                bundle.edit(|config| {
                    config["process"]["cwd"] = json!("/not/there");
                    config["root"]["readonly"] = json!(true);
                    config["process"]["user"] = json!({ "uid": 7, "gid": 8 });
                })
            },
            &[],
        ),
        edit(
            "cwd-is-a-link",
            |_, bundle| {
                std::os::unix::fs::symlink("/var/../tmp/", bundle.root().join("link")).unwrap();
                let bundle = bundle.script("echo ran; readlink /proc/self/cwd");
                bundle.edit(|config| config["process"]["cwd"] = json!("/bin/../link/."))
            },
            &[],
        ),
        set("cwd-is-a-file", &[("/process/cwd", "\"/etc/passwd\"")], &["/etc/passwd"]),
    ],
};

fn scheduled(stage: &Stage, process: &serde_json::Value) -> Bundle {
    let process = process.as_object().expect("an object").clone();
    stage.shared().edit(|config| {
        for set in ["bounding", "permitted", "effective"] {
            let capabilities = &mut config["process"]["capabilities"][set];
            capabilities.as_array_mut().expect("a list").push(json!("CAP_SYS_NICE"));
        }
        for (name, value) in process {
            config["process"][name] = value;
        }
    })
}

const POLICY: &str = "awk '{ print $18, $19, $40, $41 }' /proc/1/stat";

/// When and before whom it runs.
pub(crate) const BATCH: Group = Group {
    name: "scheduling-batch",
    bundle: |stage| {
        let bundle = scheduled(
            stage,
            &json!({
                "ioPriority": { "class": "IOPRIO_CLASS_BE", "priority": 3 },
                "scheduler": { "policy": "SCHED_BATCH", "nice": 7 },
                "oomScoreAdj": -1000,
            }),
        );
        bundle.env("HOME=/somewhere").edit(|config| {
            config["linux"]["personality"] = json!({ "domain": "LINUX32" });
            config["process"]["rlimits"] = json!([]);
        })
    },
    stories: &[],
    cases: &[
        look("io-priority", "ionice -p 1"),
        look("policy", POLICY),
        look("oom-score-adj-least", "cat /proc/1/oom_score_adj"),
        look("personality-32", "cat /proc/1/personality; uname -m"),
        look("home-of-the-bundle", "echo $HOME"),
        look(
            "limits-of-the-caller",
            "grep -E '^Max (open|core|cpu|data|file|stack|address|nice|real)' /proc/1/limits",
        ),
        look("memory-limits-of-the-caller", "grep -E '^Max (locked|msg|resident)' /proc/1/limits"),
    ],
};

/// The same, otherwise.
pub(crate) const REAL_TIME: Group = Group {
    name: "scheduling",
    bundle: |stage| {
        scheduled(
            stage,
            &json!({
                "ioPriority": { "class": "IOPRIO_CLASS_IDLE", "priority": 0 },
                "scheduler": { "policy": "SCHED_RR", "priority": 5 },
                "oomScoreAdj": 1000,
            }),
        )
    },
    stories: &[],
    cases: &[
        look("io-priority", "ionice -p 1"),
        look("policy", POLICY),
        look("oom-score-adj-most", "cat /proc/1/oom_score_adj"),
        set(
            "policy-unknown",
            &[("/process/scheduler", r#"{ "policy": "SCHED_FAST" }"#)],
            &["process.scheduler.policy", "SCHED_FAST"],
        ),
        set(
            "io-priority-unknown",
            &[("/process/ioPriority", r#"{ "class": "IOPRIO_CLASS_FAST", "priority": 1 }"#)],
            &["process.ioPriority.class", "IOPRIO_CLASS_FAST"],
        ),
        set(
            "oom-score-adj-too-large",
            &[("/process/oomScoreAdj", "1001")],
            &["oomScoreAdj", "1001"],
        ),
        set(
            "personality-unknown",
            &[("/linux/personality", r#"{ "domain": "BSD" }"#)],
            &["linux.personality.domain", "BSD"],
        ),
    ],
};
