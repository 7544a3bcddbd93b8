//! A guest whose agent lies to its supervisor, in each message and in between. Whatever it says, the
//! status is never 0 unless that is what an honest agent would have said, the reason is named, nothing
//! waits longer than its deadline, and the host is as it was.

mod lies;

use std::time::{Duration, Instant};

use integration_tests::command::open_for_writing;
use integration_tests::initrd::{bundle_with, cpio};
use integration_tests::{Bundle, Invocation, Lab, Outcome, Output, Root};

use lies::{
    CONFIGURE, CREATE, DONE, NEXT, START, Script, exited, failed, frame, hello, out_of_memory,
    processes_out_of_order, reply, version,
};

const REFUSED: i32 = 125;
const PROTOCOL_BROKEN: i32 = 251;
const DEADLINE: i32 = 252;

/// A machine's start, a deadline of the configuration below, and the end, on a slow host.
const LONGEST: Duration = Duration::from_secs(90);
/// Bytes of standard error, the last messages of the guest's kernel included.
const MOST_ERRORS: usize = 64 << 10;

/// What no lie may bring a terminal to act on, or one of our programs to say.
const NEVER_SAID: [&str; 4] = ["\x1b", "\x07", "panicked", "RUST_BACKTRACE"];

struct Liars {
    lab: Lab,
    program: Vec<u8>,
}

impl Liars {
    fn enter() -> Self {
        let lab = Lab::enter();
        let program = std::fs::read(lab.compile("agent", include_str!("agent.c"))).unwrap();
        let config = "boot_timeout_ms = 10000\nrequest_timeout_ms = 3000\n";
        std::fs::write(lab.scratch().join("config.toml"), config).unwrap();
        Self { lab, program }
    }

    fn bundle(&self, script: &Script) -> Bundle {
        let archive = self.lab.scratch().join("liar.cpio");
        let files = [("init", 0o100_755, &*self.program), ("script", 0o100_644, script.bytes())];
        std::fs::write(&archive, cpio(&files)).unwrap();
        bundle_with(&self.lab, &archive)
    }

    /// The command, whose containers have an output and an error stream, on the first two ports, and no
    /// input.
    fn ringfence(&self) -> Invocation {
        let config = self.lab.scratch().join("config.toml");
        let null = Output::Descriptor(std::fs::File::open("/dev/null").unwrap().into());
        Invocation::new("ringfence").arg("--config").arg(config).stdin_from(null)
    }

    /// Runs a container whose agent follows the script.
    #[track_caller]
    fn run(&self, id: &str, script: &Script) -> Outcome {
        let bundle = self.bundle(script);
        let run = self.ringfence().args(&["run", "--memory", "64", "--vcpus", "1", "--bundle"]);
        let began = Instant::now();
        let outcome = run.arg(bundle.write()).arg(id).run();
        assert!(began.elapsed() < LONGEST, "{:?}\n{outcome}", began.elapsed());
        let (out, err) =
            (String::from_utf8_lossy(&outcome.stdout), String::from_utf8_lossy(&outcome.stderr));
        assert!(err.len() < MOST_ERRORS, "{} bytes of errors", err.len());
        for never in NEVER_SAID {
            assert!(!out.contains(never) && !err.contains(never), "{never:?}\n{outcome}");
        }
        self.lab.expect_nothing_left();
        outcome
    }

    #[track_caller]
    fn expect(&self, script: &Script, code: i32, reason: &str) {
        self.run(&self.lab.new_id(), script).expect_code(code).expect_error(reason);
    }
}

#[test]
fn an_honest_script_is_believed_and_an_exit_counts_once() {
    let liars = Liars::enter();
    let id = liars.lab.new_id();
    let end = |status| frame(&exited(&id, "", status));
    let outcome = liars.run(&id, &Script::running("said\n").say(&end(0)));
    outcome.expect_code(0);
    assert_eq!(outcome.out(), "said\n");
    // A second end, of the same process, with what its caller would rather have.
    let twice = Script::running("").say(&end(7)).say(&end(0));
    liars.run(&id, &twice).expect_code(7);
    // An end that is of nobody, then nothing.
    let strangers = Script::running("")
        .say(&frame(&exited("another", "", 0)))
        .say(&frame(&exited(&id, "never-started", 0)))
        .say(&frame(&exited("", "", 0)))
        .close();
    liars
        .run(&id, &strangers)
        .expect_code(PROTOCOL_BROKEN)
        .expect_error("closed its control stream");
}

#[test]
fn frames_that_are_none_end_the_connection() {
    let liars = Liars::enter();
    let unusable = "a frame from the agent is unusable";
    let behind = [&hello(version(), "6"), &b"more"[..]].concat();
    for bytes in [
        vec![0; 4],
        vec![0xff; 64],
        frame(&behind),
        frame(&[9, 9, 9]),
        // A text that is longer than its frame.
        frame(&[0, 4, 1, 2, 0xff, 0xff, 0xff, 0xff, 0x0f]),
    ] {
        liars.expect(&Script::default().say(&bytes), PROTOCOL_BROKEN, unusable);
    }
    let half = Script::default().say(&200_u32.to_le_bytes()).say(&[0; 10]);
    liars.expect(&half.clone().close(), PROTOCOL_BROKEN, "ended inside a frame");
    liars.expect(&half, DEADLINE, "within 10000 ms");
}

