//! The container's cgroup on the host: where it is, what it holds, its limits, and that nothing of it
//! stays.

use std::path::{Path, PathBuf};
use std::time::Duration;

use integration_tests::detached::{Detached, reap_strays};
use integration_tests::host::{processes, vmm_of};
use integration_tests::{Bundle, Invocation, Lab, Root, Runtime};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

const MOUNT: &str = "/sys/fs/cgroup";

fn bundle(lab: &Lab, path: &str) -> Bundle {
    lab.bundle(Root::Shared("busybox")).script("echo up; exec sleep 603").edit(|config| {
        config["linux"]["cgroupsPath"] = json!(path);
        config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20, "swap": 64 << 20 });
        config["linux"]["resources"]["pids"] = json!({ "limit": 50 });
        config["linux"]["resources"]["cpu"] =
            json!({ "shares": 512, "quota": 50_000, "period": 100_000 });
    })
}

fn cgroup_of(pid: Pid) -> String {
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).unwrap();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
}

fn read(path: &str, file: &str) -> String {
    let file = PathBuf::from(format!("{MOUNT}{path}/{file}"));
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"))
}

fn exists(path: &str) -> bool {
    Path::new(&format!("{MOUNT}{path}")).exists()
}

#[test]
fn a_container_is_in_the_cgroup_that_its_bundle_names() {
    let lab = Lab::enter();
    for runtime in [Runtime::Ringfence, Runtime::Crun] {
        let container = Detached::create(&lab, runtime, &bundle(&lab, "/ringfence-test"));
        assert_eq!(cgroup_of(container.pid()), "/ringfence-test", "{runtime:?}");
        container.expect(&["start"], &[]);
        container.wait_for_stdout("up\n");
        assert_eq!(read("/ringfence-test", "cpu.weight"), "20\n", "{runtime:?}");
        assert_eq!(read("/ringfence-test", "memory.swap.max"), "0\n", "{runtime:?}");
        if runtime == Runtime::Ringfence {
            assert_eq!(cgroup_of(vmm_of(container.pid())), "/ringfence-test");
            // 64 MiB, a 32nd of it and 64 MiB are the machine; beside it 128 MiB and a 128th.
            let machine = (64 + 2 + 64) << 20;
            let limit: u64 = machine + (128 << 20) + machine / 128;
            assert_eq!(read("/ringfence-test", "memory.max"), format!("{}\n", limit / 4096 * 4096));
            assert_eq!(read("/ringfence-test", "cpu.max"), "75000 100000\n");
            assert_eq!(read("/ringfence-test", "pids.max"), "1024\n");
            let used: u64 = read("/ringfence-test", "memory.current").trim().parse().unwrap();
            assert!(used > 10 << 20, "the guest's memory is not there: {used}");
        }
        container.expect(&["kill"], &["KILL"]);
        assert_eq!(container.wait(), 137);
        container.delete();
        assert!(!exists("/ringfence-test"), "{runtime:?}");
    }
}

#[test]
fn parents_that_were_made_go_with_the_container() {
    let lab = Lab::enter();
    let path = "/ringfence-test/a/b";
    let container = Detached::create(&lab, Runtime::Ringfence, &bundle(&lab, path));
    assert_eq!(cgroup_of(container.pid()), path);
    container.delete_and_wait();
    assert!(!exists("/ringfence-test"));
}

#[test]
fn systemds_form_names_the_same_directory() {
    let lab = Lab::enter();
    let bundle = bundle(&lab, "ringfence-test.slice:p:n");
    let words = ["--systemd-cgroup", "create"];
    let container = Detached::leave(&lab, Runtime::Ringfence, &bundle, &words);
    let path = "/ringfence.slice/ringfence-test.slice/p-n.scope";
    assert_eq!(cgroup_of(container.pid()), path);
    container.delete_and_wait();
    assert!(!exists("/ringfence.slice"));
    let bundle = bundle.edit(|config| config["linux"]["cgroupsPath"] = json!("/plain"));
    let (_container, outcome) = Detached::try_leave(&lab, Runtime::Ringfence, &bundle, &words);
    outcome.expect_code(125);
}

