//! What differs between processor architectures, with the same names on each side: the guest's
//! address map, what a virtual CPU shows, the state in which it enters the kernel, and the tables
//! that the kernel finds in its memory.
//!
//! Pure data: nothing here calls KVM. The architecture is chosen in this file and nowhere else.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::{boot_params, cpuid, entry, layout, mptable, msrs, tables};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("ringfence-vmm runs on x86_64 hosts only");
