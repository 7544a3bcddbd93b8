//! Whether guests can run on this host at all: for `ringfence-vmm --check-kvm` and for whoever
//! wants to know before starting a sandbox.

use crate::arch::{cpuid, entry};
use crate::boot::entry::{EntryError, run_stub, set_registers, write_structures};
use crate::kvm::{self, Host, InterruptError, KvmError, Vcpu, Vm};
use crate::memory::{MemoryError, Ram, RamLayout};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Turns of the loop: some milliseconds on hardware, so that the figure says something, and at most
/// 0.2 s at the least speed.
const TURNS: u32 = 2_000_000;
/// Memory of the guest that runs it.
const MEMORY: u64 = 2 << 20;
/// How long the whole check may take.
const DEADLINE: Duration = Duration::from_millis(800);

/// Why guests cannot run on this host.
#[derive(Debug, thiserror::Error)]
pub enum HostCheckError {
    /// No KVM.
    #[error(
        "{} does not exist: this kernel has no KVM, or its module (kvm_intel, kvm_amd) is not \
         loaded, or virtualization is switched off in the firmware", .path.display()
    )]
    NotThere {
        /// The device.
        path: PathBuf,
    },
    /// Not for this user.
    #[error(
        "no permission to open {}: run as root or become a member of the group that owns it",
        .path.display()
    )]
    NoPermission {
        /// The device.
        path: PathBuf,
    },
    /// Opening it failed otherwise.
    #[error("{} cannot be opened", .path.display())]
    Open {
        /// The device.
        path: PathBuf,
        /// The error of open(2).
        #[source]
        source: io::Error,
    },
    /// It is not what a machine needs.
    #[error("{} cannot be used", .path.display())]
    Kvm {
        /// The device.
        path: PathBuf,
        /// What KVM said.
        #[source]
        source: KvmError,
    },
    /// A guest of a few instructions could not be made.
    #[error("a guest for the check could not be made")]
    Memory(#[source] MemoryError),
    /// No thread for the guest.
    #[error("a thread for the check could not be started")]
    Thread(#[source] io::Error),
    /// The signal handler could not be installed.
    #[error("the check could not be set up")]
    Interrupt(#[source] InterruptError),
    /// Guest kernels do not run at the processor's speed.
    #[error("{} cannot be used", .path.display())]
    Entry {
        /// The device.
        path: PathBuf,
        /// What happened.
        #[source]
        source: EntryError,
    },
}

/// Opens the device and runs the loop in a guest, for less than a second. Returns the turns of the
/// loop in a second of guest code at ring 0.
///
/// # Errors
/// [`HostCheckError`] says what is wrong with this host.
pub fn check(path: &Path) -> Result<u64, HostCheckError> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| open_error(path.to_path_buf(), error))?;
    let ram = Ram::map(&RamLayout::new(MEMORY)).map_err(HostCheckError::Memory)?;
    write_structures(&ram).map_err(HostCheckError::Memory)?;
    let machine = machine(device.into(), &ram);
    let (vm, vcpu) =
        machine.map_err(|source| HostCheckError::Kvm { path: path.to_path_buf(), source })?;
    let result = run_with_deadline(vcpu)?;
    drop(vm);
    result.map_err(|source| HostCheckError::Entry { path: path.to_path_buf(), source })
}

/// A machine with one processor and `ram`.
fn machine(device: OwnedFd, ram: &Ram) -> Result<(Vm, Vcpu), KvmError> {
    let host = Host::new(device)?;
    let mut vm = Vm::create(&host)?;
    vm.create_irqchip()?;
    vm.add_memory(ram)?;
    let vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid(&cpuid::for_machine(&host.supported_cpuid()?, 1))?;
    Ok((vm, vcpu))
}

/// Times the loop on a thread of its own, which is interrupted at the deadline.
fn run_with_deadline(mut vcpu: Vcpu) -> Result<Result<u64, EntryError>, HostCheckError> {
    kvm::install_interrupt_handler().map_err(HostCheckError::Interrupt)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (done, result) = std::sync::mpsc::sync_channel(1);
    let thread = {
        let stop = stop.clone();
        std::thread::Builder::new().name("check-kvm".to_owned()).spawn(move || {
            // The receiver may have given up.
            let _ = done.send(measure(&mut vcpu, &stop));
        })
    }
    .map_err(HostCheckError::Thread)?;
    let result = result.recv_timeout(DEADLINE).unwrap_or_else(|_| {
        stop.store(true, Ordering::SeqCst);
        kvm::interrupt(&thread);
        Err(EntryError::Hangs { deadline: DEADLINE })
    });
    Ok(result)
}

/// The short loop first: it tells an interpreter in milliseconds.
fn measure(vcpu: &mut Vcpu, stop: &AtomicBool) -> Result<u64, EntryError> {
    let mut speed = 0;
    for turns in [entry::BOOT_TURNS, TURNS] {
        set_registers(vcpu, turns, 0).map_err(EntryError::Kvm)?;
        speed = run_stub(vcpu, turns, 0, stop)?;
    }
    Ok(speed)
}

fn open_error(path: PathBuf, source: io::Error) -> HostCheckError {
    match source.kind() {
        io::ErrorKind::NotFound => HostCheckError::NotThere { path },
        io::ErrorKind::PermissionDenied => HostCheckError::NoPermission { path },
        _ => HostCheckError::Open { path, source },
    }
}