#[test]
fn nothing_stays_whoever_is_killed() {
    let lab = Lab::enter();
    let bundle = bundle(&lab, "/ringfence-test/c");
    for victim in ["supervisor", "machine"] {
        let container = Detached::create(&lab, Runtime::Ringfence, &bundle);
        container.expect(&["start"], &[]);
        container.wait_for_stdout("up\n");
        let pid = match victim {
            "supervisor" => container.pid(),
            _ => vmm_of(container.pid()),
        };
        kill_process(pid, Signal::KILL).unwrap();
        container.wait();
        assert!(exists("/ringfence-test/c"), "{victim}");
        container.expect(&["delete", "--force"], &[]);
        assert!(!exists("/ringfence-test"), "{victim}");
        // A machine whose supervisor was killed is this process's to reap.
        drop(container);
        reap_strays();
    }
}

#[test]
fn nothing_stays_whenever_a_supervisor_is_killed() {
    let lab = Lab::enter();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let bundle = bundle(&lab, "/ringfence-test/a/e");
    // From before the cgroup is made to after the container stands, on a slow host and on a fast one.
    for delay in [0, 10, 30, 60, 120, 250, 500, 1000, 2000] {
        let id = lab.new_id();
        let null = || integration_tests::command::open_for_writing("/dev/null");
        let create = Invocation::new("ringfence").args(&["create", "--bundle"]);
        let create = create.arg(bundle.write()).arg(&id).stdout(null()).stderr(null()).start();
        std::thread::sleep(Duration::from_millis(delay));
        for process in processes().iter().filter(|process| process.shown.contains(" supervise ")) {
            let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw).unwrap();
            kill_process(pid, Signal::KILL).unwrap();
        }
        drop(create.finish());
        let delete = Invocation::new("ringfence").args(&["delete", "--force"]).arg(&id).run();
        delete.expect_code(0);
        let left = || Invocation::new("find").args(&["/sys/fs/cgroup/ringfence-test"]).run();
        assert!(!exists("/ringfence-test"), "after {delay} ms: {delete}\n{}", left());
        reap_strays();
    }
}

#[test]
fn a_host_that_kills_for_memory_is_told_from_everything_else() {
    let lab = Lab::enter();
    let container = Detached::create(&lab, Runtime::Ringfence, &bundle(&lab, "/ringfence-test"));
    container.expect(&["start"], &[]);
    container.wait_for_stdout("up\n");
    // Far less than the machine may have; its next pages are too many.
    let used: u64 = read("/ringfence-test", "memory.current").trim().parse().unwrap();
    let limit = PathBuf::from(format!("{MOUNT}/ringfence-test/memory.max"));
    std::fs::write(limit, (used + (2 << 20)).to_string()).unwrap();
    let fill = ["dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=40"];
    container.command(&["exec"], &fill).expect_code(250);
    assert_eq!(container.wait(), 250, "{}", read("/ringfence-test", "memory.events"));
    let state = container.state();
    let reason = state["end"]["reason"].as_str().unwrap();
    assert!(reason.contains("the host killed the virtual machine"), "{state}");
    container.delete();
}

#[test]
fn a_container_in_the_foreground_takes_its_cgroup_along() {
    let lab = Lab::enter();
    let bundle = bundle(&lab, "/ringfence-test/d");
    let own = cgroup_of(rustix::process::getpid());
    let running = lab.ringfence(&bundle).start();
    running.wait_for_stdout("up\n");
    assert_eq!(cgroup_of(running.pid()), "/ringfence-test/d");
    running.signal(Signal::KILL);
    running.finish().expect_code(137);
    // What a killed one has left is cleared away by whoever uses its id next.
    let id = std::fs::read_dir("/run/ringfence")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .find(|name| name.starts_with("test-"))
        .unwrap();
    assert!(exists("/ringfence-test/d"));
    let again = Invocation::new("ringfence").args(&["run", "--bundle"]);
    let bundle = bundle.script("exit 3");
    again.arg(bundle.write()).arg(&id).run().expect_code(3);
    assert!(!exists("/ringfence-test"));
    assert_eq!(cgroup_of(rustix::process::getpid()), own);
}

