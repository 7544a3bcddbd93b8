//! What a bundle asks for is what its container gets: the same as with crun, on the same bundle.

use integration_tests::report::{Difference, compare, sections};
use integration_tests::{Lab, Root, Runtime};
use serde_json::{Value, json};

/// Says everything about itself that a bundle can choose for a process.
const PROCESS: &str = r#"
echo "== arguments"; for argument; do echo "[$argument]"; done
echo "== ids"; id -u; id -g; id -G
echo "== pid"; echo $$
echo "== directory"; pwd
echo "== environment"; env | sort
echo "== umask"; umask
echo "== hostname"; hostname; cat /proc/sys/kernel/domainname
echo "== credentials"; grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Umask|Seccomp:)' /proc/self/status
echo "== limits"; grep -E '^Max (open files|core|file size|stack|address|nice|cpu)' /proc/self/limits
echo "== oom"; cat /proc/self/oom_score_adj
echo "== descriptors"; ls /proc/self/fd
echo "== session"; awk '{ print $5, $6 }' /proc/self/stat
echo "== signals"; grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status
echo "== seen"; set -- /proc/[0-9]*; echo $#
echo "== command"; tr '\0' '|' </proc/1/cmdline; echo
echo "== stdin"; cat; echo "($?)"
"#;

fn process_of_an_ordinary_user(config: &mut Value) {
    let capabilities = json!(["CAP_CHOWN", "CAP_NET_RAW", "CAP_SYS_PTRACE"]);
    config["process"]["user"] =
        json!({ "uid": 1234, "gid": 567, "umask": 0o027, "additionalGids": [10, 20, 424_242] });
    config["process"]["cwd"] = json!("/var/tmp");
    config["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_NET_RAW", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN"],
        "permitted": capabilities, "effective": ["CAP_CHOWN"], "inheritable": capabilities,
        "ambient": ["CAP_NET_RAW"],
    });
    config["process"]["rlimits"] = json!([
        { "type": "RLIMIT_NOFILE", "soft": 333, "hard": 4444 },
        { "type": "RLIMIT_CORE", "soft": 0, "hard": 1_048_576 },
        { "type": "RLIMIT_FSIZE", "soft": 1_000_000_000, "hard": 2_000_000_000 },
        { "type": "RLIMIT_STACK", "soft": 4_194_304, "hard": 67_108_864 },
        { "type": "RLIMIT_AS", "soft": 4_294_967_296_u64, "hard": 8_589_934_592_u64 },
        { "type": "RLIMIT_NICE", "soft": 3, "hard": 5 },
        { "type": "RLIMIT_CPU", "soft": 100, "hard": 200 },
    ]);
    config["process"]["oomScoreAdj"] = json!(321);
    config["hostname"] = json!("a-name.example");
    config["domainname"] = json!("a-domain");
}

#[test]
fn a_process_is_what_its_bundle_says() {
    let lab = Lab::enter();
    let mut bundle = lab
        .bundle(Root::Shared("busybox"))
        .env("PLAIN=value")
        .env("EMPTY=")
        .env("EQUALS=a=b=c")
        .env("SPACED= two  words\ttab ")
        .env("UTF8=Grüße, 世界")
        .edit(process_of_an_ordinary_user);
    bundle.config()["process"]["args"] = json!([
        "/bin/sh",
        "-c",
        PROCESS,
        "name",
        "",
        "two words",
        "$HOME",
        "a\nb",
        "--",
        "-x",
        "ü",
        "'\"\\",
    ]);
    let ringfence = lab.ringfence(&bundle).stdin("typed\n").run();
    let crun = lab.crun(&bundle).stdin("typed\n").run();
    ringfence.expect_code(0);
    crun.expect_code(0);
    compare(ringfence.out(), crun.out(), &[]);
    assert_eq!(ringfence.err(), crun.err());
    // The reference could be wrong in the same way, so the main things once more by name.
    let said = sections(ringfence.out());
    assert_eq!(said["ids"], "1234\n567\n567 10 20 424242\n");
    assert_eq!(said["pid"], "1\n");
    assert_eq!(said["directory"], "/var/tmp\n");
    assert_eq!(said["umask"], "0027\n");
    assert_eq!(said["hostname"], "a-name.example\na-domain\n");
    assert_eq!(said["stdin"], "typed\n(0)\n");
}

