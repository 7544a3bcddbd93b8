//! The commands of a container's life, in the right order and in wrong ones.

use integration_tests::detached::Detached;
use integration_tests::differential::{Group, Stage, inside, part, scene};
use integration_tests::{Bundle, command::open_for_writing};
use serde_json::{Value, json};

/// Says so, and ends when it is told to.
const WAITS: &str = "trap 'exit 7' TERM; echo up; while :; do sleep 600 & wait $!; done";

/// What engines read of a state, without what differs from run to run.
fn note_state(stage: &mut Stage, container: &Detached, bundle: &Bundle) {
    let state = container.state();
    let path = bundle.path("");
    let path = path.to_str().unwrap_or_default().trim_end_matches('/');
    stage.note(format!("its own id: {}", state["id"] == container.id()));
    stage.note(format!("status {}", state["status"]));
    stage.note(format!("its own bundle: {}", state["bundle"] == path));
    stage.note(format!("annotations {}", state["annotations"]));
    let pid = state["pid"].as_i64().unwrap_or(0);
    stage.note(format!("pid: {}", if pid > 0 { "one" } else { "none" }));
    let is_named = pid == 0 || pid == i64::from(container.pid().as_raw_nonzero().get());
    stage.note(format!("the pid of the file: {is_named}"));
}

/// From its creation to the next container with its id.
fn whole_life(stage: &mut Stage) {
    let bundle = stage.shared().script(WAITS).edit(|config| {
        config["annotations"] = json!({ "org.example.key": "value", "another": "" });
    });
    let container = stage.create(&bundle);
    stage.part("state-created");
    note_state(stage, &container, &bundle);
    stage.part("program-waits-for-start");
    stage.note(format!("it said {:?}", container.text("stdout")));
    stage.part("created-takes-no-resume");
    stage.command(&container, &["resume"], &[]);
    stage.part("start");
    stage.command(&container, &["start"], &[]);
    container.wait_for_stdout("up\n");
    stage.part("state-running");
    note_state(stage, &container, &bundle);
    stage.part("state-version");
    stage.note(&container.state()["ociVersion"]);
    stage.part("kill");
    stage.command(&container, &["kill"], &["TERM"]);
    stage.wait(&container);
    stage.part("state-stopped");
    note_state(stage, &container, &bundle);
    stage.part("ended-takes-no-start");
    stage.command(&container, &["start"], &[]);
    stage.part("ended-takes-no-signal");
    stage.command(&container, &["kill"], &["TERM"]);
    stage.command(&container, &["kill"], &["KILL"]);
    stage.part("ended-takes-signals-to-all");
    stage.command(&container, &["kill", "--all"], &["KILL"]);
    stage.command(&container, &["kill", "--all"], &["0"]);
    stage.part("ended-takes-no-exec");
    let exec = container.command(&["exec"], &["true"]);
    stage.note(format!("refused: {}", exec.code() != 0));
    stage.part("ended-takes-no-pause");
    stage.command(&container, &["pause"], &[]);
    stage.part("ended-takes-no-resume");
    stage.command(&container, &["resume"], &[]);
    stage.part("delete");
    stage.command(&container, &["delete"], &[]);
    stage.part("deleted-has-no-state");
    stage.command(&container, &["state"], &[]);
    stage.part("deleted-is-not-deleted-again");
    stage.command(&container, &["delete"], &[]);
    stage.part("deleted-is-deleted-by-force");
    stage.command(&container, &["delete", "--force"], &[]);
    stage.part("deleted-takes-no-call");
    stage.command(&container, &["start"], &[]);
    stage.command(&container, &["kill"], &["KILL"]);
    stage.command(&container, &["pause"], &[]);
    stage.part("id-is-free-again");
    let bundle = stage.shared().args(&["echo", "ran"]);
    let run = stage.invocation(&["run"]).args(stage.small()).args(&["--bundle"]);
    stage.note_run(&run.arg(bundle.write()).arg(container.id()).run());
}

