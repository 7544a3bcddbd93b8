//! What the host and its other sandboxes notice of an attack: nothing beyond the attacker's own plan.

use std::time::Duration;

use integration_tests::detached::Detached;
use integration_tests::host::descendants;
use integration_tests::{Bundle, Invocation, Lab, Root, Runtime};
use rustix::process::Pid;

/// Memory of an attacker's guest.
const GUEST_MIB: u64 = 64;
/// What its VMM may have beside that: its program, the tables of devices and of the file server.
const OVERHEAD_MIB: u64 = 96;
/// One for control, one virtual CPU, the devices, one queue of the file system, and one that newer kernels
/// make themselves for KVM.
const THREADS: u64 = 5;
/// A kernel's, a machine's and each share's descriptors, and what one attack opens on a root of some
/// hundred files.
const DESCRIPTORS: usize = 4096;

/// The most that a VMM was seen to have.
#[derive(Debug, Default)]
struct Most {
    memory_mib: u64,
    threads: u64,
    descriptors: usize,
}

impl Most {
    fn look(&mut self, pid: u32) {
        let directory = format!("/proc/{pid}");
        let status = std::fs::read_to_string(format!("{directory}/status")).unwrap_or_default();
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        self.memory_mib = self.memory_mib.max(number("VmHWM:").unwrap_or(0) >> 10);
        self.threads = self.threads.max(number("Threads:").unwrap_or(0));
        let open = std::fs::read_dir(format!("{directory}/fd")).map_or(0, Iterator::count);
        self.descriptors = self.descriptors.max(open);
    }
}

/// Runs an attack beside a sandbox that works, and looks at both until it is over.
#[track_caller]
pub(super) fn expect_nothing_noticed(lab: &Lab, attackers: &Bundle, over: &str, code: i32) {
    let bundle = lab.bundle(Root::Shared("busybox")).script("echo up; exec sleep 607");
    let neighbour = Detached::create(lab, Runtime::Ringfence, &bundle);
    neighbour.expect(&["start"], &[]);
    neighbour.wait_for_stdout("up\n");
    let run =
        Invocation::new("ringfence").args(&["run", "--memory", "64", "--vcpus", "1", "--bundle"]);
    let running = run.arg(attackers.write()).arg(lab.new_id()).start();
    let mut most = Most::default();
    let mut answers = 0;
    let attacker = u32::try_from(running.pid().as_raw_nonzero().get()).unwrap();
    // It ends by itself; nothing here waits for longer than the neighbour's answer.
    while is_there(running.pid()) {
        let vmms = descendants(attacker).into_iter();
        for vmm in vmms.filter(|process| process.name.starts_with("ringfence-vmm")) {
            most.look(vmm.pid);
        }
        if answers < 3 {
            let exec = neighbour.invocation(&["exec"], &["echo", "here"]);
            let answer = exec.deadline(Duration::from_secs(60)).run();
            answer.expect_code(0);
            assert_eq!(answer.out(), "here\n");
            answers += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let outcome = running.finish();
    outcome.expect_code(code).expect_error(over);
    println!("{most:?}, {answers} answers of the neighbour");
    assert!(answers > 0 && most.threads > 0, "it was not looked at\n{outcome}");
    assert!(most.memory_mib <= GUEST_MIB + OVERHEAD_MIB, "{most:?}\n{outcome}");
    assert!(most.threads <= THREADS, "{most:?}\n{outcome}");
    assert!(most.descriptors <= DESCRIPTORS, "{most:?}\n{outcome}");
    neighbour.expect(&["exec"], &["true"]);
    assert_eq!(neighbour.status(), "running");
    neighbour.delete_by_force();
    lab.expect_nothing_left();
}

/// Whether it runs; it is this process's child, and nobody reaps it meanwhile.
pub(super) fn is_there(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
    // The second field, in parentheses, may hold anything; the state follows.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
