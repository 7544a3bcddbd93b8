//! Model-specific registers that a processor must not find in their reset state.

use kvm_bindings::kvm_msr_entry;

const IA32_MISC_ENABLE: u32 = 0x1a0;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;

/// Fast strings on, as firmware leaves it (SDM vol 4, IA32_MISC_ENABLE bit 0): Linux chooses its
/// memory copies by it on Intel.
const FAST_STRINGS: u64 = 1;
/// MTRRs on, everything write-back. With MTRRs off, which is the reset state, all memory would be
/// uncacheable to the kernel (SDM vol 3 §12.11.2.1).
const MTRR_ENABLED_WRITE_BACK: u64 = (1 << 11) | 6;

/// Registers with their values, for every virtual CPU. The others are 0 after reset in KVM.
#[must_use]
pub fn at_boot() -> [kvm_msr_entry; 2] {
    [
        kvm_msr_entry { index: IA32_MISC_ENABLE, data: FAST_STRINGS, ..Default::default() },
        kvm_msr_entry {
            index: IA32_MTRR_DEF_TYPE,
            data: MTRR_ENABLED_WRITE_BACK,
            ..Default::default()
        },
    ]
}
