//! podman without root: it calls the runtime in a user namespace of its own, whose root is an ordinary
//! user of the host.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use integration_tests::engine::networks;
use integration_tests::{Invocation, Lab, Root};
use serde_json::json;

/// On the host's loopback address.
const PORT: u16 = 47_030;

/// How long the container may take until it listens.
const PATIENCE: Duration = Duration::from_secs(120);

const NAME: &str = "ringfence-test";
/// Nobody on the host.
const UID: u32 = 52_001;
const FIRST_SUBORDINATE: u32 = 2_000_000;

/// In a mount namespace of its own the user is known, and may use KVM; then it is that user.
const AS_USER: &str = r#"
    for name in passwd group subuid subgid; do
        mount --bind "$0/$name" "/etc/$name" || exit 125
    done
    mount --bind "$0/kvm" /dev/kvm || exit 125
    cd "$0/home" || exit 125
    exec setpriv --reuid "$UID_OF_USER" --regid "$UID_OF_USER" --clear-groups \
        env --ignore-environment PATH="$PATH" HOME="$0/home" XDG_RUNTIME_DIR="$0/run" \
            USER=ringfence-test RINGFENCE_TEST_RUN=1 "$@"
"#;

/// An ordinary user that exists for one test.
struct User {
    directory: PathBuf,
}

impl User {
    fn new(lab: &Lab, may_use_kvm: bool) -> Self {
        let mode = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(lab.scratch(), mode).expect("it is the test's");
        let directory = lab.directory("user");
        let lines = [
            ("passwd", format!("{NAME}:x:{UID}:{UID}::{}/home:/bin/sh", directory.display())),
            ("group", format!("{NAME}:x:{UID}:")),
            ("subuid", format!("{NAME}:{FIRST_SUBORDINATE}:65536")),
            ("subgid", format!("{NAME}:{FIRST_SUBORDINATE}:65536")),
        ];
        for (name, line) in lines {
            let text = std::fs::read_to_string(Path::new("/etc").join(name)).unwrap_or_default();
            std::fs::write(directory.join(name), format!("{text}{line}\n")).expect("a file");
        }
        let at = |name: &str| directory.join(name).display().to_string();
        for name in ["home", "run"] {
            let directory =
                ["-d", "-m", "700", "-o", &UID.to_string(), &at(name)].map(str::to_owned);
            let words: Vec<&str> = directory.iter().map(String::as_str).collect();
            Invocation::new("install").args(&words).run().expect_code(0);
        }
        // Its own: an overlay over root's files shows it files of nobody.
        let roots = std::env::var("RINGFENCE_ROOTS").unwrap_or_else(|_| "/opt/roots".to_owned());
        Invocation::new("cp")
            .args(&["-r", &format!("{roots}/busybox"), &at("root")])
            .run()
            .expect_code(0);
        let owner = format!("{UID}:{UID}");
        Invocation::new("chown").args(&["-R", "-h", &owner, &at("root")]).run().expect_code(0);
        let mode = if may_use_kvm { "666" } else { "600" };
        let node = Invocation::new("mknod").args(&["-m", mode, &at("kvm"), "c", "10", "232"]);
        node.run().expect_code(0);
        Self { directory }
    }

    /// The root of its containers.
    fn root(&self) -> String {
        self.directory.join("root").display().to_string()
    }

    fn podman(&self, words: &[&str]) -> Invocation {
        self.runs(&[&["podman", "--runtime", "ringfence"], words].concat())
    }

    fn runs(&self, words: &[&str]) -> Invocation {
        let user = ["unshare", "--mount", "--propagation", "slave", "/bin/sh", "-c", AS_USER];
        Invocation::new(user[0])
            .args(&user[1..])
            .arg(&self.directory)
            .args(words)
            .env("UID_OF_USER", UID.to_string())
    }

    fn expect(&self, words: &[&str], code: i32, out: &str) {
        let outcome = self.podman(words).run();
        outcome.expect_code(code);
        assert_eq!(outcome.out(), out, "{outcome}");
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // Ends the process that keeps podman's namespaces.
        let _ = self.podman(&["system", "migrate"]).run();
        let _ = std::fs::remove_file(format!("/dev/shm/libpod_rootless_lock_{UID}"));
    }
}

