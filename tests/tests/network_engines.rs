//! The networks of engines: what they prepare for a container is its virtual machine's.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use integration_tests::engine::networks::{self, ECHO_PORT};
use integration_tests::{Engine, Invocation, Lab, Outcome, Root, Running};
use serde_json::json;

/// From the start of a daemon to its first answer.
const DAEMON_STARTS: Duration = Duration::from_secs(300);

/// On the host's loopback address.
const PORT: u16 = 47_000;

fn run(words: &[&str]) -> Outcome {
    Invocation::new(words[0]).args(&words[1..]).run()
}

fn ip(words: &[&str]) -> String {
    let outcome = Invocation::new("ip").args(words).run();
    outcome.expect_code(0);
    outcome.out().to_owned()
}

fn echo(lab: &Lab) -> PathBuf {
    lab.compile("echo", include_str!("../guest/echo.c"))
}

/// Talks from a container of the same network to `to`.
fn talk(engine: &Engine, to: &str) {
    let script = format!("echo hello | nc -w 60 {to} {ECHO_PORT}");
    let outcome = engine.run(&["--rm"], &script).run();
    outcome.expect_code(0);
    assert_eq!(outcome.out(), "hello\n", "{outcome}");
}

/// The same by name. An engine may tell its name server of a container while that already runs.
fn talk_by_name(engine: &Engine, name: &str) {
    let script = format!(
        "for try in $(seq 300); do nslookup {name} >/dev/null 2>&1 && break; sleep 0.2; done; \
         echo hello | nc -w 60 {name} {ECHO_PORT}"
    );
    let outcome = engine.run(&["--rm"], &script).run();
    outcome.expect_code(0);
    assert_eq!(outcome.out(), "hello\n", "{outcome}");
}

#[test]
fn a_network_of_podman_is_the_containers() {
    let network = "ringfence-test";
    run(&["podman", "network", "create", "--ipv6", network]).expect_code(0);
    // What the engine makes once for itself belongs to no container.
    let crun = Engine::podman("crun").on_network(network);
    crun.run(&["--rm"], "true").run().expect_code(0);
    let lab = Lab::enter();
    let podman = Engine::podman("ringfence").on_network(network);
    let name = &lab.new_id();
    networks::leave_echo(&podman, name, &echo(&lab), PORT);
    networks::published(PORT);
    let addresses = networks::addresses(&podman, name);
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    for address in &addresses {
        networks::much(*address, 4 << 20);
    }
    networks::many(addresses[0], 1000);
    talk(&podman, &addresses[1].to_string());
    talk_by_name(&podman, name);
    // Its network is in its own machine.
    let joined = Engine::podman("ringfence").on_network(&format!("container:{name}"));
    let outcome = joined.run(&["--rm"], "echo ran").run();
    outcome.expect_error("is of a container in another virtual machine");
    assert_eq!(outcome.out(), "", "{outcome}");
    podman.command(&["rm", "--force", "--time", "0", name]).expect_code(0);
    let host = Engine::podman("ringfence").on_network("host");
    let outcome = host.run(&["--rm"], "echo ran").run();
    outcome.expect_error("--network host");
    assert_eq!(outcome.out(), "", "{outcome}");
    lab.expect_nothing_left();
    drop(lab);
    run(&["podman", "network", "rm", network]).expect_code(0);
}

