//! What a program without a C library needs: an entry point, an allocator, memory functions and
//! an answer to panics. Used by the linked agent only, not by tests.
#![expect(
    unsafe_code,
    reason = "entry point, allocator and memory functions are unsafe interfaces"
)]

mod allocator;
#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;

use core::ffi::CStr;
use core::panic::PanicInfo;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator::new();

/// Arguments that are looked at; the kernel may pass on more from its command line.
const MAX_ARGUMENTS: usize = 8;

/// Called by the entry point with the stack as execve(2) left it: a count, then as many pointers
/// to arguments.
unsafe extern "C" fn enter(stack: *const usize) -> ! {
    // SAFETY: the kernel put the number of arguments at the top of the stack.
    let count = unsafe { *stack };
    let mut arguments: [&CStr; MAX_ARGUMENTS] = [c""; MAX_ARGUMENTS];
    let count = count.min(MAX_ARGUMENTS);
    for (index, argument) in arguments.iter_mut().enumerate().take(count) {
        // SAFETY: `index` is below the count, so the kernel put a pointer there.
        let pointer = unsafe { *stack.add(index + 1) };
        // SAFETY: the kernel made it point to a string with a zero byte behind it, which stays for
        // the life of the process.
        *argument = unsafe { CStr::from_ptr(core::ptr::with_exposed_provenance(pointer)) };
    }
    guest_agent::main(arguments.get(..count).unwrap_or(&arguments))
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let (file, line) = info.location().map_or(("?", 0), |at| (at.file(), at.line()));
    guest_agent::die(format_args!("invariant broken at {file}:{line}"))
}
