//! A machine: built in one straight line, then run, paused, resumed and ended.

mod builder;
mod devices;
mod events;
mod run_state;
mod spec;
mod vcpu_thread;

pub use crate::causes::with_causes;
pub use builder::{BuildError, Surroundings, ThreadHooks, build};
pub use devices::DeviceError;
pub use events::{EventSender, Events, MachineEvent};
pub use run_state::WrongState;
pub use spec::{
    ConsoleSpec, DeviceSpecs, DiskSpec, FsSpec, ImageSpec, InsertedSpec, MachineSpec, ShareSpec,
    SpecError,
};

use crate::kvm::{self, Host, KvmError, Vcpu, Vm};
use crate::memory::Ram;
use crate::snapshot::{self, MachineState};
use ::devices::virtio::blk::{BlkError, DriveDisk, DriveHandle};
use ::devices::virtio::fs::file_server::{Server, Share, ShareError};
use ::devices::virtio::vsock::{VsockError, VsockHandle};
use devices::Devices;
use run_state::{RunState, Wanted};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_api::VmmStats;

/// Pages of 4 KiB, the balloon's unit, in a MiB.
const PAGES_PER_MIB: u32 = 256;

/// Why a request to a device of a running machine failed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceRequestError {
    /// The machine was configured without it.
    #[error("this machine has no {device} device")]
    NoDevice {
        /// Which device.
        device: &'static str,
    },
    /// The vsock device refused.
    #[error(transparent)]
    Vsock(VsockError),
    /// The file server refused.
    #[error(transparent)]
    Share(ShareError),
    /// There is no drive with this number.
    #[error("this machine has {count} drives, and none with the number {drive}")]
    NoDrive {
        /// The number.
        drive: u16,
        /// How many there are.
        count: usize,
    },
    /// The drive refused.
    #[error("the disk cannot be put into drive {drive}")]
    Drive {
        /// Its number.
        drive: u16,
        /// Why.
        #[source]
        source: BlkError,
    },
    /// More than there is.
    #[error("a balloon of {mib} MiB is larger than the guest's memory of {memory_mib} MiB")]
    BalloonTooLarge {
        /// What was asked for.
        mib: u32,
        /// The guest's memory.
        memory_mib: u64,
    },
}

