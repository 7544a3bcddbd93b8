//! The recipe of a machine, in the order in which it boots.

use super::Machine;
use super::devices::{self, DeviceError};
use super::events;
use super::run_state::RunState;
use super::spec::MachineSpec;
use super::vcpu_thread::{self, Role, Shared};
use crate::arch::entry::BOOT_TURNS;
use crate::arch::{boot_params, cpuid, layout, mptable, msrs};
use crate::boot::cmdline::CmdlineError;
use crate::boot::initrd::InitrdError;
use crate::boot::kernel::{KernelError, LoadedKernel};
use crate::boot::{cmdline, entry, initrd, kernel};
use crate::kvm::{self, Host, InterruptError, KvmError, Vcpu, Vm};
use crate::memory::regions::HUGE_PAGE;
use crate::memory::{MemoryError, Ram, RamLayout};
use crate::timeline::Timeline;
use ::devices::event_loop::ThreadHook;
use kvm_bindings::kvm_cpuid_entry2;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use vmm_api::VmmErrorKind;

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// KVM is missing something or refused a call.
    #[error("the virtual machine could not be made")]
    Kvm(#[source] KvmError),
    /// The host's processor cannot address so much.
    #[error(
        "guest memory up to {end:#x} exceeds the {bits} bits of address that this host's processor \
         gives to guests; use less memory"
    )]
    AddressWidth {
        /// First address after memory.
        end: u64,
        /// What the processor has.
        bits: u32,
    },
    /// KVM makes fewer virtual CPUs.
    #[error("{asked} virtual CPUs are not possible on this host: KVM makes at most {most}")]
    TooManyVcpus {
        /// How many were asked for.
        asked: u8,
        /// How many it makes.
        most: usize,
    },
    /// Guest memory.
    #[error("guest memory could not be made")]
    Memory(#[source] MemoryError),
    /// The kernel.
    #[error(transparent)]
    Kernel(KernelError),
    /// The initial RAM file system.
    #[error(transparent)]
    Initrd(InitrdError),
    /// The command line.
    #[error(transparent)]
    Cmdline(CmdlineError),
    /// The host has no random numbers.
    #[error("the host gave no random seed for the guest")]
    Seed(#[source] io::Error),
    /// A device.
    #[error("the devices could not be made")]
    Device(#[source] DeviceError),
    /// The signal that interrupts virtual CPUs.
    #[error("virtual CPUs could not be made interruptible")]
    Interrupt(#[source] InterruptError),
    /// No descriptor or thread.
    #[error("the host refused a thread or descriptor for the virtual CPUs")]
    Host(#[source] io::Error),
}

impl BuildError {
    /// Whose fault it is.
    #[must_use]
    pub fn kind(&self) -> VmmErrorKind {
        match self {
            Self::Kvm(_) | Self::Device(DeviceError::Kvm { .. }) => VmmErrorKind::Kvm,
            Self::AddressWidth { .. }
            | Self::TooManyVcpus { .. }
            | Self::Initrd(_)
            | Self::Cmdline(_)
            | Self::Device(
                DeviceError::Disk(_) | DeviceError::FsDevice(_) | DeviceError::Shares(_),
            ) => VmmErrorKind::InvalidConfig,
            Self::Kernel(KernelError::Memory(_)) => VmmErrorKind::Host,
            Self::Kernel(_) => VmmErrorKind::InvalidKernel,
            Self::Memory(_)
            | Self::Seed(_)
            | Self::Device(_)
            | Self::Interrupt(_)
            | Self::Host(_) => VmmErrorKind::Host,
        }
    }
}

/// Called first on each thread of the machine: the place for its seccomp filter.
#[derive(Clone, Default)]
pub struct ThreadHooks {
    /// On threads of virtual CPUs.
    pub vcpu: Option<ThreadHook>,
    /// On threads of devices.
    pub device: Option<ThreadHook>,
}

/// What the process gives to its machine.
pub struct Surroundings {
    /// `/proc/self/fd`, opened before the process lost sight of `/proc`.
    pub proc_self_fd: OwnedFd,
    /// What its threads do first.
    pub hooks: ThreadHooks,
}

/// Builds the machine: complete, its threads made and parked, paused at its first instruction.
///
/// # Errors
/// [`BuildError`]. What had been made goes away with the process, which has no other purpose.
pub fn build(
    spec: MachineSpec,
    surroundings: &Surroundings,
    timeline: &mut Timeline,
) -> Result<Machine, BuildError> {
    kvm::install_interrupt_handler().map_err(BuildError::Interrupt)?;
    let MachineSpec {
        name: _,
        walls: _,
        memory,
        vcpus: vcpu_count,
        kvm,
        kernel,
        initrd,
        cmdline,
        devices,
    } = spec;
    let host = Host::new(kvm).map_err(BuildError::Kvm)?;
    let supported = host.supported_cpuid().map_err(BuildError::Kvm)?;
    let layout = RamLayout::new(memory);
    check_host(&host, &supported, vcpu_count, &layout)?;

    let mut vm = Vm::create(&host).map_err(BuildError::Kvm)?;
    // Before the virtual CPUs: each gets its local APIC from it.
    vm.create_irqchip().map_err(BuildError::Kvm)?;
    timeline.step("kvm machine");

    let ram = Ram::map(&layout).map_err(BuildError::Memory)?;
    let kernel = kernel::load(&kernel, &ram, &layout).map_err(BuildError::Kernel)?;
    let initrd = initrd
        .map(|file| initrd::load(&file, &ram, &layout, &kernel.range))
        .transpose()
        .map_err(BuildError::Initrd)?;
    // The kernel uses little of what lies below and around its image.
    ram.prefer_small_pages(0..kernel.range.end.next_multiple_of(HUGE_PAGE));
    // After kernel and initrd: KVM sees their mappings from the start, and no slot changes.
    vm.add_memory(&ram).map_err(BuildError::Kvm)?;
    timeline.step("kernel loaded");

    let (sender, events) = events::queue().map_err(BuildError::Host)?;
    let memory = Arc::new(ram.memory().clone());
    let file_backed = initrd.iter().chain([&kernel.range]).cloned().collect();
    let devices = devices::build(devices, surroundings, &vm, memory, file_backed, &sender)
        .map_err(BuildError::Device)?;
    timeline.step("devices");

    // After the devices: the command line names them.
    let cmdline = cmdline::build(&cmdline, &devices.entries).map_err(BuildError::Cmdline)?;
    write_boot_structures(&ram, &layout, vcpu_count, initrd, &cmdline)?;
    let vcpus = vcpus(&vm, &supported, vcpu_count, &kernel)?;

    let state = Arc::new(RunState::paused());
    let exits = Arc::new(AtomicU64::new(0));
    let shared = Shared {
        ports: devices.ports.clone(),
        mmio: devices.mmio.clone(),
        state: state.clone(),
        events: sender,
        exits: exits.clone(),
        hook: surroundings.hooks.vcpu.clone(),
    };
    let vcpus: Vec<_> = vcpus.into_iter().map(|vcpu| Arc::new(Mutex::new(vcpu))).collect();
    let threads = (0..)
        .zip(&vcpus)
        .map(|(index, vcpu)| {
            let role = match index {
                0 => Role::Boot { kernel_entry: kernel.entry },
                _ => Role::Application,
            };
            vcpu_thread::spawn(vcpu.clone(), index, role, shared.clone())
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(BuildError::Host)?;
    timeline.step("virtual cpus");
    Ok(Machine { host, vcpus, threads, state, exits, events, devices, vm, ram })
}

fn check_host(
    host: &Host,
    supported: &[kvm_cpuid_entry2],
    vcpus: u8,
    layout: &RamLayout,
) -> Result<(), BuildError> {
    let most = host.max_vcpus();
    if usize::from(vcpus) > most {
        return Err(BuildError::TooManyVcpus { asked: vcpus, most });
    }
    let bits = cpuid::physical_address_bits(supported);
    let end = layout.end();
    // A shift by 64 or more: everything fits.
    if end.checked_shr(bits).is_some_and(|beyond| beyond > 0) {
        return Err(BuildError::AddressWidth { end, bits });
    }
    Ok(())
}

/// Everything below 1 MiB.
fn write_boot_structures(
    ram: &Ram,
    layout: &RamLayout,
    vcpus: u8,
    initrd: Option<Range<u64>>,
    cmdline: &[u8],
) -> Result<(), BuildError> {
    let mut random = [0; boot_params::SEED_SIZE];
    getrandom(&mut random).map_err(BuildError::Seed)?;
    let writes = [
        (layout::COMMAND_LINE, cmdline.to_vec()),
        (layout::BOOT_PARAMS, boot_params::build(layout.ranges(), initrd)),
        (boot_params::SEED, boot_params::seed(&random)),
        (layout::MP_TABLE, mptable::build(vcpus)),
    ];
    entry::write_structures(ram).map_err(BuildError::Memory)?;
    for (address, bytes) in &writes {
        ram.write(*address, bytes).map_err(BuildError::Memory)?;
    }
    Ok(())
}

fn getrandom(bytes: &mut [u8]) -> io::Result<()> {
    let filled = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())?;
    // getrandom(2): requests up to 256 bytes are never cut short.
    if filled == bytes.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// The virtual CPUs, the first of them at the kernel's entry.
fn vcpus(
    vm: &Vm,
    supported: &[kvm_cpuid_entry2],
    count: u8,
    kernel: &LoadedKernel,
) -> Result<Vec<Vcpu>, BuildError> {
    let machine = cpuid::for_machine(supported, count);
    let mut vcpus = Vec::with_capacity(count.into());
    for index in 0..count {
        let vcpu = vm.create_vcpu(index).map_err(BuildError::Kvm)?;
        // First: KVM checks registers against what CPUID shows.
        vcpu.set_cpuid(&cpuid::for_vcpu(&machine, index)).map_err(BuildError::Kvm)?;
        vcpu.set_msrs(&msrs::at_boot()).map_err(BuildError::Kvm)?;
        // The others wait for the boot processor's start-up interrupt, as KVM made them.
        if index == 0 {
            entry::set_registers(&vcpu, BOOT_TURNS, kernel.entry).map_err(BuildError::Kvm)?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}
