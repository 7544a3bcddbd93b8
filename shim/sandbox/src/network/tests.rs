//! In network namespaces of this machine; needs root and iproute2.

use super::*;
use agent_protocol::{Address, RoutePlan};
use std::fs::File;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Instant;

#[test]
fn the_hosts_namespace_is_refused() {
    let error = Network::look(Path::new("/proc/thread-self/ns/net")).unwrap_err();
    assert!(matches!(error, NetworkError::Host { .. }), "{error}");
    let error = Network::look(Path::new("/no/such/namespace")).unwrap_err();
    assert!(matches!(error, NetworkError::Open { .. }), "{error}");
    disconnect(&NetworkRecord { namespace: "/no/such/namespace".into(), interfaces: vec![1] });
}

/// A namespace as an engine prepares it, with its peer in another one; gone with the value.
struct Stage {
    names: [String; 2],
}

impl Stage {
    /// `None` without root.
    fn new(name: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: this test needs root");
            return None;
        }
        let id = std::process::id();
        let stage = Self { names: [format!("rf-{name}-{id}"), format!("rf-{name}-{id}-peer")] };
        for name in &stage.names {
            run(&["netns", "add", name]);
        }
        let [inside, peer] = &stage.names;
        run(&[
            "-n", peer, "link", "add", "v0", "type", "veth", "peer", "name", "eth0", "netns",
            inside,
        ]);
        run(&["-n", peer, "link", "set", "v0", "up"]);
        stage.inside(&["link", "set", "eth0", "mtu", "1400", "up"]);
        stage.inside(&["link", "set", "lo", "up"]);
        // A pair that is up at both ends says so some time later.
        let until = Instant::now() + Duration::from_secs(30);
        while !stage.inside(&["-br", "link", "show", "eth0"]).contains(" UP ") {
            assert!(Instant::now() < until, "eth0 does not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(stage)
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.names[0])
    }

    fn inside(&self, words: &[&str]) -> String {
        run(&[&["-n", &self.names[0]], words].concat())
    }

