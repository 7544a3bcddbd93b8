//! What a paused machine is to KVM, in a form that can be stored: registers of each virtual CPU,
//! the interrupt chips, the guest's clock.
//!
//! Saved values come from a file when they are restored. KVM checks every one that it takes; nothing
//! here indexes or allocates by them.

use super::{Host, KvmError, Vcpu, Vm};
use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, kvm_clock_data,
    kvm_cpuid_entry2, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use serde::{Deserialize, Serialize};

/// MSRs in one call (KVM: `MAX_IO_MSRS`).
const MSRS_PER_CALL: usize = 256;

/// The deadline of the local APIC's timer. It means something only once the APIC and the counter
/// that it is compared with have their values.
const IA32_TSC_DEADLINE: u32 = 0x6e0;

/// A virtual CPU that does not run.
#[derive(Debug, Serialize, Deserialize)]
pub struct VcpuState {
    /// What CPUID shows.
    pub cpuid: Vec<kvm_cpuid_entry2>,
    /// Frequency of the time stamp counter, kHz.
    pub tsc_khz: u32,
    /// General registers.
    pub regs: kvm_regs,
    /// Special registers.
    pub sregs: kvm_sregs,
    /// Floating point and vector registers. Without AMX, which KVM leaves out of CPUID unless the
    /// process asks for it, they fit in the old 4 KiB.
    pub xsave: kvm_xsave,
    /// Extended control registers.
    pub xcrs: kvm_xcrs,
    /// Debug registers.
    pub debug_regs: kvm_debugregs,
    /// Model-specific registers.
    pub msrs: Vec<kvm_msr_entry>,
    /// The local APIC.
    pub lapic: kvm_lapic_state,
    /// Running, halted or waiting for its start.
    pub mp_state: kvm_mp_state,
    /// Exceptions and interrupts under way.
    pub events: kvm_vcpu_events,
}

/// The machine's interrupt chips and clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChipState {
    /// The first 8259.
    pub pic_master: kvm_irqchip,
    /// The second 8259.
    pub pic_slave: kvm_irqchip,
    /// The I/O APIC.
    pub io_apic: kvm_irqchip,
    /// kvm-clock.
    pub clock: kvm_clock_data,
}

impl Host {
    /// The model-specific registers that a virtual CPU's state consists of.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn msr_indices(&self) -> Result<Vec<u32>, KvmError> {
        self.kvm
            .get_msr_index_list()
            .map(|list| list.as_slice().to_vec())
            .map_err(KvmError::call("KVM_GET_MSR_INDEX_LIST"))
    }
}

