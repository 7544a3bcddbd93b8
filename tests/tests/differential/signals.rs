//! `kill`: which signals, and to whom.

use integration_tests::detached::Detached;
use integration_tests::differential::{Group, Stage, inside, part, scene};

/// Tells each signal that it can.
const TELLS: &str =
    "for s in HUP INT QUIT USR1 USR2 ALRM CONT WINCH; do trap \"echo got $s\" $s; done
trap 'echo got RTMIN+1' 35; trap 'echo got TERM; exit 7' TERM
echo up; while :; do sleep 0.05; done";

/// Sends a signal that arrives as `name`, unless it is refused.
fn told(stage: &mut Stage, container: &Detached, signal: &str, name: &str) {
    let before = container.text("stdout").matches(name).count();
    if stage.command(container, &["kill"], &[signal]).code() == 0 {
        container.wait_for_stdout(&format!("got {name}\n").repeat(before + 1));
        stage.note(format!("got {name}"));
    }
}

fn each_of_them(stage: &mut Stage) {
    let container = stage.start(&stage.shared().script(TELLS));
    stage.part("by-name");
    told(stage, &container, "USR1", "USR1");
    stage.part("by-long-name");
    told(stage, &container, "SIGUSR2", "USR2");
    stage.part("by-number");
    told(stage, &container, "14", "ALRM");
    stage.part("hang-up");
    told(stage, &container, "HUP", "HUP");
    stage.part("interrupt");
    told(stage, &container, "INT", "INT");
    stage.part("window-change");
    told(stage, &container, "WINCH", "WINCH");
    stage.part("continue");
    told(stage, &container, "CONT", "CONT");
    stage.part("in-small-letters");
    told(stage, &container, "sigquit", "QUIT");
    stage.part("of-real-time");
    told(stage, &container, "35", "RTMIN+1");
    stage.part("of-real-time-by-name");
    stage.command(&container, &["kill"], &["SIGRTMIN+1"]);
    stage.part("by-default");
    stage.command(&container, &["kill"], &[]);
    stage.wait(&container);
}

/// To a program that catches nothing.
fn uncaught(stage: &mut Stage) {
    let container = stage.start(&stage.shared().script("echo up; exec sleep 600"));
    for (name, signal) in
        [("uncaught-term", "TERM"), ("uncaught-usr1", "USR1"), ("uncaught-stop", "STOP")]
    {
        stage.part(name);
        stage.command(&container, &["kill"], &[signal]);
        stage.status(&container);
    }
    stage.part("uncaught-kill");
    stage.command(&container, &["kill"], &["KILL"]);
    stage.wait(&container);
}

fn refused(stage: &mut Stage, container: &Detached, signal: &str) {
    let outcome = container.command(&["kill"], &[signal]);
    stage.note(format!("{signal}: refused {}", outcome.code() != 0));
    stage.status(container);
}

/// Which signals reach whom.
pub(crate) const SIGNALS: Group = Group {
    name: "signal",
    bundle: |stage| stage.shared(),
    stories: &[each_of_them, uncaught],
    cases: &[
        part("by-name"),
        part("by-long-name"),
        part("by-number"),
        part("hang-up"),
        part("interrupt"),
        part("window-change"),
        part("continue"),
        part("in-small-letters").differs("signal-names"),
        part("of-real-time"),
        part("of-real-time-by-name"),
        part("by-default"),
        part("uncaught-term"),
        part("uncaught-usr1"),
        part("uncaught-stop"),
        part("uncaught-kill"),
        scene("kill-ends-all", |stage| {
            let script = "(trap '' TERM; while :; do sleep 1; done) & echo up; wait";
            let container = stage.start(&stage.shared().script(script));
            stage.command(&container, &["kill"], &["KILL"]);
            stage.wait(&container);
            stage.status(&container);
        }),
        scene("first-process-only", |stage| {
            let child = "sh -c 'trap \"echo child\" TERM; while :; do sleep 0.05; done'";
            let first = "trap 'echo first; sleep 1; exit 5' TERM";
            let script =
                format!("{child} & {first}; sleep 0.5; echo up; while :; do sleep 0.05; done");
            let container = stage.start(&stage.shared().script(&script));
            stage.command(&container, &["kill"], &["TERM"]);
            stage.wait(&container);
            stage.note(container.text("stdout"));
        }),
        scene("all", |stage| {
            let child = "sh -c 'trap \"echo child; exit 3\" TERM; while :; do sleep 0.05; done'";
            let first = "trap 'wait; echo first; exit 5' TERM";
            let script =
                format!("{child} & {first}; sleep 0.5; echo up; while :; do sleep 0.05; done");
            let container = stage.start(&stage.shared().script(&script));
            stage.command(&container, &["kill", "--all"], &["TERM"]);
            stage.wait(&container);
            let text = container.text("stdout");
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            stage.note(lines.join(" "));
        }),
        scene("all-without-a-pid-namespace", |stage| {
            let bundle = stage.shared().script("(sleep 600) & (sleep 600) & echo up; wait");
            let bundle = bundle.edit(|config| {
                let list = config["linux"]["namespaces"].as_array_mut().unwrap();
                list.retain(|namespace| namespace["type"] != "pid");
            });
            let container = stage.start(&bundle);
            stage.command(&container, &["kill", "--all"], &["KILL"]);
            stage.wait(&container);
        }),
        inside("unknown-name", |stage, container| refused(stage, container, "SIGNOTHING")),
        inside("too-large", |stage, container| refused(stage, container, "65")),
        inside("negative", |stage, container| refused(stage, container, "-9")),
        inside("of-nothing", |stage, container| refused(stage, container, "")),
        inside("zero", |stage, container| {
            stage.command(container, &["kill"], &["0"]);
            stage.status(container);
        }),
        inside("two", |stage, container| {
            let outcome = container.command(&["kill"], &["USR1", "USR2"]);
            stage.note(format!("refused {}", outcome.code() != 0));
            stage.status(container);
        }),
        scene("to-a-foreground-run", |stage| {
            let script = "trap 'echo got; exit 6' TERM; echo ran; while :; do sleep 0.05; done";
            let running = stage.run_of(stage.shared().script(script)).start();
            running.wait_for_stdout("ran\n");
            running.signal(rustix::process::Signal::TERM);
            stage.note_run(&running.finish());
        }),
    ],
};
