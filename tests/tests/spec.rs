//! The commands of README.md: a bundle from nothing, by `ringfence spec`, and a shell in it.

use integration_tests::terminal::Terminal;
use integration_tests::{Invocation, Lab, Root};
use serde_json::Value;

#[test]
fn a_bundle_made_by_spec_runs_a_shell_on_a_terminal_in_both_runtimes() {
    let lab = Lab::enter();
    let bundle = lab.bundle(Root::Copied("busybox"));
    let directory = bundle.path("");
    let spec = || Invocation::new("ringfence").args(&["spec", "--bundle"]).arg(&directory).run();
    spec().expect_code(0);
    let text = std::fs::read_to_string(bundle.path("config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).expect("spec writes JSON");
    assert_eq!(config["process"]["terminal"], true);
    assert_eq!(config["root"]["path"], "rootfs");

    // What somebody has edited is not overwritten.
    std::fs::write(bundle.path("config.json"), text.replace("\"sh\"", "\"/bin/sh\"")).unwrap();
    let again = spec();
    assert_ne!(again.code(), 0, "{again}");
    again.expect_error("config.json");

    for program in ["ringfence", "crun"] {
        let mut terminal = Terminal::new(80, 24);
        let run = Invocation::new(program).args(&["run", "--bundle"]).arg(&directory);
        let running = terminal.start(run.arg(lab.new_id()));
        terminal.write(b"echo pid $$ in $PWD; exit 7\r");
        terminal.wait_for("pid 1 in /");
        running.finish().expect_code(7);
    }
}

#[test]
fn help_and_version_are_answers_and_not_errors() {
    let lab = Lab::enter();
    for arguments in [&["--help"][..], &["--version"], &["run", "--help"], &["help"]] {
        let outcome = Invocation::new("ringfence").args(arguments).run();
        outcome.expect_code(0);
        assert!(!outcome.stdout.is_empty() && outcome.stderr.is_empty(), "{outcome}");
    }
    // A container that does not exist and a command that does not: both are refused by name.
    for verb in ["start", "state", "kill", "delete", "ps", "events", "update"] {
        let outcome = Invocation::new("ringfence").args(&[verb, "some-id"]).run();
        assert_ne!(outcome.code(), 0, "{outcome}");
        outcome.expect_error("some-id");
    }
    for verb in ["checkpoint", "restore"] {
        let outcome = Invocation::new("ringfence").args(&[verb, "some-id"]).run();
        assert_ne!(outcome.code(), 0, "{outcome}");
        outcome.expect_error(verb);
    }
    lab.expect_nothing_left();
}
