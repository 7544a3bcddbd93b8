//! ringfence's virtual machine monitor: one sandbox, one process, one machine.
//!
//! What lives here: guest memory, the kernel's way into it, everything that asks KVM, the threads of
//! virtual CPUs, the wiring of devices, and the confinement of the process. What never does: OCI,
//! containers, the agent's protocol, paths (it gets open descriptors), anything asynchronous.
//! Devices are the crate `devices`, which cannot see KVM; a launcher speaks to this process through
//! `vmm-api` and links no line of it. Nothing but tests and the binary `ringfence-vmm` depends on
//! this crate.
//!
//! # How a machine starts
//! 1. [`process`]: descriptor 3 is the channel; every other one but stdio is closed.
//! 2. [`control`] receives `Boot`, and [`machine::MachineSpec`] checks every number and descriptor.
//! 3. [`jail`]: namespaces of its own, an empty root, almost no capability.
//! 4. [`machine::build`], one straight function: the machine and its interrupt chips in [`kvm`];
//!    guest memory ([`memory`]); kernel and initrd mapped from their files ([`boot`]); devices; what
//!    the kernel finds in memory ([`arch`]); virtual CPUs, whose threads park.
//! 5. Filters for system calls, on all threads.
//! 6. The boot processor runs a short loop that tells hardware from an interpreter
//!    ([`arch::entry`]), then the kernel. `Booted` is answered, with the time of each step.
//! 7. [`control`] serves requests until the guest stops or the launcher is gone; [`process::end`].
//!
//! # Who may use whom
//! `main → control → machine → {snapshot, boot} → {arch, kvm, memory} → devices`, with `jail`,
//! `causes`, `process` and `timeline` beside them, which use none of the others.
//!
//! # Who fails how
//! | what broke | answer |
//! |---|---|
//! | the configuration, the kernel image, the host | an error with its kind and values to the launcher; the process ends |
//! | the guest broke a device's protocol | that device stops, the launcher hears of it once |
//! | the guest stopped, or KVM could not go on | `GuestExited`, and the process ends |
//! | the launcher is gone | the process ends at once |
//! | an invariant of ours | panic with a message; the process ends |

pub mod arch;
pub mod boot;
mod causes;
pub mod control;
pub mod host_check;
pub mod jail;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod process;
pub mod snapshot;
pub mod timeline;
