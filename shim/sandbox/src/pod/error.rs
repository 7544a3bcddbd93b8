//! Why something could not be done with a container of a pod.

use crate::disk::DiskError;
use crate::error::SandboxError;
use crate::error_kind::ErrorKind;
use crate::spec::SpecError;
use std::io;
use std::path::PathBuf;

/// Why something could not be done with a container of a pod.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// There is no such container or process.
    #[error("{what} \"{id}\" does not exist in this pod")]
    NotFound {
        /// What was looked for.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The process has ended.
    #[error("process already finished: {id}")]
    Finished {
        /// The container's id, and that of the process.
        id: String,
    },
    /// The id is in use.
    #[error("{what} \"{id}\" exists in this pod already")]
    Exists {
        /// What is there.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// It is not where this needs it to be in its life.
    #[error("{what} \"{id}\" is {status}: {problem}")]
    WrongState {
        /// What it is.
        what: &'static str,
        /// Its id.
        id: String,
        /// Where it is.
        status: &'static str,
        /// What that means.
        problem: &'static str,
    },
    /// A container belongs to another pod, or to none.
    #[error("container \"{id}\" cannot join the pod \"{pod}\": {problem}")]
    WrongPod {
        /// Its id.
        id: String,
        /// The pod's first container.
        pod: String,
        /// What is wrong.
        problem: String,
    },
    /// More than a pod holds.
    #[error("a pod has at most {most} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        most: usize,
    },
    /// A limit cannot be fulfilled.
    #[error("container \"{id}\": {problem}")]
    Limit {
        /// Its id.
        id: String,
        /// Which one, and what to do.
        problem: String,
    },
    /// The machine was made without places for further disks.
    #[error(
        "container \"{id}\" has its root on a disk, and the pod's first container has not: its machine \
         was made without drives; use one snapshotter for all containers of a pod, or set pod_drives in \
         the configuration"
    )]
    NoDrives {
        /// Its id.
        id: String,
    },
    /// A disk cannot be a root.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A stream cannot be used.
    #[error("{stream}: {path:?} cannot be used: {problem}")]
    Stream {
        /// Which one.
        stream: &'static str,
        /// What was named.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The streams cannot be connected.
    #[error("the streams of the process cannot be connected")]
    Sockets(#[source] io::Error),
    /// The virtual machine has ended.
    #[error("the pod's virtual machine has ended: {reason}")]
    MachineEnded {
        /// Why.
        reason: String,
    },
    /// The VMM refuses.
    #[error("the virtual machine monitor refuses {request}: {problem}")]
    MachineRefused {
        /// What it was asked for.
        request: &'static str,
        /// What it said.
        problem: String,
    },
    /// What lies beneath has failed.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

impl From<SpecError> for PodError {
    fn from(error: SpecError) -> Self {
        Self::Sandbox(error.into())
    }
}

impl PodError {
    /// What kind of failure it was.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Sandbox(error) => error.kind(),
            Self::MachineEnded { .. } => ErrorKind::VmDied,
            _ => ErrorKind::Refused,
        }
    }
}
