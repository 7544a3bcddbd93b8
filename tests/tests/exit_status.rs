//! The exit status of `ringfence run` is the container's, or says what went wrong before.

use integration_tests::{Bundle, Lab, Root, Runtime};
use rustix::process::Signal;
use serde_json::json;

fn shared(lab: &Lab) -> Bundle {
    lab.bundle(Root::Shared("busybox"))
}

#[test]
fn a_program_that_exits_gives_its_status() {
    let lab = Lab::enter();
    for code in [0, 1, 255] {
        let bundle = shared(&lab).script(&format!("echo out; echo err >&2; exit {code}"));
        let (ringfence, crun) = lab.both(&bundle);
        ringfence.expect_code(code);
        crun.expect_code(code);
        assert_eq!((ringfence.out(), ringfence.err()), ("out\n", "err\n"));
    }
}

#[test]
fn a_program_that_a_signal_ends_gives_128_and_its_number() {
    let lab = Lab::enter();
    // The first process of a pid namespace is safe from signals that it sends itself, so the
    // kernel has to send them: for a fault, and for a limit that is used up.
    let program = lab.compile(
        "faults",
        "#include <stdlib.h>\n#include <string.h>\n\
         int main(int n, char **v) {\n\
             volatile int *nowhere = 0, zero = 0;\n\
             if (!strcmp(v[1], \"segv\")) return *nowhere;\n\
             if (!strcmp(v[1], \"fpe\")) return n / zero;\n\
             for (;;) {}\n\
         }\n",
    );
    for (fault, code) in [("segv", 139), ("fpe", 136), ("limit", 137)] {
        let bundle = lab
            .bundle(Root::Writable("busybox"))
            .install(&program, "bin/faults")
            .args(&["/bin/faults", fault])
            .edit(|config| {
                config["process"]["rlimits"] = json!([
                    { "type": "RLIMIT_CPU", "soft": 1, "hard": 1 },
                    { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
                ]);
            });
        let (ringfence, crun) = lab.both(&bundle);
        crun.expect_code(code);
        ringfence.expect_code(code);
        assert!(ringfence.exited(), "{ringfence}");
    }
}

#[test]
fn the_status_of_the_first_process_counts_and_its_children_end_with_it() {
    let lab = Lab::enter();
    let script = "sh -c 'kill -9 $$'; echo $?; sleep 600 & (sleep 600; echo late) & exit 3";
    let (ringfence, crun) = lab.both(&shared(&lab).script(script));
    ringfence.expect_code(3);
    crun.expect_code(3);
    assert_eq!(ringfence.out(), "137\n");
}

#[test]
fn a_program_that_cannot_run_gives_127_or_126_with_the_reason() {
    let lab = Lab::enter();
    let bundle = lab.bundle(Root::Writable("busybox"));
    std::fs::write(bundle.root().join("bin/data"), "no program\n").unwrap();
    std::fs::write(bundle.root().join("bin/noise"), b"\x7fELF\x02noise").unwrap();
    std::fs::write(bundle.root().join("bin/lost"), "#!/no/interpreter\n").unwrap();
    for name in ["noise", "lost"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(bundle.root().join("bin").join(name), mode).unwrap();
    }
    let mut bundle = bundle;
    for (program, code) in [
        ("/bin/missing", 127),
        ("missing", 127),
        ("/bin/data", 126),
        ("data", 126),
        ("/etc", 126),
        ("/bin/noise", 126),
        ("/bin/lost", 127),
    ] {
        bundle = bundle.args(&[program]);
        let outcome = lab.ringfence(&bundle).run();
        outcome.expect_code(code).expect_error(program);
        outcome.expect_no_deadline();
        assert!(outcome.stdout.is_empty(), "{outcome}");
        assert_eq!(outcome.err().trim_end().lines().count(), 1, "one message\n{outcome}");
    }
}

#[test]
fn signals_reach_the_container() {
    let lab = Lab::enter();
    let script = "for s in TERM USR1 USR2 HUP QUIT; do trap \"echo got $s\" $s; done; \
                  trap 'echo got INT; exit 42' INT; echo ready; while :; do sleep 600 & wait $!; done";
    for runtime in [Runtime::Ringfence, Runtime::Crun] {
        let bundle = shared(&lab).script(script);
        let running = lab.runtime(runtime, &bundle, &[]).start();
        running.wait_for_stdout("ready");
        for (signal, name) in [
            (Signal::TERM, "TERM"),
            (Signal::USR1, "USR1"),
            (Signal::USR2, "USR2"),
            (Signal::HUP, "HUP"),
            (Signal::QUIT, "QUIT"),
            (Signal::INT, "INT"),
        ] {
            running.signal(signal);
            running.wait_for_stdout(&format!("got {name}\n"));
        }
        running.finish().expect_code(42);
    }
}

#[test]
fn a_signal_that_the_container_does_not_handle_is_as_with_crun() {
    let lab = Lab::enter();
    // As the first process of its pid namespace `sleep` does not see a SIGTERM it has no handler
    // for; both runtimes go on, until its time is over.
    for runtime in [Runtime::Ringfence, Runtime::Crun] {
        let bundle = shared(&lab).script("echo ready; exec sleep 1");
        let running = lab.runtime(runtime, &bundle, &[]).start();
        running.wait_for_stdout("ready");
        running.signal(Signal::TERM);
        running.finish().expect_code(0);
    }
}