/// A container that is never started.
fn never_started(stage: &mut Stage) {
    let container = stage.create(&stage.shared().script("echo ran; exit 3"));
    stage.part("created-outlives-sigterm");
    stage.command(&container, &["kill"], &["TERM"]);
    stage.status(&container);
    stage.part("created-is-killed");
    stage.command(&container, &["kill"], &["KILL"]);
    stage.wait(&container);
    stage.status(&container);
    stage.note(container.text("stdout"));
    container.delete();
    stage.part("created-is-deleted");
    let container = stage.create(&stage.shared());
    stage.command(&container, &["delete"], &[]);
    stage.wait(&container);
    stage.command(&container, &["state"], &[]);
}

/// A container that `run` leaves behind.
fn left_behind(stage: &mut Stage) {
    let bundle = stage.shared().script(WAITS);
    let container = stage.leave(&bundle, &["run", "--detach"]);
    stage.part("run-detached");
    container.wait_for_stdout("up\n");
    stage.status(&container);
    stage.part("second-create-with-its-id");
    let again = stage.invocation(&["create", "--bundle"]).arg(bundle.write());
    let outcome = again.arg(container.id()).stdout(open_for_writing("/dev/null")).run();
    stage.note(format!("refused: {}", outcome.code() != 0));
    stage.status(&container);
    stage.part("forced-while-running");
    stage.command(&container, &["delete", "--force"], &[]);
    stage.wait(&container);
    stage.command(&container, &["state"], &[]);
}

/// One run with all that a run can be given.
fn with_options(stage: &mut Stage) {
    let (root, file) = (stage.file("root"), stage.file("pid"));
    let bundle = stage.shared().args(&["echo", "ran"]);
    let run = stage.invocation(&["--root"]).arg(&root).args(&["run"]).args(stage.small());
    let run = run.args(&["--pid-file"]).arg(&file).args(&["--bundle"]).arg(bundle.write());
    let outcome = run.arg("A_b+c.d").run();
    stage.part("root-of-its-own");
    stage.note_run(&outcome);
    stage.part("name-of-all-letters");
    stage.note_run(&outcome);
    stage.part("pid-file");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    stage.note(format!("a number: {}", text.parse::<u32>().is_ok()));
    let left = std::fs::read_dir(&root).map_or(0, |entries| {
        let names = entries.flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().contains("A_b")).count()
    });
    stage.part("root-is-clean");
    stage.note(format!("{left} left"));
    stage.part("kept-after-its-end");
    let in_root = |words: &[&str]| stage.invocation(&["--root"]).arg(&root).args(words);
    let run = in_root(&["run", "--keep"]).args(stage.small()).args(&["--bundle"]);
    let ran = run.arg(bundle.write()).arg("kept").run();
    let state = in_root(&["state", "kept"]).run();
    let state: Value = serde_json::from_str(state.out()).unwrap_or_default();
    let deleted = in_root(&["delete", "kept"]).run().code() == 0;
    let gone = in_root(&["state", "kept"]).run().code() != 0;
    stage.note_run(&ran);
    stage.note(format!("{}, deleted: {deleted}, gone: {gone}", state["status"]));
}

fn ran(stage: &Stage, id: &str) -> bool {
    let bundle = stage.shared().args(&["echo", "ran"]);
    let run = stage.invocation(&["run", "--bundle"]).arg(bundle.write());
    run.args(&["--", id]).run().out() == "ran\n"
}

fn refused(stage: &mut Stage, words: &[&str]) {
    let outcome = stage.invocation(words).run();
    stage.note(format!("{}: refused {}", words.join(" "), outcome.code() != 0));
}

