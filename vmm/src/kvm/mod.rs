//! KVM: the only module that makes its calls. What it returns is either plain data or one of the
//! types here; nothing above needs to know an ioctl.

#![expect(unsafe_code, reason = "kvm-ioctls takes raw descriptors")]

mod irq;
mod memory_slots;
mod state;
mod vcpu;
mod vm;

pub use state::{ChipState, VcpuState};
pub use vcpu::{Exit, InterruptError, Vcpu, install_interrupt_handler, interrupt};
pub use vm::Vm;

use kvm_bindings::{KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Cap;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

/// Why KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// The descriptor is not `/dev/kvm`.
    #[error("the descriptor given for /dev/kvm is not a KVM device")]
    NotKvm,
    /// Another version of the interface. It has been 12 since Linux 2.6.22.
    #[error("KVM speaks version {found} of its interface, not {KVM_API_VERSION}")]
    WrongVersion {
        /// What it said.
        found: i32,
    },
    /// Something that every machine here needs is missing.
    #[error("KVM on this host lacks {name}")]
    MissingCapability {
        /// Name of the capability.
        name: &'static str,
    },
    /// A call failed.
    #[error("KVM refused {call}")]
    Call {
        /// Name of the call.
        call: &'static str,
        /// Its errno.
        #[source]
        source: io::Error,
    },
    /// KVM set fewer registers than it was given.
    #[error("KVM refused to set model-specific register {index:#x}")]
    Msr {
        /// The first that was refused.
        index: u32,
    },
    /// The processor description does not fit in KVM's structure.
    #[error("a description of the processor with {entries} entries exceeds KVM's limit")]
    TooManyCpuidEntries {
        /// How many.
        entries: usize,
    },
}

impl KvmError {
    fn call(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |errno| Self::Call { call, source: io::Error::from_raw_os_error(errno.errno()) }
    }
}

/// What every machine needs, with the reason in the name where it is not plain.
const REQUIRED: [(Cap, &str); 6] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT (Linux 4.13)"),
    // The guest has no other timer: no PIT, no HPET.
    (Cap::TscDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER"),
];

/// An open `/dev/kvm` that can make machines.
#[derive(Debug)]
pub struct Host {
    kvm: kvm_ioctls::Kvm,
}

impl Host {
    /// Takes an open `/dev/kvm` and checks that it is one with what a machine needs.
    ///
    /// # Errors
    /// [`KvmError::NotKvm`], [`KvmError::WrongVersion`], [`KvmError::MissingCapability`].
    pub fn new(device: OwnedFd) -> Result<Self, KvmError> {
        // SAFETY: the descriptor is owned and handed over. That it is KVM is asked next.
        let kvm = unsafe { kvm_ioctls::Kvm::from_raw_fd(device.into_raw_fd()) };
        let found = kvm.get_api_version();
        if found < 0 {
            return Err(KvmError::NotKvm);
        }
        if found.cast_unsigned() != KVM_API_VERSION {
            return Err(KvmError::WrongVersion { found });
        }
        for (capability, name) in REQUIRED {
            if !kvm.check_extension(capability) {
                return Err(KvmError::MissingCapability { name });
            }
        }
        Ok(Self { kvm })
    }

    /// What CPUID can show on this host.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
        self.kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map(|entries| entries.as_slice().to_vec())
            .map_err(KvmError::call("KVM_GET_SUPPORTED_CPUID"))
    }

    /// Most virtual CPUs of one machine.
    #[must_use]
    pub fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }
}
