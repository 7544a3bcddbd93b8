//! Limits of a container inside its machine: cgroup, system calls, and what happens at each.

use integration_tests::report::{compare, sections};
use integration_tests::{Lab, Root};
use serde_json::json;

const SCRIPT: &str = r#"
cd /sys/fs/cgroup
for file in memory.max memory.low pids.max cpu.max cpu.weight; do echo "== $file"; cat $file; done
echo "== processes"
(i=0; while [ $i -lt 40 ]; do sleep 3 & i=$((i + 1)); done) 2>&1 | tail -n 1
echo "== memory"; tail /dev/zero; echo $?
echo "== events"; grep -c 'oom_kill [1-9]' memory.events
echo "== refused call"; mkdir /tmp/made 2>&1; echo $?
echo "== fatal call"; sync; echo $?
echo "== other calls"; touch /tmp/made; echo $?
echo "== filter"; grep '^Seccomp:' /proc/self/status
echo "== priority"; ionice
"#;

#[test]
fn limits_of_the_bundle_hold_as_with_crun() {
    let lab = Lab::enter();
    let bundle = lab.bundle(Root::Writable("busybox")).script(SCRIPT).edit(|config| {
        config["linux"]["resources"]["memory"] =
            json!({ "limit": 100 << 20, "reservation": 20 << 20 });
        config["linux"]["resources"]["pids"] = json!({ "limit": 20 });
        config["linux"]["resources"]["cpu"] =
            json!({ "shares": 512, "quota": 150_000, "period": 100_000 });
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 },
                { "names": ["sync", "not_a_call_of_this_kernel"],
                  "action": "SCMP_ACT_KILL_PROCESS" },
            ],
        });
    });
    let (ringfence, crun) = lab.both(&bundle);
    ringfence.expect_code(0);
    crun.expect_code(0);
    compare(ringfence.out(), crun.out(), &[]);
    let said = sections(ringfence.out());
    assert_eq!(said["memory.max"], format!("{}\n", 100 << 20));
    assert_eq!(said["pids.max"], "20\n");
    assert_eq!(said["memory"], "137\n");
    assert!(said["refused call"].contains("not supported"), "{ringfence}");
    assert_eq!(said["fatal call"], "159\n");
}

#[test]
fn the_machine_is_as_large_as_the_limits_ask_for() {
    let lab = Lab::enter();
    let script = "awk '/^MemTotal/ { print $2 }' /proc/meminfo; nproc";
    let bundle = lab.bundle(Root::Shared("busybox")).script(script).edit(|config| {
        config["linux"]["resources"]["memory"] = json!({ "limit": 96 << 20 });
        config["linux"]["resources"]["cpu"] = json!({ "quota": 100_000, "period": 100_000 });
    });
    let outcome = lab.ringfence(&bundle).run();
    outcome.expect_code(0);
    let numbers: Vec<u64> = outcome.out().lines().map(|line| line.parse().unwrap()).collect();
    // 96 MiB for the container, a 32nd of it and 64 MiB beside; less what the kernel keeps.
    assert!((130 * 1024..=163 * 1024).contains(&numbers[0]), "{outcome}");
    assert_eq!(numbers[1], 1);
}