/// Whole lives.
pub(crate) const LIFE: Group = Group {
    name: "life",
    bundle: |stage| stage.shared(),
    stories: &[whole_life, never_started, left_behind, with_options],
    cases: &[
        part("state-created"),
        part("program-waits-for-start"),
        part("created-takes-no-resume").differs("resume-of-a-running-one"),
        part("start"),
        part("state-running"),
        part("state-version").differs("state-version"),
        part("kill"),
        part("state-stopped"),
        part("ended-takes-no-start"),
        part("ended-takes-no-signal"),
        part("ended-takes-signals-to-all"),
        part("ended-takes-no-exec"),
        part("ended-takes-no-pause"),
        part("ended-takes-no-resume"),
        part("delete"),
        part("deleted-has-no-state"),
        part("deleted-is-not-deleted-again"),
        part("deleted-is-deleted-by-force"),
        part("deleted-takes-no-call"),
        part("id-is-free-again"),
        part("created-outlives-sigterm"),
        part("created-is-killed"),
        part("created-is-deleted"),
        part("run-detached"),
        part("second-create-with-its-id"),
        part("forced-while-running"),
        part("root-of-its-own"),
        part("name-of-all-letters"),
        part("pid-file"),
        part("root-is-clean"),
        part("kept-after-its-end"),
        scene("program-missing-at-create", |stage| {
            let bundle = stage.shared().args(&["/bin/missing"]);
            let (container, outcome) = stage.try_leave(&bundle, &["create"]);
            stage.note(format!("created: {}", outcome.code() == 0));
            let left = container.command(&["state"], &[]).code() == 0;
            stage.note(format!("left: {left}"));
        }),
        scene("names-that-lead-elsewhere", |stage| {
            for id in ["a/b", "..", "/", "../../x"] {
                stage.note(format!("{id:?} ran: {}", ran(stage, id)));
            }
        }),
        scene("name-of-nothing", |stage| stage.note(format!("ran: {}", ran(stage, "")))),
        scene("name-of-two-words", |stage| stage.note(format!("ran: {}", ran(stage, "two words"))))
            .differs("ids"),
        scene("name-beyond-ascii", |stage| stage.note(format!("ran: {}", ran(stage, "ü"))))
            .differs("ids"),
        scene("name-of-one-dot", |stage| stage.note(format!("ran: {}", ran(stage, ".")))),
        scene("name-with-a-sign", |stage| stage.note(format!("ran: {}", ran(stage, "@x"))))
            .differs("ids"),
        scene("state-of-nobody", |stage| refused(stage, &["state", "nobody"])),
        scene("start-of-nobody", |stage| refused(stage, &["start", "nobody"])),
        scene("kill-of-nobody", |stage| refused(stage, &["kill", "nobody"])),
        scene("delete-of-nobody", |stage| refused(stage, &["delete", "nobody"])),
        scene("forced-delete-of-nobody", |stage| refused(stage, &["delete", "-f", "nobody"])),
        scene("pause-of-nobody", |stage| refused(stage, &["pause", "nobody"])),
        scene("exec-of-nobody", |stage| refused(stage, &["exec", "nobody", "true"])),
        scene("without-an-id", |stage| {
            for verb in ["state", "start", "create", "kill", "delete"] {
                refused(stage, &[verb]);
            }
        }),
        scene("command-that-is-none", |stage| refused(stage, &["frobnicate", "x"])),
        scene("option-that-is-none", |stage| {
            refused(stage, &["run", "--frob", "x"]);
            refused(stage, &["--frob", "list"]);
        }),
        scene("descriptors-are-handed-in", |stage| {
            let bundle = stage.shared().script("echo ran");
            let run = stage.invocation(&["run", "--preserve-fds", "1", "--bundle"]);
            let run = run.arg(bundle.write()).arg(stage.new_id());
            let run = run.through(&["sh", "-c", "exec \"$@\" 3</dev/null", "sh"]);
            stage.note_run(&run.run());
        })
        .differs("preserved-descriptors"),
        scene("descriptors-of-the-environment", |stage| {
            let bundle = stage.shared().script("echo ran; echo $LISTEN_FDS");
            let run = stage.invocation(&["run", "--bundle"]).arg(bundle.write());
            let run = run.arg(stage.new_id());
            let run = run.through(&["sh", "-c", "LISTEN_FDS=1 exec \"$@\" 3</dev/null", "sh"]);
            stage.note_run(&run.run());
        })
        .differs("preserved-descriptors"),
        scene("socket-for-notices", |stage| {
            let bundle = stage.writable().script("echo ran; echo ${NOTIFY_SOCKET:+told}");
            let run = stage.invocation(&["run"]).args(stage.small()).args(&["--bundle"]);
            let run = run.arg(bundle.write()).arg(stage.new_id());
            let script = "NOTIFY_SOCKET=/run/for-notices exec \"$@\"";
            stage.note_run(&run.through(&["sh", "-c", script, "sh"]).run());
        })
        .differs("notify-socket"),
        scene("pid-file-that-cannot-be", |stage| {
            let bundle = stage.shared().args(&["echo", "ran"]);
            let run = stage.invocation(&["run", "--pid-file", "/no/such/file", "--bundle"]);
            let outcome = run.arg(bundle.write()).arg(stage.new_id()).run();
            stage.note(format!("good: {}", outcome.code() == 0));
        }),
    ],
};

