//! `hooks`.

use integration_tests::Bundle;
use integration_tests::differential::{Group, Stage, part, scene, set};
use serde_json::{Value, json};

const ALL: [&str; 4] = ["prestart", "createRuntime", "poststart", "poststop"];

fn hook(script: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script] })
}

/// A bundle whose hooks write their names to a file, and the file.
fn told(stage: &Stage, names: &[&str]) -> Bundle {
    let log = stage.file("log");
    stage.shared().script("echo ran; exit 3").edit(|config| {
        for name in names {
            config["hooks"][name] = json!([hook(&format!("echo {name} >>{}", log.display()))]);
        }
    })
}

fn note_log(stage: &mut Stage) {
    stage.note(std::fs::read_to_string(stage.file("log")).unwrap_or_default());
}

/// Runs a bundle whose hook `name` is `hook`, with all others telling.
fn with(stage: &mut Stage, name: &str, hook: &Value) {
    let bundle = told(stage, &ALL).edit(|config| config["hooks"][name] = json!([hook]));
    let outcome = stage.lab().runtime(stage.runtime(), &bundle, stage.small()).run();
    stage.note(format!("done: {}, ran: {}", outcome.code() == 3, outcome.out().contains("ran")));
    note_log(stage);
}

fn fails() -> Value {
    hook("exit 9")
}

/// A bundle with a `startContainer` hook, whose program shows what the hook has written.
fn inside(stage: &Stage, script: &str) -> Bundle {
    stage.shared().script("echo ran; cat /dev/shm/told").edit(|config| {
        let script = format!("umask 0; {{ {script}; }} >/dev/shm/told");
        config["annotations"] = json!({ "org.example": "1" });
        config["hooks"]["startContainer"] = json!([hook(&script)]);
    })
}

/// When hooks run, and with what.
fn moments(stage: &mut Stage) {
    let log = stage.file("log");
    let bundle = stage.shared().script("echo up; exec sleep 600").edit(|config| {
        config["annotations"] = json!({ "org.example": "1" });
        for name in ALL {
            let first = hook(&format!("echo {name} >>{0}; cat >>{0}; echo >>{0}", log.display()));
            let second = hook(&format!("echo {name} again >>{}", log.display()));
            config["hooks"][name] = json!([first, second]);
        }
        let script = format!("env | grep -v -e PWD -e SHLVL -e ^_= >{}.env", log.display());
        let mut hook = hook(&script);
        hook["env"] = json!(["A=b", "C="]);
        let hooks = config["hooks"]["prestart"].as_array_mut().unwrap();
        hooks.push(hook);
        let script = format!("echo $PATH >{}.path; test -n \"$PATH\"", log.display());
        hooks.push(self::hook(&script));
    });
    let told = || std::fs::read_to_string(&log).unwrap_or_default();
    let names = |text: &str| -> String {
        text.lines()
            .filter(|line| !line.starts_with('{') && !line.is_empty())
            .fold(String::new(), |all, name| format!("{all}{name}\n"))
    };
    let container = stage.create(&bundle);
    stage.part("at-create");
    stage.note(names(&told()));
    container.expect(&["start"], &[]);
    container.wait_for_stdout("up\n");
    stage.part("at-start");
    stage.note(names(&told()));
    container.expect(&["kill"], &["KILL"]);
    container.wait();
    stage.part("at-the-end");
    stage.note(names(&told()));
    container.delete();
    stage.part("at-delete");
    stage.note(names(&told()));
    let text = told();
    stage.part("state");
    for state in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let path = bundle.path("");
        let own = state["bundle"] == path.to_str().unwrap_or_default().trim_end_matches('/');
        stage.note(format!("{} {} own bundle {own}", state["status"], state["annotations"]));
    }
    stage.part("environment");
    stage.note(std::fs::read_to_string(format!("{}.env", log.display())).unwrap_or_default());
    stage.part("environment-of-the-command");
    let path = std::fs::read_to_string(format!("{}.path", log.display())).unwrap_or_default();
    stage.note(format!("own {}", path.trim_end() == std::env::var("PATH").unwrap_or_default()));
}

