//! Images built by podman and buildah, whose steps run in virtual machines.

use std::path::Path;

use integration_tests::{Invocation, Lab, Outcome};

const BASE: &str = "localhost/ringfence-test-base";
const BUILT: &str = "localhost/ringfence-test";

/// Steps that change files as root and as somebody else, and one that fails.
const CONTAINERFILE: &str = "\
FROM localhost/ringfence-test-base
ARG LAST=true
RUN uname -r | grep -q ringfence && mkdir /made && echo built > /made/file && chmod 755 /made/file
COPY copied /copied
RUN --mount=type=cache,target=/cache echo cached > /cache/file && chown -R 1000:1001 /made
WORKDIR /work
USER 1000:1001
RUN id -u > /made/user && pwd >> /made/user
RUN $LAST
CMD cat /copied /made/file /made/user; stat -c '%a %u %g' /made/file
";

fn run(words: &[&str]) -> Outcome {
    Invocation::new(words[0]).args(&words[1..]).run()
}

/// The image that others are built from, from a test root.
fn import_base() {
    let import = format!(
        "tar -C \"${{RINGFENCE_ROOTS:-/opt/roots}}/busybox\" -c . | podman import - {BASE}"
    );
    run(&["sh", "-c", &import]).expect_code(0);
}

fn context(lab: &Lab) -> String {
    let directory = lab.directory("context");
    std::fs::write(directory.join("Containerfile"), CONTAINERFILE).expect("a file");
    std::fs::write(directory.join("copied"), "copied\n").expect("a file");
    directory.to_str().expect("a plain path").to_owned()
}

fn expect_built(outcome: &Outcome, context: &Path) {
    outcome.expect_code(0);
    let words = ["run", "--rm", "--network", "none", BUILT];
    let outcome = Invocation::new("podman").args(&["--runtime", "ringfence"]).args(&words).run();
    outcome.expect_code(0);
    assert_eq!(outcome.out(), "copied\nbuilt\n1000\n/work\n755 1000 1001\n", "{context:?}");
}

#[test]
fn podman_and_buildah_build_images_with_it() {
    import_base();
    let lab = Lab::enter();
    let context = context(&lab);
    let podman = ["podman", "--runtime", "ringfence", "build"];
    let buildah = ["buildah", "build", "--runtime", "ringfence"];
    let rest = ["--layers=false", "--network", "none", "--tag", BUILT];
    for builder in [&podman[..], &buildah] {
        let outcome = run(&[builder, &rest, &[&context]].concat());
        expect_built(&outcome, Path::new(&context));
        run(&["podman", "rmi", BUILT]).expect_code(0);
    }
    // A step that fails fails the build.
    let outcome = run(&[&podman[..], &rest, &["--build-arg", "LAST=exit 7", &context]].concat());
    outcome.expect_error("exit status 7");
    assert_ne!(outcome.code(), 0);
    steps_of_buildah(&lab);
    run(&["podman", "rmi", "--force", BASE]).expect_code(0);
    lab.expect_nothing_left();
}

fn steps_of_buildah(lab: &Lab) {
    let outcome = run(&["buildah", "from", BASE]);
    outcome.expect_code(0);
    let name = outcome.out().trim_end().to_owned();
    let directory = lab.directory("volume");
    std::fs::write(directory.join("file"), "there\n").expect("a file");
    let volume = format!("{}:/volume:ro", directory.display());
    let options = ["--runtime", "ringfence", "--network", "none", "--volume", &volume];
    let more = ["--user", "1000:1001", "--env", "A=b", "--hostname", "inside", "--cap-drop", "ALL"];
    let script = "uname -r | grep -c ringfence; id -u; echo $A; hostname; cat /volume/file; exit 5";
    let program = [&name, "--", "/bin/sh", "-c", script];
    let outcome = run(&[&["buildah", "run"][..], &options, &more, &program].concat());
    outcome.expect_code(5);
    assert_eq!(outcome.out(), "1\n1000\nb\ninside\nthere\n", "{outcome}");
    run(&["buildah", "rm", &name]).expect_code(0);
}