impl Vcpu {
    /// The state of a virtual CPU that does not run. `msr_indices` are [`Host::msr_indices`].
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn save(&self, msr_indices: &[u32]) -> Result<VcpuState, KvmError> {
        let fd = &self.fd;
        // First: KVM settles pending events when it is asked for this.
        let mp_state = fd.get_mp_state().map_err(KvmError::call("KVM_GET_MP_STATE"))?;
        Ok(VcpuState {
            mp_state,
            cpuid: fd
                .get_cpuid2(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
                .map_err(KvmError::call("KVM_GET_CPUID2"))?
                .as_slice()
                .to_vec(),
            tsc_khz: fd.get_tsc_khz().map_err(KvmError::call("KVM_GET_TSC_KHZ"))?,
            regs: self.regs()?,
            sregs: self.sregs()?,
            xsave: fd.get_xsave().map_err(KvmError::call("KVM_GET_XSAVE"))?,
            xcrs: fd.get_xcrs().map_err(KvmError::call("KVM_GET_XCRS"))?,
            debug_regs: fd.get_debug_regs().map_err(KvmError::call("KVM_GET_DEBUGREGS"))?,
            msrs: self.read_msrs(msr_indices)?,
            lapic: fd.get_lapic().map_err(KvmError::call("KVM_GET_LAPIC"))?,
            events: fd.get_vcpu_events().map_err(KvmError::call("KVM_GET_VCPU_EVENTS"))?,
        })
    }

    /// Gives a new virtual CPU the state of a saved one.
    ///
    /// # Errors
    /// [`KvmError`] of the first part that KVM refuses.
    pub fn restore(&self, state: &VcpuState) -> Result<(), KvmError> {
        let VcpuState {
            cpuid,
            tsc_khz,
            regs,
            sregs,
            xsave,
            xcrs,
            debug_regs,
            msrs,
            lapic,
            mp_state,
            events,
        } = state;
        let fd = &self.fd;
        // First: KVM checks the rest against it.
        self.set_cpuid(cpuid)?;
        fd.set_tsc_khz(*tsc_khz).map_err(KvmError::call("KVM_SET_TSC_KHZ"))?;
        self.set_regs(regs)?;
        self.set_sregs(sregs)?;
        self.set_xsave(xsave)?;
        fd.set_xcrs(xcrs).map_err(KvmError::call("KVM_SET_XCRS"))?;
        fd.set_debug_regs(debug_regs).map_err(KvmError::call("KVM_SET_DEBUGREGS"))?;
        let is_deadline = |entry: &&kvm_msr_entry| entry.index == IA32_TSC_DEADLINE;
        let (deadline, others): (Vec<_>, Vec<_>) = msrs.iter().partition(is_deadline);
        self.write_msrs(&others)?;
        // After the MSRs, which tell where and how the APIC is.
        fd.set_lapic(lapic).map_err(KvmError::call("KVM_SET_LAPIC"))?;
        self.write_msrs(&deadline)?;
        fd.set_mp_state(*mp_state).map_err(KvmError::call("KVM_SET_MP_STATE"))?;
        fd.set_vcpu_events(events).map_err(KvmError::call("KVM_SET_VCPU_EVENTS"))
    }

    /// Reads what of `indices` this virtual CPU has: the list is the host's, and registers of
    /// features that CPUID hides cannot be read.
    fn read_msrs(&self, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, KvmError> {
        let mut read = Vec::with_capacity(indices.len());
        let mut rest = indices;
        while !rest.is_empty() {
            let count = rest.len().min(MSRS_PER_CALL);
            let entries: Vec<_> = rest
                .iter()
                .take(count)
                .map(|index| kvm_msr_entry { index: *index, ..Default::default() })
                .collect();
            let mut msrs = Msrs::from_entries(&entries)
                .map_err(|_| KvmError::TooManyCpuidEntries { entries: count })?;
            let got = self.fd.get_msrs(&mut msrs).map_err(KvmError::call("KVM_GET_MSRS"))?;
            read.extend(msrs.as_slice().iter().take(got));
            // KVM stops at the first that it cannot read: that one is left out.
            let done = if got < count { got + 1 } else { count };
            rest = rest.get(done..).unwrap_or_default();
        }
        Ok(read)
    }

    fn write_msrs(&self, entries: &[&kvm_msr_entry]) -> Result<(), KvmError> {
        for entries in entries.chunks(MSRS_PER_CALL) {
            let entries: Vec<_> = entries.iter().map(|entry| **entry).collect();
            self.set_msrs(&entries)?;
        }
        Ok(())
    }
}

impl Vm {
    /// The state of the interrupt chips and of the clock of a machine that does not run.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn save_chips(&self) -> Result<ChipState, KvmError> {
        let chip = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            self.fd.get_irqchip(&mut chip).map_err(KvmError::call("KVM_GET_IRQCHIP"))?;
            Ok(chip)
        };
        Ok(ChipState {
            pic_master: chip(KVM_IRQCHIP_PIC_MASTER)?,
            pic_slave: chip(KVM_IRQCHIP_PIC_SLAVE)?,
            io_apic: chip(KVM_IRQCHIP_IOAPIC)?,
            clock: self.fd.get_clock().map_err(KvmError::call("KVM_GET_CLOCK"))?,
        })
    }

    /// Gives a new machine's chips and clock the state of saved ones.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn restore_chips(&self, state: &ChipState) -> Result<(), KvmError> {
        let ChipState { pic_master, pic_slave, io_apic, clock } = state;
        for chip in [pic_master, pic_slave, io_apic] {
            self.fd.set_irqchip(chip).map_err(KvmError::call("KVM_SET_IRQCHIP"))?;
        }
        // Only the time: flags of KVM_GET_CLOCK are not all accepted back.
        let clock = kvm_clock_data { clock: clock.clock, ..Default::default() };
        self.fd.set_clock(&clock).map_err(KvmError::call("KVM_SET_CLOCK"))
    }
}
