//! The life of a pod: what its containers share, what each has for itself, and how they end.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use crate::RINGFENCE;
use crate::daemon::{Containerd, wait_until};
use crate::messages::{Int64Value, LinuxContainerResources, NOT_READY, POD, READY, RUNNING};
use crate::pod::{Container, Pod, UNTIL_TERM, mount};

/// How long something in a container may take to be seen.
const SEEN: Duration = Duration::from_secs(60);
/// Of a container that must not have more, in bytes.
const LITTLE: i64 = 32 << 20;

/// What a pod tells of itself, the same whatever the runtime is.
pub(crate) fn tour(containerd: &Containerd, handler: &str) -> Vec<String> {
    let volume = containerd.lab().directory(&format!("volume-{handler}"));
    let config_directory = containerd.lab().directory(&format!("config-{handler}"));
    // The kubelet's directory for the ConfigMaps of a pod.
    let config_directory = config_directory.join("kubernetes.io~configmap");
    std::fs::create_dir(&config_directory).expect("a directory can be made");
    publish(&config_directory, "1", "old");
    let pod = Pod::run_with(containerd, handler, "tour", |config| {
        let linux = config.linux.get_or_insert_default();
        for (name, value) in
            [("net.ipv4.ip_unprivileged_port_start", "80"), ("kernel.shm_rmid_forced", "1")]
        {
            linux.sysctls.insert(name.to_owned(), value.to_owned());
        }
    });
    let status = pod.status();
    assert_eq!((status.state, status.runtime_handler.as_str()), (READY, handler));
    assert!(status.network.is_some_and(|network| network.ip.starts_with("10.97.0.")));
    let mut told = vec![];

    // As an init container.
    let script = "echo out; echo from the first > /volume/file; echo error >&2; exit 7";
    let first = pod.start_with(script, |config, _| {
        config.mounts.push(mount(&volume, "/volume", false));
    });
    let status = first.exited();
    let log = first.log();
    // They come through two pipes.
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    told.push(format!("{} {} {lines:?}", status.exit_code, status.reason));
    first.remove();

    let script =
        format!("httpd -p 127.0.0.1:80 -h /volume; echo shared > /dev/shm/file; {UNTIL_TERM}");
    let server = pod.start_with(&script, |config, context| {
        config.mounts.push(mount(&volume, "/volume", false));
        config.linux.get_or_insert_default().resources =
            Some(LinuxContainerResources { memory_limit_in_bytes: LITTLE, ..Default::default() });
        context.supplemental_groups = vec![3000];
    });
    let client = pod.start_with(UNTIL_TERM, |config, context| {
        config.mounts.push(mount(&volume, "/volume", true));
        config.mounts.push(mount(&config_directory, "/config", true));
        context.run_as_user = Some(Int64Value { value: 1000 });
        context.run_as_group = Some(Int64Value { value: 1001 });
        context.supplemental_groups = vec![2000, 2001];
        context.readonly_rootfs = true;
    });
    for container in [&server, &client] {
        container.wait_for_log("stdout F up");
        assert_eq!(container.status().state, RUNNING);
    }
    told.extend(shared(&server, &client));
    told.push(client.say("id -u; id -g; id -G; cat /volume/file; cat /config/key"));
    told.push(format!("{:?}", client.exec("echo x > /volume/x || echo x > /x || exit 9")));
    publish(&config_directory, "2", "new");
    told.push(client.say("cat /config/key"));
    told.extend(limits(&server));
    told.extend(ends(&pod, server, client));

    pod.stop();
    assert_eq!(pod.status().state, NOT_READY);
    pod.remove();
    told
}

/// What two containers of a pod have in common.
fn shared(server: &Container, client: &Container) -> Vec<String> {
    let spaces = "for kind in ipc net uts pid mnt; do readlink /proc/self/ns/$kind; done";
    let [one, other] = [server, client].map(|container| container.say(spaces));
    let same: Vec<bool> = one.lines().zip(other.lines()).map(|(one, other)| one == other).collect();
    assert_eq!(same, [true, true, true, false, false], "{one}{other}");
    vec![
        client.say("wget -q -O - http://127.0.0.1/file; cat /dev/shm/file; hostname"),
        client.say("cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/shm_rmid_forced"),
        client.say("df -k /dev/shm | awk 'NR > 1 { print $2, $NF }'"),
    ]
}

/// The limits of a container and what it uses.
fn limits(server: &Container) -> Vec<String> {
    let before = server.say("cat /sys/fs/cgroup/memory.max");
    server.update(LinuxContainerResources {
        memory_limit_in_bytes: LITTLE * 2,
        ..LinuxContainerResources::default()
    });
    let after = server.say("cat /sys/fs/cgroup/memory.max");
    let [first, second] = [(), ()].map(|()| {
        let stats = server.stats();
        let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds);
        let memory = stats.memory.and_then(|memory| memory.working_set_bytes);
        (cpu.map_or(0, |cpu| cpu.value), memory.map_or(0, |memory| memory.value))
    });
    assert!(first.0 > 0 && second.0 >= first.0 && second.1 > 0, "{first:?} {second:?}");
    assert!(second.1 < LITTLE.unsigned_abs() * 2, "{second:?}");
    vec![before, after]
}

