//! The standard streams of `run`.

use std::io::Read;

use integration_tests::command::open_for_writing;
use integration_tests::differential::{Group, Stage, part, scene};
use integration_tests::{Invocation, Output};

fn run(stage: &Stage, script: &str) -> Invocation {
    stage.run_of(stage.shared().script(script))
}

/// Pipes on all three.
fn pipes(stage: &mut Stage) {
    let script = "cat; echo end $?
        echo again >/dev/stdout; echo errors >/proc/self/fd/2
        for n in 0 1 2; do test -p /proc/self/fd/$n && echo pipe $n; done; tty; exit 3";
    let outcome = run(stage, script).stdin("one\ntwo").run();
    let out = outcome.out();
    stage.part("input");
    stage.note(out.split("again").next().unwrap_or_default());
    stage.part("output-is-opened-again");
    stage.note(format!("{} {}", out.contains("again\n"), outcome.err().contains("errors\n")));
    stage.part("kind-of-streams");
    stage.note(out.matches("pipe").count());
    stage.part("no-terminal");
    stage.note(out.contains("not a tty"));
    stage.part("status");
    stage.note(outcome.code());
}

/// A file to be read, and one to be appended to.
fn files(stage: &mut Stage) {
    let (from, to) = (stage.file("input"), stage.file("output"));
    std::fs::write(&from, "of a file\n").unwrap();
    std::fs::write(&to, "before\n").unwrap();
    let input = Output::Descriptor(std::fs::File::open(&from).unwrap().into());
    let run = run(stage, "cat; echo end").stdin_from(input).stdout(open_for_writing(&to));
    let outcome = run.run();
    let text = std::fs::read_to_string(&to).unwrap();
    stage.part("input-is-a-file");
    stage.note(format!("{} exit {}", text.contains("of a file\nend\n"), outcome.code()));
    stage.part("output-is-appended-to");
    stage.note(text);
}

/// /dev/null for input and output.
fn nulls(stage: &mut Stage) {
    let null = Output::Descriptor(std::fs::File::open("/dev/null").unwrap().into());
    let run = run(stage, "echo lost; cat; echo read $? >&2; exit 4").stdin_from(null);
    let outcome = run.stdout(open_for_writing("/dev/null")).run();
    stage.part("input-is-null");
    stage.note(outcome.err());
    stage.part("output-is-null");
    stage.note(format!("exit {}", outcome.code()));
}

/// A reader that does not read to the end.
fn broken(stage: &mut Stage) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let run = run(stage, "(yes; echo $? >&2); exit 5").stdout(Output::Descriptor(writer.into()));
    let running = run.start();
    reader.read_exact(&mut [0; 4096]).unwrap();
    drop(reader);
    let outcome = running.finish();
    stage.part("reader-goes-away");
    stage.note(outcome.err().lines().next().unwrap_or_default());
    stage.part("reader-goes-away-and-the-status");
    stage.note(format!("exit {}", outcome.code()));
}

/// Where output goes, and where input comes from.
pub(crate) const STREAMS: Group = Group {
    name: "streams",
    bundle: |stage| stage.shared(),
    stories: &[pipes, files, nulls, broken],
    cases: &[
        part("input"),
        part("output-is-opened-again"),
        part("kind-of-streams"),
        part("no-terminal"),
        part("status"),
        part("input-is-a-file"),
        part("output-is-appended-to"),
        part("input-is-null"),
        part("output-is-null"),
        part("reader-goes-away"),
        part("reader-goes-away-and-the-status").differs("lost-output"),
        scene("input-ends", |stage| {
            let mut running = run(stage, "echo ran; cat; echo end").stdin_held().start();
            running.wait_for_stdout("ran\n");
            running.write(b"part\n");
            running.wait_for_stdout("part\n");
            running.close_stdin();
            stage.note_run(&running.finish());
        }),
        scene("input-is-not-read", |stage| {
            let outcome = run(stage, "echo ran").stdin(vec![b'x'; 1 << 20]).run();
            stage.note_run(&outcome);
        }),
        scene("input-is-closed", |stage| {
            let run = run(stage, "echo ran; cat 2>&1; echo $?").stdin_from(Output::Closed);
            stage.note_run(&run.run());
        })
        .differs("closed-streams"),
        // A closed output is not here: crun hands on one of its own files in its place, the program
        // writes over it, and what becomes of crun then is chance. `tests/stdio.rs` has it.
        scene("output-is-full", |stage| {
            let run = run(stage, "echo lost; sleep 0.5; echo seen >&2; exit 4");
            let outcome = run.stdout(open_for_writing("/dev/full")).run();
            stage.note(format!("{}, exit {}", outcome.err().contains("seen\n"), outcome.code()));
        })
        .differs("lost-output"),
        scene("burst", |stage| {
            let outcome = run(stage, "head -c 4000000 /dev/zero; printf LAST; exit 3").run();
            let ends = outcome.stdout.ends_with(b"\0LAST");
            stage.note(format!("{} bytes, {ends}, exit {}", outcome.stdout.len(), outcome.code()));
        }),
        scene("child-that-holds-output", |stage| {
            let script = "echo ran; (trap '' HUP TERM; sleep 600) & exit 6";
            let outcome = run(stage, script).run();
            stage.note_run(&outcome);
        }),
    ],
};
