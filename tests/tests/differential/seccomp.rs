//! `linux.seccomp`.

use integration_tests::Bundle;
use integration_tests::differential::{Group, edit, look, set};
use serde_json::{Value, json};

fn filter(bundle: Bundle, filter: &Value) -> Bundle {
    bundle.edit(|config| {
        config["linux"]["seccomp"] = filter.clone();
        config["process"]["rlimits"] = json!([{ "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }]);
    })
}

const ARCHITECTURES: [&str; 3] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];

/// What happens to a call.
pub(crate) const ACTIONS: Group = Group {
    name: "seccomp-action",
    bundle: |stage| {
        filter(
            stage.writable(),
            &json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ARCHITECTURES,
                "syscalls": [
                    { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 },
                    { "names": ["rmdir"], "action": "SCMP_ACT_ERRNO" },
                    { "names": ["sync", "not_a_call"], "action": "SCMP_ACT_KILL_PROCESS" },
                    { "names": ["mknod", "mknodat"], "action": "SCMP_ACT_KILL_THREAD" },
                    { "names": ["link", "linkat"], "action": "SCMP_ACT_TRAP" },
                    { "names": ["symlink", "symlinkat"], "action": "SCMP_ACT_TRACE", "errnoRet": 7 },
                    { "names": ["rename", "renameat", "renameat2"], "action": "SCMP_ACT_LOG" },
                    { "names": ["sethostname"], "action": "SCMP_ACT_KILL" },
                ],
            }),
        )
    },
    stories: &[],
    cases: &[
        look("errno", "mkdir /tmp/d; echo $?; ls -d /tmp/d"),
        look("errno-default", "rmdir /tmp; echo $?"),
        look("kill-process", "sync; echo $?"),
        look("kill-thread", "mkfifo /tmp/p; echo $?"),
        look("kill", "hostname x; echo $?"),
        look("trap", "touch /tmp/a; ln /tmp/a /tmp/b; echo $?"),
        look("trace-without-tracer", "ln -s /tmp/a /tmp/c; echo $?"),
        look("log", "touch /tmp/e; mv /tmp/e /tmp/f; echo $?; ls /tmp/f"),
        look("allow", "touch /tmp/g; chmod 600 /tmp/g; stat -c %a /tmp/g"),
        look("mode", "grep -w Seccomp: /proc/1/status; grep NoNewPrivs /proc/1/status"),
        look("filters", "grep Seccomp_filters /proc/1/status"),
        look("children-have-it", "sh -c 'mkdir /tmp/d'; echo $?"),
    ],
};

/// Comparisons of arguments: of the signal of kill(2), of the limit of prlimit64(2), of the value
/// of ioprio_set(2).
pub(crate) const ARGUMENTS: Group = Group {
    name: "seccomp-argument",
    bundle: |stage| {
        let rule = |call: &str, errno: u32, index: u32, op: &str, value: u64, second: u64| {
            let condition = json!({ "index": index, "op": op, "value": value, "valueTwo": second });
            json!({ "names": [call], "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": [condition] })
        };
        filter(
            stage.shared(),
            &json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ARCHITECTURES,
                "syscalls": [
                    rule("kill", 71, 1, "SCMP_CMP_EQ", 10, 0),
                    rule("kill", 72, 1, "SCMP_CMP_MASKED_EQ", 0x7c, 0x18),
                    rule("kill", 74, 1, "SCMP_CMP_GT", 50, 0),
                    rule("kill", 95, 1, "SCMP_CMP_LT", 2, 0),
                    rule("prlimit64", 71, 1, "SCMP_CMP_GE", 13, 0),
                    rule("prlimit64", 72, 1, "SCMP_CMP_LE", 1, 0),
                    rule("ioprio_set", 71, 2, "SCMP_CMP_NE", (2 << 13) | 3, 0),
                    { "names": ["setpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71,
                      "args": [{ "index": 0, "op": "SCMP_CMP_EQ", "value": 0 },
                               { "index": 2, "op": "SCMP_CMP_EQ", "value": 7 }] },
                ],
            }),
        )
    },
    stories: &[],
    cases: &[
        look("equal", "sleep 5 & kill -10 $!; echo $?"),
        look("masked-equal", "sleep 5 & kill -26 $!; echo $?; kill -28 $!; echo $?"),
        look("greater", "sleep 5 & kill -51 $!; echo $?"),
        look("not-greater", "sleep 5 & kill -50 $!; echo $?; wait $! 2>/dev/null; echo $?"),
        look("less", "sleep 5 & kill -1 $!; echo $?"),
        look("not-less", "sleep 5 & kill -2 $!; echo $?"),
        look("greater-or-equal", "ulimit -e 0; echo $?; ulimit -r 0; echo $?"),
        look("not-greater-or-equal", "ulimit -q 100; echo $?"),
        look("less-or-equal", "ulimit -t 1000; echo $?; ulimit -f 1000; echo $?"),
        look("not-less-or-equal", "ulimit -d 100000; echo $?"),
        look("not-equal", "ionice -c 2 -n 4 true; echo $?"),
        look("not-not-equal", "ionice -c 2 -n 3 true; echo $?"),
        look("both-of-two", "renice -n 7 -p $$ 2>/dev/null; echo $?"),
        look("one-of-two", "renice -n 8 -p $$ 2>/dev/null; echo $?"),
    ],
};