    /// Queues and interfaces, without counters.
    fn shown(&self) -> String {
        let words = ["netns", "exec", &self.names[0], "tc", "qdisc", "show"];
        format!("{}{}", run(&words), self.inside(&["-br", "link"]))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn tap_of(backend: InterfaceBackend) -> File {
    match backend {
        InterfaceBackend::Tap { taps, .. } => File::from(taps.into_iter().next().unwrap()),
        InterfaceBackend::Stream(_) => panic!("{backend:?} is no tap"),
    }
}

fn run(words: &[&str]) -> String {
    let output = Command::new("ip").args(words).output().expect("iproute2 is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_interface_is_found_with_all_that_it_has() {
    let Some(stage) = Stage::new("look") else { return };
    stage.inside(&["addr", "add", "10.77.0.2/24", "broadcast", "10.77.0.255", "dev", "eth0"]);
    stage.inside(&["addr", "add", "fd77::2/64", "dev", "eth0", "nodad"]);
    stage.inside(&["route", "add", "10.99.0.1", "dev", "eth0"]);
    stage.inside(&["route", "add", "default", "via", "10.99.0.1", "metric", "7"]);
    stage.inside(&["-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0"]);
    let neighbour = ["neigh", "add", "10.77.0.9", "lladdr", "02:00:00:00:00:09", "dev", "eth0"];
    stage.inside(&neighbour);
    let network = Network::look(&stage.path()).unwrap();
    assert_eq!(network.found.len(), 1);
    let Found { plan, sources, .. } = &network.found[0];
    assert_eq!((plan.name.as_str(), plan.mtu), ("eth0", 1400));
    assert_eq!(sources.len(), 2);
    let addresses: Vec<_> = plan.addresses.iter().map(|plan| (plan.address, plan.prefix)).collect();
    assert!(addresses.contains(&(Address::V4([10, 77, 0, 2]), 24)), "{addresses:?}");
    let gateways: Vec<_> = plan.routes.iter().map(|route| route.gateway).collect();
    let link_local = Address::V6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    // What has no gateway comes first.
    assert_eq!(gateways[0], None);
    assert!(gateways.contains(&Some(Address::V4([10, 99, 0, 1]))), "{gateways:?}");
    assert!(gateways.contains(&Some(link_local)), "{gateways:?}");
    assert_eq!(plan.neighbours[0].mac, [2, 0, 0, 0, 0, 9]);
}

#[test]
fn frames_go_both_ways_and_nothing_is_left() {
    let Some(stage) = Stage::new("join") else { return };
    let before = stage.shown();
    let network = Network::look(&stage.path()).unwrap();
    let record = network.record();
    let Connected { host, mut interfaces, .. } = network.connect(1).unwrap();
    assert_ne!(stage.shown(), before);
    let interface = interfaces.remove(0);
    let mut tap = tap_of(interface.backend);

    // A frame of the guest comes out at the peer.
    let peer = stage.names[1].clone();
    let count = || {
        let statistics = run(&["-n", &peer, "-s", "link", "show", "v0"]);
        let received = statistics.lines().skip_while(|line| !line.contains("RX:")).nth(1).unwrap();
        received.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let received = count();
    let frame = [&[0; 12][..], &[0xff; 6], &interface.plan.mac, &[0x88, 0xb5], &[7; 50]].concat();
    for _ in 0..10 {
        assert_eq!(tap.write(&frame).unwrap(), frame.len());
    }
    assert!(count() >= received + 10);

    // A frame of the peer comes in: it asks for an address that nobody has.
    run(&["-n", &peer, "addr", "add", "10.77.0.1/24", "dev", "v0"]);
    let path = Path::new("/run/netns").join(&peer);
    let namespace = open(&path).unwrap();
    let sent = inside(&path, &namespace, async {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        Ok(socket.send_to(b"hello", "10.77.0.2:9").unwrap())
    });
    sent.unwrap();
    let mut bytes = [0; 2048];
    let is_question = |bytes: &[u8]| bytes.get(24..26) == Some(&[8, 6]);
    let mut found = false;
    while let Ok(length) = tap.read(&mut bytes) {
        found |= is_question(&bytes[..length]);
    }
    assert!(found, "no question for the address came to the tap");

    drop(tap);
    drop(host);
    assert_eq!(stage.shown(), before);
    // Once more, as after a crash: it is no error.
    disconnect(&record);
}

#[test]
fn what_cannot_be_connected_leaves_everything_as_it_was() {
    let Some(stage) = Stage::new("busy") else { return };
    let queue = ["netns", "exec", &stage.names[0], "tc", "qdisc", "add", "dev", "eth0", "ingress"];
    // Somebody else's queue is in the way: from the first look on, or put there after it.
    run(&queue);
    let before = stage.shown();
    let error = Network::look(&stage.path()).unwrap_err();
    assert!(error.to_string().contains("eth0"), "{error}");
    let del = ["netns", "exec", &stage.names[0], "tc", "qdisc", "del", "dev", "eth0", "ingress"];
    run(&del);
    let network = Network::look(&stage.path()).unwrap();
    run(&queue);
    let error = network.connect(1).unwrap_err();
    assert!(error.to_string().contains("eth0"), "{error}");
    assert_eq!(stage.shown(), before);
}

#[test]
fn what_a_guest_cannot_have_is_refused_by_name() {
    let Some(stage) = Stage::new("refused") else { return };
    stage.inside(&["addr", "add", "10.77.0.2/24", "dev", "eth0"]);
    let refused = |problem: &str| {
        let error = Network::look(&stage.path()).unwrap_err().to_string();
        assert!(error.contains(problem), "{problem:?} in {error}");
    };
    let several = ["nexthop", "via", "10.77.0.3", "nexthop", "via", "10.77.0.4"];
    for (kind, words, problem) in [
        ("route", &["blackhole", "10.5.0.0/16"][..], "a blackhole route"),
        ("route", &["unreachable", "fd05::/64"], "an unreachable route"),
        ("route", &[&["10.5.0.0/16"], &several[..]].concat(), "a route over several gateways"),
        ("route", &["10.5.0.0/16", "dev", "eth0", "table", "100"], "a route of table 100"),
        (
            "rule",
            &["from", "10.77.0.2", "lookup", "100", "prio", "77"],
            "a policy rule of priority 77",
        ),
    ] {
        stage.inside(&[&[kind, "add"], words].concat());
        refused(problem);
        stage.inside(&[&[kind, "del"], words].concat());
        Network::look(&stage.path()).unwrap();
    }
    // One from which nothing can be connected is not taken for an empty one.
    stage.inside(&["link", "set", "eth0", "down"]);
    refused("eth0 has an address and is down");
    stage.inside(&["addr", "flush", "dev", "eth0"]);
    assert!(Network::look(&stage.path()).unwrap().found.is_empty());
    stage.inside(&["tuntap", "add", "tun0", "mode", "tun"]);
    stage.inside(&["link", "set", "tun0", "up"]);
    refused("tun0 is no Ethernet interface");
}

#[test]
fn many_interfaces_routes_and_long_names_have_their_bounds() {
    let Some(stage) = Stage::new("many") else { return };
    stage.inside(&["link", "set", "eth0", "down"]);
    stage.inside(&["link", "set", "eth0", "name", "fifteen-letters"]);
    stage.inside(&["link", "set", "fifteen-letters", "up"]);
    stage.inside(&["addr", "add", "10.77.0.2/24", "dev", "fifteen-letters"]);
    for number in 0..100 {
        stage.inside(&["route", "add", &format!("10.100.{number}.0/24"), "via", "10.77.0.1"]);
    }
    // A gateway of the other family.
    let over = ["route", "add", "10.200.0.0/16", "via", "inet6", "fe80::1", "dev"];
    stage.inside(&[&over[..], &["fifteen-letters"]].concat());
    let network = Network::look(&stage.path()).unwrap();
    let plan = &network.found[0].plan;
    assert_eq!((plan.name.as_str(), plan.routes.len()), ("fifteen-letters", 101));
    let v6 = |route: &&RoutePlan| matches!(route.gateway, Some(Address::V6(_)));
    assert_eq!(plan.routes.iter().filter(v6).count(), 1);
    for number in 0..50 {
        let name = format!("eth{number}");
        let peer = format!("peer{number}");
        stage.inside(&["link", "add", &name, "up", "type", "veth", "peer", "name", &peer]);
    }
    let error = Network::look(&stage.path()).unwrap_err().to_string();
    assert!(error.contains("there are 51 interfaces") && error.contains("at most 16"), "{error}");
}

#[test]
fn a_guest_with_several_cpus_has_a_tap_with_several_queues_of_which_the_first_is_used() {
    for (name, vcpus, pairs) in [("two", 2, 2), ("many", 32, MAX_NET_PAIRS)] {
        let Some(stage) = Stage::new(name) else { return };
        let connected = Network::look(&stage.path()).unwrap().connect(vcpus).unwrap();
        let InterfaceBackend::Tap { taps, .. } = &connected.interfaces[0].backend else {
            panic!("{:?} is no tap", connected.interfaces)
        };
        assert_eq!(taps.len(), usize::from(pairs));
        // Nothing comes by the others until the VMM attaches them.
        let script = "ls -d /sys/class/net/ringfence*/queues/rx-*";
        let queues = run(&["netns", "exec", &stage.names[0], "sh", "-c", script]);
        assert_eq!(queues.lines().count(), 1, "{queues}");
    }
}

#[test]
fn what_comes_or_goes_after_the_connection_is_noticed() {
    let Some(stage) = Stage::new("late") else { return };
    let network = Network::look(&stage.path()).unwrap();
    let record = network.record();
    let connected = network.connect(1).unwrap();
    record.check().unwrap();
    stage.inside(&["link", "add", "eth1", "type", "veth", "peer", "name", "peer1"]);
    let error = record.check().unwrap_err();
    assert!(matches!(&error, NetworkError::Late { .. }), "{error}");
    stage.inside(&["link", "del", "eth1"]);
    record.check().unwrap();
    stage.inside(&["link", "del", "eth0"]);
    let error = record.check().unwrap_err();
    assert!(matches!(error, NetworkError::Gone { .. }), "{error}");
    drop(connected);
}

#[test]
fn an_interface_that_goes_is_told_once() {
    let Some(stage) = Stage::new("gone") else { return };
    stage.inside(&["link", "add", "eth1", "up", "type", "veth", "peer", "name", "peer1"]);
    stage.inside(&["link", "set", "peer1", "up"]);
    let network = Network::look(&stage.path()).unwrap();
    let Connected { host, interfaces, .. } = network.connect(1).unwrap();
    let mut network = Some(host);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Its peer goes, and it with that.
    run(&["-n", &stage.names[1], "link", "del", "v0"]);
    let patience = Duration::from_secs(30);
    let mut wait = |patience| {
        let gone = HostNetwork::interface_gone(&mut network);
        runtime.block_on(async { tokio::time::timeout(patience, gone).await })
    };
    let gone = wait(patience).unwrap();
    assert_eq!(gone.name, interfaces[usize::from(gone.place)].plan.name);
    assert_eq!(gone.name, "eth0");
    wait(Duration::from_millis(50)).unwrap_err();
}

#[test]
fn the_network_of_another_machine_is_refused() {
    let own = PathBuf::from(format!("/proc/{}/ns/net", std::process::id()));
    // This process stands for a supervisor: it has the same program.
    let error = Network::look(&own).unwrap_err().to_string();
    assert!(error.contains("another virtual machine"), "{error}");
    let error = Network::look(Path::new("/etc/passwd")).unwrap_err();
    assert!(error.to_string().contains("/etc/passwd"), "{error}");
}

#[test]
fn a_name_server_of_the_namespace_is_asked_and_hears_others() {
    let Some(stage) = Stage::new("names") else { return };
    stage.inside(&["addr", "add", "10.77.0.2/24", "dev", "eth0"]);
    let peer = Path::new("/run/netns").join(&stage.names[1]);
    run(&["-n", &stage.names[1], "addr", "add", "10.77.0.1/24", "dev", "v0"]);
    run(&["-n", &stage.names[1], "link", "set", "lo", "up"]);
    let bind = |path: &Path, address: &str| {
        let namespace = open(path).unwrap();
        let socket = inside(path, &namespace, async { Ok(UdpSocket::bind(address)) });
        let socket = socket.unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket
    };
    let server = bind(&stage.path(), "127.0.0.11:53");
    let mut network = Network::look(&stage.path()).unwrap();
    network.look_for_names("nameserver 127.0.0.12\n").unwrap();
    assert_eq!(network.name_server, None);
    network.look_for_names("search here\nnameserver 127.0.0.11\n").unwrap();
    let connected = network.connect(1).unwrap();
    let NameServer { plan, stream } = connected.name_server.unwrap();
    assert_eq!(plan.address, [127, 0, 0, 11]);

    // It is asked for the guest.
    let mut guest = UnixStream::from(stream);
    guest.write_all(b"\x07\0\0\x02\0?!").unwrap();
    let mut question = [0; 8];
    let (length, from) = server.recv_from(&mut question).unwrap();
    assert_eq!(&question[..length], b"?!");
    server.send_to(b"yes", from).unwrap();
    let mut answer = [0; 8];
    guest.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    guest.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\x07\0\0\x03\0yes");

    // It asks others, whose answers are not the guest's.
    let (other, asks) = (bind(&peer, "10.77.0.1:53"), bind(&stage.path(), "0.0.0.0:0"));
    asks.send_to(b"who", "10.77.0.1:53").unwrap();
    let (_, from) = other.recv_from(&mut question).unwrap();
    assert!(from.port() >= 0xff00, "{from}");
    other.send_to(b"me", from).unwrap();
    assert_eq!(asks.recv(&mut question).unwrap(), 2);
    // What comes to a port of the guest's is.
    other.send_to(b"guest", "10.77.0.2:40000").unwrap();
    let mut tap = tap_of(connected.interfaces.into_iter().next().unwrap().backend);
    let mut frames = Vec::new();
    let mut bytes = [0; 2048];
    while let Ok(length) = tap.read(&mut bytes) {
        frames.push(bytes[..length].to_vec());
    }
    let ends = |end: &[u8]| frames.iter().filter(|frame| frame.ends_with(end)).count();
    assert_eq!((ends(b"guest"), ends(b"me")), (1, 0), "{frames:x?}");

    // The relay ends with the network.
    drop(connected.host);
    assert_eq!(guest.read(&mut answer).unwrap(), 0);
}

#[test]
fn connections_to_loopback_addresses_are_taken_and_others_are_not() {
    let Some(stage) = Stage::new("loopback") else { return };
    let path = stage.path();
    let namespace = open(&path).unwrap();
    let connect = |address: &'static str| {
        inside(&path, &namespace, async { Ok(std::net::TcpStream::connect(address).is_ok()) })
            .unwrap()
    };
    assert!(!connect("127.0.0.1:8080"));
    let loopback = Loopback::listen(&path).unwrap();
    for (index, address) in ["127.0.0.1:8080", "[::1]:1"].into_iter().enumerate() {
        let Some(listener) = loopback.listeners.get(index) else { continue };
        assert!(connect(address));
        let (taken, _) = listener.accept().unwrap();
        assert_eq!(taken.local_addr().unwrap(), address.parse().unwrap());
    }
    assert!(!connect("127.0.0.2:8080"));
    drop(loopback);
    assert!(!connect("127.0.0.1:8080"));
}