#[test]
fn a_network_of_docker_is_the_containers() {
    let network = "ringfence-test";
    let _containerd = daemon(&["containerd"], &["ctr", "version"]);
    let socket = ["--containerd", "/run/containerd/containerd.sock"];
    let _dockerd = daemon(&[&["dockerd"][..], &socket].concat(), &["docker", "version"]);
    let import = "tar -C \"${RINGFENCE_ROOTS:-/opt/roots}/busybox\" -c . | docker import - busybox";
    run(&["sh", "-c", import]).expect_code(0);
    let subnets = ["--ipv6", "--subnet", "10.97.0.0/24", "--subnet", "fd97::/64"];
    run(&[&["docker", "network", "create"][..], &subnets, &[network]].concat()).expect_code(0);
    Engine::docker("runc").on_network(network).run(&["--rm"], "true").run().expect_code(0);
    let lab = Lab::enter();
    let echo = echo(&lab);
    let (on_bridge, name) = (Engine::docker("ringfence").on_network("bridge"), &lab.new_id());
    networks::leave_echo(&on_bridge, name, &echo, PORT);
    networks::published(PORT);
    let addresses = networks::addresses(&on_bridge, name);
    networks::much(addresses[0], 1 << 20);
    on_bridge.command(&["rm", "--force", name]).expect_code(0);
    let (docker, name) = (Engine::docker("ringfence").on_network(network), &lab.new_id());
    networks::leave_echo(&docker, name, &echo, PORT);
    networks::published(PORT);
    let addresses = networks::addresses(&docker, name);
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    for address in &addresses {
        networks::much(*address, 1 << 20);
    }
    talk(&docker, &addresses[0].to_string());
    talk_by_name(&docker, name);
    // docker's name server, which asks the host's for other names, and answers by TCP as well.
    let gateway = "10.97.0.1";
    networks::answer_names(gateway.parse().expect("an address"), [192, 0, 2, 77].into());
    let script = format!(
        "grep nameserver /etc/resolv.conf; for name in {name} other.example; do \
         nslookup -type=a $name; done | grep -v -e '^$' -e answer; \
         printf '{}' | timeout 60 nc 127.0.0.11 53 | hexdump -C",
        networks::question_by_tcp(name)
    );
    let ask = |runtime| {
        let asked = Engine::docker(runtime).on_network(network);
        let outcome = asked.run(&["--rm", "--dns", gateway], &script).run();
        outcome.expect_code(0);
        outcome.out().to_owned()
    };
    let answers = ask("ringfence");
    assert_eq!(answers, ask("runc"));
    assert!(answers.contains("192.0.2.77") && answers.contains(&addresses[0].to_string()));
    assert!(answers.starts_with("nameserver 127.0.0.11\n"), "{answers}");
    assert!(answers.contains(" 12 34 8"), "no answer by TCP: {answers}");
    docker.command(&["rm", "--force", name]).expect_code(0);
    lab.expect_nothing_left();
    drop(lab);
    run(&["docker", "network", "rm", network]).expect_code(0);
}

/// Starts a daemon and waits until `question` gets an answer. It ends with the test.
fn daemon(words: &[&str], question: &[&str]) -> Running {
    let daemon = Invocation::new(words[0]).args(&words[1..]).deadline(Duration::MAX).start();
    let until = Instant::now() + DAEMON_STARTS;
    while run(question).code() != 0 {
        assert!(Instant::now() < until, "{} does not answer", words[0]);
        std::thread::sleep(Duration::from_millis(200));
    }
    daemon
}

/// As Kubernetes and others do it: a program of CNI fills a namespace.
#[test]
fn a_namespace_that_a_cni_plugin_has_filled_is_the_containers() {
    // iproute2 makes a mount for namespaces once, which is nobody's.
    ip(&["netns", "add", "ringfence-test-first"]);
    ip(&["netns", "del", "ringfence-test-first"]);
    let lab = Lab::enter();
    let name = lab.new_id();
    let bridge = "rf-test-bridge";
    let configuration = json!({
        "cniVersion": "1.0.0", "name": "ringfence-test", "type": "bridge", "bridge": bridge,
        "isGateway": true, "mtu": 1280,
        "ipam": {
            "type": "host-local", "dataDir": lab.scratch().join("cni"),
            "ranges": [[{ "subnet": "10.96.0.0/24" }], [{ "subnet": "fd96::/64" }]],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        },
    });
    let plugin = |command: &str| {
        Invocation::new("/usr/lib/cni/bridge")
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &name)
            .env("CNI_NETNS", format!("/run/netns/{name}"))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/usr/lib/cni")
            .stdin(configuration.to_string())
            .run()
    };
    ip(&["netns", "add", &name]);
    plugin("ADD").expect_code(0);
    let script = "ip -o addr show dev eth0 | grep -v -e link/ -e fe80 | awk '{ print $2, $4 }'; ip route; \
                  cat /sys/class/net/eth0/mtu; ping -q -c 1 -s 1200 -W 60 10.96.0.1 >/dev/null; echo $?";
    let bundle = lab.bundle(Root::Shared("busybox")).script(script).edit(|config| {
        config["linux"]["namespaces"][1]["path"] = json!(format!("/run/netns/{name}"));
        for set in ["bounding", "effective", "permitted"] {
            let list = config["process"]["capabilities"][set].as_array_mut().expect("a list");
            list.push(json!("CAP_NET_RAW"));
        }
    });
    let (ringfence, crun) = lab.both(&bundle);
    ringfence.expect_code(0);
    assert_eq!(ringfence.out(), crun.out(), "{ringfence}");
    assert!(ringfence.out().ends_with("1280\n0\n"), "{ringfence}");
    plugin("DEL").expect_code(0);
    ip(&["netns", "del", &name]);
    ip(&["link", "del", bridge]);
    lab.expect_nothing_left();
}
