//! The first instructions of a guest: a counted loop, a port write, the jump to the kernel.
//!
//! That `/dev/kvm` opens and makes machines does not say that guest code at ring 0 runs on the
//! processor: a KVM that interprets it (about a million loop turns a second) accepts every call and
//! then takes minutes to boot, or gives up on an instruction that every kernel executes. The only
//! certain sign is speed, so each machine's boot processor first runs [`BOOT_TURNS`] turns of a loop
//! in the very state in which the kernel is entered (64-bit mode, ring 0, paging), and reports with
//! a write to [`REPORT_PORT`]. On hardware that costs microseconds and one exit; an interpreter is
//! recognised in a fifth of a second, before the kernel runs at all.

use super::layout;
use kvm_bindings::kvm_regs;
use std::time::Duration;

/// Port of the report: the diagnostic port of PCs, which nothing reads.
pub const REPORT_PORT: u8 = 0x80;

/// Turns of the loop before a boot.
pub const BOOT_TURNS: u32 = 10_000;

/// Fewer turns in a second of processor time than this is no hardware. Interpreters reach 1 to 2
/// million, the slowest emulated hardware that boots a kernel at a useful speed about 100 million,
/// processors 400 million and more.
pub const LEAST_TURNS_PER_SECOND: u64 = 10_000_000;

/// The stub, at [`layout::ENTRY_STUB`]. `ecx` holds the turns, `rbx` the kernel's entry; `rsi`
/// passes through.
pub const STUB: [u8; 8] = [
    0xff,
    0xc9, // 1: dec ecx
    0x75,
    0xfc, //    jnz 1b
    0xe6,
    REPORT_PORT, // out REPORT_PORT, al
    0xff,
    0xe3, //    jmp rbx
];

/// Reserved bit of RFLAGS that is always set (SDM vol 1 §3.4.3). Interrupts are off.
const RFLAGS_RESERVED: u64 = 0b10;

/// Registers at the start of the stub, which runs `turns` turns and goes on at `kernel_entry`.
#[must_use]
pub fn registers(turns: u32, kernel_entry: u64) -> kvm_regs {
    kvm_regs {
        rip: layout::ENTRY_STUB,
        rcx: u64::from(turns),
        rbx: kernel_entry,
        rsi: layout::BOOT_PARAMS,
        rsp: layout::BOOT_STACK,
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    }
}

/// Turns in a second, when `turns` took `time`.
#[must_use]
pub fn turns_per_second(turns: u32, time: Duration) -> u64 {
    let nanoseconds = time.as_nanos().max(1);
    u64::try_from(u128::from(turns) * 1_000_000_000 / nanoseconds).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stub_jumps_back_to_its_first_byte() {
        let offset = i32::from(STUB[3].cast_signed());
        assert_eq!(4 + offset, 0);
    }

    #[test]
    fn tells_an_interpreter_from_hardware() {
        assert!(turns_per_second(10_000, Duration::from_millis(10)) < LEAST_TURNS_PER_SECOND);
        assert!(turns_per_second(10_000, Duration::from_micros(100)) > LEAST_TURNS_PER_SECOND);
        assert_eq!(turns_per_second(10_000, Duration::ZERO), 10_000_000_000_000);
    }
}
