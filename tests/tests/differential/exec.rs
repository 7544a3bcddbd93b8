//! `exec`: further processes.

use integration_tests::detached::Detached;
use integration_tests::differential::{Group, Stage, inside};
use integration_tests::{Output, command::open_for_writing};
use serde_json::{Value, json};

fn shell(stage: &mut Stage, container: &Detached, options: &[&str], script: &str) {
    stage.exec(container, options, &["/bin/sh", "-c", script]);
}

fn refused(stage: &mut Stage, container: &Detached, options: &[&str], command: &[&str]) {
    let words: Vec<&str> = ["exec"].iter().chain(options).copied().collect();
    let outcome = container.command(&words, command);
    stage.note(format!("refused: {}", outcome.code() != 0 && outcome.stdout.is_empty()));
}

fn file(stage: &mut Stage, container: &Detached, process: &Value) {
    let file = stage.file("process.json");
    std::fs::write(&file, process.to_string()).unwrap();
    let options = ["exec", "--process", file.to_str().unwrap()];
    stage.note_exec(&container.command(&options, &[]));
}

/// The sets of a process of an ordinary user.
fn with_sets(stage: &mut Stage, container: &Detached, sets: &Value) {
    let process = json!({
        "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 5, "gid": 5 }, "capabilities": sets,
        "args": ["sh", "-c", "grep ^Cap /proc/self/status"],
    });
    file(stage, container, &process);
}

