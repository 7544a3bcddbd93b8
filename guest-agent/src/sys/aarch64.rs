//! The system call instruction of AArch64.

use core::arch::asm;

/// # Safety
/// As the system call with this number and these arguments.
pub(super) unsafe fn syscall(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result;
    // SAFETY: the caller vouches for the call; the registers are those that the kernel's ABI names,
    // and it leaves the stack alone.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b,
            in("x2") c,
            in("x3") d,
            in("x4") e,
            in("x5") f,
            options(nostack),
        );
    }
    result
}
