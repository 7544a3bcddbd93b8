//! The guest's kernel has what containers use, and not what only an attacker would.

use integration_tests::{Lab, Root};
use serde_json::json;

const PROBE: &str = include_str!("../guest/kernel.c");

/// A 32-bit x86 program for Linux that exits with 42: ELF header, one segment, five instructions.
fn program_of_32_bits() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    // mov eax, 1 (exit); mov ebx, 42; int 0x80
    let code = [0xB8, 1, 0, 0, 0, 0xBB, 42, 0, 0, 0, 0xCD, 0x80];
    let size = HEADERS + u32::try_from(code.len()).unwrap();
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |file: &mut Vec<u8>, value: u16| file.extend_from_slice(&value.to_le_bytes());
    let word = |file: &mut Vec<u8>, value: u32| file.extend_from_slice(&value.to_le_bytes());
    half(&mut file, 2);
    half(&mut file, 3);
    for value in [1, BASE + HEADERS, 52, 0, 0] {
        word(&mut file, value);
    }
    for value in [52, 32, 1, 0, 0, 0] {
        half(&mut file, value);
    }
    for value in [1, 0, BASE, BASE, size, size, 5, 4096] {
        word(&mut file, value);
    }
    file.extend_from_slice(&code);
    file
}

#[test]
fn everything_that_containers_use_is_there() {
    let lab = Lab::enter();
    let probe = lab.compile("kernel", PROBE);
    let small = lab.scratch().join("small");
    std::fs::write(&small, program_of_32_bits()).unwrap();
    std::fs::set_permissions(&small, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let script = "mknod /dev/fuse c 10 229; /bin/kernel
        /bin/small; echo 32-bit program: $?
        for type in ext4 erofs virtiofs fuse overlay; do
            grep -qw $type /proc/filesystems && echo file system $type: ok || echo file system $type: missing
        done
        cat /proc/sys/kernel/randomize_va_space";
    let bundle = lab
        .bundle(Root::Writable("busybox"))
        .install(&probe, "bin/kernel")
        .install(&small, "bin/small")
        .script(script)
        .edit(|config| {
            let all = json!([
                "CAP_SYS_ADMIN",
                "CAP_NET_ADMIN",
                "CAP_NET_RAW",
                "CAP_MKNOD",
                "CAP_SYS_PTRACE",
                "CAP_SYS_RESOURCE",
                "CAP_DAC_OVERRIDE",
                "CAP_IPC_LOCK",
                "CAP_SYS_RAWIO",
                "CAP_BPF",
                "CAP_SYS_BOOT",
                "CAP_PERFMON",
                "CAP_SETUID",
                "CAP_SETGID",
                "CAP_CHOWN",
            ]);
            for set in ["bounding", "permitted", "effective"] {
                config["process"]["capabilities"][set] = all.clone();
            }
            config["linux"]["resources"]["devices"] = json!([{ "allow": true, "access": "rwm" }]);
            config["linux"]["maskedPaths"] = json!([]);
            config["linux"]["readonlyPaths"] = json!([]);
        });
    let outcome = lab.ringfence(&bundle).run();
    outcome.expect_code(0);
    let wrong: Vec<&str> = outcome
        .out()
        .lines()
        .filter(|line| {
            !line.ends_with(": ok")
                && !line.ends_with(": absent")
                && !["32-bit program: 42", "2"].contains(line)
        })
        .collect();
    assert!(wrong.is_empty(), "the kernel lacks or has too much:\n{}", wrong.join("\n"));
    assert!(outcome.out().lines().count() > 80, "{outcome}");
}