/// How containers end, one after the other.
fn ends(pod: &Pod, server: Container, client: Container) -> Vec<String> {
    let mut told = vec![format!("{:?}", server.exec("echo out; echo error >&2; exit 9"))];
    client.stop(120);
    let status = client.exited();
    told.push(format!("{} {} {}", status.exit_code, status.reason, client.log()));
    client.remove();
    assert_eq!(server.say("cat /volume/file"), "from the first\n");
    let stubborn = pod.start("trap '' TERM; echo up; exec sleep 1000000");
    stubborn.wait_for_log("stdout F up");
    stubborn.stop(1);
    let status = stubborn.exited();
    told.push(format!("{} {}", status.exit_code, status.reason));
    stubborn.remove();
    told.push(format!("{}", server.status().state));
    let missing = pod.create("", |config, _| config.command = vec!["/no/such".to_owned()]);
    let missing = missing.expect("it is known at the start");
    assert!(missing.try_start().is_err());
    let status = missing.status();
    told.push(format!("{} {} {}", status.state, status.exit_code, status.reason));
    missing.remove();
    told
}

/// Replaces the file `key` as a kubelet replaces a ConfigMap's: by a link to a directory that is put
/// in the place of the one before.
fn publish(directory: &Path, version: &str, text: &str) {
    let before = std::fs::read_link(directory.join("..data")).ok();
    let name = format!("..{version}");
    std::fs::create_dir(directory.join(&name)).expect("a directory can be made");
    std::fs::write(directory.join(&name).join("key"), format!("{text}\n")).expect("a file, too");
    symlink(&name, directory.join("..data_tmp")).expect("a link can be made");
    std::fs::rename(directory.join("..data_tmp"), directory.join("..data"))
        .expect("it is replaced");
    match before {
        Some(before) => std::fs::remove_dir_all(directory.join(before)).expect("it is there"),
        None => symlink("..data/key", directory.join("key")).expect("a link can be made"),
    }
}

/// Processes of containers that share their process ids see each other.
pub(crate) fn processes(containerd: &Containerd, handler: &str) -> Vec<String> {
    let pod = Pod::run_with(containerd, handler, "processes", |config| {
        let linux = config.linux.get_or_insert_default();
        let context = linux.security_context.get_or_insert_default();
        context.namespace_options.get_or_insert_default().pid = POD;
    });
    let seen = pod.start("exec sleep 1234567");
    let other = pod.start(UNTIL_TERM);
    let first = other.say("tr '\\0' ' ' < /proc/1/cmdline");
    let find = "ps -o pid,args | awk '/[s]leep 1234567/ { print $1 }'";
    wait_until("its processes are seen", SEEN, || !other.say(find).is_empty());
    other.say(&format!("kill -9 $({find})"));
    let status = seen.exited();
    pod.remove();
    vec![first, format!("{} {}", status.exit_code, status.reason)]
}

/// Pods of several sizes at once; a container that uses up its memory ends alone.
pub(crate) fn sizes(containerd: &Containerd) {
    std::thread::scope(|scope| {
        drop(scope.spawn(|| by_limits(containerd)));
        drop(scope.spawn(|| by_annotation(containerd)));
        drop(scope.spawn(|| out_of_memory(containerd)));
    });
}

/// The size of the machine in MiB, and its CPUs.
fn size_of(pod: &Pod) -> (u64, u64) {
    let container = pod.start(UNTIL_TERM);
    let text = container.say("awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo; nproc");
    let numbers: Vec<u64> = text.lines().map(|line| line.parse().expect("a number")).collect();
    (numbers[0], numbers[1])
}

fn by_limits(containerd: &Containerd) {
    let pod = Pod::run_with(containerd, RINGFENCE, "limits", |config| {
        config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 200_000,
            memory_limit_in_bytes: 160 << 20,
            ..LinuxContainerResources::default()
        });
    });
    let (memory, cpus) = size_of(&pod);
    assert!((160..240).contains(&memory), "{memory} MiB");
    let most = std::thread::available_parallelism().expect("the host has CPUs").get();
    assert_eq!(cpus, most.min(2) as u64);
    pod.remove();
}

fn by_annotation(containerd: &Containerd) {
    let pod = Pod::run_with(containerd, RINGFENCE, "annotation", |config| {
        config.annotations.insert("dev.ringfence.memory_mib".to_owned(), "96".to_owned());
    });
    let (memory, _) = size_of(&pod);
    assert!((48..96).contains(&memory), "{memory} MiB");
    pod.remove();
}

fn out_of_memory(containerd: &Containerd) {
    let pod = Pod::run(containerd, RINGFENCE, "memory");
    let other = pod.start(UNTIL_TERM);
    let script = "exec dd if=/dev/zero of=/dev/null bs=100M count=1";
    let greedy = pod.start_with(script, |config, _| {
        config.linux.get_or_insert_default().resources =
            Some(LinuxContainerResources { memory_limit_in_bytes: LITTLE, ..Default::default() });
    });
    assert_eq!(greedy.exited().exit_code, 137);
    // It is told after the end, if containerd is slow.
    wait_until("the reason is known", SEEN, || greedy.status().reason == "OOMKilled");
    assert_eq!(other.say("echo here"), "here\n");
    pod.remove();
}