/// Why a machine's state could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// It is running.
    #[error("the state of the machine cannot be taken now")]
    State(#[source] WrongState),
    /// KVM refused.
    #[error("the state of the machine cannot be taken")]
    Kvm(#[source] KvmError),
}

/// A built machine.
pub struct Machine {
    vcpus: Vec<Arc<Mutex<Vcpu>>>,
    host: Host,
    threads: Vec<JoinHandle<()>>,
    state: Arc<RunState>,
    exits: Arc<AtomicU64>,
    events: Events,
    devices: Devices,
    /// Interrupts and notifications are KVM's as long as it lives.
    vm: Vm,
    /// The memory that everything above points into.
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

    /// The state of a paused machine, without its memory. It stays paused.
    ///
    /// # Errors
    /// [`SaveError`].
    pub fn save(&self) -> Result<MachineState, SaveError> {
        if !self.state.is_paused() {
            return Err(SaveError::State(WrongState::Running));
        }
        let msr_indices = self.host.msr_indices().map_err(SaveError::Kvm)?;
        let devices = self.devices.transports.iter().map(|transport| {
            transport.pause();
            let state = transport.save();
            transport.resume();
            state
        });
        Ok(MachineState {
            version: snapshot::VERSION,
            memory: self.ram.memory().iter().map(|region| region.len()).sum(),
            // Before the virtual CPUs: a device that stops may still have sent an interrupt.
            devices: devices.collect(),
            chips: self.vm.save_chips().map_err(SaveError::Kvm)?,
            vcpus: self
                .vcpus
                .iter()
                .map(|vcpu| vcpu_thread::lock(vcpu).save(&msr_indices))
                .collect::<Result<_, _>>()
                .map_err(SaveError::Kvm)?,
        })
    }

    /// What happens inside.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// How many threads it has made; they live as long as it does.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.len() + self.devices.threads
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> VmmStats {
        VmmStats {
            vcpu_exits: self.exits.load(Ordering::Relaxed),
            console_bytes: self.devices.console_bytes.load(Ordering::Relaxed),
            balloon_mib: self.devices.balloon.as_ref().map_or(0, |b| b.actual() / PAGES_PER_MIB),
        }
    }

    /// Joins the guest's next connection to `port` of the host with `socket`.
    ///
    /// # Errors
    /// [`DeviceRequestError`].
    pub fn listen_vsock(&self, port: u32, socket: OwnedFd) -> Result<(), DeviceRequestError> {
        self.vsock()?.listen(port, socket).map_err(DeviceRequestError::Vsock)
    }

    /// Connects `socket` to `port` of the guest.
    ///
    /// # Errors
    /// [`DeviceRequestError`].
    pub fn connect_vsock(&self, port: u32, socket: OwnedFd) -> Result<(), DeviceRequestError> {
        self.vsock()?.connect(port, socket).map_err(DeviceRequestError::Vsock)
    }

    /// Shows a further share to the guest.
    ///
    /// # Errors
    /// [`DeviceRequestError`].
    pub fn add_share(&self, share: ShareSpec) -> Result<(), DeviceRequestError> {
        self.files()?.add_share(Share::from(share)).map_err(DeviceRequestError::Share)
    }

    /// Takes a share from the guest.
    ///
    /// # Errors
    /// [`DeviceRequestError`].
    pub fn remove_share(&self, name: &str) -> Result<(), DeviceRequestError> {
        self.files()?.remove_share(name).map_err(DeviceRequestError::Share)
    }

    /// Puts a disk into a drive.
    ///
    /// # Errors
    /// [`DeviceRequestError`].
    pub fn insert_disk(&self, disk: InsertedSpec) -> Result<(), DeviceRequestError> {
        let InsertedSpec { drive, images, serial } = disk;
        let disk = DriveDisk { images: devices::disk_images(images), id: serial };
        let inserted = self.drive(drive)?.insert(disk);
        inserted.map_err(|source| DeviceRequestError::Drive { drive, source })
    }

    /// Takes the disk out of a drive, if there is one.
    ///
    /// # Errors
    /// [`DeviceRequestError`].
    pub fn eject_disk(&self, drive: u16) -> Result<(), DeviceRequestError> {
        self.drive(drive).map(DriveHandle::eject)
    }

    fn drive(&self, drive: u16) -> Result<&DriveHandle, DeviceRequestError> {
        let drives = &self.devices.drives;
        let count = drives.len();
        drives.get(usize::from(drive)).ok_or(DeviceRequestError::NoDrive { drive, count })
    }

    /// Asks the guest to keep `mib` MiB in its balloon.
    ///
    /// # Errors
    /// [`DeviceRequestError`].
    pub fn set_balloon(&self, mib: u32) -> Result<(), DeviceRequestError> {
        let memory_mib = self.ram.memory().iter().map(|region| region.len() >> 20).sum();
        let balloon = self
            .devices
            .balloon
            .as_ref()
            .ok_or(DeviceRequestError::NoDevice { device: "balloon" })?;
        if u64::from(mib) > memory_mib {
            return Err(DeviceRequestError::BalloonTooLarge { mib, memory_mib });
        }
        let pages = mib
            .checked_mul(PAGES_PER_MIB)
            .ok_or(DeviceRequestError::BalloonTooLarge { mib, memory_mib })?;
        balloon.set_target(pages);
        Ok(())
    }

    /// Tells the guest that the network with this number is gone.
    ///
    /// # Errors
    /// [`DeviceRequestError`].
    pub fn unplug_net(&self, index: u8) -> Result<(), DeviceRequestError> {
        let net = self.devices.nets.get(usize::from(index));
        net.ok_or(DeviceRequestError::NoDevice { device: "network of this number" })?.unplug();
        Ok(())
    }

    fn vsock(&self) -> Result<&VsockHandle, DeviceRequestError> {
        self.devices.vsock.as_ref().ok_or(DeviceRequestError::NoDevice { device: "vsock" })
    }

    fn files(&self) -> Result<&Server, DeviceRequestError> {
        self.devices.files.as_deref().ok_or(DeviceRequestError::NoDevice { device: "file system" })
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