/// Which filters can be asked for.
pub(crate) const SECCOMP: Group = Group {
    name: "seccomp",
    bundle: |stage| {
        filter(
            stage.shared(),
            &json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 },
        ] }),
        )
    },
    stories: &[],
    cases: &[
        edit(
            "of-a-user-with-new-privileges",
            |_, bundle| {
                bundle.script("echo ran; mkdir /tmp/x; echo $?; grep ^Cap /proc/self/status").edit(
                    |config| {
                        config["process"]["noNewPrivileges"] = json!(false);
                        config["process"]["user"] = json!({ "uid": 5, "gid": 5 });
                    },
                )
            },
            &[],
        ),
        edit(
            "default-errno",
            |_, bundle| {
                bundle.script("echo ran; mkdir /tmp/x; echo $?").edit(|config| {
                    // What a static shell needs, and no more.
                    let all: Vec<&str> = "execve brk arch_prctl set_tid_address set_robust_list rseq prlimit64 readlink readlinkat \
getrandom mprotect prctl getuid getgid geteuid getegid getpid getppid \
rt_sigaction rt_sigprocmask getcwd stat newfstatat write exit_group fork clone \
vfork wait4 mmap munmap ioctl fcntl rt_sigreturn read close \
openat dup2 exit fstat uname futex lseek poll setuid \
setgid".split_ascii_whitespace().collect();
                    config["linux"]["seccomp"] = json!({
                        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 71,
                        "syscalls": [{ "names": all, "action": "SCMP_ACT_ALLOW" }],
                    });
                })
            },
            &[],
        ),
        set(
            "flags-and-other-architectures",
            &[
                (
                    "/linux/seccomp/flags",
                    r#"["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]"#,
                ),
                ("/linux/seccomp/architectures", r#"["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"]"#),
            ],
            &[],
        ),
        set(
            "flag-unknown",
            &[("/linux/seccomp/flags", r#"["SECCOMP_FILTER_FLAG_FUN"]"#)],
            &["SECCOMP_FILTER_FLAG_FUN"],
        ),
        set(
            "action-unknown",
            &[("/linux/seccomp/defaultAction", "\"SCMP_ACT_FUN\"")],
            &["SCMP_ACT_FUN"],
        ),
        set(
            "architecture-unknown",
            &[("/linux/seccomp/architectures", r#"["SCMP_ARCH_FUN"]"#)],
            &["SCMP_ARCH_FUN"],
        ),
        set(
            "operator-unknown",
            &[(
                "/linux/seccomp/syscalls/0/args",
                r#"[{ "index": 0, "op": "SCMP_CMP_FUN", "value": 1 }]"#,
            )],
            &["SCMP_CMP_FUN"],
        ),
        set(
            "argument-out-of-range",
            &[(
                "/linux/seccomp/syscalls/0/args",
                r#"[{ "index": 6, "op": "SCMP_CMP_EQ", "value": 1 }]"#,
            )],
            &["index", "6"],
        ),
        set("names-are-none", &[("/linux/seccomp/syscalls/0/names", "[]")], &["names"])
            .differs("strict-values"),
        set(
            "notify",
            &[
                ("/linux/seccomp/syscalls/0/action", "\"SCMP_ACT_NOTIFY\""),
                ("/linux/seccomp/syscalls/0/errnoRet", "null"),
            ],
            &["SCMP_ACT_NOTIFY"],
        )
        .differs("seccomp-notify"),
        set(
            "listener",
            &[("/linux/seccomp/listenerPath", "\"/no/such\"")],
            &["linux.seccomp.listenerPath"],
        ),
        set(
            "without-default",
            &[("/linux/seccomp/defaultAction", "null")],
            &["linux.seccomp.defaultAction"],
        ),
    ],
};
