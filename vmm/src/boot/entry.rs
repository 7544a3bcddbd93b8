//! The boot processor's way into the kernel, and whether this KVM runs its code on the processor
//! ([`crate::arch::entry`]).

use crate::arch::entry::{self, LEAST_TURNS_PER_SECOND, REPORT_PORT, STUB};
use crate::arch::{layout, tables};
use crate::kvm::{Exit, KvmError, Vcpu};
use crate::memory::{MemoryError, Ram};
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How often the loop is timed before a KVM is called slow: a processor that is taken away in the
/// middle, as a busy host's host takes it without being seen here, makes some slow, hardly all. An
/// interpreter takes a fifth of a second for them.
const TRIES: u32 = 24;

/// Why a boot processor did not get to the kernel.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// An interpreter, or a machine that emulates another.
    #[error(
        "this KVM does not run guest kernels on the processor: its guests execute \
         {turns_per_second} turns of a loop in a second, hardware at least \
         {LEAST_TURNS_PER_SECOND}; use a host with hardware virtualization (VT-x or AMD-V)"
    )]
    TooSlow {
        /// Best of several tries.
        turns_per_second: u64,
    },
    /// It did not even run the loop.
    #[error("this KVM cannot run guest kernels: the first instructions ended with {what}")]
    Failed {
        /// What KVM said.
        what: String,
    },
    /// It does not come to an end.
    #[error(
        "this KVM does not run guest kernels on the processor: the first few thousand instructions \
         were not done in {} ms; use a host with hardware virtualization (VT-x or AMD-V)",
        .deadline.as_millis()
    )]
    Hangs {
        /// How long it was given.
        deadline: Duration,
    },
    /// The machine was stopped meanwhile.
    #[error("the machine was stopped before its first instructions ended")]
    Stopped,
    /// KVM refused a call.
    #[error("the boot processor cannot be run")]
    Kvm(#[source] KvmError),
}

/// Writes what the boot processor needs at its entry: descriptors, page tables, the stub.
///
/// # Errors
/// [`MemoryError::OutOfRange`] if memory is smaller than the lowest MiB.
pub fn write_structures(ram: &Ram) -> Result<(), MemoryError> {
    let descriptors: Vec<u8> = tables::GDT.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    ram.write(layout::GDT, &descriptors)?;
    ram.write(layout::PAGE_TABLES, &tables::page_tables())?;
    ram.write(layout::ENTRY_STUB, &STUB)
}

/// Puts the boot processor at the stub, which goes on at `kernel_entry`.
///
/// # Errors
/// Those of KVM.
pub fn set_registers(vcpu: &Vcpu, turns: u32, kernel_entry: u64) -> Result<(), KvmError> {
    vcpu.set_sregs(&tables::enter_long_mode(vcpu.sregs()?))?;
    vcpu.set_regs(&entry::registers(turns, kernel_entry))
}

/// Runs the stub on a processor that [`set_registers`] prepared, up to its report: the next run
/// enters the kernel. Returns the turns in a second.
///
/// Time is the thread's processor time, so that a busy host is not taken for an interpreter.
///
/// # Errors
/// [`EntryError`].
pub fn run_stub(
    vcpu: &mut Vcpu,
    turns: u32,
    kernel_entry: u64,
    stop: &AtomicBool,
) -> Result<u64, EntryError> {
    let mut best = 0;
    for _ in 0..TRIES {
        let start = thread_time();
        wait_for_report(vcpu, stop)?;
        best = best.max(entry::turns_per_second(turns, thread_time().saturating_sub(start)));
        if best >= LEAST_TURNS_PER_SECOND {
            return Ok(best);
        }
        vcpu.set_regs(&entry::registers(turns, kernel_entry)).map_err(EntryError::Kvm)?;
    }
    Err(EntryError::TooSlow { turns_per_second: best })
}

fn wait_for_report(vcpu: &mut Vcpu, stop: &AtomicBool) -> Result<(), EntryError> {
    match vcpu.run(stop).map_err(EntryError::Kvm)? {
        Exit::PortWrite { port, .. } if port == u16::from(REPORT_PORT) => Ok(()),
        Exit::Interrupted => Err(EntryError::Stopped),
        Exit::Failed(what) => Err(EntryError::Failed { what }),
        other => Err(EntryError::Failed { what: format!("{other:?}") }),
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
