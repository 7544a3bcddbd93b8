//! System calls that are newer than a filter. A profile that allows what it names refuses the rest, mostly
//! with EPERM, and a C library that tries a newer call first does without it on ENOSYS only. So calls beyond
//! the last one that a profile names are answered as by a kernel that has not got them: as runc does.

use libseccomp::{ScmpAction, ScmpArch, ScmpSyscall};

// linux/bpf_common.h, and offsets of `struct seccomp_data` (seccomp(2)).
const LOAD: u16 = 0x20;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_SET: u16 = 0x45;
const RETURN: u16 = 0x06;
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// SECCOMP_RET_ERRNO with ENOSYS.
const NOT_THERE: u32 = 0x0005_0000 | 38;
/// AUDIT_ARCH_X86_64 and AUDIT_ARCH_I386 (linux/audit.h).
const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
/// __X32_SYSCALL_BIT, in the numbers of calls of x32 programs.
const X32: u32 = 0x4000_0000;

/// Instructions to stand before a filter with this default action, which names these calls.
pub(super) fn refused<'a>(
    default: ScmpAction,
    architectures: &[ScmpArch],
    names: impl Iterator<Item = &'a str> + Clone,
) -> Vec<u8> {
    // With the first three nothing is refused that no rule names. A tracer knows newer calls itself.
    if matches!(default, ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_)) {
        return Vec::new();
    }
    let mut program = Vec::new();
    for &architecture in architectures {
        // Numbers of calls that an architecture has not got are negative.
        let number = |name| {
            let call = ScmpSyscall::from_name_by_arch(name, architecture).ok()?;
            u32::try_from(call.as_raw_syscall()).ok()
        };
        let Some(last) = names.clone().filter_map(number).max() else { continue };
        match architecture {
            ScmpArch::X86 => block(&mut program, X86, None, last),
            ScmpArch::X8664 => block(&mut program, X86_64, Some(false), last),
            ScmpArch::X32 => block(&mut program, X86_64, Some(true), last | X32),
            _ => {}
        }
    }
    program
}

/// For calls of one architecture, and with or without the bit of x32; others fall through.
fn block(program: &mut Vec<u8>, architecture: u32, x32: Option<bool>, last: u32) {
    let bit = x32.map(|set| (IF_SET, if set { (0, 2) } else { (2, 0) }, X32));
    let rest = if bit.is_some() { 4 } else { 3 };
    let head =
        [(LOAD, (0, 0), ARCHITECTURE), (IF_EQUAL, (0, rest), architecture), (LOAD, (0, 0), NUMBER)];
    let tail = [(IF_GREATER, (0, 1), last), (RETURN, (0, 0), NOT_THERE)];
    for (code, (yes, no), operand) in head.into_iter().chain(bit).chain(tail) {
        program.extend(u16::to_ne_bytes(code));
        program.extend([yes, no]);
        program.extend(u32::to_ne_bytes(operand));
    }
}
