//! Machines of every size boot, and the guest sees what was asked for.

use std::time::Duration;

use integration_tests::{Invocation, Lab, Root, Runtime};

/// 32 virtual CPUs take turns on the one processor that emulates the lab, and a kernel that starts them
/// waits for each: the usual 30 seconds are now and then too few there.
const PATIENCE: &str = "boot_timeout_ms = 150000\nrequest_timeout_ms = 60000\n";

#[test]
fn any_number_of_cpus_up_to_32_runs() {
    let lab = Lab::enter();
    let script = "nproc; grep -c ^processor /proc/cpuinfo; \
                  i=0; while [ $i -lt $(nproc) ]; do taskset -c $i true || echo no $i; i=$((i+1)); done";
    let bundle = lab.bundle(Root::Shared("busybox")).script(script);
    let config = lab.scratch().join("config.toml");
    std::fs::write(&config, PATIENCE).unwrap();
    for cpus in ["1", "2", "3", "32"] {
        let run = Invocation::new("ringfence").arg("--config").arg(&config);
        let run = run.args(&["run", "--vcpus", cpus, "--bundle"]).arg(bundle.write());
        let outcome = run.arg(lab.new_id()).deadline(Duration::from_secs(240)).run();
        outcome.expect_code(0);
        assert_eq!(outcome.out(), format!("{cpus}\n{cpus}\n"), "{outcome}");
    }
}

#[test]
fn memory_of_every_size_is_there() {
    let lab = Lab::enter();
    let script = "awk '/^MemTotal/ { print $2 }' /proc/meminfo; \
                  awk '/System RAM/' /proc/iomem | tail -n 1";
    let bundle = lab.bundle(Root::Shared("busybox")).script(script);
    // The least is the one that a refusal names. The hole below 4 GiB, where devices are, lies in the middle of the largest.
    for mib in [48_u64, 512, 3072, 5120] {
        let memory = mib.to_string();
        let options = ["--memory", &memory];
        let outcome = lab.runtime(Runtime::Ringfence, &bundle, &options).run();
        outcome.expect_code(0);
        let line = outcome.out().lines().next().expect("one line");
        let total: u64 = line.parse().expect("a number");
        // What the kernel keeps for itself: its image, and 1.6 % for page structures.
        let least = (mib - 24) * 1024 * 97 / 100;
        assert!((least..=mib * 1024).contains(&total), "{mib} MiB\n{outcome}");
    }
}
