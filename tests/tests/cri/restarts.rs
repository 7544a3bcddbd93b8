//! A container that is made again and again in a pod that goes on.

use std::time::Duration;

use integration_tests::host;
use rustix::process::Pid;

use crate::RINGFENCE;
use crate::daemon::{Containerd, wait_until};
use crate::pod::{Pod, UNTIL_TERM, mount};

/// After so many everything that is made once is there.
const FIRST: u32 = 3;
pub(crate) const FEW: u32 = 12;
/// What a shim and a VMM may hold more than before, in KiB: the allocators' own grain.
const GRAIN: u64 = 1024;
/// How long what a container used may take to be given back.
pub(crate) const GIVEN_BACK: Duration = Duration::from_secs(60);

/// Shim and VMM hold no more descriptors, and the shim no more memory, after many containers than after
/// some.
pub(crate) fn restarts(containerd: &Containerd, count: u32) {
    let volume = containerd.lab().directory("volume-restarts");
    let pod = Pod::run(containerd, RINGFENCE, "restarts");
    let other = pod.start(UNTIL_TERM);
    let shim = pod.shim();
    let held = || [shim, host::vmm_of(shim)].map(descriptors);
    let memory = || anonymous_kib(shim);
    let round = |number: u32| {
        let container = pod.start_with(&format!("echo {number}; exit 3"), |config, _| {
            config.mounts.push(mount(&volume, "/volume", false));
            config.metadata.get_or_insert_default().name = "again".to_owned();
        });
        assert_eq!(container.exited().exit_code, 3);
        container.wait_for_log(&format!("stdout F {number}"));
        container.remove();
    };
    (0..FIRST).for_each(round);
    let (before, memory_before) = (held(), memory());
    (FIRST..count).for_each(round);
    let mut after = held();
    wait_until(&format!("descriptors are given back: {before:?}, {after:?}"), GIVEN_BACK, || {
        after = held();
        after.iter().zip(&before).all(|(after, before)| after <= before)
    });
    let memory_after = memory();
    assert!(memory_after <= memory_before + GRAIN, "{memory_before} KiB, {memory_after} KiB");
    assert_eq!(other.say("echo here"), "here\n");
    pod.remove();
}

/// Memory of a process that is no file's.
fn anonymous_kib(process: Pid) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", process.as_raw_nonzero());
    let text = std::fs::read_to_string(path).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("the kernel tells it")
}

pub(crate) fn descriptors(process: Pid) -> usize {
    let path = format!("/proc/{}/fd", process.as_raw_nonzero());
    std::fs::read_dir(path).map_or(usize::MAX, Iterator::count)
}
