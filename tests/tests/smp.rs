//! Machines of every size boot, and the guest sees what was asked for.

use integration_tests::{Lab, Root, Runtime};

#[test]
fn any_number_of_cpus_up_to_32_runs() {
    let lab = Lab::enter();
    let script = "nproc; grep -c ^processor /proc/cpuinfo; \
                  i=0; while [ $i -lt $(nproc) ]; do taskset -c $i true || echo no $i; i=$((i+1)); done";
    let bundle = lab.bundle(Root::Shared("busybox")).script(script);
    for cpus in ["1", "2", "3", "32"] {
        let options = ["--vcpus", cpus];
        let outcome = lab.runtime(Runtime::Ringfence, &bundle, &options).run();
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
