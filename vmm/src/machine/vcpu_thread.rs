//! The thread of a virtual CPU: runs it and answers its exits.

use super::events::{EventSender, MachineEvent};
use super::run_state::RunState;
use crate::arch::entry::BOOT_TURNS;
use crate::boot::entry::run_stub;
use crate::causes::with_causes;
use crate::kvm::{Exit, Vcpu};
use crate::timeline::now_ns;
use devices::bus::Bus;
use devices::event_loop::ThreadHook;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use vmm_api::GuestExit;

/// Bytes of stack: an exit ends in a device's register access, a few frames deep.
const STACK_SIZE: usize = 128 * 1024;

/// What all virtual CPUs of a machine share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) ports: Arc<Bus>,
    pub(super) mmio: Arc<Bus>,
    pub(super) state: Arc<RunState>,
    pub(super) events: EventSender,
    pub(super) exits: Arc<AtomicU64>,
    pub(super) hook: Option<ThreadHook>,
}

/// Whether a virtual CPU starts at the entry stub, with the kernel's entry, or waits for the boot
/// processor to start it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    Boot { kernel_entry: u64 },
    Application,
}

/// Starts the thread of virtual CPU `index`, which parks until the machine runs.
///
/// The thread holds the lock of `vcpu` while it runs; whoever finds it parked may take it.
pub(super) fn spawn(
    vcpu: Arc<Mutex<Vcpu>>,
    index: u8,
    role: Role,
    shared: Shared,
) -> io::Result<JoinHandle<()>> {
    let name = format!("vcpu{index}");
    let hooked = name.clone();
    std::thread::Builder::new().name(name).stack_size(STACK_SIZE).spawn(move || {
        if let Some(hook) = &shared.hook {
            hook(&hooked);
        }
        live(&vcpu, role, &shared);
        shared.state.retire();
    })
}

fn live(vcpu: &Mutex<Vcpu>, role: Role, shared: &Shared) {
    if !shared.state.wait_to_run() {
        return;
    }
    let mut running = lock(vcpu);
    if let Role::Boot { kernel_entry } = role {
        let start_ns = now_ns();
        match run_stub(&mut running, BOOT_TURNS, kernel_entry, shared.state.leave()) {
            Ok(_) => {
                shared.events.send(MachineEvent::Entered { start_ns, end_ns: now_ns() });
            }
            Err(error) => {
                shared.events.send(MachineEvent::NotEntered(error));
                return;
            }
        }
    }
    loop {
        match run_once(&mut running, shared) {
            Turn::Continue => {}
            Turn::Interrupted => {
                if shared.state.leave().load(Ordering::SeqCst) {
                    running.mark_paused();
                    drop(running);
                    if !shared.state.wait_to_run() {
                        return;
                    }
                    running = lock(vcpu);
                }
            }
            Turn::End(exit) => {
                shared.events.send(MachineEvent::Exited(exit));
                return;
            }
        }
    }
}

/// A thread that panicked has taken the process with it; the lock is never poisoned.
pub(super) fn lock(vcpu: &Mutex<Vcpu>) -> MutexGuard<'_, Vcpu> {
    vcpu.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Turn {
    Continue,
    Interrupted,
    End(GuestExit),
}

fn run_once(vcpu: &mut Vcpu, shared: &Shared) -> Turn {
    let exit = match vcpu.run(shared.state.leave()) {
        Ok(exit) => exit,
        Err(error) => return Turn::End(GuestExit::KvmError { reason: with_causes(&error) }),
    };
    shared.exits.fetch_add(1, Ordering::Relaxed);
    match exit {
        // Nobody at an address is no error: ports and addresses float, as on a PC.
        Exit::PortRead { port, size, data } => {
            for access in data.chunks_mut(size) {
                shared.ports.read(port.into(), access);
            }
        }
        Exit::PortWrite { port, size, data } => {
            for access in data.chunks(size) {
                shared.ports.write(port.into(), access);
            }
        }
        Exit::MmioRead { address, data } => {
            shared.mmio.read(address, data);
        }
        Exit::MmioWrite { address, data } => {
            shared.mmio.write(address, data);
        }
        Exit::Interrupted => return Turn::Interrupted,
        Exit::Shutdown => return Turn::End(GuestExit::Reset),
        Exit::Failed(reason) => return Turn::End(GuestExit::KvmError { reason }),
    }
    Turn::Continue
}
