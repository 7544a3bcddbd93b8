//! Images built by podman and buildah, whose steps run in virtual machines.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};

use integration_tests::{Invocation, Lab, Outcome};

/// The host on podman's network.
const GATEWAY: &str = "10.88.0.1";

const BASE: &str = "localhost/ringfence-test-base";
const BUILT: &str = "localhost/ringfence-test";

/// Steps that change files as root and as somebody else.
const CONTAINERFILE: &str = "\
FROM localhost/ringfence-test-base
RUN uname -r | grep -q ringfence && \
    mkdir /made && echo built > /made/file && chown -R 1000:1001 /made
COPY copied /copied
WORKDIR /work
USER 1000:1001
RUN id -u > /made/user && pwd >> /made/user
CMD cat /copied /made/file /made/user; stat -c '%u %g' /made/file
";

fn run(words: &[&str]) -> Outcome {
    Invocation::new(words[0]).args(&words[1..]).run()
}

/// A directory to build from.
fn context(lab: &Lab, name: &str, containerfile: &str) -> String {
    let directory = lab.directory(name);
    std::fs::write(directory.join("Containerfile"), containerfile).expect("a file");
    std::fs::write(directory.join("copied"), "copied\n").expect("a file");
    directory.to_str().expect("a plain path").to_owned()
}

#[test]
fn podman_and_buildah_build_images_with_it() {
    let import = format!(
        "tar -C \"${{RINGFENCE_ROOTS:-/opt/roots}}/busybox\" -c . | podman import - {BASE}"
    );
    run(&["sh", "-c", &import]).expect_code(0);
    let lab = Lab::enter();
    let podman = ["podman", "--runtime", "ringfence"];
    let rest = ["--layers=false", "--network", "none", "--tag", BUILT];
    let good = context(&lab, "good", CONTAINERFILE);
    run(&[&podman[..], &["build"], &rest, &[&good]].concat()).expect_code(0);
    let outcome = run(&[&podman[..], &["run", "--rm", "--network", "none", BUILT]].concat());
    outcome.expect_code(0);
    assert_eq!(outcome.out(), "copied\nbuilt\n1000\n/work\n1000 1001\n");
    run(&["podman", "rmi", BUILT]).expect_code(0);
    let small = context(&lab, "small", &format!("FROM {BASE}\nRUN uname -r | grep -q ringfence\n"));
    let buildah = ["buildah", "build", "--runtime", "ringfence"];
    run(&[&buildah[..], &rest, &[&small]].concat()).expect_code(0);
    run(&["podman", "rmi", BUILT]).expect_code(0);
    steps_have_the_engines_network(&lab);
    // A step that fails fails the build.
    let bad = context(&lab, "bad", &format!("FROM {BASE}\nRUN exit 7\n"));
    let outcome = run(&[&podman[..], &["build"], &rest, &[&bad]].concat());
    outcome.expect_error("exit status 7");
    assert_ne!(outcome.code(), 0);
    steps_of_buildah(&lab);
    run(&["podman", "rmi", "--force", BASE]).expect_code(0);
    // Where podman's own monitors were, which it leaves if one of them ends late.
    let monitors =
        "cd /sys/fs/cgroup && rmdir libpod_parent/conmon libpod_parent 2>/dev/null; true";
    run(&["sh", "-c", monitors]).expect_code(0);
    lab.expect_nothing_left();
}

/// It is made when a step's container is created, and before that is started.
fn steps_have_the_engines_network(lab: &Lab) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a step comes");
        stream.write_all(b"of the host\n").expect("it listens");
    });
    let step = format!("nc -w 60 {GATEWAY} {port} </dev/null | grep -q 'of the host'");
    let step = format!("FROM {BASE}\nRUN uname -r | grep -q ringfence && {step}\n");
    let podman = ["podman", "--runtime", "ringfence", "build", "--layers=false", "--tag", BUILT];
    let directory = context(lab, "network", &step);
    run(&[&podman[..], &[&directory]].concat()).expect_code(0);
    server.join().expect("it was asked");
    run(&["podman", "rmi", BUILT]).expect_code(0);
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