/// Calls of a container that runs.
pub(crate) const RUNNING: Group = Group {
    name: "running",
    bundle: |stage| stage.shared(),
    stories: &[],
    cases: &[
        inside("start-again", |stage, container| {
            stage.command(container, &["start"], &[]);
            stage.status(container);
        }),
        inside("delete", |stage, container| {
            stage.command(container, &["delete"], &[]);
            stage.status(container);
        }),
        inside("resume", |stage, container| {
            stage.command(container, &["resume"], &[]);
        })
        .differs("resume-of-a-running-one"),
        inside("pause-and-resume", |stage, container| {
            stage.command(container, &["pause"], &[]);
            stage.status(container);
            stage.command(container, &["resume"], &[]);
            stage.status(container);
        }),
        inside("exec-while-paused", |stage, container| {
            container.expect(&["pause"], &[]);
            let outcome = container.command(&["exec"], &["true"]);
            stage.note(format!("refused: {}", outcome.code() != 0));
            container.expect(&["resume"], &[]);
        }),
        inside("delete-while-paused", |stage, container| {
            container.expect(&["pause"], &[]);
            stage.command(container, &["delete"], &[]);
            container.expect(&["resume"], &[]);
        }),
        inside("list-has-it", |stage, container| {
            let outcome = stage.invocation(&["list"]).run();
            let row = outcome.out().lines().find(|line| line.starts_with(container.id()));
            stage.note(format!("running: {}", row.is_some_and(|row| row.contains("running"))));
        }),
        inside("list-of-ids", |stage, container| {
            let outcome = stage.invocation(&["list", "--quiet"]).run();
            let is_named = outcome.out().lines().any(|line| line == container.id());
            stage.note(format!("named: {is_named}"));
        }),
        inside("list-as-json", |stage, container| {
            let outcome = stage.invocation(&["list", "--format", "json"]).run();
            let list: Value = serde_json::from_str(outcome.out()).unwrap_or_default();
            let all = list.as_array().cloned().unwrap_or_default();
            let own = all.iter().find(|entry| entry["id"] == container.id());
            let status = own.map(|entry| entry["status"].clone()).unwrap_or_default();
            stage.note(format!("status {status}"));
        }),
        inside("list-in-a-form-that-is-none", |stage, _| {
            let outcome = stage.invocation(&["list", "--format", "poem"]).run();
            stage.note(format!("refused: {}", outcome.code() != 0));
        }),
        inside("state-takes-no-more-words", |stage, container| {
            let outcome = container.command(&["state"], &["more"]);
            stage.note(format!("refused: {}", outcome.code() != 0));
        }),
    ],
};