#[test]
fn a_hello_and_replies_that_nobody_asked_for_are_refused() {
    let liars = Liars::enter();
    let other = format!("speaks version {}", version() + 1);
    for (script, reason) in [
        (Script::default().say(&frame(&reply(CONFIGURE, &DONE))), "first frame is not Hello"),
        (Script::default().say(&frame(&hello(version() + 1, "6"))), &*other),
        (Script::hello().say(&frame(&hello(version(), "6"))), "said Hello twice"),
        (Script::hello().wait(1).say(&frame(&reply(99, &DONE))), "answered request 99"),
        (Script::configured().say(&frame(&reply(CONFIGURE, &DONE))), "answered request 0"),
        // The answer to another question.
        (Script::streamed("").say(&frame(&reply(CREATE, &DONE))), "a reply of another kind"),
        (
            Script::streamed("").created().wait(1).say(&frame(&reply(START, &DONE))),
            "of another kind",
        ),
    ] {
        liars.expect(&script, PROTOCOL_BROKEN, reason);
    }
}

#[test]
fn an_agent_that_says_success_and_does_nothing_is_no_success() {
    let liars = Liars::enter();
    let id = liars.lab.new_id();
    let end = frame(&exited(&id, "", 0));
    // Streams that it never connected, or of which it ended one.
    for script in [Script::configured().wait(1), Script::configured().wait(1).stream(0, "half\n")] {
        let script = script.created().wait(1).started().say(&end);
        liars.run(&id, &script).expect_code(DEADLINE).expect_no_deadline();
    }
    // An end before the beginning is the agent's word for a program that it never started.
    let early = liars.run(&id, &Script::streamed("").created().say(&end));
    assert_ne!(early.code(), 0, "{early}");
    liars.run(&id, &Script::streamed("")).expect_code(DEADLINE);
    // Nor is a flood of events one, or a word of it kept.
    let flood = frame(&out_of_memory(&"x".repeat(255), u64::MAX));
    let flooded = Script::running("").say_often(&flood, 20_000).close();
    liars.run(&id, &flooded).expect_code(PROTOCOL_BROKEN);
}

#[test]
fn texts_of_an_agent_are_shown_as_texts() {
    let liars = Liars::enter();
    let escapes = "\x1b]0;title\x07\x1b[2J/etc/passwd\n\u{9b}31m\u{202e}".repeat(2000);
    let message = frame(&reply(CREATE, &failed(&format!("its own words {escapes}"))));
    liars.expect(&Script::configured().wait(1).say(&message), REFUSED, "its own words");
    let named = Script::default().say(&frame(&hello(version(), &escapes))).wait(1).close();
    liars.expect(&named, PROTOCOL_BROKEN, "closed its control stream");
}

#[test]
fn commands_on_a_container_are_not_fooled() {
    let liars = Liars::enter();
    let id = liars.lab.new_id();
    // `ps`, `exec`, and a signal, each with a lie for an answer; the last one is not answered at all.
    let script = Script::running("")
        .wait(1)
        .say(&frame(&reply(NEXT, &failed("no\x1b[2J list"))))
        .wait(1)
        .say(&frame(&processes_out_of_order(NEXT + 1)));
    let bundle = liars.bundle(&script);
    let command = |words: &[&str], more: &[&str]| {
        liars.ringfence().args(words).arg(&id).args(more).deadline(LONGEST)
    };
    let create = liars.ringfence().args(&["create", "--memory", "64", "--vcpus", "1", "--bundle"]);
    // Files: a supervisor holds them for as long as it lives.
    let file = |name| open_for_writing(liars.lab.scratch().join(name));
    let create = create.arg(bundle.write()).arg(&id).stdout(file("out")).stderr(file("err"));
    create.run().expect_code(0);
    command(&["start"], &[]).run().expect_code(0);
    let refused = command(&["ps"], &[]).run();
    refused.expect_code(REFUSED).expect_error("list");
    assert!(!refused.err().contains('\x1b'), "{refused}");
    let disorder = command(&["ps"], &[]).run();
    assert_ne!(disorder.code(), 0, "{disorder}");
    disorder.expect_error("order");
    let exec = command(&["exec"], &["true"]).run();
    assert!(![0, 126, 127].contains(&exec.code()), "{exec}");
    exec.expect_no_deadline();
    command(&["delete", "--force"], &[]).run().expect_code(0);
}

/// The next one is not disturbed.
#[test]
fn a_sandbox_runs_beside_and_after_liars() {
    let liars = Liars::enter();
    let id = liars.lab.new_id();
    let silent = Script::running("up\n");
    let bundle = liars.bundle(&silent);
    let run = liars.ringfence().args(&["run", "--memory", "64", "--vcpus", "1", "--bundle"]);
    let running = run.arg(bundle.write()).arg(&id).start();
    running.wait_for_stdout("up\n");
    let honest = liars.lab.bundle(Root::Shared("busybox")).args(&["echo", "up"]);
    let outcome = liars.lab.ringfence(&honest).run();
    outcome.expect_code(0);
    assert_eq!(outcome.out(), "up\n");
    // Nothing is asked of it, so it may be silent for ever; and goes when it is told to.
    liars.ringfence().args(&["delete", "--force", &id]).run().expect_code(0);
    let outcome = running.finish();
    assert_ne!(outcome.code(), 0, "{outcome}");
}
