//! `process.rlimits`.

use integration_tests::differential::{Group, look, set};
use serde_json::json;

/// Every limit, exactly.
pub(crate) const EACH: Group = Group {
    name: "rlimit",
    bundle: |stage| {
        stage.shared().edit(|config| {
            config["process"]["rlimits"] = json!([
                { "type": "RLIMIT_AS", "soft": 4_294_967_296_u64, "hard": 8_589_934_592_u64 },
                { "type": "RLIMIT_CORE", "soft": 0, "hard": 1_048_577 },
                { "type": "RLIMIT_CPU", "soft": 101, "hard": 203 },
                { "type": "RLIMIT_DATA", "soft": 1_000_000_007, "hard": u64::MAX },
                { "type": "RLIMIT_FSIZE", "soft": 1_000_000_001, "hard": 2_000_000_003 },
                { "type": "RLIMIT_LOCKS", "soft": 11, "hard": 13 },
                { "type": "RLIMIT_MEMLOCK", "soft": 65_537, "hard": 131_073 },
                { "type": "RLIMIT_MSGQUEUE", "soft": 1025, "hard": 819_201 },
                { "type": "RLIMIT_NICE", "soft": 3, "hard": 5 },
                { "type": "RLIMIT_NOFILE", "soft": 333, "hard": 4444 },
                { "type": "RLIMIT_NPROC", "soft": 777, "hard": 888 },
                { "type": "RLIMIT_RSS", "soft": 1_000_000_009, "hard": 1_000_000_010 },
                { "type": "RLIMIT_RTPRIO", "soft": 2, "hard": 4 },
                { "type": "RLIMIT_RTTIME", "soft": 1_000_003, "hard": 2_000_005 },
                { "type": "RLIMIT_SIGPENDING", "soft": 99, "hard": 101 },
                { "type": "RLIMIT_STACK", "soft": 4_194_304, "hard": 67_108_864 },
            ]);
        })
    },
    stories: &[],
    cases: &[
        look("as", "grep '^Max address space' /proc/1/limits"),
        look("core", "grep '^Max core file size' /proc/1/limits"),
        look("cpu", "grep '^Max cpu time' /proc/1/limits"),
        look("data", "grep '^Max data size' /proc/1/limits"),
        look("fsize", "grep '^Max file size' /proc/1/limits"),
        look("locks", "grep '^Max file locks' /proc/1/limits"),
        look("memlock", "grep '^Max locked memory' /proc/1/limits"),
        look("msgqueue", "grep '^Max msgqueue size' /proc/1/limits"),
        look("nice", "grep '^Max nice priority' /proc/1/limits"),
        look("nofile", "grep '^Max open files' /proc/1/limits"),
        look("nproc", "grep '^Max processes' /proc/1/limits"),
        look("rss", "grep '^Max resident set' /proc/1/limits"),
        look("rtprio", "grep '^Max realtime priority' /proc/1/limits"),
        look("rttime", "grep '^Max realtime timeout' /proc/1/limits"),
        look("sigpending", "grep '^Max pending signals' /proc/1/limits"),
        look("stack", "grep '^Max stack size' /proc/1/limits"),
        look("is-kept", "ulimit -n 100000; echo $?; ulimit -n 4444; echo $?; ulimit -n"),
        look(
            "holds",
            "ulimit -f 1; head -c 2000 /dev/zero >/dev/shm/x; echo $?; stat -c %s /dev/shm/x",
        ),
    ],
};

/// Which limits can be asked for.
pub(crate) const RLIMITS: Group = Group {
    name: "rlimits",
    bundle: |stage| stage.shared(),
    stories: &[],
    cases: &[
        set(
            "twice",
            &[("/process/rlimits/-", r#"{ "type": "RLIMIT_NOFILE", "soft": 10, "hard": 10 }"#)],
            &["process.rlimits[1].type", "RLIMIT_NOFILE"],
        ),
        set("soft-above-hard", &[("/process/rlimits/0/soft", "2000")], &["process.rlimits[0]"]),
        set("unknown", &[("/process/rlimits/0/type", "\"RLIMIT_FUN\"")], &["RLIMIT_FUN"]),
        set("without-prefix", &[("/process/rlimits/0/type", "\"NOFILE\"")], &["NOFILE"]),
        set("negative", &[("/process/rlimits/0/soft", "-1")], &["process.rlimits[0].soft", "-1"]),
        set("without-type", &[("/process/rlimits/0/type", "null")], &["process.rlimits[0].type"]),
        set(
            "more-files-than-the-kernel",
            &[("/process/rlimits/0/soft", "4294967296"), ("/process/rlimits/0/hard", "4294967296")],
            &["4294967296"],
        ),
    ],
};
