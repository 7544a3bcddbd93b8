//! `process.terminal`.

use integration_tests::Bundle;
use integration_tests::detached::take_master;
use integration_tests::differential::{Group, Stage, part, scene};
use integration_tests::terminal::Terminal;
use serde_json::json;

fn bundle(stage: &Stage, script: &str) -> Bundle {
    stage.shared().script(script).env("TERM=xterm-test").edit(|config| {
        config["process"]["terminal"] = json!(true);
    })
}

/// What a person sees and types.
fn used(stage: &mut Stage) {
    let script = "for n in 0 1 2; do test -t $n && echo is $n; done; tty; echo $TERM; ls -l /dev/console | cut -c1
        echo @; stat -c '%a %u' $(tty)
        echo @; stty -a 2>/dev/null | grep -v -e rows -e speed
        echo @; awk '{ print $5, $6, ($7 != 0), $8 }' /proc/1/stat; echo x >/dev/tty
        echo @; echo up; read line; echo \"<$line>\"
        echo @; trap 'stty size; resized=1' WINCH; echo waiting; until test $resized; do sleep 0.05; done
        echo @; trap 'echo got INT; interrupted=1' INT; echo here; until test $interrupted; do sleep 0.05; done
        echo @; echo reads; cat; echo end; stty raw; exit 9";
    let mut terminal = Terminal::new(80, 24);
    let before = format!("{:?}", terminal.settings());
    let running = terminal.start(stage.run_of(bundle(stage, script)));
    terminal.wait_for("up\r\n");
    terminal.write(b"erased\x7f\x7f ok\r");
    terminal.wait_for("waiting\r\n");
    terminal.resize(101, 33);
    terminal.wait_for("here\r\n");
    terminal.write(b"\x03");
    terminal.wait_for("reads\r\n");
    terminal.write(b"line\r");
    terminal.wait_for("line\r\nline\r\n");
    terminal.write(b"\x04");
    let outcome = running.finish();
    let shown = terminal.shown();
    let names =
        ["is-one", "node", "settings", "session", "edits", "resize", "control-c", "control-d"];
    for (name, text) in names.into_iter().zip(shown.split("@\r\n")) {
        stage.part(name);
        // Where ^C is shown is up to the terminal.
        stage.note(text.replace("^C", ""));
    }
    stage.part("status");
    stage.note(format!("exit {}", outcome.code()));
    stage.part("is-restored");
    stage.note(format!("restored: {}", before == format!("{:?}", terminal.settings())));
}

/// What a container's terminal shows.
pub(crate) const TERMINAL: Group = Group {
    name: "terminal",
    bundle: |stage| stage.shared(),
    stories: &[used],
    cases: &[
        part("is-one"),
        part("node"),
        part("settings"),
        part("session"),
        part("edits"),
        part("resize"),
        part("control-c"),
        part("control-d"),
        part("status"),
        part("is-restored"),
        scene("of-a-user", |stage| {
            let terminal = Terminal::new(80, 24);
            let script = "id -u; stat -c '%u %a' $(tty); echo x >/dev/tty";
            let bundle = bundle(stage, script).edit(|config| {
                config["process"]["user"] = json!({ "uid": 5, "gid": 6 });
            });
            let outcome = terminal.start(stage.run_of(bundle)).finish();
            stage.note(format!("exit {}\n{}", outcome.code(), terminal.shown()));
        }),
        scene("size-of-the-bundle", |stage| {
            let bundle = bundle(stage, "stty size; read line").edit(|config| {
                config["process"]["consoleSize"] = json!({ "height": 31, "width": 93 });
            });
            let socket = stage.file("console");
            let master = take_master(&socket);
            let words = ["create", "--console-socket", socket.to_str().unwrap()];
            let container = stage.leave(&bundle, &words);
            let mut master = std::fs::File::from(master.join().unwrap());
            container.expect(&["start"], &[]);
            let mut shown = [0; 7];
            std::io::Read::read_exact(&mut master, &mut shown).unwrap();
            stage.note(String::from_utf8_lossy(&shown));
        }),
        scene("console-socket-missing", |stage| {
            let bundle = bundle(stage, "echo ran");
            let words = ["create", "--console-socket", "/no/such/socket"];
            let (_, outcome) = stage.try_leave(&bundle, &words);
            stage.note(format!("refused: {}", outcome.code() != 0));
        }),
        scene("create-without-a-socket", |stage| {
            let bundle = bundle(stage, "echo ran");
            let (_, outcome) = stage.try_leave(&bundle, &["create"]);
            stage.note(format!("refused: {}", outcome.code() != 0));
        }),
        scene("without-one-outside", |stage| {
            let outcome = stage.run_of(bundle(stage, "echo ran")).run();
            stage.note(format!("good: {}", outcome.code() == 0));
        }),
    ],
};
