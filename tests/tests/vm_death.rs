//! A machine that dies, hangs or never comes up is told from a container that ends.

use std::path::PathBuf;
use std::time::Duration;

use integration_tests::initrd::{bundle_with, cpio, installed};
use integration_tests::{Bundle, Invocation, Lab, Root, host};
use rustix::process::{Signal, kill_process};
use serde_json::json;

const VM_DIED: i32 = 250;
const PROTOCOL_BROKEN: i32 = 251;
const DEADLINE: i32 = 252;

/// How long the end of a process may take to be noticed and told.
const NOTICED: Duration = Duration::from_secs(60);

#[test]
fn a_vmm_that_is_killed_is_a_dead_machine() {
    let lab = Lab::enter();
    let bundle = lab.bundle(Root::Shared("busybox")).script("echo up; exec sleep 600");
    let running = lab.ringfence(&bundle).start();
    running.wait_for_stdout("up\n");
    let before = std::time::Instant::now();
    kill_process(host::vmm_of(running.pid()), Signal::KILL).unwrap();
    let outcome = running.finish();
    assert!(before.elapsed() < NOTICED, "{outcome}");
    outcome.expect_code(VM_DIED).expect_error("virtual machine");
    assert_eq!(outcome.out(), "up\n");
    assert!(outcome.exited(), "{outcome}");
}

#[test]
fn a_supervisor_that_is_killed_takes_its_machine_along() {
    let lab = Lab::enter();
    let bundle = lab.bundle(Root::Shared("busybox")).script("echo up; exec sleep 600");
    let run = || Invocation::new("ringfence").args(&["run", "--bundle"]).arg(bundle.write());
    let running = run().arg("killed").start();
    running.wait_for_stdout("up\n");
    running.signal(Signal::KILL);
    let outcome = running.finish();
    outcome.expect_code(137);
    let deadline = std::time::Instant::now() + NOTICED;
    while !host::processes().is_empty() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let left: Vec<String> = host::processes().into_iter().map(|process| process.shown).collect();
    assert!(left.is_empty(), "{left:?}");
    // Whatever it could not remove is no obstacle, and is removed, when the id is used again.
    let bundle = lab.bundle(Root::Shared("busybox")).args(&["echo", "again"]);
    let outcome = Invocation::new("ringfence")
        .args(&["run", "--bundle"])
        .arg(bundle.write())
        .arg("killed")
        .run();
    outcome.expect_code(0);
    assert_eq!(outcome.out(), "again\n");
}

#[test]
fn a_container_that_uses_all_memory_is_killed_and_its_machine_lives() {
    let lab = Lab::enter();
    let script = "tail /dev/zero; echo $?; exec tail /dev/zero";
    let bundle = lab.bundle(Root::Shared("busybox")).script(script);
    let run = lab.runtime(integration_tests::Runtime::Ringfence, &bundle, &["--memory", "128"]);
    let outcome = run.run();
    outcome.expect_code(137);
    assert_eq!(outcome.out(), "137\n");
}

/// An initial RAM file system whose /init is this C program.
fn initrd(lab: &Lab, name: &str, source: &str) -> PathBuf {
    let program = std::fs::read(lab.compile(name, source)).unwrap();
    let path = lab.scratch().join(format!("{name}.cpio"));
    std::fs::write(&path, cpio(&[("init", 0o100_755, &program)])).unwrap();
    path
}

#[test]
fn a_kernel_that_panics_is_a_dead_machine_with_its_last_words() {
    let lab = Lab::enter();
    let empty = lab.scratch().join("empty.cpio");
    std::fs::write(&empty, cpio(&[])).unwrap();
    let exits = initrd(&lab, "exits", "int main(void) { return 3; }\n");
    for archive in [empty, exits] {
        let bundle = bundle_with(&lab, &archive);
        let outcome = lab.ringfence(&bundle).run();
        outcome.expect_code(VM_DIED).expect_error("Kernel panic");
        outcome.expect_no_deadline();
        assert!(outcome.stdout.is_empty(), "{outcome}");
        lab.expect_nothing_left();
    }
}

