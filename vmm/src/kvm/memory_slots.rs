//! Memory slots: which guest addresses are which memory of this process.

#![expect(unsafe_code, reason = "KVM is given addresses of this process")]

use super::{KvmError, Vm};
use crate::memory::Ram;
use kvm_bindings::kvm_userspace_memory_region;

impl Vm {
    /// Gives all of a guest's memory to the machine.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn add_memory(&mut self, ram: &Ram) -> Result<(), KvmError> {
        for (range, userspace_addr) in ram.slots() {
            let region = kvm_userspace_memory_region {
                slot: self.next_slot,
                flags: 0,
                guest_phys_addr: range.start,
                memory_size: range.end - range.start,
                userspace_addr,
            };
            // SAFETY: `Ram` keeps its mappings until the process ends, after the machine; the
            // ranges of one layout do not overlap.
            unsafe { self.fd.set_user_memory_region(region) }
                .map_err(KvmError::call("KVM_SET_USER_MEMORY_REGION"))?;
            self.next_slot += 1;
        }
        Ok(())
    }
}