#[test]
fn podman_runs_containers_with_it_without_root() {
    let lab = Lab::enter();
    let user = User::new(&lab, true);
    let root = user.root();
    let volume = lab.scratch().join("user/home/volume");
    let bind = format!("{}:/volume", volume.display());
    let words = ["run", "--rm", "--network", "none", "--volume", &bind, "--rootfs", &root];
    let script = "id -u; uname -r | grep -c ringfence; touch /of-root /volume/of-root; \
                  chown 7:8 /volume/of-root; stat -c %u:%g /of-root /volume/of-root; exit 3";
    std::fs::create_dir(&volume).expect("a directory");
    std::os::unix::fs::chown(&volume, Some(UID), Some(UID)).expect("root may");
    let script = ["/bin/sh", "-c", script];
    user.expect(&[&words[..], &script].concat(), 3, "0\n1\n0:0\n7:8\n");
    // On the host it is the user's own, or a subordinate one.
    let owner = std::os::unix::fs::MetadataExt::uid(&volume.join("of-root").metadata().unwrap());
    assert_eq!(owner, FIRST_SUBORDINATE + 7 - 1);
    let detached = ["run", "--detach", "--name", NAME, "--network", "none", "--rootfs", &root];
    let script = ["/bin/sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.2; done"];
    user.podman(&[&detached[..], &script].concat()).run().expect_code(0);
    user.expect(&["exec", NAME, "/bin/sh", "-c", "echo in; exit 4"], 4, "in\n");
    user.expect(&["stop", "--time", "60", NAME], 0, &format!("{NAME}\n"));
    user.expect(&["logs", NAME], 0, "up\n");
    user.expect(&["inspect", "--format", "{{.State.ExitCode}}", NAME], 0, "5\n");
    user.expect(&["rm", NAME], 0, &format!("{NAME}\n"));
    drop(user);
    lab.expect_nothing_left();
}

#[test]
fn a_network_by_passt_needs_no_root() {
    let lab = Lab::enter();
    let user = User::new(&lab, true);
    let server = greet(networks::of_host());
    // Its own user namespace makes the user root of the container, too.
    let script = format!("nc -w 60 {} {} </dev/null; exec nc -l -p 80", server.ip(), server.port());
    let bundle = lab.bundle(Root::Shared("busybox")).script(&script).edit(|config| {
        config["root"] = json!({ "path": user.root(), "readonly": false });
    });
    let published = format!("127.0.0.1:{PORT}:80");
    let directory = bundle.write().display().to_string();
    for inside in [Path::new(&directory).to_owned(), bundle.path("config.json")] {
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(inside, mode).expect("it is the test's");
    }
    let words = ["ringfence", "run", "--net", "passt", "--publish", &published, "--bundle"];
    let run = user.runs(&[&words[..], &[directory.as_str(), "ringfence-test"]].concat());
    let running = run.start();
    // The container listens once it has had its answer.
    let until = Instant::now() + PATIENCE;
    let mut sent = false;
    while !sent && Instant::now() < until {
        sent = sends(b"to the container\n");
        std::thread::sleep(Duration::from_millis(100));
    }
    let outcome = running.finish();
    outcome.expect_code(0);
    assert_eq!(outcome.out(), "from the host\nto the container\n", "{outcome}");
    drop(user);
    lab.expect_nothing_left();
}

/// Says the same to everybody who connects there. It ends with the test.
fn greet(address: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).expect("a port is free");
    let server = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = (&stream).write_all(b"from the host\n");
        }
    });
    server
}

#[test]
fn a_network_of_podmans_by_pasta_is_the_containers() {
    let lab = Lab::enter();
    let user = User::new(&lab, true);
    // An address that is the host's only: pasta gives the container those of its way out.
    let ip = |words: &[&str]| Invocation::new("ip").args(words).run();
    ip(&["link", "add", "rftest9", "type", "dummy"]).expect_code(0);
    ip(&["addr", "add", "10.92.0.1/32", "dev", "rftest9"]).expect_code(0);
    ip(&["link", "set", "rftest9", "up"]).expect_code(0);
    let server = greet(Ipv4Addr::new(10, 92, 0, 1).into());
    let root = user.root();
    let script = format!(
        "ls /sys/class/net; ip -4 -o addr | awk '{{ print $2, $4 }}'; \
         nc -w 60 {} {} </dev/null",
        server.ip(),
        server.port()
    );
    let run = |runtime| {
        let words = ["podman", "--runtime", runtime, "run", "--rm", "--network", "pasta"];
        let program = ["--rootfs", &root, "/bin/sh", "-c", &script];
        let outcome = user.runs(&[&words[..], &program].concat()).run();
        outcome.expect_code(0);
        outcome.out().to_owned()
    };
    let answer = run("ringfence");
    assert!(answer.ends_with("from the host\n"), "{answer}");
    assert_eq!(answer, run("crun"));
    ip(&["link", "del", "rftest9"]).expect_code(0);
    drop(user);
    lab.expect_nothing_left();
}

/// Whether the container has taken these bytes: passt listens before it, and refuses what it refuses.
fn sends(bytes: &[u8]) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", PORT)) else { return false };
    let taken = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    // Its end is nc's, which ends after the first connection; a refusal is an error.
    stream.set_read_timeout(Some(PATIENCE)).expect("it is open");
    taken.and_then(|()| stream.read(&mut [0; 1])).is_ok_and(|count| count == 0)
}

#[test]
fn a_user_who_may_not_use_kvm_is_told_so() {
    let lab = Lab::enter();
    let user = User::new(&lab, false);
    let words = ["run", "--rm", "--network", "none", "--rootfs", &user.root(), "/bin/true"];
    let outcome = user.podman(&words).run();
    outcome.expect_error("\"/dev/kvm\" may not be used by this user");
    assert_ne!(outcome.code(), 0);
    drop(user);
    lab.expect_nothing_left();
}