#[test]
fn a_guest_that_resets_itself_is_a_dead_machine() {
    let lab = Lab::enter();
    let resets = "#include <sys/reboot.h>\n#include <unistd.h>\n\
                  int main(void) { reboot(RB_AUTOBOOT); pause(); return 0; }\n";
    let bundle = bundle_with(&lab, &initrd(&lab, "resets", resets));
    let outcome = lab.ringfence(&bundle).run();
    outcome.expect_code(VM_DIED).expect_error("virtual machine");
}

/// Host configuration with a short time for the start, so that these tests end.
fn impatient(lab: &Lab, bundle: &Bundle) -> Invocation {
    let config = lab.scratch().join("config.toml");
    std::fs::write(&config, "boot_timeout_ms = 4000\n").unwrap();
    Invocation::new("ringfence")
        .arg("--config")
        .arg(config)
        .args(&["run", "--bundle"])
        .arg(bundle.write())
        .arg(lab.new_id())
}

#[test]
fn an_agent_that_never_answers_meets_the_deadline() {
    let lab = Lab::enter();
    let silent = "#include <fcntl.h>\n#include <unistd.h>\n\
                  int main(void) {\n\
                      static const char words[] = \"<0>last words of init\\n\";\n\
                      int console = open(\"/dev/kmsg\", O_WRONLY);\n\
                      if (console < 0) console = 1;\n\
                      (void)!write(console, words, sizeof words - 1);\n\
                      for (;;) pause();\n\
                  }\n";
    let bundle = bundle_with(&lab, &initrd(&lab, "silent", silent));
    let outcome = impatient(&lab, &bundle).run();
    outcome.expect_code(DEADLINE);
    outcome.expect_no_deadline();
    assert!(outcome.stdout.is_empty(), "{outcome}");
}

#[test]
fn a_kernel_that_hangs_meets_the_deadline() {
    let lab = Lab::enter();
    // The real kernel with a loop at its entry: `jmp .` where e_entry points to.
    let mut kernel = std::fs::read(installed("vmlinux")).unwrap();
    let number =
        |at: usize, kernel: &[u8]| u64::from_le_bytes(kernel[at..at + 8].try_into().unwrap());
    let entry = number(24, &kernel);
    let headers = usize::try_from(number(32, &kernel)).unwrap();
    let count = usize::from(u16::from_le_bytes(kernel[56..58].try_into().unwrap()));
    let mut found = false;
    for header in (0..count).map(|index| headers + index * 56) {
        let (offset, virtual_at) = (number(header + 8, &kernel), number(header + 16, &kernel));
        let (physical, length) = (number(header + 24, &kernel), number(header + 32, &kernel));
        for start in [virtual_at, physical] {
            if entry >= start && entry < start + length {
                let at = usize::try_from(offset + entry - start).unwrap();
                kernel[at..at + 2].copy_from_slice(&[0xEB, 0xFE]);
                found = true;
            }
        }
    }
    assert!(found, "the entry {entry:#x} lies in no segment");
    let path = lab.scratch().join("hangs");
    std::fs::write(&path, kernel).unwrap();
    let bundle = lab
        .bundle(Root::Shared("busybox"))
        .edit(|config| config["vm"] = json!({ "kernel": { "path": path } }));
    let outcome = impatient(&lab, &bundle).run();
    outcome.expect_code(DEADLINE);
    outcome.expect_no_deadline();
}

#[test]
fn an_agent_that_talks_nonsense_is_told_from_a_dead_machine() {
    let lab = Lab::enter();
    // Port 1024 of the host is where an agent connects to first.
    let liar = "#include <linux/vm_sockets.h>\n#include <string.h>\n#include <sys/socket.h>\n\
                #include <unistd.h>\n\
                int main(void) {\n\
                    struct sockaddr_vm host = { .svm_family = AF_VSOCK, .svm_cid = 2,\n\
                                                .svm_port = 1024 };\n\
                    char noise[4096];\n\
                    memset(noise, 0xff, sizeof noise);\n\
                    int s = socket(AF_VSOCK, SOCK_STREAM, 0);\n\
                    if (connect(s, (void *)&host, sizeof host)) pause();\n\
                    for (;;) if (write(s, noise, sizeof noise) < 0) pause();\n\
                }\n";
    let bundle = bundle_with(&lab, &initrd(&lab, "liar", liar));
    let outcome = impatient(&lab, &bundle).run();
    outcome.expect_code(PROTOCOL_BROKEN);
    assert!(outcome.stdout.is_empty(), "{outcome}");
}
