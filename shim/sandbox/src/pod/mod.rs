//! A sandbox with several containers, as a shim of containerd needs it: the first container makes the
//! virtual machine, further ones join it and share its namespaces, and it ends when all of them have.
//!
//! Nobody but this module knows the guest. Who calls it has ids, bundles and the names of streams, and
//! hears of what happens through one queue, in order: a start is told before the end, whatever the guest
//! says first.

mod create;
mod drives;
mod error;
mod fifo;
mod forward;
mod guest_events;
mod logger;
mod machine;
mod operations;
mod shares;
mod table;

pub use crate::disk::{DiskError, DiskRoot, ImageFileSystem};
pub use agent_protocol::{DiskDirectory, DiskRootPlan, NewDirectory, OverlayPlan, WritableLayer};
pub use create::{NewContainer, PodOptions, Root};
pub use error::PodError;
pub use fifo::StdioPaths;
pub use table::{PodEvent, PodExit, PodProcess, PodStatus};

use crate::limits_change::MachineSize;
use crate::spec::Membership;
use agent_client::Client;
use drives::Drives;
use machine::Machine;
use shares::Shares;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use table::Table;
use tokio::sync::mpsc;

/// Containers in one virtual machine; see the module. Copies are the same pod.
#[derive(Clone, Debug)]
pub struct Pod {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: PodOptions,
    /// Id of the first container, which is the sandbox's.
    sandbox: String,
    membership: Membership,
    client: Client,
    machine: Machine,
    deadline: Duration,
    /// Size of the machine, which it keeps.
    size: MachineSize,
    table: Mutex<Table>,
    shares: Mutex<Shares>,
    drives: Mutex<Drives>,
    /// Held while the guest lets go of disks, so that the machine does not end meanwhile.
    letting_go: tokio::sync::Mutex<()>,
    /// The only container's limits are the machine's.
    is_alone: bool,
    next_port: AtomicU32,
    events: mpsc::UnboundedSender<PodEvent>,
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drives(&self) -> MutexGuard<'_, Drives> {
        self.drives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what has happened. Called with the table locked, so that the order is that of the table.
    fn tell(&self, events: impl IntoIterator<Item = PodEvent>) {
        for event in events {
            // Whoever does not listen any more is about to end.
            let _ = self.events.send(event);
        }
    }
}
