//! A machine: built in one straight line, then run, paused, resumed and ended.

mod builder;
mod devices;
mod events;
mod run_state;
mod spec;
mod vcpu_thread;

pub use builder::{BuildError, ThreadHooks, build};
pub use devices::{DeviceError, Devices};
pub use events::{EventSender, Events, MachineEvent, with_causes};
pub use run_state::WrongState;
pub use spec::{ConsoleSpec, DeviceSpecs, DiskSpec, FsSpec, MachineSpec, ShareSpec, SpecError};

use crate::kvm::{self, Vm};
use crate::memory::Ram;
use run_state::{RunState, Wanted};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use vmm_api::VmmStats;

/// A built machine.
pub struct Machine {
    threads: Vec<JoinHandle<()>>,
    state: Arc<RunState>,
    exits: Arc<AtomicU64>,
    events: Events,
    devices: Devices,
    /// Kept open: interrupts and notifications are KVM's as long as it lives.
    #[expect(dead_code, reason = "holds the machine open")]
    vm: Vm,
    #[expect(dead_code, reason = "the memory that everything above points into")]
    ram: Ram,
}

impl Machine {
    /// Lets the virtual CPUs run, at first or after [`Self::pause`].
    ///
    /// # Errors
    /// [`WrongState`] if they run.
    pub fn resume(&self) -> Result<(), WrongState> {
        self.state.want(Wanted::Running)
    }

    /// Stops the virtual CPUs and returns when all stand. Devices keep their state and go on with
    /// what the guest has asked for already.
    ///
    /// # Errors
    /// [`WrongState`] if they stand.
    pub fn pause(&self) -> Result<(), WrongState> {
        self.state.want(Wanted::Paused)?;
        self.interrupt();
        self.state.wait_until_parked(self.threads.len());
        Ok(())
    }

    /// What happens inside.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> VmmStats {
        VmmStats {
            vcpu_exits: self.exits.load(Ordering::Relaxed),
            console_bytes: 0,
            balloon_mib: 0,
        }
    }

    fn interrupt(&self) {
        for thread in &self.threads {
            kvm::interrupt(thread);
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Only a machine that is taken down within a process that goes on, as in tests, gets here.
        let _ = self.state.want(Wanted::Stopped);
        self.interrupt();
        for thread in self.threads.drain(..) {
            // A panic has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}
