//! Interrupts into the machine and notifications out of it, by eventfd.

use super::{KvmError, Vm};
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vmm_sys_util::eventfd::EventFd;

impl Vm {
    /// Makes the in-kernel interrupt chips: I/O APIC, the two 8259 and, with each virtual CPU, its
    /// local APIC. There is no PIT: guests have the deadline timer and kvm-clock.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn create_irqchip(&self) -> Result<(), KvmError> {
        self.fd.create_irq_chip().map_err(KvmError::call("KVM_CREATE_IRQCHIP"))
    }

    /// Makes each write to `event` an edge on interrupt line `gsi`.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn connect_interrupt(&self, event: &EventFd, gsi: u32) -> Result<(), KvmError> {
        self.fd.register_irqfd(event, gsi).map_err(KvmError::call("KVM_IRQFD"))
    }

    /// Makes a guest's 4-byte write of `value` to `address` signal `event` without an exit; with
    /// `None`, a write of any value and size.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn connect_notification(
        &self,
        event: &EventFd,
        address: u64,
        value: Option<u32>,
    ) -> Result<(), KvmError> {
        let address = IoEventAddress::Mmio(address);
        match value {
            Some(value) => self.fd.register_ioevent(event, &address, value),
            None => self.fd.register_ioevent(event, &address, NoDatamatch),
        }
        .map_err(KvmError::call("KVM_IOEVENTFD"))
    }
}
