//! The three streams: every byte, in both directions, with its end, and each for itself.

use std::io::Read;
use std::time::Duration;

use integration_tests::command::open_for_writing;
use integration_tests::detached::reap_strays;
use integration_tests::{Bundle, Invocation, Lab, Output, Root, Runtime, tree};

const BURST: usize = 8 * 1024 * 1024;

fn shared(lab: &Lab) -> Bundle {
    lab.bundle(Root::Shared("busybox"))
}

/// Bytes of every value, without a pattern that a lost or doubled block could hide in.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn a_burst_goes_in_and_comes_out_on_both_streams_unchanged() {
    let lab = Lab::enter();
    let input = noise(BURST);
    let bundle = shared(&lab).args(&["tee", "/dev/stderr"]);
    let outcome = lab.ringfence(&bundle).stdin(input.clone()).run();
    outcome.expect_code(0);
    assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (BURST, BURST));
    assert_eq!(tree::hash(&outcome.stdout), tree::hash(&input));
    assert_eq!(tree::hash(&outcome.stderr), tree::hash(&input));
}

#[test]
fn the_end_of_stdin_arrives_and_an_unread_stdin_holds_nothing_up() {
    let lab = Lab::enter();
    let bundle = shared(&lab).script("echo up; cat; echo end; read line; echo $?");
    let mut running = lab.ringfence(&bundle).stdin_held().start();
    running.wait_for_stdout("up\n");
    running.write(b"part one\n");
    running.wait_for_stdout("part one\n");
    running.close_stdin();
    let outcome = running.finish();
    outcome.expect_code(0);
    assert_eq!(outcome.out(), "up\npart one\nend\n1\n");

    // Nobody ever reads this one, and the writer does not close it.
    let bundle = shared(&lab).args(&["true"]);
    let running = lab.ringfence(&bundle).stdin_held().start();
    running.finish().expect_code(0);
    let outcome = lab.ringfence(&bundle).stdin(noise(BURST)).run();
    outcome.expect_code(0);
}

#[test]
fn a_closed_stream_is_an_empty_one() {
    let lab = Lab::enter();
    let bundle = shared(&lab).script("cat; echo \"in $?\" >&2; ls /proc/self/fd >&2");
    let outcome = lab.ringfence(&bundle).stdin_from(Output::Closed).stdout(Output::Closed).run();
    outcome.expect_code(0);
    // The container must never get one of the runtime's own descriptors in the place of a closed
    // one. (crun hands on a file of its own for a closed stdout, and the hole for a closed stdin.)
    assert_eq!(outcome.err(), "in 0\n0\n1\n2\n3\n");
}

#[test]
fn output_that_cannot_be_written_is_never_a_success() {
    let lab = Lab::enter();
    let full = || open_for_writing("/dev/full");
    let outcome = lab.ringfence(&shared(&lab).args(&["echo", "lost"])).stdout(full()).run();
    // crun hands the container its own stdout, so that there `echo` itself fails; in a VM the
    // container has written to a pipe when the host's disk turns out to be full.
    outcome.expect_code(253).expect_error("No space left on device");
    // The other stream still works, and the container is not killed.
    let bundle = shared(&lab).script("echo lost; sleep 0.5; echo seen >&2; exit 4");
    let outcome = lab.ringfence(&bundle).stdout(full()).run();
    outcome.expect_code(253).expect_error("seen").expect_error("No space left on device");
}

#[test]
fn a_reader_that_goes_away_breaks_the_pipe_as_with_crun() {
    let lab = Lab::enter();
    let bundle = shared(&lab).script("(yes; echo $? >&2); exit 5");
    for runtime in [Runtime::Ringfence, Runtime::Crun] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let run = lab.runtime(runtime, &bundle, &[]);
        let running = run.stdout(Output::Descriptor(writer.into())).start();
        reader.read_exact(&mut [0; 4096]).unwrap();
        drop(reader);
        let outcome = running.finish();
        // `yes` ends by SIGPIPE in both. What it wrote before is lost: ringfence says so with a
        // status of its own, while crun does not see the container's output at all.
        outcome.expect_error("141\n");
        outcome.expect_code(if runtime == Runtime::Ringfence { 253 } else { 5 });
    }
}