/// What root sees around it.
const SURROUNDINGS: &str = r#"
echo "== mounts"
awk '$5 ~ "^/(proc|dev|dev/.*|sys|sys/fs/cgroup|scratch|etc/.*|srv/.*|tmp)$" {
    kind = $0; sub(".* - ", "", kind); split(kind, word, " ")
    # What a bind mount is of differs, and so do the times that it keeps.
    if (word[1] ~ /^(virtiofs|ext4|overlay)$/) { word[1] = "shared"; sub(",[a-z]*atime", "", $6) }
    # Masked files show /dev, which is stricter in the guest than in the lab.
    if (word[1] == "devtmpfs") gsub(",(nosuid|noexec)", "", $6)
    print $5, $6, word[1]
}' /proc/self/mountinfo | sort
echo "== sizes"; df -k /dev /dev/shm /scratch | awk 'NR > 1 { print $2, $6 }'
echo "== modes"; stat -c '%a %u %g %n' /dev /dev/shm /dev/pts /scratch /proc /sys /tmp
echo "== devices"; ls -ln /dev | grep -v -e ^total -e core | awk '{ print $1, $3, $4, $5, $6, $NF }'
echo "== links"; for link in fd stdin stdout stderr ptmx; do readlink /dev/$link; done
echo "== core"; readlink /dev/core; ls -d /proc/kcore
echo "== use"; cat /dev/null; head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c
echo >/dev/full; echo $?
(exec </dev/tty) 2>&1; echo $?
echo "== extra"; ls -ln /dev/extra | awk '{ print $1, $3, $4, $5, $6 }'
echo "== forbidden"; mknod /dev/disk b 8 0; echo $?; cat /dev/disk; echo $?
echo "== masked"; cat /etc/secret; ls /etc/secrets; ls -ld /etc/secrets | cut -c1-10
echo "== readonly"
for path in /srv/frozen/x /proc/sys/kernel/hostname /sys/x /proc/irq/x; do
    (echo y >$path) 2>&1; echo $?
done
echo "== writable"; echo y >/srv/x; echo $?; cat /srv/x; echo z >/scratch/z; echo $?
echo "== sysctl"; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax
echo "== cgroup"; cat /proc/self/cgroup; ls -d /sys/fs/cgroup/cgroup.procs
echo "== namespaces"; ls /proc/self/ns
echo "== network"; ls /sys/class/net
echo "== queue"; ls -a /dev/mqueue
echo "== bind"; cat /etc/one; cat /mnt/tree/two; (echo x >/mnt/tree/three) 2>&1; echo $?
"#;

const SURROUNDINGS_THAT_DIFFER: &[Difference] = &[Difference {
    section: "core",
    reason: "the guest kernel has no /proc/kcore, so that there is nothing to link to",
}];