/// A bundle whose first process has everything that can be inherited.
pub(crate) const EXEC: Group = Group {
    name: "exec",
    bundle: |stage| {
        stage.writable().env("FIRST=1").edit(|config| {
            config["process"]["user"] =
                json!({ "uid": 0, "gid": 0, "umask": 0o027, "additionalGids": [7, 9] });
            config["process"]["cwd"] = json!("/etc");
            config["process"]["rlimits"] =
                json!([{ "type": "RLIMIT_NOFILE", "soft": 333, "hard": 444 }]);
            config["process"]["oomScoreAdj"] = json!(300);
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{ "names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 }],
            });
        })
    },
    stories: &[],
    cases: &[
        inside("output-and-status", |stage, c| shell(stage, c, &[], "echo out; exit 3")),
        inside("errors", |stage, c| shell(stage, c, &[], "echo err >&2; exit 0")),
        inside("killed", |stage, c| shell(stage, c, &[], "kill -9 $$")),
        inside("input", |stage, c| {
            let outcome = c.invocation(&["exec"], &["cat"]).stdin("typed\n").run();
            stage.note_exec(&outcome);
        }),
        inside("input-is-null", |stage, c| {
            let null = std::fs::File::open("/dev/null").unwrap();
            let exec = c.invocation(&["exec"], &["cat"]);
            stage.note_exec(&exec.stdin_from(Output::Descriptor(null.into())).run());
        }),
        inside("program-missing", |stage, c| refused(stage, c, &[], &["/no/such"])),
        inside("program-not-on-path", |stage, c| refused(stage, c, &[], &["no-such"])),
        inside("program-is-a-directory", |stage, c| refused(stage, c, &[], &["/etc"])),
        inside("without-program", |stage, c| refused(stage, c, &[], &[])),
        inside("environment", |stage, c| {
            shell(stage, c, &[], "echo $FIRST; echo $PATH; echo $HOME");
        }),
        inside("variable", |stage, c| shell(stage, c, &["--env", "A=b=c"], "echo $A")),
        inside("variable-replaces", |stage, c| shell(stage, c, &["-e", "FIRST=2"], "echo $FIRST")),
        inside("environment-stays-with-a-variable", |stage, c| {
            shell(stage, c, &["-e", "SECOND=2"], "echo $FIRST $SECOND");
        })
        .as_runc(),
        inside("cwd", |stage, c| shell(stage, c, &["--cwd", "/tmp"], "pwd")),
        inside("cwd-of-the-first", |stage, c| shell(stage, c, &[], "pwd")).as_runc(),
        inside("cwd-missing", |stage, c| {
            let outcome = c.command(&["exec", "--cwd", "/no/such"], &["pwd"]);
            stage.note(format!("refused: {}", outcome.code() != 0));
        }),
        inside("cwd-relative", |stage, c| refused(stage, c, &["--cwd", "tmp"], &["pwd"])).as_runc(),
        inside("user", |stage, c| shell(stage, c, &["--user", "5"], "id -u; id -g"))
            .differs("exec-user"),
        inside("user-and-group", |stage, c| shell(stage, c, &["--user", "5:6"], "id -u; id -g")),
        inside("user-has-a-home", |stage, c| {
            shell(stage, c, &["--user", "65534:65534"], "id -u; echo $HOME");
        }),
        inside("user-by-name", |stage, c| refused(stage, c, &["--user", "root"], &["id"])),
        inside("user-that-means-none", |stage, c| {
            let outcome = c.command(&["exec", "--user", "4294967295"], &["id", "-u"]);
            stage.note(format!("root: {}", outcome.out() == "0\n"));
        })
        .differs("strict-values"),
        inside("user-negative", |stage, c| refused(stage, c, &["--user", "-1"], &["id"]))
            .differs("strict-values"),
        inside("groups-of-the-first", |stage, c| shell(stage, c, &[], "id -G")),
        inside("groups-stay-with-a-user", |stage, c| shell(stage, c, &["--user", "5:6"], "id -G"))
            .as_runc(),
        inside("further-group", |stage, c| shell(stage, c, &["--additional-gids", "77"], "id -G"))
            .as_runc(),
        inside("umask", |stage, c| shell(stage, c, &[], "umask")),
        inside("capabilities", |stage, c| shell(stage, c, &[], "grep ^Cap /proc/self/status")),
        inside("capability", |stage, c| {
            shell(
                stage,
                c,
                &["--cap", "CAP_CHOWN"],
                "grep -E '^Cap(Bnd|Prm|Eff)' /proc/self/status",
            );
        })
        .as_runc(),
        inside("capability-unknown", |stage, c| {
            refused(stage, c, &["--cap", "CAP_FUN"], &["true"]);
        })
        .differs("strict-values"),
        inside("capabilities-of-a-user", |stage, c| {
            shell(stage, c, &["--user", "5"], "grep -E '^Cap(Bnd|Prm|Eff)' /proc/self/status");
        })
        .differs("exec-user"),
        inside("no-new-privileges", |stage, c| {
            shell(stage, c, &["--no-new-privs"], "grep NoNewPrivs /proc/self/status");
        }),
        inside("filter", |stage, c| {
            shell(stage, c, &[], "grep -w Seccomp: /proc/self/status; hostname x; echo $?");
        }),
        inside("limits-of-the-first", |stage, c| shell(stage, c, &[], "ulimit -n; ulimit -Hn"))
            .as_runc(),
        inside("oom-score-adj", |stage, c| shell(stage, c, &[], "cat /proc/self/oom_score_adj"))
            .as_runc(),
        inside("cgroup", |stage, c| shell(stage, c, &[], "cat /proc/self/cgroup")),
        inside("namespaces", |stage, c| {
            let script = "for n in pid mnt uts ipc net; do readlink /proc/1/ns/$n; readlink /proc/self/ns/$n; done | sort -u | wc -l";
            shell(stage, c, &[], script);
        }),
        inside("sees-the-first", |stage, c| {
            shell(stage, c, &[], "cat /proc/1/comm; test $$ -gt 1; echo $?");
        }),
        inside("parent", |stage, c| shell(stage, c, &[], "awk '{ print $4 }' /proc/$$/stat")),
        inside("session", |stage, c| {
            shell(stage, c, &[], "awk '{ print ($1 == $5), ($1 == $6), $7 }' /proc/$$/stat");
        }),
        inside("descriptors", |stage, c| shell(stage, c, &[], "ls /proc/$$/fd")),
        inside("no-terminal", |stage, c| shell(stage, c, &[], "tty")),
        inside("words-are-kept", |stage, c| {
            stage.exec(
                c,
                &[],
                &["/bin/sh", "-c", "for w; do echo \"[$w]\"; done", "x", "", "a b", "-t", "--user"],
            );
        }),
        inside("changes-are-seen", |stage, c| {
            shell(stage, c, &[], "echo x >/tmp/left");
            shell(stage, c, &[], "cat /tmp/left");
        }),
        inside("file", |stage, c| {
            file(
                stage,
                c,
                &json!({
                    "user": { "uid": 3, "gid": 4, "additionalGids": [5] }, "cwd": "/tmp",
                    "env": ["PATH=/bin", "A=b"], "args": ["sh", "-c", "id -u; id -G; pwd; echo $A; exit 6"],
                }),
            );
        }),
        inside("file-with-limits", |stage, c| {
            file(
                stage,
                c,
                &json!({
                    "user": { "uid": 0, "gid": 0, "umask": 0o077 }, "cwd": "/", "env": ["PATH=/bin"],
                    "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 22, "hard": 33 }],
                    "args": ["sh", "-c", "ulimit -n; ulimit -Hn; umask"],
                }),
            );
        }),
        inside("file-with-capabilities", |stage, c| {
            let chown = json!(["CAP_CHOWN"]);
            file(
                stage,
                c,
                &json!({
                    "cwd": "/", "env": ["PATH=/bin"], "noNewPrivileges": true,
                    "user": { "uid": 0, "gid": 0 },
                    "capabilities": { "bounding": chown, "permitted": chown, "effective": chown },
                    "args": ["sh", "-c", "grep -E '^(Cap|NoNew)' /proc/self/status"],
                }),
            );
        }),
        inside("file-with-ambient-capabilities", |stage, c| {
            let chown = json!(["CAP_CHOWN"]);
            with_sets(
                stage,
                c,
                &json!({
                    "bounding": chown, "permitted": chown, "effective": chown,
                    "inheritable": chown, "ambient": chown,
                }),
            );
        }),
        inside("file-with-permitted-capabilities", |stage, c| {
            let chown = json!(["CAP_CHOWN"]);
            with_sets(
                stage,
                c,
                &json!({ "bounding": chown, "permitted": chown, "effective": chown }),
            );
        }),
        inside("file-without-capabilities", |stage, c| with_sets(stage, c, &json!({}))),
        inside("relative-to-cwd", |stage, c| {
            stage.exec(c, &["--cwd", "/bin"], &["./echo", "out"]);
        }),
        inside("interpreter", |stage, c| {
            shell(stage, c, &[], "printf '#!/bin/sh\\necho $0\\n' >/bin/new; chmod 755 /bin/new");
            stage.exec(c, &[], &["/bin/new"]);
        }),
        inside("interpreter-missing", |stage, c| {
            shell(stage, c, &[], "printf '#!/none\\n' >/bin/lost; chmod 755 /bin/lost");
            refused(stage, c, &[], &["/bin/lost"]);
        }),
        inside("no-format", |stage, c| {
            shell(stage, c, &[], "printf '\\001noise' >/bin/noise; chmod 755 /bin/noise");
            refused(stage, c, &[], &["/bin/noise"]);
        }),
        inside("not-executable", |stage, c| {
            shell(stage, c, &[], "printf 'echo x' >/bin/data; chmod 644 /bin/data");
            refused(stage, c, &[], &["/bin/data"]);
        }),
        inside("file-missing", |stage, c| refused(stage, c, &["--process", "/no/such"], &[])),
        inside("file-without-args", |stage, c| {
            let path = stage.file("process.json");
            std::fs::write(&path, r#"{ "cwd": "/", "args": [] }"#).unwrap();
            refused(stage, c, &["--process", path.to_str().unwrap()], &[]);
        }),
        inside("file-of-no-json", |stage, c| {
            let path = stage.file("process.json");
            std::fs::write(&path, "args: ls").unwrap();
            refused(stage, c, &["--process", path.to_str().unwrap()], &[]);
        }),
        inside("detached", |stage, c| {
            let pid = stage.file("pid");
            let words = ["exec", "--detach", "--pid-file", pid.to_str().unwrap()];
            let null = || open_for_writing("/dev/null");
            let exec = c.invocation(&words, &["/bin/sh", "-c", "exit 6"]);
            let outcome = exec.stdout(null()).stderr(null()).run();
            stage.note(format!("exit {}", outcome.code()));
            let text = std::fs::read_to_string(&pid).unwrap_or_default();
            let pid = text.parse().ok().and_then(rustix::process::Pid::from_raw).expect("a number");
            stage.note(format!("it ended with {}", integration_tests::detached::reap(pid)));
        }),
        inside("background-child-is-not-waited-for", |stage, c| {
            shell(stage, c, &[], "sleep 600 >/dev/null 2>&1 </dev/null & echo early; exit 2");
        }),
        inside("burst", |stage, c| {
            let outcome = c.command(&["exec"], &["head", "-c", "3000000", "/dev/zero"]);
            stage.note(format!("{} bytes, exit {}", outcome.stdout.len(), outcome.code()));
        }),
        inside("both-streams", |stage, c| {
            shell(stage, c, &[], "echo a; echo b >&2; echo c; exit 1");
        }),
        inside("stdout-is-closed", |stage, c| {
            let exec = c.invocation(&["exec"], &["/bin/sh", "-c", "echo x; echo seen >&2; exit 4"]);
            let outcome = exec.stdout(Output::Closed).run();
            stage.note(format!("seen: {}", outcome.err().contains("seen")));
        }),
        inside("container-goes-on", |stage, c| {
            refused(stage, c, &[], &["/no/such"]);
            stage.status(c);
        }),
    ],
};
