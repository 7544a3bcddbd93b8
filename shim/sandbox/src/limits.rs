//! What a machine can be: bounds that the host's configuration and a bundle's wishes share.

/// Least memory of a machine in MiB: the kernel, its page tables, the agent and one small process.
pub const MIN_MEMORY_MIB: u32 = 48;
/// Most memory of a machine in MiB (1 TiB).
pub const MAX_MEMORY_MIB: u32 = 1 << 20;
/// Most virtual CPUs of a machine.
pub const MAX_VCPUS: u32 = 32;

/// A memory size that a machine can have, or what would be one.
pub(crate) fn check_memory(mib: u32) -> Result<(), String> {
    if (MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&mib) {
        return Ok(());
    }
    Err(format!("a virtual machine has from {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB of memory"))
}

/// A number of virtual CPUs that a machine can have, or what would be one.
pub(crate) fn check_vcpus(vcpus: u32) -> Result<(), String> {
    if (1..=MAX_VCPUS).contains(&vcpus) {
        return Ok(());
    }
    Err(format!("a virtual machine has from 1 to {MAX_VCPUS} virtual CPUs"))
}