#[test]
fn a_reader_that_stops_blocks_only_its_own_stream() {
    let lab = Lab::enter();
    let script = "head -c 4194304 /dev/zero & echo beside >&2; wait; echo after >&2";
    let (mut reader, writer) = std::io::pipe().unwrap();
    let bundle = shared(&lab).script(script);
    let running = lab.ringfence(&bundle).stdout(Output::Descriptor(writer.into())).start();
    running.wait_for_stderr("beside\n");
    std::thread::sleep(Duration::from_millis(500));
    let drained = std::thread::spawn(move || {
        let mut bytes = vec![];
        reader.read_to_end(&mut bytes).map(|_| bytes.len())
    });
    let outcome = running.finish();
    outcome.expect_code(0);
    assert_eq!(outcome.err(), "beside\nafter\n");
    assert_eq!(drained.join().unwrap().unwrap(), 4_194_304);
}

#[test]
fn a_background_child_that_keeps_stdout_does_not_keep_the_container() {
    let lab = Lab::enter();
    let script = "(trap '' HUP TERM; sleep 600; echo late) & echo now; exit 6";
    let (ringfence, crun) = lab.both(&shared(&lab).script(script));
    ringfence.expect_code(6);
    crun.expect_code(6);
    assert_eq!(ringfence.out(), "now\n");
}

#[test]
fn all_output_is_there_when_the_container_is_gone() {
    let lab = Lab::enter();
    // The last write before the end is the one that gets lost if somebody does not drain.
    let bundle = shared(&lab).script("head -c 300000 /dev/zero; printf LAST; printf last >&2");
    for _ in 0..3 {
        let outcome = lab.ringfence(&bundle).run();
        outcome.expect_code(0);
        assert_eq!(outcome.stdout.len(), 300_004);
        assert!(outcome.stdout.ends_with(b"LAST"));
        assert_eq!(outcome.err(), "last");
    }
}

#[test]
fn a_file_is_appended_to_and_read_as_with_crun() {
    let lab = Lab::enter();
    let file = lab.scratch().join("log");
    std::fs::write(&file, "before\n").unwrap();
    let outcome =
        lab.ringfence(&shared(&lab).args(&["echo", "x"])).stdout(open_for_writing(&file)).run();
    outcome.expect_code(0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "before\nx\n");
    let input = std::fs::File::open(&file).unwrap();
    let bundle = shared(&lab).args(&["cat"]);
    let outcome = lab.ringfence(&bundle).stdin_from(Output::Descriptor(input.into())).run();
    assert_eq!(outcome.out(), "before\nx\n");
}

#[test]
fn a_reader_sees_the_end_when_a_detached_program_closes_its_output() {
    let lab = Lab::enter();
    let script = "echo said; exec >&- 2>&-; exec sleep 1000";
    let bundle = lab.bundle(Root::Shared("busybox")).script(script);
    for runtime in [Runtime::Ringfence, Runtime::Crun] {
        let id = lab.new_id_of(runtime);
        let run = Invocation::new(runtime.program()).args(&["run", "--detach", "--bundle"]);
        // It is read to its end, which comes while the container runs.
        let outcome = run.arg(bundle.write()).arg(&id).stdin("").run();
        assert_eq!(outcome.expect_code(0).out(), "said\n", "{runtime:?}");
        let state = Invocation::new(runtime.program()).args(&["state", &id]).run();
        assert!(state.expect_code(0).out().contains("\"running\""), "{state}");
        Invocation::new(runtime.program()).args(&["delete", "--force", &id]).run().expect_code(0);
        reap_strays();
    }
}