/// When hooks run, with what, and what their failures do.
pub(crate) const HOOKS: Group = Group {
    name: "hooks",
    bundle: |stage| stage.shared(),
    stories: &[moments],
    cases: &[
        part("at-create"),
        part("at-start"),
        part("at-the-end"),
        part("at-delete"),
        part("state"),
        part("environment"),
        part("environment-of-the-command"),
        scene("of-run", |stage| {
            let bundle = told(stage, &ALL);
            stage.run(&bundle);
            note_log(stage);
        }),
        scene("prestart-fails", |stage| with(stage, "prestart", &fails())),
        scene("create-runtime-fails", |stage| with(stage, "createRuntime", &fails())),
        scene("poststart-fails", |stage| with(stage, "poststart", &fails()))
            .differs("poststart-failure"),
        scene("poststop-fails", |stage| with(stage, "poststop", &fails())),
        scene("program-missing", |stage| with(stage, "prestart", &json!({ "path": "/no/such" }))),
        scene("takes-too-long", |stage| {
            // crun ends the hook and not its children.
            let mut hook = hook("sleep 20");
            hook["timeout"] = json!(1);
            with(stage, "createRuntime", &hook);
        }),
        scene("create-container", |stage| {
            let log = stage.file("log");
            let bundle = told(stage, &[]).edit(|config| {
                let script = format!("echo createContainer >>{}", log.display());
                config["hooks"]["createContainer"] = json!([hook(&script)]);
            });
            stage.run(&bundle);
        })
        .differs("hooks-inside"),
        scene("start-container", |stage| {
            let look = "id -u; id -g; pwd; hostname; grep -e ^Cap -e ^NoNew -e ^Seccomp: \
                        /proc/self/status; ulimit -n; readlink /proc/self/ns/pid | cut -c1-4; \
                        ls -d /proc/1; echo not seen";
            stage.run(&inside(stage, look).edit(|config| {
                config["process"]["user"] = json!({ "uid": 7, "gid": 8, "umask": 0o27 });
                config["process"]["cwd"] = json!("/tmp");
            }));
        }),
        scene("start-container-environment", |stage| {
            stage.run(&inside(stage, "env | grep -v -e PWD -e SHLVL -e ^_= -e HOME | sort"));
            stage.run(&inside(stage, "env | grep -v -e PWD -e SHLVL -e ^_= | sort").edit(
                |config| {
                    config["hooks"]["startContainer"][0]["env"] = json!(["A=b", "C="]);
                },
            ));
        }),
        scene("start-container-state", |stage| {
            let bundle = inside(stage, "cat");
            let outcome = stage.lab().runtime(stage.runtime(), &bundle, stage.small()).run();
            let told = outcome.out().trim_start_matches("ran\n");
            let state: Value = serde_json::from_str(told).unwrap_or_default();
            let path = bundle.path("");
            let own = state["bundle"] == path.to_str().unwrap_or_default().trim_end_matches('/');
            stage.note(format!(
                "{} {} {} own bundle {own}",
                state["status"], state["pid"], state["annotations"]
            ));
        })
        .as_runc(),
        scene("start-container-at-start", |stage| {
            let bundle = inside(stage, "date +%N").script("echo up; cat /dev/shm/told | wc -l");
            let container = stage.create(&bundle);
            stage.note(format!("output at create: {:?}", container.text("stdout")));
            container.expect(&["start"], &[]);
            container.wait();
            stage.note(container.text("stdout"));
            container.delete();
        }),
        scene("start-container-fails", |stage| with(stage, "startContainer", &fails()))
            .differs("start-hook-failure"),
        scene("start-container-missing", |stage| {
            with(stage, "startContainer", &json!({ "path": "/no/such" }));
        })
        .differs("start-hook-failure"),
        scene("start-container-takes-too-long", |stage| {
            let mut hook = hook("sleep 20");
            hook["timeout"] = json!(1);
            with(stage, "startContainer", &hook);
        })
        .differs("start-hook-failure"),
        scene("start-container-left-behind", |stage| {
            // What a hook leaves running lives on in the container.
            let script = "sleep 600 </dev/null >/dev/null 2>&1 & :";
            stage.run(&inside(stage, script).script("echo ran; pidof sleep | wc -w"));
        }),
        scene("fails-at-create", |stage| {
            let bundle =
                told(stage, &[]).edit(|config| config["hooks"]["createRuntime"] = json!([fails()]));
            let (container, outcome) = stage.try_leave(&bundle, &["create"]);
            stage.note(format!("created: {}", outcome.code() == 0));
            let left = container.command(&["state"], &[]).code() == 0;
            stage.note(format!("left: {left}"));
        }),
        set(
            "path-is-relative",
            &[("/hooks/prestart", r#"[{ "path": "bin/true" }]"#)],
            &["hooks.prestart[0].path"],
        ),
        set(
            "path-is-missing",
            &[("/hooks/prestart", r#"[{ "args": ["x"] }]"#)],
            &["hooks.prestart[0].path"],
        ),
        set(
            "time-is-none",
            &[("/hooks/prestart", r#"[{ "path": "/bin/true", "timeout": 0 }]"#)],
            &["hooks.prestart[0].timeout"],
        )
        .differs("strict-values"),
        set(
            "time-is-negative",
            &[("/hooks/prestart", r#"[{ "path": "/bin/true", "timeout": -1 }]"#)],
            &["hooks.prestart[0].timeout"],
        ),
        set("are-an-array", &[("/hooks", "[]")], &["hooks"]).differs("strict-values"),
    ],
};