#[test]
fn mounts_devices_and_masks_are_what_the_bundle_says() {
    let lab = Lab::enter();
    let share = lab.directory("share");
    std::fs::write(share.join("two"), "two\n").unwrap();
    std::fs::write(lab.scratch().join("one"), "one\n").unwrap();
    let bundle = lab
        .bundle(Root::Writable("busybox"))
        .script(SURROUNDINGS)
        .mount(json!({
            "destination": "/scratch", "type": "tmpfs", "source": "tmpfs",
            "options": ["nodev", "noexec", "mode=1750", "size=2m", "uid=5", "gid=6"],
        }))
        .bind(&lab.scratch().join("one"), "/etc/one", &["ro"])
        .bind(&share, "/mnt/tree", &["ro", "nosuid", "nodev"])
        .edit(|config| {
            let capabilities = json!(["CAP_MKNOD", "CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
            for set in ["bounding", "permitted", "effective"] {
                config["process"]["capabilities"][set] = capabilities.clone();
            }
            let linux = &mut config["linux"];
            for path in ["/etc/secret", "/etc/secrets", "/not/there"] {
                linux["maskedPaths"].as_array_mut().unwrap().push(json!(path));
            }
            linux["readonlyPaths"].as_array_mut().unwrap().push(json!("/srv/frozen"));
            linux["sysctl"] = json!({ "net.ipv4.ip_forward": "1", "kernel.msgmax": "12345" });
            linux["devices"] = json!([{
                "path": "/dev/extra", "type": "c", "major": 1, "minor": 7, "fileMode": 0o640,
                "uid": 7, "gid": 8,
            }]);
        });
    for directory in ["etc/secrets", "srv/frozen", "mnt/tree", "scratch"] {
        std::fs::create_dir_all(bundle.root().join(directory)).unwrap();
    }
    std::fs::write(bundle.root().join("etc/secret"), "secret\n").unwrap();
    std::fs::write(bundle.root().join("etc/secrets/one"), "secret\n").unwrap();
    let (ringfence, crun) = lab.both(&bundle);
    ringfence.expect_code(0);
    crun.expect_code(0);
    compare(ringfence.out(), crun.out(), SURROUNDINGS_THAT_DIFFER);
    let said = sections(ringfence.out());
    assert!(!ringfence.out().contains("secret\n"), "{ringfence}");
    assert!(said["mounts"].contains("/scratch "), "{ringfence}");
    // Another runtime's container wrote over it; both must have reached the host.
    assert_eq!(std::fs::read_to_string(bundle.root().join("srv/x")).unwrap(), "y\n");
    assert!(!bundle.root().join("scratch/z").exists());
}

#[test]
fn a_readonly_root_is_one() {
    let lab = Lab::enter();
    let script = "echo '== root'; (echo x >/x) 2>&1; echo $?; (mkdir /d) 2>&1; echo $?; \
                  (rm /bin/ls) 2>&1; echo $?; awk '$5 == \"/\" { print substr($6, 1, 3) }' /proc/self/mountinfo";
    let bundle = lab.bundle(Root::Shared("busybox")).script(script);
    let (ringfence, crun) = lab.both(&bundle);
    ringfence.expect_code(0);
    compare(ringfence.out(), crun.out(), &[]);
    assert!(ringfence.out().contains("Read-only file system"), "{ringfence}");
}

#[test]
fn a_container_has_its_own_kernel_memory_and_cpus() {
    let lab = Lab::enter();
    let script = "uname -r; grep MemTotal /proc/meminfo | awk '{ print $2 }'; nproc; \
                  cat /proc/version";
    let bundle = lab.bundle(Root::Shared("busybox")).script(script);
    let options = ["--memory", "192", "--vcpus", "2"];
    let outcome = lab.runtime(Runtime::Ringfence, &bundle, &options).run();
    outcome.expect_code(0);
    let lines: Vec<&str> = outcome.out().lines().collect();
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_ne!(lines[0], host.trim());
    let kib: u64 = lines[1].parse().unwrap();
    assert!((160 * 1024..=192 * 1024).contains(&kib), "{outcome}");
    assert_eq!(lines[2], "2");
}

#[test]
fn the_bundle_is_the_working_directory_unless_named() {
    let lab = Lab::enter();
    let bundle = lab.bundle(Root::Shared("busybox")).args(&["echo", "found"]);
    let id = lab.new_id();
    let outcome = integration_tests::Invocation::new("env")
        .arg("--chdir")
        .arg(bundle.write())
        .args(&["ringfence", "run", &id])
        .run();
    outcome.expect_code(0);
    assert_eq!(outcome.out(), "found\n");
}

#[test]
fn a_trace_holds_the_start_of_host_and_guest() {
    let lab = Lab::enter();
    let bundle = lab.bundle(Root::Shared("busybox"));
    let trace = lab.scratch().join("trace.json");
    let options = ["--trace", trace.to_str().unwrap()];
    lab.runtime(Runtime::Ringfence, &bundle, &options).run().expect_code(0);
    let text = std::fs::read_to_string(&trace).expect("the trace was written");
    let value: Value = serde_json::from_str(&text).expect("the trace is JSON");
    let events = value["traceEvents"].as_array().or(value.as_array()).expect("an array of events");
    let spans: Vec<&Value> = events.iter().filter(|event| event["ph"] == "X").collect();
    assert!(spans.len() >= 5, "too few spans: {text}");
    for span in &spans {
        assert!(span["name"].is_string() && span["ts"].is_number(), "{span}");
        assert!(span["dur"].as_f64().is_some_and(|duration| duration >= 0.0), "{span}");
        assert!(span["pid"].is_number() && span["tid"].is_number(), "{span}");
    }
    // The phases follow each other without a gap: what takes time has a name.
    let phases: Vec<&&Value> = spans.iter().filter(|span| span["tid"] == 1).collect();
    let names: Vec<&str> = phases.iter().filter_map(|phase| phase["name"].as_str()).collect();
    for name in ["launcher", "vmm up", "kernel boot", "agent ready", "container started"] {
        assert!(names.contains(&name), "{names:?}");
    }
    for pair in phases.windows(2) {
        let end = pair[0]["ts"].as_f64().unwrap() + pair[0]["dur"].as_f64().unwrap();
        let gap = pair[1]["ts"].as_f64().unwrap() - end;
        assert!(gap.abs() < 0.01, "{pair:?}");
    }
}
