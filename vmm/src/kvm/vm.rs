//! A machine as KVM knows it: interrupt chips, memory slots, virtual CPUs.

use super::{Host, KvmError, Vcpu};
use kvm_bindings::{KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE, kvm_enable_cap};
use kvm_ioctls::VmFd;

/// A machine without processors and memory at first.
#[derive(Debug)]
pub struct Vm {
    pub(super) fd: VmFd,
    pub(super) next_slot: u32,
}

impl Vm {
    /// Makes a machine.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn create(host: &Host) -> Result<Self, KvmError> {
        let fd = host.kvm.create_vm().map_err(KvmError::call("KVM_CREATE_VM"))?;
        fd.set_tss_address(crate::arch::layout::KVM_TSS)
            .map_err(KvmError::call("KVM_SET_TSS_ADDR"))?;
        // CPUID hides the performance counters; with them off KVM does not model them either. Hosts
        // older than Linux 5.18 cannot switch them off, which costs nothing but the modelling.
        let no_counters = kvm_enable_cap {
            cap: KVM_CAP_PMU_CAPABILITY,
            args: [u64::from(KVM_PMU_CAP_DISABLE), 0, 0, 0],
            ..Default::default()
        };
        let _ = fd.enable_cap(&no_counters);
        Ok(Self { fd, next_slot: 0 })
    }

    /// Adds virtual CPU number `index`. The interrupt chips must be there before.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn create_vcpu(&self, index: u8) -> Result<Vcpu, KvmError> {
        let fd =
            self.fd.create_vcpu(u64::from(index)).map_err(KvmError::call("KVM_CREATE_VCPU"))?;
        Ok(Vcpu::new(fd))
    }
}
