//! The job that users have: a stranger's source, built and tested inside.

use std::path::{Path, PathBuf};
use std::time::Duration;

use integration_tests::{Bundle, Invocation, Lab, Outcome, Root, Runtime, tree};

/// Configures, builds and tests zlib outside of its source tree's own directory for output, with
/// as many jobs as there are CPUs.
const BUILD: &str = "set -e
cd /src
CFLAGS=-O0 ./configure --prefix=/out/installed
make -j2
make test
make install
echo '== status' $?";

fn bundle_for(lab: &Lab, runtime: &str) -> (Bundle, PathBuf, PathBuf) {
    let source = lab.directory(&format!("{runtime}-source"));
    let copy = Invocation::new("cp").arg("-a").arg(lab.source("zlib").join(".")).arg(&source);
    copy.run().expect_code(0);
    let output = lab.directory(&format!("{runtime}-output"));
    let bundle = lab
        .bundle(Root::Writable("gcc"))
        .script(BUILD)
        .bind(&source, "/src", &["rw"])
        .bind(&output, "/out", &["rw"])
        .edit(|config| {
            // Twice the files that the template allows: make and gcc are no small guests.
            config["process"]["rlimits"][0]["soft"] = 4096.into();
            config["process"]["rlimits"][0]["hard"] = 4096.into();
        });
    for directory in ["src", "out"] {
        std::fs::create_dir(bundle.root().join(directory)).unwrap();
    }
    (bundle, source, output)
}

/// The lines that tell what the tests found; the rest names jobs in the order of their end.
fn results(outcome: &Outcome) -> Vec<&str> {
    let mut lines: Vec<&str> = outcome
        .out()
        .lines()
        .filter(|line| line.contains("test OK") || line.contains("FAILED") || line.contains("== "))
        .map(str::trim)
        .collect();
    lines.sort_unstable();
    lines
}

#[test]
fn zlib_builds_and_passes_its_tests_with_the_same_outcome_as_with_crun() {
    let lab = Lab::enter();
    let (bundle, our_source, our_output) = bundle_for(&lab, "ringfence");
    let options = ["--memory", "1024", "--vcpus", "2"];
    let run = lab.runtime(Runtime::Ringfence, &bundle, &options);
    let ringfence = run.deadline(Duration::from_secs(600)).run();
    ringfence.expect_code(0);
    let (bundle, their_source, their_output) = bundle_for(&lab, "crun");
    let crun = lab.crun(&bundle).deadline(Duration::from_secs(600)).run();
    crun.expect_code(0);
    assert!(results(&ringfence).len() >= 3, "{ringfence}");
    assert_eq!(results(&ringfence), results(&crun));

    // configure's log holds process ids and times. Everything else is made from the same source
    // at the same path by the same compiler.
    let differs = |path: &Path| path.ends_with("configure.log");
    tree::compare(&our_source, &their_source, differs);
    tree::compare(&our_output, &their_output, differs);
    println!("ringfence {:?}, crun {:?}", ringfence.duration, crun.duration);
}