#[test]
fn a_host_that_gives_no_cgroup_runs_containers_all_the_same() {
    let lab = Lab::enter();
    let read_only = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount -o remount,bind,ro /sys/fs/cgroup && exec \"$@\"",
        "sh",
    ];
    let bundle = bundle(&lab, "/ringfence-test").script("cat /sys/fs/cgroup/memory.max");
    let outcome = lab.ringfence(&bundle).through(&read_only).run();
    outcome.expect_code(0).expect_error("no cgroup of its own on the host");
    assert_eq!(outcome.out(), format!("{}\n", 64 << 20));
    let bundle = bundle.edit(|config| {
        config["linux"]["resources"]["cpu"]["mems"] = json!("0");
    });
    let outcome = lab.ringfence(&bundle).through(&read_only).run();
    outcome.expect_code(125).expect_error("linux.resources.cpu.mems");
    // Where there is one it is done.
    lab.ringfence(&bundle).run().expect_code(0);
}

#[test]
fn a_cgroup_in_use_is_left_alone() {
    let lab = Lab::enter();
    let path = PathBuf::from(format!("{MOUNT}/ringfence-test"));
    std::fs::create_dir(&path).unwrap();
    let stranger = Invocation::new("sleep").arg("604").start();
    let pid = stranger.pid().as_raw_nonzero().to_string();
    std::fs::write(path.join("cgroup.procs"), pid).unwrap();
    let outcome = lab.ringfence(&bundle(&lab, "/ringfence-test")).run();
    outcome.expect_code(125).expect_error("holds processes already");
    assert_eq!(cgroup_of(stranger.pid()), "/ringfence-test");
    drop(stranger);
    std::fs::remove_dir(&path).unwrap();
}

#[test]
fn limits_of_the_host_are_changed_with_the_guests() {
    let lab = Lab::enter();
    let container = Detached::create(&lab, Runtime::Ringfence, &bundle(&lab, "/ringfence-test"));
    container.expect(&["start"], &[]);
    container.wait_for_stdout("up\n");
    let look = || {
        ["memory.max", "memory.low", "cpu.max", "cpu.weight", "pids.max", "cpuset.mems"]
            .map(|file| read("/ringfence-test", file))
    };
    let before = look();
    // A guest that refuses leaves the host as it was, and the other way round.
    for resources in [
        json!({ "cpu": { "shares": 1024 }, "unified": { "memory.high": "nonsense" } }),
        json!({ "cpu": { "shares": 1024, "mems": "63" } }),
    ] {
        let update = container.invocation(&["update", "--resources", "-"], &[]);
        update.stdin(resources.to_string()).run().expect_code(125);
        assert_eq!(look(), before, "{resources}");
    }
    let options = ["--cpu-share", "1024", "--cpu-quota", "80000", "--memory", "50331648"];
    let more = ["--cpuset-mems", "0", "--cpuset-cpus", "0", "--pids-limit", "-1"];
    container.expect(&[&["update"], &options[..], &more[..]].concat(), &[]);
    let after = look();
    // The machine keeps its memory.
    assert_eq!(after[0], before[0]);
    assert_eq!(after[2..], ["105000 100000\n", "39\n", "max\n", "0\n"]);
    let status = format!("/proc/{}/status", vmm_of(container.pid()).as_raw_nonzero());
    let status = std::fs::read_to_string(status).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    let seen = container.command(&["exec"], &["cat", "/sys/fs/cgroup/memory.max"]);
    assert_eq!(seen.out(), "50331648\n");
    container.delete_by_force();
    assert!(!exists("/ringfence-test"));
}
